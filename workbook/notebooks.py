"""The notebooks, executed by papermill, and what is known of each: fresh, stale or missing.

An executed notebook carries a key in its metadata: a hash of its source, its parameters, ltlib, the
reference tables and the records that it reads; and the checksums of the tables and figures that it
wrote. It is fresh while all of them still hold, whatever the file times say. Everything is written
elsewhere first and moved into place at the end, the notebook last: a notebook that fails, or a kill
at any moment, leaves nothing that looks finished.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from ltlib.files import HOST, ROOT, atomic_path, build_dir, exclusive, figures_dir, sweep
from ltlib.models import backbone_title
from ltlib.runs.config import RunConfig
from ltlib.runs.profiles import Profile, load_profile, parameters_of, profiles_of
from ltlib.runs.progress import unique_runs
from ltlib.runs.records import predictions_path, record_path
from workbook.links import as_latex

NOTEBOOKS = ROOT / "notebooks"
PER_BACKBONE = ("11_finetune",)
# profiles whose records a notebook reads beside those of its own
READS = {
    "00_how_to_read": ("probe", "light"),
    "19_gbg_experiments": ("light", "whole"),
    "20_how_much_should_move": (
        *("probe", "probe_draws", "light", "light_224", "light_same_size", "light_draws"),
        *("whole", "whole_refit", "whole_same_size"),
    ),
}
# numbers of the notebooks that hold for imported photographs too
ANY_DATA = ("11", "12", "13", "14", "16")
# what a cell raises where data or weights are not to be had here
NOT_READY = ("DataError", "MissingWeights")
DERIVATION_TAG = "derivation"


class NotebookFailed(RuntimeError):
    """A cell raised. The message names the notebook, the error and where the failed copy is."""


class NotReady(NotebookFailed):
    """It needs data or weights that are not to be had here."""


@dataclass(frozen=True)
class Page:
    """One executed notebook: a source, what it is run with, and the runs whose records it reads."""

    name: str
    title: str
    source: Path
    profile: Profile
    backbones: tuple[str, ...]
    runs: tuple[RunConfig, ...]

    @property
    def parameters(self) -> dict:
        """What papermill writes into the cell tagged ``parameters``."""
        profile = self.profile
        values = {"profile": profile.path, "backbones": list(self.backbones)}
        values |= {name: list(getattr(profile, name)) for name in ("losses", "seeds")}
        values["protocols"] = [protocol.name for protocol in profile.protocols]
        values["train_sets"] = list(profile.train_sets)
        if self.source.stem in PER_BACKBONE:
            values["train"] = False  # what is to be trained, `make runs` has trained
        own = profile.notebook_parameters
        return values | {name: own[name] for name in own if name in parameters_of(self.source)}

    @property
    def executed(self) -> Path:
        """Where the executed notebook lies."""
        return build_dir(self.profile.name) / "notebooks" / f"{self.name}.ipynb"

    def key(self) -> str:
        """Hash of all that the executed notebook depends on."""
        paths = [self.source, *sorted((ROOT / "ltlib").rglob("*.py"))]
        paths += sorted((ROOT / "data" / "reference").glob("*.csv"))
        for run in self.runs:
            paths += [record_path(run), predictions_path(run)]
        parts = [json.dumps(self.parameters, sort_keys=True), repr(self.profile)]
        for path in paths:
            parts += [path.name, checksum(path)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def made(self) -> dict:
        """What the executed notebook says of itself: its key, and checksums of what it wrote."""
        try:
            return json.loads(self.executed.read_text(encoding="utf-8"))["metadata"]["ltlib"]
        except Exception:  # missing, not a notebook, or not one of ours
            return {"key": None, "outputs": {}}

    def state(self) -> str:
        """ "fresh", "stale" or "missing"."""
        if not self.executed.exists():
            return "missing"
        made, folder = self.made(), figures_dir(self.profile.name)
        outputs = {path: checksum(folder / path) for path in made["outputs"]}
        fresh = made["key"] == self.key() and made["outputs"] == outputs
        return "fresh" if fresh else "stale"


def checksum(path: Path) -> str:
    """sha256 of a file, "" where there is none. Pages share records: each is hashed once."""
    try:
        state = os.stat(path)
    except FileNotFoundError:
        return ""
    return _checksum(path, state.st_mtime_ns, state.st_size, state.st_ino)


@functools.cache
def _checksum(path: Path, *state: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pages(profile: Profile) -> list[Page]:
    """The notebooks of a profile in order: those that it names, or all.

    Those of ``PER_BACKBONE`` come once for each backbone; of imported photographs, there are those
    of ``ANY_DATA``.
    """
    runs, result = tuple(unique_runs(profile)), []
    for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        wanted = source.name[:2] in ANY_DATA if profile.is_imported else True
        if profile.notebooks:
            wanted = source.stem in profile.notebooks
        if wanted:
            result += _pages_of(source, profile, runs)
    return result


def _pages_of(source: Path, profile: Profile, runs: tuple[RunConfig, ...]) -> list[Page]:
    name, title = source.stem, heading(source)
    if name not in PER_BACKBONE:
        others = [*profiles_of(name), *map(load_profile, READS.get(name, ()))]
        read = [run for other in others for run in unique_runs(other)]
        return [Page(name, title, source, profile, profile.backbones, (*runs, *read))]
    result = []
    for backbone in profile.backbones:
        own = f"{title}: {backbone_title(backbone)}"
        reads = tuple(run for run in runs if run.backbone == backbone)
        result.append(Page(f"{name}_{backbone}", own, source, profile, (backbone,), reads))
    return result


def read_notebook(path: Path) -> dict:
    """A notebook whose cells have their source in one piece. nbformat takes seconds to import."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def first_cell(source: Path) -> str:
    """The text of a notebook's first cell."""
    return read_notebook(source)["cells"][0]["source"]


def heading(source: Path) -> str:
    """The first line of a notebook without its #."""
    return re.sub(r"^#+\s*", "", first_cell(source).splitlines()[0])


def execute_stale(profile: Profile, say=print, jobs: int | None = None, strict=True) -> None:
    """Execute every page that is not fresh, ``jobs`` at a time (default: one per core).

    Raises NotebookFailed at the first that fails. Without ``strict``, pages that need data or
    weights which are not to be had are named and passed over.
    """
    busy = f"the notebooks of {profile.name} are being executed by another process"
    with exclusive(build_dir(profile.name) / "notebooks", busy, say):
        sweep(profile.name)
        every = pages(profile)
        todo = [page for page in every if page.state() != "fresh"]
        fresh = len(every) - len(todo)
        say(f"{profile.name}: {fresh} notebooks are up to date, {len(todo)} to run")
        if not todo:
            return
        import joblib

        jobs = max(1, min(jobs or joblib.cpu_count(), len(todo)))
        pool = joblib.Parallel(jobs, return_as="generator_unordered")
        results = pool(joblib.delayed(_try)(page) for page in todo)
        for number, (page, seconds, error) in enumerate(results, 1):
            if error and strict:
                raise error
            outcome = f"{page.name}, {seconds:.0f} s"
            if error:
                outcome = f"passed over: {str(error).splitlines()[0]}"
            say(f"[{number}/{len(todo)}] {outcome}")


def _try(page: Page) -> tuple[Page, float, NotReady | None]:
    try:
        return page, execute(page), None
    except NotReady as error:
        return page, 0.0, error


def execute(page: Page) -> float:
    """Run a page's notebook; move its figures, its tables and at last itself into place.

    Returns the seconds it took. Raises NotebookFailed. Its kernel computes with one thread and a
    fixed hash seed, so that the same records give the same bytes.
    """
    import nbformat

    start, key, folder = time.monotonic(), page.key(), page.executed.parent
    folder.mkdir(parents=True, exist_ok=True)
    prefix = f".{page.name}.{HOST}.{os.getpid()}."
    with tempfile.TemporaryDirectory(prefix=prefix, suffix=".tmp", dir=folder) as temporary:
        draft, figures = Path(temporary) / "notebook.ipynb", Path(temporary) / "figures"
        figures.mkdir()
        _run_cells(page, draft, figures)
        notebook = nbformat.read(draft, as_version=4)
        if derivation := derivation_latex(notebook):
            (figures / "derivations").mkdir()
            (figures / "derivations" / f"{page.name}.tex").write_text(derivation, encoding="utf-8")
        if told := captions(notebook):
            path = figures / captions_path(page.name)
            path.parent.mkdir()
            path.write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        made = {"key": key, "outputs": _move_into_place(page, figures)}
        notebook.metadata["ltlib"] = made | {"parameters": page.parameters}
        with atomic_path(page.executed) as partial:
            nbformat.write(notebook, partial)
    _failed_copy(page).unlink(missing_ok=True)
    return time.monotonic() - start


def _failed_copy(page: Page) -> Path:
    return page.executed.with_name(f"{page.name}.failed.ipynb")


def _run_cells(page: Page, draft: Path, figures: Path) -> None:
    """Execute into ``draft``, whose figures go to ``figures``."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    own = {"LTLIB_FIGURES": str(figures), "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
    options = {"kernel_name": "python3", "cwd": str(NOTEBOOKS), "progress_bar": False}
    try:
        # the environment is the kernel's
        with tempfile.TemporaryDirectory("", "ltlib-") as sockets, mock.patch.dict(os.environ, own):
            options["config"] = _kernel_config(sockets)
            papermill.execute_notebook(page.source, draft, page.parameters, **options)
    except (DeadKernelError, RuntimeError) as error:
        fault = f"the kernel died or did not start ({error}). Run again, with more memory free."
        raise NotebookFailed(f"{page.name}: {fault}") from None
    except PapermillExecutionError as error:
        os.replace(draft, _failed_copy(page))
        kind = NotReady if error.ename in NOT_READY else NotebookFailed
        raise kind(
            f"{page.name}: cell {error.exec_count} raised {error.ename}: {error.evalue}\n"
            f"The failed copy, with the whole traceback: {_failed_copy(page)}"
        ) from None


def _kernel_config(folder: str):
    """Talk to the kernel through files, where their path is short enough: TCP ports can collide."""
    from traitlets.config import Config

    ip = f"{folder}/kernel"
    short = os.name == "posix" and len(ip) < 90
    return Config({"KernelManager": {"transport": "ipc", "ip": ip}} if short else {})


def _move_into_place(page: Page, figures: Path) -> dict[str, str]:
    """Copy what a notebook wrote, take away what it no longer writes; checksums by path."""
    outputs, target = {}, figures_dir(page.profile.name)
    for made in sorted(path for path in figures.rglob("*") if path.is_file()):
        relative = made.relative_to(figures)
        outputs[relative.as_posix()] = checksum(made)
        with atomic_path(target / relative) as partial:
            shutil.copyfile(made, partial)
    for gone in set(page.made()["outputs"]) - set(outputs):
        (target / gone).unlink(missing_ok=True)
    return outputs


def captions_path(page: str) -> str:
    """Where the captions of a page lie below figures/<profile>."""
    return f"captions/{page}.json"


def told_of(output: dict) -> dict:
    """The name and caption that an output of a cell carries (``ltlib.report.Output``), or {}."""
    return output.get("metadata", {}).get("ltlib", {})


def captions(notebook) -> dict[str, str]:
    """The captions of what an executed notebook shows, in its order, by the path below
    figures/<profile> without ending."""
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", ())]
    return {told["name"]: told["caption"] for o in outputs if (told := told_of(o))}


# of natbib and hyperref, which a document that inputs a section may not have
FALLBACKS = (
    "\\providecommand{\\citet}{\\cite}\\providecommand{\\citealp}{\\cite}\n"
    "\\providecommand{\\hyperref}[2][]{#2}\n"
)
_SECTION = """((*- for cell in nb.cells -*))
((( cell.source | markdown2latex(markup='markdown-auto_identifiers') )))
((* endfor -*))"""


def derivation_latex(notebook) -> str:
    """The body of a LaTeX section: the cells tagged ``derivation``, "" where there are none.

    Needs amsmath and amssymb.
    """
    import nbformat
    import pypandoc
    from nbconvert import LatexExporter

    from ltlib.report.latex import TIGHTLIST

    cells = [cell for cell in notebook.cells if DERIVATION_TAG in cell.metadata.get("tags", ())]
    if not cells:
        return ""
    folder = os.path.dirname(pypandoc.get_pandoc_path())  # nbconvert looks for pandoc on the PATH
    if folder not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] += os.pathsep + folder
    exporter = LatexExporter(raw_template=_SECTION)
    texts = [nbformat.v4.new_markdown_cell(as_latex(cell.source)) for cell in cells]
    body, _ = exporter.from_notebook_node(nbformat.v4.new_notebook(cells=texts))
    return TIGHTLIST + FALLBACKS + body.strip() + "\n"
