"""The sources of the notebooks: their form, their knobs, what they load, and that the derivation
notebooks fail when what they claim is false."""

import ast
import os
import re
import shutil
import subprocess
import sys

import matplotlib.pyplot
import nbformat
import pytest

from ltlib import methods
from ltlib.files import ROOT
from ltlib.registry import LOSSES, entry, loss_class
from workbook.notebooks import NOTEBOOKS, derivation_latex

matplotlib.use("Agg")
DERIVATIONS = {path.stem[3:]: path for path in sorted(NOTEBOOKS.glob("0[2-8]_*.ipynb"))}
OF_METHODS = {
    "pf": NOTEBOOKS / "17_pf_loss.ipynb",
    "arconvl": NOTEBOOKS / "18_arconvl.ipynb",
    "gbg": NOTEBOOKS / "19_gbg.ipynb",
}
EXPERIMENTS = {
    name: path.with_name(f"{path.stem}_experiments.ipynb") for name, path in OF_METHODS.items()
}
# code cells up to the one that proves equality with ltlib; 5 for all others
TO_EQUALITY = {"gbg": 9}
ALL = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
each_source = pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
each_derivation = pytest.mark.parametrize(
    "path", [*DERIVATIONS.values(), *OF_METHODS.values()], ids=lambda path: path.stem
)


def cells(path, kind=None, tag=None):
    return [
        c
        for c in nbformat.read(path, as_version=4).cells
        if (kind is None or c.cell_type == kind)
        and (tag is None or tag in c.metadata.get("tags", ()))
    ]


def run(path, changes, count):
    """Execute the first ``count`` code cells in this process, with ``changes`` of parameters."""
    matplotlib.pyplot.close("all")
    space = {"__name__": "notebook"}
    for number, cell in enumerate(cells(path, "code")[:count]):
        exec(compile(cell.source, f"{path.stem}, code cell {number}", "exec"), space)
        if number == 0:
            space |= {"profile": "smoke"} | changes
    return space


def test_there_is_a_notebook_for_each_loss_of_the_thesis():
    assert list(DERIVATIONS) == list(LOSSES)[:7]


@each_source
def test_its_cells_of_code_are_short(path):
    for cell in cells(path, "code"):
        assert len(cell.source.splitlines()) <= 20, cell.source


def imports(path):
    """The import statements of a notebook."""
    for cell in cells(path, "code"):
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield ast.unparse(node)


def loaded(paths):
    """The modules that a process has when it has done all imports of these notebooks."""
    code = "; ".join([*(line for path in paths for line in imports(path)), "import sys"])
    command = [sys.executable, "-c", f"{code}; print(*sys.modules)"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_they_load_nothing_of_the_program_behind_make():
    own = NOTEBOOKS / "16_your_own_dataset.ipynb"
    assert not {name for name in loaded(set(ALL) - {own}) if name.startswith("workbook")}
    of_workbook = {name for name in loaded([own]) if name.startswith("workbook.")}
    assert {name.split(".")[1] for name in of_workbook} == {"photographs"}


def test_counts_and_groups_load_no_network():
    modules = loaded([NOTEBOOKS / "01_dataset_construction.ipynb"])
    assert "ltlib.protocol" in modules
    assert not {"torch", "ltlib.losses", "ltlib.models", "ltlib.training"} & modules


@each_source
def test_it_opens_with_its_question_and_ends_with_exercises(path):
    markdown = cells(path, "markdown")
    for word in ("**Question.**", "**Reads**", "**Writes**", "**Takes**"):
        assert word in markdown[0].source
    assert "## What we learned" in "".join(c.source for c in markdown[-2:])
    assert 2 <= markdown[-1].source.count("<details><summary>Solution</summary>") <= 3


@pytest.mark.parametrize(
    "path",
    [*DERIVATIONS.values(), *OF_METHODS.values(), NOTEBOOKS / "09_losses_side_by_side.ipynb"],
    ids=lambda path: path.stem,
)
def test_it_names_what_it_writes(path):
    code = "\n".join(c.source for c in cells(path, "code"))
    figures = re.findall(r'out\.figure\(.*?"(\w+)"[,)]', code)
    tables = re.findall(r'out\.frame\(.*?"(\w+)"[,)]', code)
    written = {f"{name}.pdf" for name in figures} | {f"tables/{name}.tex" for name in tables}
    written |= {f"{name}.tex" for name in re.findall(r'"""\, "(\w+)"\)', code)}
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
    document = [
        "\\documentclass[a4paper]{article}\\usepackage[margin=2.5cm]{geometry}\\usepackage{amsmath,amssymb}\\begin{document}"
    ]
    for path in [*DERIVATIONS.values(), *OF_METHODS.values()]:
        (tmp_path / f"{path.stem}.tex").write_text(
            derivation_latex(nbformat.read(path, as_version=4))
        )
        document.append(f"\\section{{{path.stem[3:].replace('_', ' ')}}}\\input{{{path.stem}}}")
    (tmp_path / "all.tex").write_text("\n".join([*document, "\\end{document}"]))
    result = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "all"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-2000:]
    assert "Overfull" not in result.stdout


KNOWN = DERIVATIONS | OF_METHODS | {f"{name}_experiments": of for name, of in EXPERIMENTS.items()}
KNOBS = [
    ("softmax", "imbalance_factor", 0),
    ("weighted_softmax", "normalize", "mean"),
    ("focal", "gamma", -1),
    ("focal", "gamma", float("nan")),
    ("class_balanced", "beta", 1),
    ("class_balanced", "beta", -0.1),
    ("balanced_softmax", "tau", -1),
    ("ldam", "max_margin", 2),
    ("ldam", "scale", 0),
    ("ldam", "drw", 1),
    ("equalization", "threshold", -1),
    ("equalization", "gamma", 1.1),
    ("equalization", "imbalance_factor", "a"),
    ("pf", "imbalance_ratio", 0),
    ("pf", "batch_size", 0.5),
    ("gbg_experiments", "imbalance_factor", 1),
    ("gbg_experiments", "groups", 21),
    ("gbg_experiments", "groups", "a"),
    ("gbg_experiments", "epochs", 1),
    ("gbg_experiments", "small_seeds", 1),
    ("pf_experiments", "small_seeds", 1),
    ("arconvl_experiments", "small_q", 0),
    ("arconvl_experiments", "small_epochs", 4),
    ("arconvl_experiments", "small_seeds", 1.5),
]


@pytest.mark.parametrize(
    ("name", "knob", "value"), KNOBS, ids=[f"{name}-{knob}={value}" for name, knob, value in KNOBS]
)
def test_a_knob_out_of_range_is_refused_by_name_and_value(name, knob, value, out):
    with pytest.raises(ValueError, match=re.escape(f"{knob} = {value!r}: expected")):
        run(KNOWN[name], {knob: value}, 4)


def sabotage(name, how, monkeypatch):
    class Wrong(loss_class(name)):
        def forward(self, *args, **kwargs):
            value = super().forward(*args, **kwargs)
            return value * (1 + 1e-6) if how == "value" else value + 1e-5 * (value - value.detach())

    monkeypatch.setattr(entry(name).where.replace(":", "."), Wrong)


@pytest.mark.parametrize("how", ["value", "gradient"])
@pytest.mark.parametrize("name", [*DERIVATIONS, "pf", "gbg"])
def test_a_loss_that_is_slightly_wrong_fails_its_notebook(name, how, out, monkeypatch):
    path = (DERIVATIONS | OF_METHODS)[name]
    count = TO_EQUALITY.get(name, 5)
    run(path, {}, count)
    sabotage(name, how, monkeypatch)
    with pytest.raises(AssertionError):
        run(path, {}, count)


def test_min_norm_weights_that_are_slightly_wrong_fail_gbgs_notebook(out, monkeypatch):
    right = methods.min_norm_weights
    monkeypatch.setattr(
        methods, "min_norm_weights", lambda gram: 0.9999 * right(gram) + 0.0001 / len(gram)
    )
    with pytest.raises(AssertionError):
        run(OF_METHODS["gbg"], {}, 6)


@pytest.mark.parametrize("how", ["value", "gradient"])
@pytest.mark.parametrize("name", ["arconvl", "gcpl", "affinity"])
def test_an_arconvl_or_a_rival_that_is_slightly_wrong_fails_its_notebook(
    name, how, out, monkeypatch
):
    sources = [c.source for c in cells(OF_METHODS["arconvl"], "code")]
    judged = "in by_hand.items()" if name == "arconvl" else "in rivals.items()"
    count = 1 + next(i for i, source in enumerate(sources) if judged in source)
    run(OF_METHODS["arconvl"], {}, count)
    sabotage(name, how, monkeypatch)
    with pytest.raises(AssertionError):
        run(OF_METHODS["arconvl"], {}, count)
