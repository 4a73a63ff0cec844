"""Where files lie, how they are written whole or not at all, and one process at a time."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import threading
from pathlib import Path

from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parent.parent


def silent(line: str) -> None:
    """Say nothing: where nobody listens to what is said."""


def output_root() -> Path:
    """Folder that holds build/, results/ and figures/: the project, or ``LTLIB_OUT`` where it is
    set."""
    return Path(os.environ.get("LTLIB_OUT") or ROOT)


def data_dir() -> Path:
    """Folder of the data sets: ``data/`` of the project, or ``LTLIB_DATA`` where it is set."""
    return Path(os.environ.get("LTLIB_DATA") or ROOT / "data")


def results_dir(profile: str) -> Path:
    """Folder of a profile's records."""
    return output_root() / "results" / profile


def figures_dir(profile: str) -> Path:
    """Folder of a profile's figures and LaTeX tables."""
    return output_root() / "figures" / profile


def build_dir(profile: str) -> Path:
    """Folder of what a profile makes and git ignores: notebooks, book, checkpoints, weights."""
    return output_root() / "build" / profile


def cache_dir() -> Path:
    """What is dear to compute and shared by profiles: features of frozen backbones, pretrained
    small ones."""
    return output_root() / "build" / "cache"


def imported_dir() -> Path:
    """Data sets made of photographs of your own (:mod:`workbook.photographs`): a copy that can be
    made again, so it is with the caches."""
    return cache_dir() / "datasets"


def _host() -> str:
    """Where a process number means one process: several machines, or containers of one name, may
    share the folders."""
    try:
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        space = ""
    return f"{socket.gethostname()}-{space}".replace(".", "-")


HOST = _host()


def _is_running(pid: int) -> bool:
    """Whether this machine has a process of this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is there, and someone else's
        pass
    return True


def sweep(profile: str) -> None:
    """Remove the temporary files and folders that processes of this machine left when they were
    killed, where we may."""
    temporary = re.compile(rf"\..*\.{re.escape(HOST)}\.(\d+)\..*tmp")
    for top in (build_dir(profile), results_dir(profile), figures_dir(profile), cache_dir()):
        for folder, folders, files in os.walk(top):  # passes over what vanishes meanwhile
            for name in folders + files:
                if (found := temporary.match(name)) and not _is_running(int(found[1])):
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(folder, name))


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = True):
    """Yield a temporary path beside ``path``; it becomes ``path`` only if the block ends without an
    error.

    A process that is killed half way leaves the old file, or none, and never half of a new one;
    with ``durable`` this holds for a machine that loses its power too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(
        f".{path.name}.{HOST}.{os.getpid()}.{threading.get_ident()}.tmp{path.suffix}"
    )
    try:
        yield partial
        if durable:
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_changed(path: Path, text: str) -> None:
    """Write a text file, unless it holds this text already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with atomic_path(path) as partial:
            partial.write_text(text, encoding="utf-8")


class Busy(RuntimeError):
    """Another process is at it."""


@contextlib.contextmanager
def exclusive(path: Path, busy: str, say=silent, wait: bool = True):
    """Let one process at a time make ``path``; the lock, ``<path>.lock``, goes with the process
    that holds it.

    Where another one holds it: say ``busy`` and wait, or, without ``wait``, raise Busy.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        if not wait:
            raise Busy(busy) from None
        say(f"{busy}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
