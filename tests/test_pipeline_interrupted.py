"""The smoke profile killed with SIGKILL, in runs and in notebooks, and with records missing."""

import json
import os
import shutil
import signal
import subprocess
import time

import pytest
from pipeline import COMMAND, figures, run

from ltlib.files import ROOT
from ltlib.runs.profiles import load_profile
from ltlib.runs.progress import unique_runs
from ltlib.runs.records import load_record
from workbook.__main__ import main
from workbook.notebooks import pages

pytestmark = pytest.mark.slow


def run_until(out, there, *arguments):
    """Start a command, and kill it with all its processes as soon as something is there."""
    process = subprocess.Popen(
        [*COMMAND, *arguments, "--profile", "smoke", "--jobs", "1"],
        cwd=ROOT,
        start_new_session=True,
        env=os.environ | {"LTLIB_OUT": str(out)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 480
    while not there():
        assert process.poll() is None, "it was over before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def copied(built, out, monkeypatch):
    """A copy of all that was made, as LTLIB_OUT."""
    folder = out / "copied"
    shutil.copytree(built[0], folder, symlinks=True)
    monkeypatch.setenv("LTLIB_OUT", str(folder))
    return folder


def test_a_third_of_the_records_missing_everything_still_builds(built, copied, library):
    """Everything: of the notebooks, those that show records."""
    out = copied
    shutil.rmtree(out / "build" / "smoke" / "models")
    for source in (ROOT / "notebooks").glob("1[235]_*.ipynb"):
        shutil.copy(source, library)
    records = sorted((out / "results" / "smoke").glob("*.json"))
    balanced = next(path for path in records if "longtailed-balanced_softmax" in path.name)
    lost = [*records[::3], balanced]
    for path in lost:
        logits = out / "build" / "smoke" / "logits" / f"{path.stem}.safetensors"
        for part in (path, path.with_suffix(".npz"), logits):
            part.unlink()
    for command in ("html", "thesis"):
        assert main([command, "--profile", "smoke"]) == 0
    kept = [path for path in records if path not in lost]
    assert sorted((out / "results" / "smoke").glob("*.json")) == kept, "nothing was trained"
    every = pages(load_profile("smoke"))
    assert len(every) == 3
    assert {page.state() for page in every} == {"fresh"}
    html = {path.stem: path for path in (out / "build" / "smoke" / "html").glob("*.html")}
    assert {page.name for page in every} < set(html)
    assert set(figures(built[0])) == set(figures(out))
    assert "no test of ranks" in html["13_comparison_of_losses"].read_text()
    assert " & -- & " in figures(out)["tables/accuracy_longtailed.tex"].decode()
    for page in ("12_head_middle_tail", "13_comparison_of_losses", "15_thesis_tables"):
        assert html[page].read_text().count(": missing") >= len(lost)
    source = (out / "build" / "smoke" / "thesis" / "results.tex").read_text()
    assert f"{len(lost)} runs are missing" in source
    assert source.count("\\item ") == len(lost)


def test_notebooks_killed_half_way_end_with_the_same_figures(built, copied):
    """Two builds give the same bytes, though one got SIGKILL, with its whole process group."""
    notebooks = copied / "build" / "smoke" / "notebooks"
    again = [path for path in notebooks.glob("*.ipynb") if path.name[:2] in ("10", "12", "15")]
    for path in again:
        for name in json.loads(path.read_text())["metadata"]["ltlib"]["outputs"]:
            (copied / "figures" / "smoke" / name).unlink()
        path.unlink()
    run_until(copied, lambda: any(path.exists() for path in again), "all")
    assert sum(path.exists() for path in again) < len(again) == 3
    result = run(copied, "all")
    assert result.returncode == 0, result.stdout + result.stderr
    assert figures(copied) == figures(built[0])


def test_runs_killed_twice_end_with_the_same_results(built, tmp_path, monkeypatch):
    chosen = ("--losses", "softmax gbg", "--backbones", "resnetv2_small32")
    runs = unique_runs(load_profile("smoke", ["resnetv2_small32"], ["softmax", "gbg"]))
    monkeypatch.setenv("LTLIB_OUT", str(built[0]))
    undisturbed = [load_record(run).results for run in runs]
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    pretraining = tmp_path / "build" / "cache" / "pretrained"
    run_until(tmp_path, lambda: list(pretraining.glob("*.lock")), "runs", *chosen)
    results = tmp_path / "results" / "smoke"
    run_until(tmp_path, lambda: list(results.glob("*.json")), "runs", *chosen)
    result = run(tmp_path, "runs", *chosen)
    assert result.returncode == 0, result.stdout + result.stderr
    assert [load_record(run).results for run in runs] == undisturbed
