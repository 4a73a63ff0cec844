import re
import shutil

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from ltlib import __main__, report, thesis
from ltlib.config import figures_dir
from ltlib.export import write_results
from ltlib.thesis import CONTENTS, NoLatex, ThesisFailed, compile_thesis, document

needs_latexmk = pytest.mark.skipif(shutil.which("latexmk") is None, reason="latexmk is not installed")


@pytest.fixture
def made(out, smoke):
    """A figure, tables with odd characters, and the numbers of no run at all."""
    write_results(smoke)
    output = report.Output(smoke)
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    output.figure(fig, "class_counts")
    plt.close(fig)
    output.frame(pd.DataFrame({"a_b": ["1 ± 2 %", "−3"]}, index=["x & y", "z"]), "A_03", notes=["50 % of a_b & more"])
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
    for name, caption in [pair for part in entries for pair in part.items() if pair[0] not in ("derivation", "answers.tex")]:
        for phrase in ("accuracy", "gradients"):
            caption = caption.replace(f"{{{phrase}}}", CONTENTS["phrases"][phrase])
        assert re.search(r"\{first\}|\{own\}|\{?seeds?|one run|[Oo]ne draw|From the formula|Properties", caption), name


def test_captions_have_no_unknown_placeholder(made):
    for folder in ("tables", "."):
        (figures_dir("smoke") / folder).mkdir(exist_ok=True)
    for part in (CONTENTS["appendix"], *CONTENTS["results"].values(), *CONTENTS["losses"].values()):
        for pattern in part:
            name = pattern.format(protocol="thesis", train_set="balanced", backbone="resnetv2_small32").replace("*", "x")
            path = figures_dir("smoke") / (name if "." in name else name + (".tex" if name.startswith("tables/") else ".pdf"))
            if pattern != "derivation" and not path.exists():
                path.write_text("x")
    text = document(made)
    assert "{seeds}" not in text
    assert text.count("\\begin{table}") > 30


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


@needs_latexmk
def test_a_character_without_a_glyph_is_a_question_mark(made):
    report.Output(made).frame(pd.DataFrame({"蝶": ["é ä ß", "Ж"]}, index=["~a^b\\c", "y"]), "A_05")
    assert compile_thesis(made).read_bytes().startswith(b"%PDF")


@needs_latexmk
def test_latex_errors_are_told(made):
    (figures_dir("smoke") / "tables" / "A_03.tex").write_text("\\oops")
    with pytest.raises(ThesisFailed, match=r"Undefined control sequence[\s\S]*whole log: .*thesis\.log"):
        compile_thesis(made)


def test_without_latexmk_the_source_is_written_and_named(made, monkeypatch):
    monkeypatch.setattr(thesis.shutil, "which", lambda name: None)
    with pytest.raises(NoLatex, match=r"the source is .*thesis\.tex\. Debian: apt install latexmk"):
        compile_thesis(made)


@pytest.mark.parametrize(("fault", "code", "end"), [
    (None, 0, "a document of all   thesis.pdf"), (NoLatex("no latexmk"), 0, "a document of all   none: no latexmk"),
    (ThesisFailed("LaTeX failed"), 1, "ThesisFailed: LaTeX failed"),
])
def test_the_book_is_made_once_after_the_document_and_whatever_latex_says(fault, code, end, tmp_path, monkeypatch, capsys):
    made = []

    def compile_it(profile):
        made.append("document")
        if fault:
            raise fault
        return "thesis.pdf"

    monkeypatch.setattr(__main__.launch, "compute_runs", lambda *_, **__: None)
    monkeypatch.setattr(__main__, "notebooks", lambda *_: None)
    monkeypatch.setattr(__main__, "compile_thesis", compile_it)
    monkeypatch.setattr(__main__, "write_html", lambda *_: made.append("book") or tmp_path)
    assert __main__.main(["all", "--profile", "smoke"]) == code
    assert made == ["document", "book"]
    said = capsys.readouterr()
    assert (said.out + said.err).rstrip().endswith(end)
