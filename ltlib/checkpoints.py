"""Files of a training: what it goes on from after it was killed, and weights. How one is asked to
stop.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import threading
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor

from ltlib.errors import ConfigError
from ltlib.files import atomic_path, silent

CHECKPOINT_SCHEMA = 1


class Stopped(RuntimeError):
    """The process was asked to stop; what it trains has its checkpoint written."""


class CheckpointError(RuntimeError):
    """A whole checkpoint of this very run that does not fit its model or optimizer."""


_stop_requested = False  # set by signal handlers, which must take no lock
_saving = threading.Lock()


def request_stop(stop: bool = True) -> None:
    """Ask the runs of this process to write a checkpoint after the step under way and to raise
    Stopped; False takes the request back.
    """
    global _stop_requested
    _stop_requested = stop


def stop_requested() -> bool:
    """Whether :func:`request_stop` was called."""
    return _stop_requested


def wait_for_save(seconds: float) -> None:
    """Wait until no checkpoint is being written by this process, at most so long."""
    if _saving.acquire(timeout=seconds):
        _saving.release()


def checkpoint_minutes() -> float:
    """Longest time between two checkpoints: ``CHECKPOINT_MINUTES``, 10 where it is not set; 0
    writes one after each step. Raises ConfigError for what is no such number.
    """
    text = os.environ.get("CHECKPOINT_MINUTES") or "10"
    with contextlib.suppress(ValueError):
        if (minutes := float(text)) >= 0:
            return minutes
    raise ConfigError(f"CHECKPOINT_MINUTES = {text!r}: expected a number of minutes, 0 or more")


def library_versions() -> dict[str, str]:
    """Versions on which the bits of a training step, and the names in a checkpoint, depend.

    timm is asked by its metadata: to load it takes seconds, and a head alone needs none of it.
    """
    return {"torch": str(torch.__version__), "timm": metadata.version("timm")}


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors by name, as safetensors, whole or not at all."""
    from safetensors.torch import save_file

    with atomic_path(path) as partial:
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial)


@dataclass
class Checkpoints:
    """The file that a run goes on from: written every ``minutes``, and after an epoch where that
    costs little, atomically.

    key             what must be the same for the state to be of use (JSON values: config, data,
                    device, libraries)
    start           who computes from here on, for ``starts``
    starts          who computed from which epoch and step on: ``start`` for this process, after
                    those of the stored state
    seconds_before  what went into the stored state
    """

    path: Path
    key: dict
    minutes: float = 10.0
    say: Callable[[str], None] = silent
    start: dict = field(default_factory=dict)
    starts: list[dict] = field(init=False)
    seconds_before: float = field(default=0.0, init=False)

    def __post_init__(self):
        self._began = self._written = time.monotonic()
        self._cost = 0.0  # seconds that the last one took to write
        self.starts = [self.start | {"epoch": 0, "step": 0}]

    @property
    def seconds(self) -> float:
        """Time spent on the run, by this process and by those whose work it goes on from."""
        return time.monotonic() - self._began + self.seconds_before

    def due(self) -> bool:
        """Whether ``minutes`` have passed since the last one."""
        return time.monotonic() - self._written >= 60 * self.minutes

    def due_after_epoch(self) -> bool:
        """Whether a minute has passed since the last one, and twenty times what that took to write:
        a large model is not written after each short epoch."""
        passed = time.monotonic() - self._written
        return self.due() or passed >= max(60.0, 20 * self._cost)

    def save(self, state: dict) -> None:
        """Write the state. A checkpoint is an insurance: if it cannot be written, the run says so
        and goes on.
        """
        stored = {"schema": CHECKPOINT_SCHEMA, "key": self.key, "starts": self.starts}
        stored |= {"state": state, "seconds": self.seconds}
        start = time.monotonic()
        try:
            with _saving, atomic_path(self.path) as partial:
                torch.save(stored, partial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            before = "the checkpoint before" if self.path.exists() else "its beginning"
            self.say(
                f"checkpoint not written ({error}). Training goes on; if it were killed now, the"
                f" next start would be from {before}. Is there room, and is {self.path.parent}"
                " yours?"
            )
        self._written = time.monotonic()
        self._cost = self._written - start

    def load(self) -> dict | None:
        """The stored state, on the CPU, or None where there is none that fits.

        A file that cannot be used is named and put aside; one that was written with other
        libraries, data or device is found again when these come back. Raises OSError where the
        file is there and cannot be read.
        """
        state, own = self._load(), self._aside(CHECKPOINT_SCHEMA, self.key)
        if state is None and own.exists():
            os.replace(own, self.path)
            self.say(f"going on from {own.name}, which was put aside before")
            state = self._load()
        return state

    def remove(self) -> None:
        """The run is done: nothing goes on from here."""
        for path in (self.path, *self.path.parent.glob(f"{glob.escape(self.path.name)}.*")):
            path.unlink(missing_ok=True)

    def _load(self) -> dict | None:
        if not self.path.exists():
            return None
        with open(self.path, "rb") as file:  # what cannot be read now is no damage: it is raised
            while file.read(2**24):
                pass
        try:
            stored = _checked_load(self.path)
            schema, key, state = stored["schema"], dict(stored["key"]), stored["state"]
            position = {"epoch": state["epoch"], "step": state["step"]}
            starts, seconds = [*stored["starts"], self.start | position], stored["seconds"]
            aside = self._aside(schema, key)
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can fail anywhere in the parsers
            first = (str(error).splitlines() or [type(error).__name__])[0]
            aside = self.path.with_name(f"{self.path.name}.damaged")
            return self._put_aside(f"is damaged or not one of ours ({first[:60]})", aside)
        if schema != CHECKPOINT_SCHEMA:
            return self._put_aside(f"has schema {schema}, expected {CHECKPOINT_SCHEMA}", aside)
        if changes := self._changes(key):
            return self._put_aside(f"was written with another {', '.join(changes)}", aside)
        self.starts, self.seconds_before = starts, seconds
        return state

    def _changes(self, key: dict) -> list[str]:
        """Names in ``key`` whose values are not ours; one that it lacks is no difference."""
        changes = []
        for name, own in self.key.items():
            if (other := key.get(name, own)) != own:
                changes.append(f"{name} ({other}, now {own})" if isinstance(other, str) else name)
        return changes

    def _aside(self, schema, key: dict) -> Path:
        what = json.dumps({"schema": schema, "key": key}, sort_keys=True)
        digest = hashlib.sha256(what.encode()).hexdigest()[:10]
        return self.path.with_name(f"{self.path.name}.{digest}.unused")

    def _put_aside(self, fault: str, aside: Path) -> None:
        os.replace(self.path, aside)
        self.say(
            f"the checkpoint {self.path} {fault}: the run starts from its beginning; the file is"
            f" kept as {aside.name}"
        )


def _checked_load(path: Path) -> dict:
    """What torch saved, its checksums looked at, which ``torch.load`` does not do; no code in it
    is run.
    """
    with zipfile.ZipFile(path) as parts:
        if parts.testzip() is not None:
            raise ValueError("wrong checksum")
    return torch.load(path, map_location="cpu", weights_only=True)
