"""The book of executed notebooks: written here by hand, so that no kernel is needed."""

import base64
import io
import json
import re
import tomllib

import nbformat
import pytest
from browser import PAPER, chromium, needs_chromium, read_book, watch
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from ltlib.book import pages
from ltlib.config import ROOT, build_dir, results_dir
from ltlib.html import formulas_to_mathml, question, write_html

EXERCISE = """## What we learned

- A thing.

## Exercises

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


def picture(width=1200):
    file = io.BytesIO()
    Image.new("RGBA", (width, width // 2), (200, 0, 0, 0)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def text_of(html):
    return " ".join(BeautifulSoup(html, "html.parser").get_text().split())


OUTPUTS = [
    new_output("stream", name="stdout", text="one\n"),
    new_output("stream", name="stdout", text="<script>two</script>" + "wide " * 80 + "\n"),
    new_output("stream", name="stderr", text="a warning\n"),
    new_output("display_data", {"image/png": picture()}),
    new_output("execute_result", {"text/plain": "plain <b>", "text/html": "<table><tr>" + "<td>12345.6789</td>" * 30 + "</tr></table>"}),
    new_output("display_data", {"text/markdown": "so $y^2$"}),
]
SOURCES = {
    "01_odd": ['# A < B & "C"\n\n**Question.** Is $a < b$,\nor & "both"? More of it.\n\nNot this?', '## When $p < q$ & "x" <y>\n\ntext',
               "## Twice", "## Twice", "$$ " + " + ".join(f"a_{{{i}}}" for i in range(60)) + " $$", EXERCISE],
    "02_plain": ["# Plain\n\nNo question here.", "## Ünïcödé, 日本\n\n`code_that_is_" + "very_" * 30 + "long`"],
    "03_last": ["# The last\n\n**Question.** Why?", "## Only heading"],
}


@pytest.fixture
def book(library, smoke, out):
    """Three notebooks, executed, in a library of their own; the first has outputs of all kinds."""
    for name, texts in SOURCES.items():
        cells = [new_markdown_cell(text) for text in texts]
        code = new_code_cell("print('" + "shown " * 40 + "')", outputs=OUTPUTS if name == "01_odd" else [])
        seen = new_output("stream", name="stdout", text="seen\n")
        hidden = new_code_cell("secret = 1", metadata={"tags": ["hide-input"]}, outputs=[seen])
        nb = new_notebook(cells=[*cells[:2], code, hidden, *cells[2:]], metadata={"language_info": {"name": "python"}})
        nbformat.write(nb, library / f"{name}.ipynb")
    for page in pages(smoke):
        nb = nbformat.read(page.source, as_version=4)
        nb.metadata["ltlib"] = {"key": page.key(), "outputs": {}}
        page.executed.parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nb, page.executed)
    return pages(smoke)


def soup_of(path):
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def headings(folder):
    text = (folder / "search.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("const headings = ").removesuffix(";\n"))


def test_the_index_names_every_page_with_its_question(book, smoke):
    said = []
    cards = soup_of(write_html(smoke, said.append)).select("main li")
    assert said == []
    assert [card.a["href"] for card in cards] == ["01_odd.html", "02_plain.html", "03_last.html"]
    assert [text_of(str(card.h2)) for card in cards] == ['01 A < B & "C"', "02 Plain", "03 The last"]
    for annotation in cards[0]("annotation"):
        annotation.decompose()
    assert [text_of(str(card.p)) for card in cards] == ['Is a<b, or & "both"?', "", "Why?"]
    assert [card["class"] for card in cards] == [["fresh"]] * 3


def test_thumbnails_are_small_and_white_where_a_figure_is_clear(book, smoke):
    cards = soup_of(write_html(smoke)).select("main li")
    image = Image.open(io.BytesIO(base64.b64decode(cards[0].img["src"].partition("base64,")[2]))).convert("RGB")
    assert image.size == (480, 240)
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert cards[1].img is None
    assert text_of(str(cards[1].select_one(".tile"))) == "02"


def test_stale_and_missing_pages_are_said(book, smoke, library):
    write_html(smoke)
    (library / "01_odd.ipynb").write_text((library / "01_odd.ipynb").read_text().replace("More of it", "Less of it"))
    book[1].executed.unlink()
    said = []
    cards = soup_of(write_html(smoke, said.append)).select("main li")
    assert said == ["01_odd: shows an older state", "02_plain: not made yet"]
    assert [card["class"] for card in cards] == [["stale"], ["missing"], ["fresh"]]
    assert ["shows an older state" in str(card) for card in cards] == [True, False, False]
    assert ["not made yet" in str(card) for card in cards] == [False, True, False]
    assert cards[1].a is None
    assert soup_of(book[0].html).select_one("a[rel=next]")["href"] == "03_last.html"
    assert not any(address.startswith("02_plain") for address, _, _ in headings(book[0].html.parent))


def test_pages_lead_to_their_neighbours_and_headings(book, smoke):
    write_html(smoke)
    first, second, third = (soup_of(page.html) for page in book)
    assert [[a["href"] for a in page.select(".pager a")] for page in (first, second, third)] == [
        ["index.html", "02_plain.html"], ["01_odd.html", "index.html", "03_last.html"], ["02_plain.html", "index.html"]]
    for page in (first, second, third):
        anchors = [a["href"].removeprefix("#") for a in page.select(".contents a")]
        assert anchors == [heading["id"] for heading in page.select("main h2")]
        assert page.html["lang"] == "en"
        assert page.select_one("a.skip")["href"] == "#main"
    assert [h["id"] for h in first.select("main h2")][1:] == ["Twice", "Twice-2", "What-we-learned", "Exercises"]
    assert first.title.get_text() == 'A < B & "C" – The long-tail workbook'


def test_the_search_index_leads_to_every_heading(book, smoke):
    folder = write_html(smoke).parent
    found = headings(folder)
    assert [heading for _, _, heading in found] == [
        'A < B & "C"', 'When p<q & "x"', "Twice", "Twice", "What we learned", "Exercises",
        "Plain", "Ünïcödé, 日本", "The last", "Only heading"]
    assert {title for _, title, _ in found} == {'01 A < B & "C"', "02 Plain", "03 The last"}


def test_outputs_are_shown_each_in_its_way(book, smoke):
    write_html(smoke)
    page = soup_of(book[0].html)
    printed, *_ = page.select(".output > pre")
    assert printed.get_text().startswith("one\n<script>two</script>wide")  # one block, and text
    assert page.select_one("details.stderr pre").get_text() == "a warning\n"
    assert page.figure.img["alt"] == 'Figure: When p<q & "x"'
    assert page.select_one(".output .scroll > table")
    assert "plain" not in page.get_text()
    assert page.select_one(".output p math")
    assert page.select_one("span.scroll > math[display=block]")
    assert "shown" in page.select_one(".highlight").get_text()
    assert "secret" not in page.get_text()
    assert "seen" in page.get_text()


def test_a_solution_is_inside_its_details(book, smoke):
    write_html(smoke)
    first, second = soup_of(book[0].html).select("main details:not(.stderr)")
    assert "Because" in first.get_text()
    assert first.find("math")
    assert "x = 1" in second.find("pre").get_text()


def test_a_page_is_made_again_only_when_it_changes(book, smoke):
    folder = write_html(smoke).parent
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    write_html(smoke)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    book[2].executed.write_text(book[2].executed.read_text().replace("Only heading", "Another heading"))
    write_html(smoke)
    changed = {path.name for path in folder.iterdir() if path.stat().st_mtime_ns != before[path]}
    assert changed == {"03_last.html", "search.js"}


def test_pages_ask_no_network(book, smoke):
    folder = write_html(smoke).parent
    for path in folder.iterdir():
        assert not re.findall(r'(?:src|href)\s*=\s*["\']?(?:https?:)?//|url\(|@import', path.read_text(encoding="utf-8")), path.name


def test_the_printed_tables_and_the_results_lie_beside_the_pages(book, smoke):
    assert "thesis.pdf" not in write_html(smoke).read_text()
    for path in (build_dir("smoke") / "thesis" / "thesis.pdf", results_dir("smoke").parent / "smoke.csv"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    index = write_html(smoke)
    links = [a["href"] for a in soup_of(index).select("main > p a")]
    assert links == ["thesis.pdf", "smoke.csv"]
    assert [(index.parent / link).read_text() for link in links] == links


def test_the_templates_are_part_of_the_package():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packed = {path for package in settings["packages"] for pattern in settings["package-data"].get(package, [])
              for path in (ROOT / package.replace(".", "/")).glob(pattern)}
    assert {path for path in (ROOT / "ltlib" / "templates").rglob("*") if path.is_file()} <= packed


@pytest.mark.parametrize(("text", "asked"), [
    ("# A\n\n**Question.** Why? Because.", "Why?"),
    ("# A\n\n**Question.** Why,\nand how? And who?\n\nWhat?", "Why, and how? And who?"),
    ("# A\n\n**Question.** No mark", "No mark"),
    ("# A\n\ntext", ""),
])
def test_the_question_ends_with_its_last_question_mark(text, asked):
    assert question(new_notebook(cells=[new_markdown_cell(text)])) == asked


def test_formulas_become_mathml_and_code_stays():
    plain, text = formulas_to_mathml([
        "nothing",
        "costs `$x$` and $n_c \\ge 1$:\n\n$$ \\begin{aligned} a &= \\frac{1}{2} \\\\ b &< 1 \\end{aligned} $$"
        "\n\n```\n$y$\n``` 5 $ and 6 $"])
    assert plain == "nothing"
    assert text.count("<math") == 2
    assert "`$x$`" in text
    assert "```\n$y$\n```" in text
    assert text.endswith("5 $ and 6 $")
    assert "<mfrac>" in text


@pytest.mark.parametrize(("formula", "spaces"), [
    (r"\ln x", 1), (r"\ln(x)", 0), (r"y \ln x", 2), (r"2\ln(x)", 1), (r"-\ln x", 1), (r"\frac{a}{\ln(b)}", 0), (r"\max_j z", 0)])
def test_a_function_stands_apart_from_its_neighbours(formula, spaces):
    assert formulas_to_mathml([f"${formula}$"])[0].count("<mspace") == spaces


def test_a_formula_that_cannot_be_read_is_named():
    with pytest.raises(ValueError, match=r"cannot be read: \$\\frac\{1\$"):
        formulas_to_mathml(["$x$ and $\\frac{1$"])


@needs_chromium
def test_the_book_in_a_browser(book, smoke):
    read_book(write_html(smoke), [page.name for page in book])


@needs_chromium
def test_stale_and_missing_cards_can_be_read(book, smoke, library):
    for name in ("01_odd", "03_last"):
        source = library / f"{name}.ipynb"
        source.write_text(source.read_text().replace("# ", "# New: ", 1))
    book[1].executed.unlink()
    read_book(write_html(smoke), ["01_odd", "03_last"])


@needs_chromium
def test_the_switch_works_where_nothing_can_be_stored(book, smoke):
    with chromium() as browser:
        page = browser.new_page()
        page.add_init_script("Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('no', 'SecurityError'); }})")
        faults = watch(page)
        page.goto(write_html(smoke).as_uri())
        before = page.evaluate(PAPER)
        page.locator("#scheme").click()
        assert page.evaluate(PAPER) != before
        assert faults == []
