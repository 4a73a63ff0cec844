"""The sources of the notebooks: their form, their knobs, and that the derivation notebooks fail when what they claim is false."""

import re
import shutil
import subprocess

import matplotlib.pyplot
import nbformat
import pytest

from ltlib import methods
from ltlib.book import NOTEBOOKS, derivation_latex
from ltlib.losses import LOSSES
from ltlib.methods import METHODS

matplotlib.use("Agg")
DERIVATIONS = dict(zip(LOSSES, sorted(NOTEBOOKS.glob("0[2-8]_*.ipynb")), strict=True))
OF_METHODS = {"pf": NOTEBOOKS / "17_pf_loss.ipynb", "arconvl": NOTEBOOKS / "18_arconvl.ipynb", "gbg": NOTEBOOKS / "19_gbg.ipynb"}
TO_EQUALITY = {"pf": 7, "gbg": 9}  # code cells up to the one that proves equality with ltlib; 5 for all others
ALL = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
each_source = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
each_derivation = pytest.mark.parametrize("path", [*DERIVATIONS.values(), *OF_METHODS.values()], ids=lambda path: path.stem)


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
    for path in [*DERIVATIONS.values(), *OF_METHODS.values()]:
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
    ("equalization", "imbalance_factor", "a"), ("pf", "imbalance_ratio", 0), ("pf", "batch_size", 0.5),
    ("gbg", "imbalance_factor", 1), ("gbg", "groups", 21), ("gbg", "groups", "a"), ("gbg", "epochs", 1),
    ("arconvl", "small_q", 0), ("arconvl", "small_epochs", 4), ("arconvl", "small_seeds", 1.5),
]


@pytest.mark.parametrize(("name", "knob", "value"), KNOBS, ids=[f"{name}-{knob}={value}" for name, knob, value in KNOBS])
def test_a_knob_out_of_range_is_refused_by_name_and_value(name, knob, value, out):
    with pytest.raises(ValueError, match=re.escape(f"{knob} = {value!r}: expected")):
        run((DERIVATIONS | OF_METHODS)[name], {knob: value}, 3)


def sabotaged(original, how):
    class Wrong(original):
        def forward(self, *args, **kwargs):
            value = super().forward(*args, **kwargs)
            return value * (1 + 1e-6) if how == "value" else value + 1e-5 * (value - value.detach())

    return Wrong


@pytest.mark.parametrize("how", ["value", "gradient"])
@pytest.mark.parametrize("name", [*LOSSES, "pf", "gbg"])
def test_a_loss_that_is_slightly_wrong_fails_its_notebook(name, how, out, monkeypatch):
    path, registry = (DERIVATIONS | OF_METHODS)[name], LOSSES if name in LOSSES else METHODS
    count = TO_EQUALITY.get(name, 5)
    run(path, {}, count)
    monkeypatch.setitem(registry, name, sabotaged(registry[name], how))
    with pytest.raises(AssertionError):
        run(path, {}, count)


def test_min_norm_weights_that_are_slightly_wrong_fail_gbgs_notebook(out, monkeypatch):
    right = methods.min_norm_weights
    monkeypatch.setattr(methods, "min_norm_weights", lambda gram: 0.9999 * right(gram) + 0.0001 / len(gram))
    with pytest.raises(AssertionError):
        run(OF_METHODS["gbg"], {}, 7)


@pytest.mark.parametrize("how", ["value", "gradient"])
@pytest.mark.parametrize("name", ["arconvl", "gcpl", "affinity"])
def test_an_arconvl_or_a_rival_that_is_slightly_wrong_fails_its_notebook(name, how, out, monkeypatch):
    sources = [c.source for c in cells(OF_METHODS["arconvl"], "code")]
    judged = "in by_hand.items()" if name == "arconvl" else "in rivals.items()"
    count = 1 + next(i for i, source in enumerate(sources) if judged in source)
    run(OF_METHODS["arconvl"], {}, count)
    monkeypatch.setitem(methods.METHODS, name, sabotaged(methods.METHODS[name], how))
    with pytest.raises(AssertionError):
        run(OF_METHODS["arconvl"], {}, count)
