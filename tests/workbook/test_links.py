import re
from pathlib import Path

import nbformat
import pytest

from workbook.links import EQUATION, LINK, as_latex, as_myst, plain
from workbook.notebooks import NOTEBOOKS

TITLES = {"figure-features": "Figure 10.1", "table-groups": "Table 1.1"}
TEXT = "[Figure](#figure-features), [Table](#table-other), [(6.2)](#eq-6.2), [A](https://a.b)"
CITED = "as [Cao et al. (2019)](#cite-cao2019) say ([Lin et al. 2017](#cite-lin2017))"


def test_links_become_latex_references():
    assert as_latex(TEXT) == (
        "`Figure~\\ref{figure-features}`{=latex}, `Table~\\ref{table-other}`{=latex}, "
        "`\\hyperref[eq-6.2]{(6.2)}`{=latex}, [A](https://a.b)"
    )
    known = as_latex(TEXT, {"figure-features"})
    assert known.startswith("`Figure~\\ref{figure-features}`{=latex}, Table, `\\hyperref")
    assert as_latex(CITED) == ("as `\\citet{cao2019}`{=latex} say (`\\citealp{lin2017}`{=latex})")


def test_links_become_references_of_the_book():
    assert as_myst(TEXT, TITLES) == (
        "[Figure 10.1](#figure-features), Table, [(6.2)](#eq-6.2), [A](https://a.b)"
    )
    assert as_myst(CITED, TITLES) == "as {cite:t}`cao2019` say ({cite:p}`lin2017`)"


def test_numbered_equations_can_be_linked():
    text = "so\n$$ a \\tag{6.2} $$\nand $$ b $$"
    assert as_latex(text) == "so\n$$ a \\tag{6.2}\\label{eq-6.2} $$\nand $$ b $$"
    assert "(eq-6.2)=\n\\begin{equation*} a \\tag{6.2} \\end{equation*}" in as_myst(text, {})
    assert as_myst(text, {}).endswith("and $$ b $$")


def test_what_describes_a_figure_has_no_marks():
    assert plain("The `x` of\n[Table](#table-groups): $\\ln n$, *so*") == "The x of Table: ln n, so"


# the notebooks


def markdown(path):
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


SOURCES = {path.stem: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
TEXTS = {name: markdown(path) for name, path in SOURCES.items()}
LINKS = [(name, *found) for name, text in TEXTS.items() for found in LINK.findall(text)]


def test_every_source_is_cited_and_every_citation_has_a_source():
    bibliography = (NOTEBOOKS / "references.bib").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^@\w+\{(\w+),\n(.*?)^\}", bibliography, re.DOTALL | re.MULTILINE))
    assert {key for _, _, kind, key in LINKS if kind == "cite"} == set(entries)
    for key, entry in entries.items():
        assert re.search(r"^  (doi|url|school) = \{", entry, re.MULTILINE), key
        for field in ("author", "title", "year"):
            assert re.search(rf"^  {field} = \{{.+\}},$", entry, re.MULTILINE), (key, field)


@pytest.mark.parametrize("name", SOURCES)
def test_equations_are_numbered_by_notebook_in_their_order(name):
    numbers = [number for _, number, _ in EQUATION.findall(TEXTS[name])]
    chapter = int(name[:2])
    start = 1
    if name.endswith("_experiments"):
        derivation = next(n for n in SOURCES if n[:2] == name[:2] and n != name)
        start += len(EQUATION.findall(TEXTS[derivation]))
    assert numbers == [f"{chapter}.{start + i}" for i in range(len(numbers))]


def test_every_equation_that_is_referred_to_is_there_and_every_numbered_one_is_referred_to():
    tagged = {number for text in TEXTS.values() for _, number, _ in EQUATION.findall(text)}
    assert {name for _, _, kind, name in LINKS if kind == "eq"} == tagged
    assert all(shown == f"({name})" for _, shown, kind, name in LINKS if kind == "eq")


def test_figures_and_tables_that_are_referred_to_are_made_by_a_notebook():
    code = "\n".join(Path(path).read_text(encoding="utf-8") for path in SOURCES.values())
    for where, shown, kind, name in LINKS:
        if kind in ("figure", "table"):
            assert shown == kind.capitalize(), (where, name)
            assert f'\\"{name}\\"' in code, (where, name)
