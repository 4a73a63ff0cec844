"""The book: the executed notebooks as HTML that needs no network, made by Sphinx and MyST-NB.

All that Sphinx is to read is put together first: the notebooks, the pages of ``docs`` and an index
of them. The book keeps a hash of that and is built again only when it changes, elsewhere, and moved
into place as a whole.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from ltlib.files import HOST, ROOT, build_dir, exclusive, results_dir
from ltlib.runs.profiles import Profile
from workbook.floats import Float, floats
from workbook.links import as_myst, plain
from workbook.notebooks import NOTEBOOKS, Page, first_cell, pages, read_notebook, told_of

TITLE = "The long-tail workbook"
PARTS = {  # the numbers of their notebooks, and what was found; what no part names is in the last
    "Start here": ([0], ""),
    "Data": (
        [1],
        "One number, the imbalance factor, makes the long tail. A test with the same proportions "
        "hides what happens to it.",
    ),
    "Seven losses": (
        range(2, 10),
        "What tells them apart is how much of the class frequencies they leave in the model: "
        "softmax, focal loss and LDAM leave all of it, balanced softmax nothing.",
    ),
    "Training and results": (
        [*range(10, 16), 20],
        "Balanced softmax and LDAM with deferred re-weighting serve the tail best, at a cost for "
        "the head. How much of the backbone moves matters as much as the loss does.",
    ),
    "Three further systems": (
        [17, 18, 19],
        "Each is right in its formulas. Over all classes none is ahead of balanced softmax by more "
        "than noise on the data that it was tried on here.",
    ),
    "Your own data": ([16], "A folder for each class is enough."),
    "More notebooks": ([], ""),
}
REFERENCES = "# References\n\n```{bibliography}\n```\n"
TABLE_CAPTION = "```{{container}} table-caption\n({anchor})=\n**{title}.** {text}\n```"
PAGE = re.compile(r"`(\d\d_\w+)`")  # how notebooks name each other
NOTES = {"fresh": "", "stale": "*Shows an older state.* ", "missing": "*Not made yet.* "}

SETTINGS = {  # of Sphinx, instead of a conf.py
    "project": TITLE,
    "extensions": ["myst_nb", "sphinx-mathjax-offline", "sphinxcontrib.bibtex"],
    "bibtex_bibfiles": ["references.bib"],
    "bibtex_reference_style": "author_year_round",
    "nb_execution_mode": "off",
    "nb_merge_streams": True,  # what one cell prints is one block, however often it was flushed
    "nb_render_markdown_format": "myst",  # formulas in what a cell shows
    "nb_ipywidgets_js": {},  # MyST-NB would load them from the network
    "myst_enable_extensions": ["amsmath", "deflist", "dollarmath"],
    "myst_dmath_allow_space": False,
    "myst_dmath_double_inline": True,
    "myst_heading_anchors": 3,
    "smartquotes": False,
    "html_theme": "sphinx_book_theme",
    "html_title": TITLE,
    "html_static_path": ["static"],
    "html_css_files": ["book.css"],
    "html_extra_path": ["files"],
    "html_sourcelink_suffix": "",  # a notebook is downloaded under its own name
    "html_show_search_summary": False,  # a browser does not let a file read another one
    "html_context": {"default_mode": "auto"},  # dark where the reader's system is
    "html_theme_options": {
        "footer_content_items": [],  # no author, no date
        "home_page_in_toc": True,
        "navbar_persistent": [],  # the search stands in the side bar
        "show_toc_level": 2,
    },
}


def write_html(profile: Profile, say: Callable[[str], None] = print) -> Path:
    """Build the book of a profile where it has changed; return its index.

    Pages that are missing or stale, and Sphinx's warnings, are said.
    """
    folder = build_dir(profile.name) / "html"
    with exclusive(folder, f"the book of {profile.name} is being made by another process", say):
        states = [(page, page.state()) for page in pages(profile)]
        for page, state in states:
            if state != "fresh":
                say(f"{page.name}: {state}")
        sources = _sources(profile, states)
        tools = [version(name) for name in ("sphinx", "myst-nb", "sphinx-book-theme")]
        digest = hashlib.sha256(repr(tools).encode() + Path(__file__).read_bytes())
        for name, content in sources.items():
            digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
        mark = folder / "made_from.txt"
        if not mark.exists() or mark.read_text() != digest.hexdigest():
            _build(folder, sources | {f"files/{mark.name}": digest.hexdigest().encode()}, say)
    return folder / "index.html"


def _build(folder: Path, sources: dict[str, bytes], say: Callable[[str], None]) -> None:
    """Write the sources into a temporary folder, let Sphinx build there, move what it made."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace

    _round_brackets()
    place = {"prefix": f".html.{HOST}.{os.getpid()}.", "suffix": ".tmp", "dir": folder.parent}
    with tempfile.TemporaryDirectory(**place) as temporary, docutils_namespace():
        source, made, trees, old = (
            Path(temporary) / name for name in ("in", "out", "trees", "old")
        )
        for name, content in sources.items():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes(content)
        faults = io.StringIO()
        Sphinx(source, None, made, trees, "html", SETTINGS, status=None, warning=faults).build()
        for line in faults.getvalue().splitlines():
            say(line.replace(f"{source}{os.sep}", ""))
        if folder.exists():
            os.replace(folder, old)
        os.replace(made, folder)


def _round_brackets() -> None:
    """Let citations read "Cao et al. (2019)", as they do in the notebooks and in LaTeX."""
    from dataclasses import dataclass, field

    from sphinxcontrib.bibtex.plugin import register_plugin
    from sphinxcontrib.bibtex.style.referencing import BracketStyle
    from sphinxcontrib.bibtex.style.referencing.author_year import AuthorYearReferenceStyle

    @dataclass
    class Round(AuthorYearReferenceStyle):
        bracket_textual: BracketStyle = field(default_factory=lambda: BracketStyle("(", ")"))
        bracket_parenthetical: BracketStyle = field(default_factory=lambda: BracketStyle("", ""))

    register_plugin(
        "sphinxcontrib.bibtex.style.referencing", "author_year_round", Round, force=True
    )


def _sources(profile: Profile, states: list[tuple[Page, str]]) -> dict[str, bytes]:
    """All that Sphinx reads: path below its source folder, and content."""
    docs = sorted((ROOT / "docs").glob("*.md"))
    printed = build_dir(profile.name) / "thesis"
    beside = {
        printed / "results.pdf": "The results in print (PDF)",
        printed / "book.pdf": "The whole book in print (PDF)",
        results_dir(profile.name).parent / f"{profile.name}.csv": "All results (CSV)",
    }
    beside = {path: label for path, label in beside.items() if path.exists()}
    index = [f"# {TITLE}", f"Profile **{profile.name}**. {profile.title}."]
    index += [f'<a href="{path.name}">{label}</a>' for path, label in beside.items()]
    part_of = {number: part for part, (numbers, _) in PARTS.items() for number in numbers}
    for part, (_, found) in PARTS.items():
        members = [s for s in states if part_of.get(int(s[0].name[:2]), list(PARTS)[-1]) == part]
        index += [f"## {part}", found] * bool(members)
        for page, state in members:
            title = _title(page) if state == "missing" else f"[{_title(page)}]({page.name}.ipynb)"
            text = NOTES[state] + question(first_cell(page.source))
            index.append(f"{title}\n: {text}" if text else title)
        index.append(_toctree(part, [page.name for page, state in members if state != "missing"]))
    index.append(_toctree("How to", [f"docs/{path.stem}" for path in docs]))
    index.append(_toctree("Sources", ["references"]))
    files = {f"docs/{path.name}": path for path in docs}
    for path in docs:  # and the pictures that they show
        shown = re.findall(r"\]\(\.\./(figures/[\w/]+\.png)\)", path.read_text(encoding="utf-8"))
        files |= {name: ROOT / name for name in shown}
    files |= {f"files/{path.name}": path for path in beside}
    files |= {"static/book.css": Path(__file__).with_name("book.css")}
    files |= {"references.bib": NOTEBOOKS / "references.bib"}
    known = floats(profile)
    there = [page for page, state in states if state != "missing"]
    names = {page.name for page in there}
    made = {f"{page.name}.ipynb": _notebook(page, known, names) for page in there}
    texts = {name: path.read_bytes() for name, path in files.items() if path.exists()}
    index_md = "\n\n".join(index).encode()
    return {"index.md": index_md, "references.md": REFERENCES.encode()} | made | texts


def _toctree(caption: str, names: list[str]) -> str:
    head = f"```{{toctree}}\n:caption: {caption}\n:hidden:\n\n"
    return head + "\n".join(names) + "\n```" if names else ""


def _title(page: Page) -> str:
    return f"{page.name[:2]} {page.title}"


def _notebook(page: Page, known: dict[str, Float], there: set[str]) -> bytes:
    """An executed notebook as Sphinx reads it: its number in its title, its links and equations in
    MyST's words, names of pages that are ``there`` as links, its figures and tables with numbers,
    captions and descriptions."""
    notebook = read_notebook(page.executed)
    titles = {found.anchor: found.title for found in known.values()}
    first, cells, heading = notebook["cells"][0], [], page.title
    begun = False  # parameters and imports, before the first section, are folded
    first["source"] = re.sub("^#.*", lambda _: f"# {_title(page)}", first["source"], count=1)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            heading = (re.findall("^#+ +(.*)", cell["source"], re.MULTILINE) or [heading])[-1]
            begun |= "\n## " in f"\n{cell['source']}"
            text = PAGE.sub(
                lambda m: f"[{m[0]}]({m[1]}.ipynb)" if m[1] in there else m[0],
                as_myst(cell["source"], titles),
            )
            cells.append(cell | {"source": text})
        else:
            parts = _with_captions(cell, known, titles, heading)
            if not begun or any(_is_shown_alone(part) for part in parts):
                parts[0]["metadata"]["tags"] = ["hide-input"]
            cells += parts
    notebook["cells"] = cells
    return json.dumps(notebook, ensure_ascii=False, indent=1).encode()


def _is_shown_alone(part: dict) -> bool:
    """A figure with its caption, or text: the code that makes them is folded."""
    outputs = part["outputs"]
    text = outputs and all("text/markdown" in output.get("data", ()) for output in outputs)
    return bool(text) or "figure" in part["metadata"]["mystnb"]


def _with_captions(cell: dict, known: dict[str, Float], titles: dict, heading: str) -> list[dict]:
    """A cell of code as one or more: MyST-NB gives a caption to all pictures of a cell, so that
    each figure is the only output of a cell of its own, which hides its source."""
    parts, outputs = [], []
    described = {"image": {"alt": f"Figure: {heading}"}}
    for output in cell.get("outputs", []):
        told = told_of(output)
        if not told:
            outputs.append(output)
            continue
        # of a stale page the captions may be gone
        made = known.get(told["name"], Float(**told, page="", number=""))
        text = as_myst(told["caption"], titles)
        if made.kind == "Table":
            words = TABLE_CAPTION.format(anchor=made.anchor, title=made.title, text=text)
            outputs.append(output | {"data": {"text/markdown": words}})
            continue
        figure = {"caption": f"**{made.title}.** {text}", "name": made.anchor}
        alone = {"figure": figure, "image": {"alt": f"{made.title}. {plain(told['caption'])}"}}
        parts += [(outputs[:-1], described), (outputs[-1:], alone)]
        outputs = []
    parts.append((outputs, described))
    whole = [part for part in parts if part[0]] or parts[-1:]
    return [_part(cell, number, *part) for number, part in enumerate(whole)]


def _part(cell: dict, number: int, outputs: list[dict], mystnb: dict) -> dict:
    """The part of a cell that shows some of its outputs: the first one shows the source too."""
    hidden = {"tags": ["remove-input"], "mystnb": mystnb}
    metadata = cell["metadata"] | (hidden if number else {"mystnb": mystnb})
    own = {"id": f"{cell['id']}-{number}"} if number else {}
    return cell | own | {"metadata": metadata, "outputs": outputs}


def question(text: str) -> str:
    """The question in the text of a notebook's first cell, on one line; "" where there is none.

    It goes from "**Question.**" to the last question mark of the paragraph, or to its end.
    """
    found = re.search(r"\*\*Question\.\*\*(.*?)(\n\s*\n|\Z)", text, re.DOTALL)
    text = " ".join(found[1].split()) if found else ""
    return text[: text.rfind("?") + 1] or text
