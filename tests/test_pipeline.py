"""The whole of it in the smoke profile: undisturbed, a second time, and killed with SIGKILL at several moments."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from browser import needs_chromium, read_book

from ltlib.__main__ import main
from ltlib.book import pages
from ltlib.config import ROOT, load_profile

COMMAND = [sys.executable, "-m", "ltlib"]


def run(out, *arguments, **changes):
    environment = os.environ | {"LTLIB_OUT": str(out)} | changes
    return subprocess.run([*COMMAND, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    result = run(out, "all", "--profile", "smoke", "--jobs", "2")
    assert result.returncode == 0, result.stdout + result.stderr
    return out, result.stdout


def figures(out):
    """Every figure, table, derivation and macro, byte by byte."""
    folder = out / "figures" / "smoke"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def results(out):
    return {p.name: json.loads(p.read_text())["results"] for p in (out / "results" / "smoke").glob("*.json")}


def test_it_makes_what_it_names(undisturbed):
    out, said = undisturbed
    for place in ("results/smoke", "build/smoke/notebooks", "build/smoke/html/index.html", "figures/smoke", "tables"):
        assert place in said
    made = {p.name for p in (out / "build" / "smoke" / "notebooks").iterdir()}
    assert {"01_dataset_construction.ipynb", "02_softmax.ipynb", "09_losses_side_by_side.ipynb", "10_backbones.ipynb",
            "11_finetune_resnetv2_small32.ipynb", "12_head_middle_tail.ipynb"} <= made
    derived = {path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb") if '"derivation"' in path.read_text()}
    assert {path.stem for path in (out / "figures" / "smoke" / "derivations").glob("*.tex")} == derived
    tables = {name.removeprefix("tables/") for name in figures(out)}
    assert {"accuracy_balanced.tex", "accuracy_longtailed.tex", "appendix_longtailed.tex", "groups_thesis.tex"} <= tables
    assert len(results(out)) == 32


def test_a_second_time_runs_nothing(undisturbed):
    out, _ = undisturbed
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    start = time.monotonic()
    result = run(out, "all", "--profile", "smoke")
    assert time.monotonic() - start < 20
    assert "0 to go" in result.stdout
    assert "0 to run" in result.stdout
    assert {p: p.stat().st_mtime_ns for p in before} == before


@needs_chromium
def test_its_book_can_be_read_in_a_browser(undisturbed):
    read_book(undisturbed[0] / "build" / "smoke" / "html" / "index.html", [page.name for page in pages(load_profile("smoke"))])


def without(out, tmp_path, *parts):
    """A copy of all that was made, without some of its parts."""
    shutil.copytree(out, tmp_path, symlinks=True, dirs_exist_ok=True)
    for part in parts:
        shutil.rmtree(tmp_path / part)
    return tmp_path


def test_a_third_of_the_records_missing_everything_still_builds(undisturbed, tmp_path, library, monkeypatch):
    """Everything: of the notebooks, those that show records."""
    out = without(undisturbed[0], tmp_path / "out", "build/smoke/models")
    monkeypatch.setenv("LTLIB_OUT", str(out))
    for source in (ROOT / "notebooks").glob("1[1-5]_*.ipynb"):
        shutil.copy(source, library)
    records = sorted((out / "results" / "smoke").glob("*.json"))
    lost = [*records[::3], next(path for path in records if "longtailed-balanced_softmax" in path.name)]
    for path in lost:
        for part in (path, path.with_suffix(".npz"), out / "build" / "smoke" / "logits" / f"{path.stem}.safetensors"):
            part.unlink()
    for command in ("html", "thesis"):
        assert main([command, "--profile", "smoke"]) == 0
    assert sorted((out / "results" / "smoke").glob("*.json")) == [path for path in records if path not in lost]  # nothing was trained
    every = pages(load_profile("smoke"))
    assert len(every) == 6
    assert {page.state() for page in every} == {"fresh"}
    assert {page.name for page in every} < {p.stem for p in (out / "build" / "smoke" / "html").glob("*.html")}
    assert set(figures(undisturbed[0])) - set(figures(out)) == {"critical_difference.pdf"}  # too few losses have both blocks for a test
    assert "no test." in (out / "build" / "smoke" / "html" / "13_comparison_of_losses.html").read_text()
    table = (out / "figures" / "smoke" / "tables" / "accuracy_longtailed.tex").read_text()
    assert " & -- & " in table
    for page in ("12_head_middle_tail", "13_comparison_of_losses", "15_thesis_tables"):
        text = (out / "build" / "smoke" / "html" / f"{page}.html").read_text()
        assert text.count(": missing") >= len(lost)
    source = (out / "build" / "smoke" / "thesis" / "thesis.tex").read_text()
    assert f"{len(lost)} runs are missing" in source
    assert source.count("\\item ") == len(lost)


def test_status_counts_what_is_there(undisturbed):
    result = run(undisturbed[0], "status", "--profile", "smoke")
    assert "32 of 32 done" in result.stdout
    assert "20 fresh" in result.stdout


def test_killed_at_three_moments_it_ends_with_identical_figures(undisturbed, tmp_path):
    """Two builds give the same bytes, though one of them got SIGKILL, with its whole process group: while runs are computed (twice) and
    while notebooks are executed."""
    moments = (("results", "*.json", 1), ("results", "*.json", 9), ("build", "notebooks/03_*.ipynb", 1))
    for top, pattern, count in moments:
        process = subprocess.Popen([*COMMAND, "all", "--profile", "smoke", "--jobs", "1"], cwd=ROOT, start_new_session=True,
                                   env=os.environ | {"LTLIB_OUT": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 480
        while len(list((tmp_path / top / "smoke").glob(pattern))) < count:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert len(list(Path(tmp_path / "results" / "smoke").glob("*.json"))) >= min(count, 9)
    result = run(tmp_path, "all", "--profile", "smoke", "--jobs", "2")
    assert result.returncode == 0, result.stdout + result.stderr
    assert results(tmp_path) == results(undisturbed[0])
    assert len(figures(tmp_path)) > 100
    assert figures(tmp_path) == figures(undisturbed[0])


def test_workers_end_with_a_killed_parent(tmp_path):
    process = subprocess.Popen([*COMMAND, "runs", "--profile", "smoke", "--jobs", "2"], cwd=ROOT, start_new_session=True,
                               env=os.environ | {"LTLIB_OUT": str(tmp_path)}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list((tmp_path / "results").rglob("*.json")):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone
    process.wait()
    deadline = time.monotonic() + 20
    while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).returncode == 0:
        assert time.monotonic() < deadline, "workers live on"
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "nothing"], "PROFILE = 'nothing': expected one of arconvl, "),
        (["--profile", "smoke", "--losses", "sofmax"], "did you mean 'softmax'"),
        (["--profile", "smoke", "--seeds", "zero"], "SEEDS = 'zero': expected whole numbers"),
        (["--profile", "smoke", "--jobs", "many"], "JOBS = 'many'"),
        (["--profile", "smoke", "--backbones", "resnetv3_50"], "backbone 'resnetv3_50'"),
    ],
)
def test_bad_input_is_one_clear_error(arguments, message, capsys, out):
    assert main(["status", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_missing_weights_stop_before_anything_is_computed(out, monkeypatch, capsys, fresh_caches):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("LTLIB_WEIGHTS", str(out))
    start = time.monotonic()
    assert main(["all", "--profile", "probe"]) == 1
    assert time.monotonic() - start < 30
    error = capsys.readouterr().err
    for part in ("mobilenetv2_100", "resnetv2_50", "vit_base_patch16_224", "convnext_base", "LTLIB_WEIGHTS", "BACKBONES="):
        assert part in error
    assert not (out / "results").exists()


def test_the_other_commands(out, capsys):
    assert main(["data", "--profile", "smoke"]) == 0
    assert "11000 training" in capsys.readouterr().out
