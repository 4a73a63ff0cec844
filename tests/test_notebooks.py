"""The sources of the notebooks: their form, their knobs, and that the derivation notebooks fail when what they claim is false."""

import re
import shutil
import subprocess

import matplotlib.pyplot
import nbformat
import pytest

from ltlib import losses
from ltlib.book import NOTEBOOKS, derivation_latex
from ltlib.losses import LOSSES

matplotlib.use("Agg")
DERIVATIONS = dict(zip(LOSSES, sorted(NOTEBOOKS.glob("0[2-8]_*.ipynb")), strict=True))
ALL = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
each_source = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
each_derivation = pytest.mark.parametrize("path", DERIVATIONS.values(), ids=lambda path: path.stem)


def cells(path, kind=None, tag=None):
    return [c for c in nbformat.read(path, as_version=4).cells
            if (kind is None or c.cell_type == kind) and (tag is None or tag in c.metadata.get("tags", ()))]


def run(path, changes, count):
    """Execute the first ``count`` code cells in this process, with other values for names of the parameters cell."""
    matplotlib.pyplot.close("all")
    space = {"__name__": "notebook"}
    for number, cell in enumerate(cells(path, "code")[:count]):
        exec(compile(cell.source, f"{path.stem}, code cell {number}", "exec"), space)
        if number == 0:
            space |= {"profile": "smoke"} | changes
    return space


def test_there_is_a_notebook_for_each_loss():
    assert [path.stem[3:] for path in DERIVATIONS.values()] == list(LOSSES)


@each_source
def test_it_opens_with_its_question_and_ends_with_exercises(path):
    markdown = cells(path, "markdown")
    for word in ("**Question.**", "**Reads**", "**Writes**", "**Takes**"):
        assert word in markdown[0].source
    assert "## What we learned" in "".join(c.source for c in markdown[-2:])
    assert 2 <= markdown[-1].source.count("<details><summary>Solution</summary>") <= 3


@pytest.mark.parametrize("path", [*DERIVATIONS.values(), NOTEBOOKS / "09_losses_side_by_side.ipynb"], ids=lambda path: path.stem)
def test_it_names_what_it_writes(path):
    code = "\n".join(c.source for c in cells(path, "code"))
    figures = re.findall(r'out\.figure\(.*?"(\w+)"\)', code)
    tables = re.findall(r'out\.frame\(.*?"(\w+)"\)', code)
    written = {f"{name}.pdf" for name in figures} | {f"tables/{name}.tex" for name in tables}
    if cells(path, tag="derivation"):
        written.add(f"derivations/{path.stem}.tex")
    assert set(re.findall(r"`([\w/]+\.(?:pdf|tex))`", cells(path, "markdown")[0].source)) == written


@each_derivation
def test_its_derivation_becomes_a_latex_section(path):
    body = derivation_latex(nbformat.read(path, as_version=4))
    assert body.startswith("\\providecommand{\\tightlist}")
    assert "\\subsection{" in body
    assert "gradient" in body
    assert body.count("\\[") >= 3
    assert "\\documentclass" not in body


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_all_derivations_compile(tmp_path):
    document = ["\\documentclass[a4paper]{article}\\usepackage[margin=2.5cm]{geometry}\\usepackage{amsmath,amssymb}\\begin{document}"]
    for path in DERIVATIONS.values():
        (tmp_path / f"{path.stem}.tex").write_text(derivation_latex(nbformat.read(path, as_version=4)))
        document.append(f"\\section{{{path.stem[3:].replace('_', ' ')}}}\\input{{{path.stem}}}")
    (tmp_path / "all.tex").write_text("\n".join([*document, "\\end{document}"]))
    result = subprocess.run(["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:]
    assert "Overfull" not in result.stdout


KNOBS = [
    ("softmax", "imbalance_factor", 0), ("weighted_softmax", "normalize", "mean"), ("focal", "gamma", -1), ("focal", "gamma", float("nan")),
    ("class_balanced", "beta", 1), ("class_balanced", "beta", -0.1), ("balanced_softmax", "tau", -1), ("ldam", "max_margin", 2),
    ("ldam", "scale", 0), ("ldam", "drw", 1), ("equalization", "threshold", -1), ("equalization", "gamma", 1.1),
    ("equalization", "imbalance_factor", "a"),
]


@pytest.mark.parametrize(("name", "knob", "value"), KNOBS, ids=[f"{name}-{knob}={value}" for name, knob, value in KNOBS])
def test_a_knob_out_of_range_is_refused_by_name_and_value(name, knob, value, out):
    with pytest.raises(ValueError, match=re.escape(f"{knob} = {value!r}: expected")):
        run(DERIVATIONS[name], {knob: value}, 3)


def sabotaged(original, how):
    class Wrong(original):
        def forward(self, *args, **kwargs):
            value = super().forward(*args, **kwargs)
            return value * (1 + 1e-6) if how == "value" else value + 1e-5 * (value - value.detach())

    return Wrong


@pytest.mark.parametrize("how", ["value", "gradient"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_that_is_slightly_wrong_fails_its_notebook(name, how, out, monkeypatch):
    run(DERIVATIONS[name], {}, 5)
    monkeypatch.setitem(losses.LOSSES, name, sabotaged(LOSSES[name], how))
    with pytest.raises(AssertionError):
        run(DERIVATIONS[name], {}, 5)
