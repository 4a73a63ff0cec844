import re
import shutil

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ltlib.files import figures_dir
from ltlib.report.output import Output
from workbook.document import CONTENTS, NoLatex, ThesisFailed, compile_thesis, document
from workbook.results import write_results

needs_latexmk = pytest.mark.skipif(
    shutil.which("latexmk") is None, reason="latexmk is not installed"
)


@pytest.fixture
def made(out, smoke):
    """A figure, tables with odd characters, and the numbers of no run at all."""
    write_results(smoke)
    output = Output(smoke)
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    output.figure(fig, "class_counts")
    plt.close(fig)
    output.frame(
        pd.DataFrame({"a_b": ["1 ± 2 %", "−3"]}, index=["x & y", "z"]),
        "A_03",
        notes=["50 % of a_b & more"],
    )
    output.text("A *list*:\n\n- one\n- two", "answers")
    return smoke


def test_everything_that_is_there_is_in_it_and_nothing_else(made):
    text = document(made)
    assert text.count("\\begin{figure}") == text.count("\\begin{table}") == 1
    assert "\\input{\\figures/answers.tex}" in text
    assert "Training images of each class of CIFAR100-LT" in text
    assert "32 runs are missing" in text
    assert text.count("\\item ") == 2
    assert "resnetv2\\_small32, all 16 runs: missing" in text


def test_every_caption_says_on_how_many_seeds():
    entries = [CONTENTS["appendix"], *CONTENTS["results"].values(), *CONTENTS["losses"].values()]
    for name, caption in [
        pair
        for part in entries
        for pair in part.items()
        if pair[0] not in ("derivation", "answers.tex")
    ]:
        for phrase in ("accuracy", "gradients"):
            caption = caption.replace(f"{{{phrase}}}", CONTENTS["phrases"][phrase])
        assert re.search(
            r"\{first\}|\{own\}|\{?seeds?|one run|[Oo]ne draw|From the formula|Properties", caption
        ), name


def test_captions_have_no_unknown_placeholder(made):
    for folder in ("tables", "."):
        (figures_dir("smoke") / folder).mkdir(exist_ok=True)
    for part in (CONTENTS["appendix"], *CONTENTS["results"].values(), *CONTENTS["losses"].values()):
        for pattern in part:
            name = pattern.format(
                protocol="thesis", train_set="balanced", backbone="resnetv2_small32"
            ).replace("*", "x")
            path = figures_dir("smoke") / (
                name if "." in name else name + (".tex" if name.startswith("tables/") else ".pdf")
            )
            if pattern != "derivation" and not path.exists():
                path.write_text("x")
    text = document(made)
    assert "{seeds}" not in text
    assert text.count("\\begin{table}") > 30


@pytest.mark.slow
@needs_latexmk
def test_it_compiles_to_the_same_bytes(made):
    pdf = compile_thesis(made)
    first = pdf.read_bytes()
    assert first.startswith(b"%PDF")
    shutil.rmtree(pdf.parent)
    assert compile_thesis(made).read_bytes() == first
    log = (pdf.parent / "thesis.log").read_text(errors="replace")
    assert "Overfull" not in log
    assert "undefined" not in log


@pytest.mark.slow
@needs_latexmk
def test_a_character_without_a_glyph_is_a_question_mark(made):
    Output(made).frame(pd.DataFrame({"蝶": ["é ä ß", "Ж"]}, index=["~a^b\\c", "y"]), "A_05")
    assert compile_thesis(made).read_bytes().startswith(b"%PDF")


@pytest.mark.slow
@needs_latexmk
def test_latex_errors_are_told(made):
    (figures_dir("smoke") / "tables" / "A_03.tex").write_text("\\oops")
    with pytest.raises(
        ThesisFailed, match=r"Undefined control sequence[\s\S]*whole log: .*thesis\.log"
    ):
        compile_thesis(made)


def test_without_latexmk_the_source_is_written_and_named(made, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(NoLatex, match=r"the source is .*thesis\.tex\. Debian: apt install latexmk"):
        compile_thesis(made)
