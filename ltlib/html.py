"""The book: executed notebooks as pages of HTML that need no network, and an index of them all.

nbconvert makes the cells of a page (``templates/notebook``); headings then get their anchors, figures a description, and
the whole a frame with navigation and search (``templates/*.j2``). A page ends with a mark, the hash of all that it
was made from, and is made again only when that has changed.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import nbformat
from markupsafe import Markup

from ltlib.book import Page, pages
from ltlib.config import Profile, atomic_path, build_dir, results_dir, write_changed

TEMPLATES = Path(__file__).resolve().parent / "templates"
THUMBNAIL_WIDTH = 480
NOTES = {"fresh": "", "stale": "shows an older state", "missing": "not made yet"}


@dataclass(frozen=True)
class Entry:
    """A page as the index and its neighbours name it: ``title`` and ``question`` are HTML, ``text`` is the title without markup."""

    page: Page
    title: Markup
    text: str
    question: Markup
    state: str
    thumbnail: str

    @property
    def number(self) -> str:
        return self.page.name[:2]

    @property
    def href(self) -> str:
        return quote(self.page.html.name)

    @property
    def made(self) -> bool:
        return self.page.executed.exists()

    @property
    def note(self) -> str:
        return NOTES[self.state]


def write_html(profile: Profile, say: Callable[[str], None] = print) -> Path:
    """Make the pages whose notebooks, neighbours or templates have changed, and the index of all; return the index.

    Raises ValueError for formulas that cannot be read.
    """
    import jinja2

    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    exporter = _exporter()
    folder = build_dir(profile.name) / "html"
    entries = _entries(profile)
    shown = [entry for entry in entries if entry.made]
    maker = _checksum(Path(__file__), *sorted(path for path in TEMPLATES.rglob("*") if path.is_file()))
    found = []
    for before, entry, after in zip([None, *shown], shown, [*shown[1:], None], strict=False):
        names = [(neighbour.href, neighbour.title) for neighbour in (before, entry, after) if neighbour]
        parts = json.dumps([maker, _checksum(entry.page.executed), names])
        mark = f"<!-- made from {hashlib.sha256(parts.encode()).hexdigest()} -->\n"
        path = entry.page.html
        if not path.exists() or not path.read_text(encoding="utf-8").endswith(mark):
            body, _ = exporter.from_filename(str(entry.page.executed))
            cells, headings = _dress(body, entry.title)
            made = environment.get_template("page.html.j2").render(entry=entry, before=before, after=after, cells=cells, headings=headings)
            write_changed(path, made + mark)
        title = f"{entry.number} {entry.text}"
        found.append((entry.href, title, entry.text))
        found += [(f"{entry.href}#{quote(anchor)}", title, _text(label)) for anchor, label in _contents(path)]
    for entry in entries:
        if entry.note:
            say(f"{entry.page.name}: {entry.note}")
    files = [(build_dir(profile.name) / "thesis" / "thesis.pdf", "The tables and figures in print (PDF)"),
             (results_dir(profile.name).parent / f"{profile.name}.csv", "All results (CSV)")]
    links = []
    for path, label in files:
        if path.exists():  # beside the pages, so that the folder can be copied anywhere
            copy = folder / path.name
            if not copy.exists() or copy.read_bytes() != path.read_bytes():
                with atomic_path(copy) as partial:
                    shutil.copyfile(path, partial)
            links.append((quote(path.name), label))
    for name in ("book.css", "book.js"):
        write_changed(folder / name, (TEMPLATES / name).read_text(encoding="utf-8"))
    write_changed(folder / "search.js", f"const headings = {json.dumps(found, indent=0)};\n")
    write_changed(folder / "index.html", environment.get_template("index.html.j2").render(profile=profile, entries=entries, files=links))
    return folder / "index.html"


def _checksum(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


# -------------------------------------------------------------------------------------- what the index says


def _entries(profile: Profile) -> list[Entry]:
    every = pages(profile)
    questions = [question(nbformat.read(page.source, as_version=4)) for page in every]
    made = _inline([page.title for page in every] + questions)
    titles, questions = made[:len(every)], made[len(every):]
    return [Entry(page, title, _text(title), asked, page.state(), thumbnail(page.executed))
            for page, title, asked in zip(every, titles, questions, strict=True)]


def question(notebook) -> str:
    """The question of a notebook's first cell, Markdown on one line: from "**Question.**" to the paragraph's last question mark.

    "" where there is none.
    """
    found = re.search(r"\*\*Question\.\*\*(.*?)(\n\s*\n|$(?![\s\S]))", notebook.cells[0].source, re.DOTALL)
    text = " ".join(found[1].split()) if found else ""
    return text[:text.rfind("?") + 1] or text


def thumbnail(path: Path) -> str:
    """The first PNG of an executed notebook on white, at most 480 pixels wide, as a data URL; "" where there is none."""
    from PIL import Image

    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", ())] if path.exists() else []
    images = [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    if not images:
        return ""
    drawn = Image.open(io.BytesIO(base64.b64decode(images[0]))).convert("RGBA")
    image = Image.new("RGBA", drawn.size, "white")
    image.alpha_composite(drawn)
    image.thumbnail((THUMBNAIL_WIDTH, image.height))
    file = io.BytesIO()
    image.convert("RGB").quantize(128).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# ----------------------------------------------------------------------------------------------- Markdown

_FORMULA = re.compile(r"(```.*?```|`[^`]*`)|\$\$(.+?)\$\$|\$(?!\s)([^$]+?)(?<!\s)\$", re.DOTALL)

# "x ln n": browsers give a function's name no space; one before its parenthesis needs none, nor one behind a sign
_SPACE = "<mspace width='0.17em'></mspace>"
_FUNCTION = re.compile(r'((?<!<msub>)<mrow><mi mathvariant="normal">\w+</mi><mo>&#8289;</mo>)</mrow>(?!<mo[^>]*>\()')
_FACTOR = re.compile(r'(?<!−)(</(?:mi|mn|msub|msup|msubsup|mfrac)><mrow>)(?=<mi mathvariant="normal">\w+</mi><mo>&#8289;</mo>)')


def formulas_to_mathml(texts: list[str]) -> list[str]:
    """Markdown with $...$ and $$...$$ as MathML, which browsers draw by themselves; code stays as it is.

    Raises ValueError, naming them, for formulas that pandoc cannot read.
    """
    import pypandoc

    formulas = [match for text in texts for match in _FORMULA.finditer(text) if not match[1]]
    if not formulas:
        return texts
    made = pypandoc.convert_text("\n\n".join(match[0] for match in formulas), "html", "markdown", extra_args=["--mathml", "--wrap=none"])
    made = _FACTOR.sub(rf"\1{_SPACE}", _FUNCTION.sub(rf"\1{_SPACE}</mrow>", made))
    made = re.findall(r"<p>(.*?)</p>", made, re.DOTALL)
    bad = [match[0] for match, html in zip(formulas, made, strict=True) if "<math" not in html]
    if bad:
        raise ValueError(f"formulas that cannot be read: {', '.join(bad)}")
    following = iter(made)
    return [_FORMULA.sub(lambda match: match[1] or next(following), text) for text in texts]


def _exporter():
    """nbconvert's exporter: the cells of a notebook, formulas as MathML, without the input of cells tagged ``hide-input``.

    What one cell prints is one block, however often it was flushed.
    """
    from nbconvert import HTMLExporter
    from nbconvert.preprocessors import Preprocessor
    from traitlets.config import Config

    class Texts(Preprocessor):
        def preprocess(self, notebook, resources):
            places = [(cell, "source") for cell in notebook.cells if cell.cell_type == "markdown"]
            places += [(output.data, "text/markdown") for cell in notebook.cells for output in cell.get("outputs", ())
                       if "text/markdown" in output.get("data", {})]
            for (owner, key), text in zip(places, formulas_to_mathml([owner[key] for owner, key in places]), strict=True):
                owner[key] = re.sub(r"\n(</?details>)", r"\n\n\1", text)  # otherwise it ends with the list item that it follows
            return notebook, resources

    config = Config({"TagRemovePreprocessor": {"enabled": True, "remove_input_tags": {"hide-input"}},
                     "CoalesceStreamsPreprocessor": {"enabled": True}})
    exporter = HTMLExporter(template_name="notebook", extra_template_basedirs=[str(TEMPLATES)], exclude_input_prompt=True,
                            exclude_output_prompt=True, exclude_anchor_links=True, config=config)
    exporter.register_preprocessor(Texts, enabled=True)
    return exporter


def _inline(texts: list[str]) -> list[Markup]:
    """Lines of Markdown as HTML without a paragraph around them."""
    from bs4 import BeautifulSoup
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    render = MarkdownWithMath(renderer=IPythonRenderer(escape=False, exclude_anchor_links=True)).render
    return [_label(BeautifulSoup(render(f"# {text}"), "html.parser").h1) for text in formulas_to_mathml(texts)]


def _label(heading) -> Markup:
    """What stands in a heading, to be put into a link: without links of its own."""
    for link in heading.find_all("a"):
        link.unwrap()
    return Markup(heading.decode_contents())


def _text(html: str) -> str:
    """HTML as plain text, formulas as their signs."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(html, "html.parser")
    for source in soup.find_all("annotation"):
        source.decompose()
    return " ".join(soup.get_text().split())


# -------------------------------------------------------------------------------------------------- pages


def _dress(body: str, title: Markup) -> tuple[Markup, list[tuple[str, str, Markup]]]:
    """The cells of a page with anchors, descriptions of figures, and scrolling tables and formulas; its headings after the first.

    A heading is its level ("h2"), its anchor and its HTML.
    """
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(body, "html.parser")
    if soup.h1:  # two pages may come from one notebook; their titles differ
        soup.h1.clear()
        soup.h1.append(BeautifulSoup(title, "html.parser"))
    headings, taken = [], set()
    for heading in soup.find_all(re.compile("^h[1-4]$")):
        name = re.sub(r"[^\w.-]+", "-", _text(str(heading))).strip("-") or "section"  # as JupyterLab's, but for odd characters
        anchor = next(a for a in (name, *(f"{name}-{n}" for n in range(2, 1000))) if a not in taken)
        taken.add(anchor)
        heading["id"] = anchor
        if heading is not soup.h1:
            headings.append((heading.name, anchor, _label(BeautifulSoup(str(heading), "html.parser").find())))
    for image in soup.find_all("img", alt=""):
        above = image.find_previous(re.compile("^h[1-4]$"))
        image["alt"] = f"Figure: {_text(str(above))}" if above else "Figure"
    for wide in soup.select("table, math[display=block]"):
        wide.wrap(soup.new_tag("div" if wide.name == "table" else "span", attrs={"class": "scroll"}))
    return Markup(str(soup)), headings


def _contents(path: Path) -> list[tuple[str, str]]:
    """Anchor and HTML of the headings that a page lists."""
    return re.findall(r'<li class="h\d"><a href="#(.*?)">(.*?)</a></li>', path.read_text(encoding="utf-8"))
