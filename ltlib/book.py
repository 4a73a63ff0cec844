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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nbformat

from ltlib.backbones import backbone_title
from ltlib.config import HOST, ROOT, Profile, atomic_path, build_dir, exclusive, figures_dir, sweep
from ltlib.launch import unique_runs
from ltlib.records import record_path

NOTEBOOKS = ROOT / "notebooks"
PER_BACKBONE = ("11_finetune",)
ANY_DATA = ("11", "12", "13", "14", "16")  # numbers of the notebooks that hold for imported photographs too


class NotebookFailed(RuntimeError):
    """A cell raised. The message names the notebook, the cell's error and where the failed copy is."""


@dataclass(frozen=True)
class Page:
    """One executed notebook: a source, and the parameters it is run with."""

    name: str
    title: str
    source: Path
    profile: Profile
    backbones: tuple[str, ...]

    @property
    def parameters(self) -> dict:
        profile = self.profile
        return {"profile": profile.path, "backbones": list(self.backbones), "losses": list(profile.losses), "seeds": list(profile.seeds),
                "protocols": [protocol.name for protocol in profile.protocols], "train_sets": list(profile.train_sets)}

    @property
    def executed(self) -> Path:
        return build_dir(self.profile.name) / "notebooks" / f"{self.name}.ipynb"

    @property
    def html(self) -> Path:
        return build_dir(self.profile.name) / "html" / f"{self.name}.html"

    def key(self) -> str:
        """Hash of all that the executed notebook depends on."""
        digest = hashlib.sha256(json.dumps(self.parameters, sort_keys=True).encode())
        code = [p for p in sorted((ROOT / "ltlib").rglob("*")) if p.suffix in (".py", ".toml")]
        reference = sorted((ROOT / "data" / "reference").glob("*.csv"))
        records = [record_path(run) for run in unique_runs(self.profile) if run.backbone in self.backbones]
        for path in (self.source, *code, *reference, *records):
            digest.update(path.name.encode() + (path.read_bytes() if path.exists() else b"-"))
        return digest.hexdigest()

    def state(self) -> str:
        """ "fresh", "stale" or "missing"."""
        if not self.executed.exists():
            return "missing"
        try:
            made = nbformat.read(self.executed, as_version=4).metadata["ltlib"]
        except Exception:  # not a notebook, or not one of ours: make it again
            return "stale"
        folder = figures_dir(self.profile.name)
        same = made["key"] == self.key() and all(_checksum(folder / path) == known for path, known in made["outputs"].items())
        return "fresh" if same else "stale"


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def pages(profile: Profile) -> list[Page]:
    """All notebooks of a profile in order; those of ``PER_BACKBONE`` once for each backbone. Of imported photographs: ``ANY_DATA``."""
    result = []
    own = any(protocol.counts for protocol in profile.protocols)
    for source in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        if own and source.name[:2] not in ANY_DATA:
            continue
        heading = re.sub(r"^#+\s*", "", nbformat.read(source, as_version=4).cells[0].source.splitlines()[0])
        if source.stem in PER_BACKBONE:
            result += [Page(f"{source.stem}_{b}", f"{heading}: {backbone_title(b)}", source, profile, (b,)) for b in profile.backbones]
        else:
            result.append(Page(source.stem, heading, source, profile, profile.backbones))
    return result


def execute(page: Page, say: Callable[[str], None] = print) -> None:
    """Run a page's notebook from top to bottom; move its figures, its tables and at last itself into place."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    folder = page.executed.parent
    folder.mkdir(parents=True, exist_ok=True)
    failed = folder / f"{page.name}.failed.ipynb"
    key = page.key()
    with (tempfile.TemporaryDirectory(prefix=f".{page.name}.{HOST}.{os.getpid()}.", suffix=".tmp", dir=folder) as temporary,
          tempfile.TemporaryDirectory(prefix="ltlib-") as sockets):
        draft, figures = Path(temporary) / "notebook.ipynb", Path(temporary) / "figures"
        figures.mkdir()
        try:
            os.environ["LTLIB_FIGURES"] = str(figures)  # the kernel inherits it
            papermill.execute_notebook(page.source, draft, page.parameters, kernel_name="python3", cwd=str(NOTEBOOKS),
                                       progress_bar=False, config=_kernel_config(sockets))
        except (DeadKernelError, RuntimeError) as error:
            raise NotebookFailed(f"{page.name}: the kernel died or did not start ({error}). Run again, with more memory free.") from None
        except PapermillExecutionError as error:
            os.replace(draft, failed)
            raise NotebookFailed(f"{page.name}: cell {error.exec_count} raised {error.ename}: {error.evalue}\nThe failed copy, with the "
                                 f"whole traceback: {failed}") from None
        finally:
            del os.environ["LTLIB_FIGURES"]
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
        notebook.metadata["ltlib"] = {"key": key, "outputs": outputs, "parameters": page.parameters}
        with atomic_path(page.executed) as partial:
            nbformat.write(notebook, partial)
        failed.unlink(missing_ok=True)


def _kernel_config(folder: str):
    """Talk to the kernel through files in this folder instead of TCP ports, which can collide, where their path is short enough."""
    from traitlets.config import Config

    ip = f"{folder}/kernel"
    return Config({"KernelManager": {"transport": "ipc", "ip": ip}} if os.name == "posix" and len(ip) < 90 else {})


def execute_stale(profile: Profile, say: Callable[[str], None] = print) -> None:
    """Execute every page that is not fresh, one at a time (parallel kernels collide). Raises NotebookFailed at the first."""
    with exclusive(build_dir(profile.name) / "notebooks", f"the notebooks of {profile.name} are being executed by another process", say):
        sweep(profile.name)
        every = pages(profile)
        todo = [page for page in every if page.state() != "fresh"]
        say(f"{profile.name}: {len(every) - len(todo)} notebooks are up to date, {len(todo)} to run")
        for number, page in enumerate(todo, 1):
            say(f"[{number}/{len(todo)}] {page.name}")
            execute(page, say)


INDEX = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>body{{font:1.1rem/1.6 system-ui;max-width:44rem;margin:3rem auto;padding:0 1rem}}</style>
<h1>The long-tail workbook</h1><p>Profile <b>{name}</b>. {title}.</p><ol>
{items}
</ol></html>
"""


_FORMULA = re.compile(r"(```.*?```|`[^`]*`)|\$\$(.+?)\$\$|\$(?!\s)([^$]+?)(?<!\s)\$", re.DOTALL)

# "ln n": browsers give a function's name no space; one before its parenthesis needs none
_FUNCTION = re.compile(r'((?<!<msub>)<mrow><mi mathvariant="normal">\w+</mi><mo>&#8289;</mo>)</mrow>(?!<mo[^>]*>\()')


def formulas_to_mathml(texts: list[str]) -> list[str]:
    """Markdown with $...$ and $$...$$ as MathML, which browsers draw by themselves; code stays as it is.

    Raises ValueError, naming them, for formulas that pandoc cannot read.
    """
    import pypandoc

    formulas = [match for text in texts for match in _FORMULA.finditer(text) if not match[1]]
    if not formulas:
        return texts
    made = pypandoc.convert_text("\n\n".join(match[0] for match in formulas), "html", "markdown", extra_args=["--mathml", "--wrap=none"])
    made = re.findall(r"<p>(.*?)</p>", _FUNCTION.sub(r"\1<mspace width='0.17em'></mspace></mrow>", made), re.DOTALL)
    bad = [match[0] for match, html in zip(formulas, made, strict=True) if "<math" not in html]
    if bad:
        raise ValueError(f"formulas that cannot be read: {', '.join(bad)}")
    following = iter(made)
    return [_FORMULA.sub(lambda match: match[1] or next(following), text) for text in texts]


def _html_exporter():
    """nbconvert's exporter for pages that need no network."""
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import Preprocessor

    class Formulas(Preprocessor):
        def preprocess(self, notebook, resources):
            cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
            for cell, source in zip(cells, formulas_to_mathml([cell.source for cell in cells]), strict=True):
                cell.source = source
            return notebook, resources

    exporter = HTMLExporter(exclude_input_prompt=True, exclude_output_prompt=True, mathjax_url="", require_js_url="")
    exporter.register_preprocessor(Formulas, enabled=True)
    return exporter


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
    return "\\providecommand{\\tightlist}{\\setlength{\\itemsep}{0pt}\\setlength{\\parskip}{0pt}}\n" + body.strip() + "\n"


def write_html(profile: Profile, say: Callable[[str], None] = print) -> Path:
    """Turn every executed notebook whose HTML is older than it into a page of HTML; return the index."""
    exporter = _html_exporter()
    index = build_dir(profile.name) / "html" / "index.html"
    items = []
    for page in pages(profile):
        if (state := page.state()) != "fresh":
            say(f"{page.name} is {state}" + ("; its page shows an older state" if state == "stale" else ": no page"))
        if not page.executed.exists():
            continue
        mark = f"<!-- made from {_checksum(page.executed)} by {_checksum(Path(__file__))} -->"
        if not page.html.exists() or not page.html.read_text().endswith(mark):
            body, _ = exporter.from_filename(str(page.executed))
            with atomic_path(page.html) as partial:
                partial.write_text(body + mark)
        items.append(f'<li><a href="{page.name}.html">{page.title}</a></li>')
    with atomic_path(index) as partial:
        partial.write_text(INDEX.format(name=profile.name, title=profile.title, items="\n".join(items)))
    return index
