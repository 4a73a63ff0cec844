"""The book of executed notebooks: written here by hand, so that no kernel is needed."""

import base64
import io
import json
import re

import nbformat
import pandas as pd
import pytest
from browser import needs_chromium, read_book
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from ltlib.files import build_dir, figures_dir, results_dir
from ltlib.runs.profiles import load_profile
from workbook import book, notebooks
from workbook.book import question, write_html

EXERCISE = """## Exercises

1. Why is $x = 1$?
<details><summary>Solution</summary>

Because $x - 1 = 0$.
</details>

2. And then?
<details><summary>Solution</summary>

```python
x = 1
```
</details>"""


def picture():
    file = io.BytesIO()
    Image.new("RGBA", (1200, 600), (200, 0, 0, 0)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def tables():
    """A plain table that is wider than a phone, and one with colours for both schemes."""
    frame = pd.DataFrame([[12345.6789] * 30], index=["weighted softmax"])
    styled = frame.style.set_caption("Caption").apply(
        lambda _: frame.map(lambda _: "color: light-dark(#1b5fa8, #8ab8ee)"), axis=None
    )
    return [
        {"text/plain": "plain", "text/html": html} for html in (frame.to_html(), styled.to_html())
    ]


OUTPUTS = [
    new_output("stream", name="stdout", text="one\n"),
    new_output("stream", name="stdout", text="<script>two</script>" + "wide " * 80 + "\n"),
    new_output("stream", name="stderr", text="a warning\n"),
    new_output("display_data", {"image/png": picture()}),
    *(new_output("execute_result", table) for table in tables()),
    new_output("display_data", {"text/markdown": "so $y^2$"}),
]
CAPTIONS = {
    "odd": "How $x$ falls, *odd*, [Cui et al. 2019](#cite-cui2019).",
    "tables/odd": "A table.",
}


def told(name):
    """A caption, as `Output` shows it."""
    metadata = {"ltlib": {"name": name, "caption": CAPTIONS[name]}}
    return new_output("display_data", {"text/markdown": CAPTIONS[name]}, metadata=metadata)


OUTPUTS += [
    new_output("display_data", {"image/png": picture()}),
    told("odd"),
    told("tables/odd"),
    new_output("execute_result", tables()[0]),
]
WIDE = "$$ " + " + ".join(f"a_{{{i}}}" for i in range(60)) + " $$"
SOURCES = {
    "01_odd": [
        '# A < B & "C"\n\n**Question.** Is $a < b$,\nor & "both"? More of it.\n\nNot this?',
        '## When $p < q$ & "x" <y>\n\ntext',
        f"Above\n{WIDE}\nbelow; `$z$` costs 5 $ and 6 $. See `12_plain`, `13_none`.",
        "[(1.1)](#eq-1.1), [Figure](#figure-odd), [Table](#table-odd)\n$$ a = b \\tag{1.1} $$\nso.",
        EXERCISE,
    ],
    "12_plain": ["# Plain\n\nNo question.", "## Ünïcödé, 日本\n\n`code_" + "very_" * 30 + "long`"],
    "99_last": ["# The last\n\n**Question.** Why?", "## Twice", "## Twice"],
}


def write_notebooks(library, profile):
    """Three notebooks and what executing them gives; the first has outputs of all kinds."""
    for name, texts in SOURCES.items():
        cells = [new_markdown_cell(text) for text in texts]
        code = new_code_cell(f"print('{'shown ' * 40}')", outputs=OUTPUTS * (name == "01_odd"))
        nb = new_notebook(cells=[*cells[:2], code, *cells[2:]])
        nb.metadata["language_info"] = {"name": "python"}
        nbformat.write(nb, library / f"{name}.ipynb")
    for page in notebooks.pages(profile):
        nb = nbformat.read(page.source, as_version=4)
        nb.metadata["ltlib"] = {"key": page.key(), "outputs": {}}
        page.executed.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, page.executed)
        path = figures_dir(profile.name) / notebooks.captions_path(page.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(notebooks.captions(nb)))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A book with everything: its folder, and what was said while it was built."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("library", "docs"):
            (out / name).mkdir()
        patch.setenv("LTLIB_OUT", str(out))
        patch.setattr(notebooks, "NOTEBOOKS", out / "library")
        patch.setattr(book, "ROOT", out)
        (out / "docs" / "clusters.md").write_text("# On a cluster\n\ntext")
        for path in (
            build_dir("smoke") / "thesis" / "results.pdf",
            results_dir("smoke").parent / "smoke.csv",
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(path.name)
        write_notebooks(out / "library", load_profile("smoke"))
        said = []
        yield write_html(load_profile("smoke"), said.append).parent, said


@pytest.fixture
def first(library, smoke):
    """The pages of a profile of three notebooks, without a book yet."""
    write_notebooks(library, smoke)
    return notebooks.pages(smoke)


def read(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def text_of(element):
    return " ".join(element.get_text().split())


def test_nothing_is_wrong_with_it(built):
    assert built[1] == []


def test_the_index_has_a_link_and_the_question_of_every_page_in_parts(built):
    index = read(built[0] / "index.html")
    parts = {text_of(part.h2).rstrip("#"): part for part in index.select("main section section")}
    assert list(parts) == ["Data", "Training and results", "More notebooks"]
    links = [link for part in parts.values() for link in part.select("a:not(.headerlink)")]
    assert [(a["href"], text_of(a)) for a in links] == [
        ("01_odd.html", '01 A < B & "C"'),
        ("12_plain.html", "12 Plain"),
        ("99_last.html", "99 The last"),
    ]
    assert [text_of(dd) for dd in index.select("main dd")] == [
        r'Is \(a < b\), or & "both"?',
        "Why?",
    ]
    tree = index.select(".bd-sidebar-primary nav li a")
    assert [a["href"] for a in tree] == [
        "#",
        "01_odd.html",
        "12_plain.html",
        "99_last.html",
        "docs/clusters.html",
        "references.html",
    ]


def test_the_printed_tables_and_the_results_lie_beside_the_pages(built):
    folder, _ = built
    links = [a["href"] for a in read(folder / "index.html").select("main section > p > a")]
    assert links[:2] == ["results.pdf", "smoke.csv"]
    assert [(folder / link).read_text() for link in links[:2]] == links[:2]


def test_outputs_are_shown_each_in_its_way(built):
    page = read(built[0] / "01_odd.html")
    assert text_of(page.title).startswith('01 A < B & "C"')
    printed = page.select_one(".cell_output .output.stream")
    assert printed.get_text().startswith("one\n<script>two</script>wide")  # one block, and text
    assert page.select_one(".output.stderr").get_text().strip() == "a warning"
    assert page.select_one(".cell_output img")["alt"] == 'Figure: When $p < q$ & "x" <y>'
    assert len(page.select(".cell_output .text_html table")) == 3
    assert page.select_one(".cell_output p .math").get_text() == r"\(y^2\)"
    assert "shown" in page.select_one(".cell_input").get_text()


def test_figures_and_tables_have_numbers_and_captions(built):
    page = read(built[0] / "01_odd.html")
    (figure,) = page.select("figure")
    assert figure["id"] == "figure-odd"
    assert text_of(figure.figcaption).startswith(
        r"Figure 1.1. How \(x\) falls, odd, Cui et al., 2019."
    )
    assert figure.img["alt"] == "Figure 1.1. How x falls, odd, Cui et al. 2019."
    (table,) = page.select(".table-caption")
    assert text_of(table) == "Table 1.1. A table."
    assert len(page.select(".cell_input")) == 1  # the source of the cell, once
    targets = {text_of(a): a["href"] for a in page.select("main p > a.reference")}
    assert targets["Figure 1.1"] == "#figure-odd"
    assert targets["Table 1.1"] == "#table-odd"
    assert page.select_one(targets["(1.1)"].replace(".", r"\."))
    assert r"\tag{1.1}" in page.get_text()


def test_what_is_cited_is_listed(built):
    link = read(built[0] / "01_odd.html").select_one("figcaption a.reference")["href"]
    listed = read(built[0] / "references.html")
    assert "Effective Number" in listed.get_text().title()
    assert link.partition("#")[2] in {element["id"] for element in listed.select("[id]")}


def test_formulas_are_found_and_code_stays(built):
    page = read(built[0] / "01_odd.html")
    assert "a_{59}" in page.select_one("div.math").get_text()
    assert "<code" in str(page.find(string="$z$").find_parent("code"))
    assert "costs 5 $ and 6 $" in page.get_text()


def test_pages_that_are_named_are_linked(built):
    linked = [a["href"] for a in read(built[0] / "01_odd.html").select("main p a.reference")]
    assert "12_plain.html" in linked
    assert "13_none.html" not in linked


def test_a_solution_is_inside_its_details(built):
    folded = read(built[0] / "01_odd.html").select("main details")
    one, two = [part for part in folded if part.summary.get_text() == "Solution"]
    assert "Because" in one.get_text()
    assert one.select(".math")
    assert "x = 1" in two.select_one("pre").get_text()


def test_a_page_leads_to_its_notebook(built):
    folder, _ = built
    link = read(folder / "01_odd.html").select_one("a.btn-download-source-button")["href"]
    assert link == "_sources/01_odd.ipynb"
    assert nbformat.read(folder / link, as_version=4).cells[-1].source == EXERCISE


def test_pages_ask_no_network(built):
    asked = r"""(<(script|link|img)[^>]*(src|href)=|@import |url\()["']?(https?:)?//"""
    for path in [*built[0].glob("*.html"), *built[0].glob("_static/**/*.css")]:
        assert not re.findall(asked, path.read_text(encoding="utf-8")), path.name


def test_stale_and_missing_pages_are_said(first, smoke, library):
    source = library / "01_odd.ipynb"
    source.write_text(source.read_text().replace("More of it", "Less of it"))
    first[1].executed.unlink()
    said = []
    index = read(write_html(smoke, said.append))
    assert said == ["01_odd: stale", "12_plain: missing"]
    assert [text_of(dd).partition(".")[0] for dd in index.select("main dd")] == [
        "Shows an older state",
        "Not made yet",
        "Why?",
    ]
    assert "12_plain.html" not in str(index)
    assert "results.pdf" not in str(index)


def test_it_is_built_again_only_when_something_has_changed(first, smoke):
    index = write_html(smoke)
    before = index.stat()
    (index.parent / "odd.html").touch()
    write_html(smoke)
    assert index.stat() == before
    first[2].executed.write_text(first[2].executed.read_text().replace("Twice", "Thrice"))
    write_html(smoke)
    assert "Thrice" in (index.parent / "99_last.html").read_text()
    assert not (index.parent / "odd.html").exists()  # a whole new book, and nothing left beside it
    assert {path.name for path in index.parent.parent.iterdir()} == {
        "html",
        "html.lock",
        "notebooks",
    }


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("# A\n\n**Question.** Why? Because.", "Why?"),
        ("# A\n\n**Question.** Why,\nand how? And who?\n\nWhat?", "Why, and how? And who?"),
        ("# A\n\n**Question.** No mark", "No mark"),
        ("# A\n\ntext", ""),
    ],
)
def test_the_question_ends_with_its_last_question_mark(text, asked):
    assert question(text) == asked


@needs_chromium
def test_the_book_in_a_browser(built):
    read_book(built[0] / "index.html", [*SOURCES, "docs/clusters", "references"])
