"""The command line and make: choices, errors, and what each command does."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from ltlib.files import ROOT
from ltlib.runs.profiles import load_profile
from ltlib.runs.progress import unique_runs
from workbook import __main__ as commands
from workbook.__main__ import main, parse
from workbook.document import NoLatex, ThesisFailed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "nothing"], "PROFILE = 'nothing': expected one of arconvl, "),
        (["--profile", "smoke", "--losses", "sofmax"], "did you mean 'softmax'"),
        (["--profile", "smoke", "--seeds", "zero"], "SEEDS = 'zero': expected whole numbers"),
        (["--profile", "smoke", "--backbones", "resnetv3_50"], "backbone 'resnetv3_50'"),
        (["--profile", "smoke", "--slurm", "nodes=2"], "SLURM"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message, capsys, out):
    assert main(["status", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


CHOICES = (
    "PROFILE BACKBONES LOSSES SEEDS PROTOCOLS TRAIN_SETS JOBS LAUNCHER SLURM PAPERS LAB THREADS"
)


@pytest.mark.parametrize("name", CHOICES.split())
def test_no_shell_and_no_make_reads_a_choice(tmp_path, name):
    ran = tmp_path / "ran"
    for text in (
        f"`touch {ran}`",
        f"$(touch {ran})",
        f"$(shell touch {ran})",
        f"'; touch {ran}; '",
    ):
        for command, given in (([f"{name}={text}"], {}), ([], {name: text})):
            subprocess.run(
                ["make", "-o", ".venv/.workbook-ready", "runs-list", "PY=true", *command],
                cwd=ROOT,
                env=os.environ | given,
                capture_output=True,
            )
    assert not ran.exists()


def test_unbalanced_quotation_marks_are_named(monkeypatch, capsys):
    monkeypatch.setenv("LAB", "--port='9999")
    assert main(["lab"]) == 1
    assert 'LAB = "--port=\'9999": expected options' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("jobs", "message"),
    [("many", "JOBS = 'many'"), ("1 2", "expected one whole number"), ("0", "expected at least 1")],
)
def test_jobs_is_one_whole_number(jobs, message, capsys, out):
    assert main(["runs", "--profile", "smoke", "--jobs", jobs]) == 1
    assert message in capsys.readouterr().err


def test_choices_come_from_the_environment_and_the_command_line_has_the_last_word(monkeypatch):
    for name, value in {
        "PROFILE": "smoke",
        "LOSSES": "focal",
        "TRAIN_SETS": "longtailed",
        "JOBS": "3",
        "LAUNCHER": "slurm",
        "SLURM": "minutes=7",
    }.items():
        monkeypatch.setenv(name, value)
    chosen = parse(["runs", "--losses", "ldam gbg"])
    assert (chosen.profile.name, chosen.profile.losses) == ("smoke", ("ldam", "gbg"))
    assert (chosen.profile.train_sets, chosen.profile.slurm.minutes) == (("longtailed",), 7)
    assert (chosen.jobs, chosen.launcher) == (3, "slurm")


def test_an_empty_choice_is_the_usual_one(monkeypatch):
    for name in ("PROFILE", "BACKBONES", "LOSSES", "SEEDS", "JOBS", "LAUNCHER", "PAPERS"):
        monkeypatch.setenv(name, "")
    chosen = parse(["runs"])
    assert (chosen.profile, chosen.jobs, chosen.launcher) == (load_profile("demo"), None, "local")
    assert [profile.name for profile in chosen.papers] == ["pf_loss", "arconvl", "gbg"]


ECHO = """#!/bin/sh
printf '%s\\n' "$*" "$PROFILE" "$LAB"
"""
NASTY = "`touch a` $(touch b) $(shell touch c); touch d \"' $x $$"


@pytest.mark.parametrize("by", ["command line", "environment"])
def test_what_is_chosen_reaches_the_program_as_it_was_typed(tmp_path, by):
    """No shell and no make looks into it: the program here only prints what it was given."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    for name in ("requirements.lock", "pyproject.toml", ".venv/.workbook-ready"):
        (tmp_path / name).touch()
    (tmp_path / ".venv" / "bin" / "python").write_text(ECHO)
    (tmp_path / ".venv" / "bin" / "python").chmod(0o755)
    there = set(tmp_path.rglob("*"))
    given = {"PROFILE": NASTY, "LAB": NASTY}
    words = [f"{name}={value}" for name, value in given.items()] if by == "command line" else []
    # `make test` itself is a make: one inside it would say which folder it enters
    outer = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "CONDA_DEFAULT_ENV")
    own = {name: value for name, value in os.environ.items() if name not in outer}
    done = subprocess.run(
        ["make", "status", *words],
        cwd=tmp_path,
        env=own | ({} if words else given),
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines() == ["-m workbook status", NASTY, NASTY], done.stderr
    assert set(tmp_path.rglob("*")) == there


def test_runs_list_prints_nothing_but_commands(out, capsys):
    assert main(["runs-list", "--profile", "smoke", "--losses", "focal"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for line in lines:
        assert line.startswith("env -C ")
        assert f"LTLIB_OUT={out}" in line
        assert "--losses focal" in line


def test_data_says_what_is_there(out, capsys):
    assert main(["data", "--profile", "smoke"]) == 0
    assert "11000 training" in capsys.readouterr().out


def test_status_says_what_is_missing(out, capsys):
    assert main(["status", "--profile", "smoke", "--losses", "softmax"]) == 0
    said = capsys.readouterr().out
    assert "runs:      0 of 4 done, 4 missing" in said
    assert "notebooks: 0 fresh" in said


def test_status_loads_nothing_that_takes_long():
    heavy = "{'matplotlib', 'nbformat', 'papermill', 'scipy', 'sklearn', 'timm', 'torchvision'}"
    code = "import sys; from workbook.__main__ import main; main(['status']); "
    code += f"print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr


def test_missing_weights_stop_before_anything_is_computed(out, monkeypatch, capsys, fresh_caches):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("LTLIB_WEIGHTS", str(out))
    start = time.monotonic()
    assert main(["all", "--profile", "probe"]) == 1
    assert time.monotonic() - start < 30
    error = capsys.readouterr().err
    backbones = ("mobilenetv2_100", "resnetv2_50", "vit_base_patch16_224", "convnext_base")
    for part in (*backbones, "LTLIB_WEIGHTS", "BACKBONES="):
        assert part in error
    assert not (out / "results").exists()


def test_a_fault_that_nobody_foresaw_keeps_its_traceback(monkeypatch):
    def fail(choices):
        raise ZeroDivisionError

    monkeypatch.setitem(commands.COMMANDS, "status", fail)
    with pytest.raises(ZeroDivisionError):
        main(["status"])


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from there"),
        (OSError(28, "No space left on device"), 1, "is there room, and are the folders yours?"),
    ],
)
def test_how_a_command_ends(monkeypatch, capsys, fault, code, said):
    def fail(choices):
        raise fault

    monkeypatch.setitem(commands.COMMANDS, "status", fail)
    assert main(["status"]) == code
    assert capsys.readouterr().err.rstrip().endswith(said)


@pytest.mark.parametrize(
    ("fault", "code", "end"),
    [
        (None, 0, "a document of all   document.pdf"),
        (NoLatex("no latexmk"), 0, "a document of all   none: no latexmk"),
        (ThesisFailed("LaTeX failed"), 1, "ThesisFailed: LaTeX failed"),
    ],
)
def test_the_book_is_made_once_after_the_document_and_whatever_latex_says(
    fault, code, end, tmp_path, monkeypatch, capsys
):
    made = []

    def compile_it(profile):
        made.append("document")
        if fault:
            raise fault
        return "document.pdf"

    monkeypatch.setattr(commands, "notebooks", lambda choices: made.append("notebooks"))
    monkeypatch.setattr("workbook.document.compile_thesis", compile_it)
    monkeypatch.setattr(commands, "make_book", lambda profile: made.append("book") or tmp_path)
    assert main(["all", "--profile", "smoke"]) == code
    assert made == ["notebooks", "document", "book"]
    said = capsys.readouterr()
    assert (said.out + said.err).rstrip().endswith(end)


def test_papers_computes_the_runs_of_all_and_then_makes_their_pages(out, monkeypatch):
    text = (ROOT / "profiles" / "smoke.toml").read_text().replace('"finetune"', '"scratch"')
    (out / "paper.toml").write_text(text.replace(', "convnext_small32"', ""))
    made = []
    monkeypatch.setattr(
        "workbook.runs.compute_runs",
        lambda profile, jobs, say, launcher: made.append(("runs", len(unique_runs(profile)))),
    )
    monkeypatch.setattr(
        commands, "make_notebooks", lambda profile, jobs: made.append(("notebooks", profile.name))
    )
    monkeypatch.setattr(
        commands, "make_book", lambda profile: made.append(("book", profile.name)) or out
    )
    assert main(["papers", "--papers", str(out / "paper.toml"), "--jobs", "1"]) == 0
    assert made == [("runs", 16), ("notebooks", "paper"), ("book", "paper")]


def test_the_command_becomes_jupyterlab_on_the_loopback(monkeypatch, tmp_path):
    became = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: became.append((program, arguments)))
    monkeypatch.setenv("LTLIB_OUT", os.path.relpath(tmp_path))
    assert main(["lab", "--lab=--no-browser --port=9999"]) == 0
    ((program, arguments),) = became
    assert program == arguments[0] == sys.executable
    assert "--ServerApp.ip=127.0.0.1" in arguments
    assert arguments[-2:] == ["--no-browser", "--port=9999"]
    assert os.environ["LTLIB_OUT"] == str(tmp_path)
