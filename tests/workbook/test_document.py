import json
import shutil

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from ltlib.files import figures_dir
from ltlib.report.output import Output
from workbook import notebooks
from workbook.document import NoLatex, ThesisFailed, book, compile_thesis, results
from workbook.results import write_results

needs_latexmk = pytest.mark.skipif(
    shutil.which("latexmk") is None, reason="latexmk is not installed"
)
CAPTIONS = {
    "class_counts": "Images, 95 % of $n_c$; [Table](#table-groups), [Cui 2019](#cite-cui2019).",
    "tables/groups": "Groups & *more*.",
}


@pytest.fixture
def made(out, library, smoke):
    """A notebook with a figure, a table with odd characters and a print; no run at all."""
    write_results(smoke)
    output = Output(smoke)
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    output.figure(fig, "class_counts", caption=CAPTIONS["class_counts"])
    output.frame(
        pd.DataFrame({"a_b": ["1 ± 2 %", "−3"]}, index=["x & y", "z"]),
        "groups",
        notes=["50 % of a_b & more"],
        caption=CAPTIONS["tables/groups"],
    )
    output.text("A *list*:\n\n- one\n- two", "answers")
    told = [
        new_output(
            "display_data",
            {"text/markdown": f"**Figure.** {caption}"},
            metadata={"ltlib": {"name": name, "caption": caption}},
        )
        for name, caption in CAPTIONS.items()
    ]
    cells = [
        new_markdown_cell("# Data & all\n\n**Question.** Why?"),
        new_markdown_cell("By [(1.1)](#eq-1.1) of [Cui et al. (2019)](#cite-cui2019):"),
        new_markdown_cell("$$ a = b \\tag{1.1} $$\n\n| a | b |\n|---|---|\n| $x$ | y |"),
        new_code_cell("1", outputs=[new_output("stream", text="95 % of a_b\n"), *told]),
    ]
    nb = new_notebook(cells=cells)
    nbformat.write(nb, library / "01_data.ipynb")
    (page,) = notebooks.pages(smoke)
    page.executed.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, page.executed)
    path = figures_dir("smoke") / notebooks.captions_path(page.name)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(notebooks.captions(nb)))
    return smoke


def test_the_results_have_what_is_there_and_nothing_else(made):
    text = results(made)
    assert text.count("\\begin{figure}") == text.count("\\begin{table}") == 1
    assert "\\renewcommand{\\thefigure}{1.1}\\caption{Images, 95 \\% of \\(n_c\\);" in text
    assert "Table~\\ref{table-groups}" in text
    assert "\\citealp{cui2019}" in text
    assert "\\input{\\figures/answers}" in text
    assert "32 runs are missing" in text
    assert text.count("\\item ") == 2
    assert "resnetv2\\_small32, all 16 runs: missing" in text


def test_a_figure_whose_file_is_gone_is_left_out(made):
    (figures_dir("smoke") / "class_counts.pdf").unlink()
    assert "\\begin{figure}" not in results(made)


def test_the_book_has_the_prose_what_is_printed_and_all_that_floats(made):
    text = book(made)
    assert "\\renewcommand{\\thechapter}{1}" in text
    assert "\\chapter{Data \\& all}" in text
    assert "\\hyperref[eq-1.1]{(1.1)} of \\citet{cui2019}" in text
    assert "\\tag{1.1}\\label{eq-1.1}" in text
    assert "95 % of a_b\n\\end{Verbatim}" in text
    assert text.count("\\begin{figure}") == text.count("\\begin{table}") == 1
    assert "**Figure.**" not in text


@pytest.mark.slow
@needs_latexmk
@pytest.mark.parametrize("kind", ["results", "book"])
def test_it_compiles_to_the_same_bytes(made, kind):
    pdf = compile_thesis(made, kind)
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF")
    shutil.rmtree(pdf.parent)
    assert compile_thesis(made, kind).read_bytes() == first
    log = (pdf.parent / f"{kind}.log").read_text(errors="replace")
    assert "Overfull" not in log
    assert "undefined" not in log


@pytest.mark.slow
@needs_latexmk
def test_a_character_without_a_glyph_is_a_question_mark(made):
    table = pd.DataFrame({"蝶": ["é ä ß", "Ж"]}, index=["~a^b\\c", "y"])
    Output(made).frame(table, "groups", caption="")
    assert compile_thesis(made).read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@needs_latexmk
def test_latex_errors_are_told(made):
    (figures_dir("smoke") / "tables" / "groups.tex").write_text("\\oops")
    with pytest.raises(
        ThesisFailed, match=r"Undefined control sequence[\s\S]*whole log: .*results\.log"
    ):
        compile_thesis(made)


def test_without_latexmk_the_source_is_written_and_named(made, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        NoLatex, match=r"the source is .*results\.tex\. Debian: apt install latexmk"
    ):
        compile_thesis(made)
