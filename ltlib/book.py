"""The notebooks, executed by papermill, and what is known of each: fresh, stale or missing.

An executed notebook carries a key in its metadata: a hash of its source, its parameters, ltlib, and the records that it
reads; and the checksums of the tables and figures that it wrote. It is fresh while all of them still hold. File times
play no part. Everything is written elsewhere first and moved into place at the end, the notebook last: a
notebook that fails, or a kill at any moment, leaves nothing that looks finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import joblib
import nbformat

from ltlib.backbones import MissingWeights, backbone_title
from ltlib.config import HOST, ROOT, Profile, RunConfig, atomic_path, build_dir, exclusive, figures_dir, sweep
from ltlib.datasets import DataError
from ltlib.launch import unique_runs
from ltlib.papers import profiles_of
from ltlib.records import predictions_path, record_path
from ltlib.report import TIGHTLIST

NOTEBOOKS = ROOT / "notebooks"
PER_BACKBONE = ("11_finetune",)
AFTERWARDS = ("html.py", "thesis.py", "export.py", "bench.py", "__main__.py")  # modules that no notebook uses
ANY_DATA = ("11", "12", "13", "14", "16")  # numbers of the notebooks that hold for imported photographs too


class NotebookFailed(RuntimeError):
    """A cell raised. The message names the notebook, the cell's error and where the failed copy is."""


class NotReady(NotebookFailed):
    """It needs data or weights that are not to be had here."""


@dataclass(frozen=True)
class Page:
    """One executed notebook: a source, the parameters it is run with, and the runs whose records it reads."""

    name: str
    title: str
    source: Path
    profile: Profile
    backbones: tuple[str, ...]
    runs: tuple[RunConfig, ...]

    @property
    def parameters(self) -> dict:
        profile = self.profile
        shared = {"profile": profile.path, "backbones": list(self.backbones), "losses": list(profile.losses), "seeds": list(profile.seeds),
                  "protocols": [protocol.name for protocol in profile.protocols], "train_sets": list(profile.train_sets)}
        return shared | ({"train": False} if self.source.stem in PER_BACKBONE else {})  # what is to be trained, `make runs` has trained

    @property
    def executed(self) -> Path:
        return build_dir(self.profile.name) / "notebooks" / f"{self.name}.ipynb"

    @property
    def html(self) -> Path:
        return build_dir(self.profile.name) / "html" / f"{self.name}.html"

    def key(self) -> str:
        """Hash of all that the executed notebook depends on."""
        digest = hashlib.sha256((json.dumps(self.parameters, sort_keys=True) + repr(self.profile)).encode())
        code = [p for p in sorted((ROOT / "ltlib").rglob("*")) if p.suffix in (".py", ".toml") and p.name not in AFTERWARDS]
        reference = sorted((ROOT / "data" / "reference").glob("*.csv"))
        records = [path for run in self.runs for path in (record_path(run), predictions_path(run))]
        for path in (self.source, *code, *reference, *records):
            digest.update(path.name.encode() + (path.read_bytes() if path.exists() else b"-"))
        return digest.hexdigest()

    def state(self) -> str:
        """ "fresh", "stale" or "missing"."""
        if not self.executed.exists():
            return "missing"
        made, folder = self.made(), figures_dir(self.profile.name)
        same = made["key"] == self.key() and all(_checksum(folder / path) == known for path, known in made["outputs"].items())
        return "fresh" if same else "stale"

    def made(self) -> dict:
        """What the executed notebook says of itself: its key, and the checksums of what it wrote."""
        try:
            return json.loads(self.executed.read_text(encoding="utf-8"))["metadata"]["ltlib"]
        except Exception:  # missing, not a notebook, or not one of ours
            return {"key": None, "outputs": {}}


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def pages(profile: Profile) -> list[Page]:
    """The notebooks of a profile in order: those that it names, or all; those of ``PER_BACKBONE`` once for each backbone. Of imported
    photographs: ``ANY_DATA``."""
    result, runs = [], unique_runs(profile)  # of all pages: listing them is slow
    own = any(protocol.counts for protocol in profile.protocols) and not profile.notebooks
    for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        if (own and source.name[:2] not in ANY_DATA) or (profile.notebooks and source.stem not in profile.notebooks):
            continue
        heading = re.sub(r"^#+\s*", "", nbformat.read(source, as_version=4).cells[0].source.splitlines()[0])
        if source.stem in PER_BACKBONE:
            result += [Page(f"{source.stem}_{b}", f"{heading}: {backbone_title(b)}", source, profile, (b,),
                            tuple(run for run in runs if run.backbone == b)) for b in profile.backbones]
        else:
            papers = [run for paper in profiles_of(source.stem) for run in unique_runs(paper)]
            result.append(Page(source.stem, heading, source, profile, profile.backbones, (*runs, *papers)))
    return result


def execute(page: Page) -> float:
    """Run a page's notebook from top to bottom; move its figures, its tables and at last itself into place. Returns the seconds it took.

    Raises NotebookFailed. Its kernel computes with one thread and a fixed hash seed, so that the same records give the same bytes.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    start = time.monotonic()
    folder = page.executed.parent
    folder.mkdir(parents=True, exist_ok=True)
    failed = folder / f"{page.name}.failed.ipynb"
    key = page.key()
    with (tempfile.TemporaryDirectory(prefix=f".{page.name}.{HOST}.{os.getpid()}.", suffix=".tmp", dir=folder) as temporary,
          tempfile.TemporaryDirectory(prefix="ltlib-") as sockets):
        draft, figures = Path(temporary) / "notebook.ipynb", Path(temporary) / "figures"
        figures.mkdir()
        try:
            with mock.patch.dict(os.environ, LTLIB_FIGURES=str(figures), OMP_NUM_THREADS="1", PYTHONHASHSEED="0"):  # for the kernel
                papermill.execute_notebook(page.source, draft, page.parameters, kernel_name="python3", cwd=str(NOTEBOOKS),
                                           progress_bar=False, config=_kernel_config(sockets))
        except (DeadKernelError, RuntimeError) as error:
            raise NotebookFailed(f"{page.name}: the kernel died or did not start ({error}). Run again, with more memory free.") from None
        except PapermillExecutionError as error:
            os.replace(draft, failed)
            what = f"{page.name}: cell {error.exec_count} raised {error.ename}: {error.evalue}"
            kind = NotReady if error.ename in (DataError.__name__, MissingWeights.__name__) else NotebookFailed
            raise kind(f"{what}\nThe failed copy, with the whole traceback: {failed}") from None
        notebook = nbformat.read(draft, as_version=4)
        if derivation := derivation_latex(notebook):
            (figures / "derivations").mkdir()
            (figures / "derivations" / f"{page.name}.tex").write_text(derivation, encoding="utf-8")
        outputs = {}
        for made in sorted(p for p in figures.rglob("*") if p.is_file()):
            relative = made.relative_to(figures)
            outputs[relative.as_posix()] = _checksum(made)
            with atomic_path(figures_dir(page.profile.name) / relative) as partial:
                shutil.copyfile(made, partial)
        for gone in set(page.made()["outputs"]) - set(outputs):  # what an earlier execution wrote, and this one did not
            (figures_dir(page.profile.name) / gone).unlink(missing_ok=True)
        notebook.metadata["ltlib"] = {"key": key, "outputs": outputs, "parameters": page.parameters}
        with atomic_path(page.executed) as partial:
            nbformat.write(notebook, partial)
        failed.unlink(missing_ok=True)
    return time.monotonic() - start


def _kernel_config(folder: str):
    """Talk to the kernel through files in this folder instead of TCP ports, which can collide, where their path is short enough."""
    from traitlets.config import Config

    ip = f"{folder}/kernel"
    return Config({"KernelManager": {"transport": "ipc", "ip": ip}} if os.name == "posix" and len(ip) < 90 else {})


def _try(page: Page) -> tuple[Page, float, NotReady | None]:
    try:
        return page, execute(page), None
    except NotReady as error:
        return page, 0.0, error


def execute_stale(profile: Profile, say: Callable[[str], None] = print, jobs: int | None = None, strict: bool = True) -> None:
    """Execute every page that is not fresh, ``jobs`` at a time (default: one per core). Raises NotebookFailed at the first.

    Without ``strict``, pages that need data or weights which are not to be had are named and passed over.
    """
    with exclusive(build_dir(profile.name) / "notebooks", f"the notebooks of {profile.name} are being executed by another process", say):
        sweep(profile.name)
        every = pages(profile)
        todo = [page for page in every if page.state() != "fresh"]
        say(f"{profile.name}: {len(every) - len(todo)} notebooks are up to date, {len(todo)} to run")
        jobs = max(1, min(jobs or joblib.cpu_count(), len(todo)))
        results = joblib.Parallel(jobs, return_as="generator_unordered")(joblib.delayed(_try)(page) for page in todo)
        for number, (page, seconds, error) in enumerate(results, 1):
            if error and strict:
                raise error
            say(f"[{number}/{len(todo)}] " + (f"passed over: {str(error).splitlines()[0]}" if error else f"{page.name}, {seconds:.0f} s"))


DERIVATION_TAG = "derivation"
_SECTION = """((*- for cell in nb.cells -*))
((( cell.source | markdown2latex(markup='markdown-auto_identifiers') )))
((* endfor -*))"""


def derivation_latex(notebook) -> str:
    """The body of a LaTeX section: the cells tagged ``derivation``, "" where there are none. Needs amsmath and amssymb."""
    import pypandoc
    from nbconvert import LatexExporter

    cells = [cell for cell in notebook.cells if DERIVATION_TAG in cell.metadata.get("tags", ())]
    if not cells:
        return ""
    folder = os.path.dirname(pypandoc.get_pandoc_path())  # nbconvert looks for pandoc on the PATH
    if folder not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] += os.pathsep + folder
    body, _ = LatexExporter(raw_template=_SECTION).from_notebook_node(nbformat.v4.new_notebook(cells=cells))
    return TIGHTLIST + body.strip() + "\n"
