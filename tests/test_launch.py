import dataclasses
import os

import pytest

from ltlib import launch, training
from ltlib.config import ConfigError, load_profile
from ltlib.launch import RunsFailed, compute_runs, default_jobs, run_state, unique_runs
from ltlib.records import load_record, logits_path, record_path


def tiny(**changes):
    """Two runs of one small backbone."""
    return load_profile("smoke", backbones=["resnetv2_small32"], losses=changes.pop("losses", ["softmax", "balanced_softmax"]))


def die(*_):
    os._exit(9)


def results_of(profile):
    return {run.id: load_record(run).results for run in unique_runs(profile)}


def test_identical_runs_are_computed_once():
    assert [(r.train_set, r.loss) for r in unique_runs(tiny())] == [
        ("balanced", "softmax"), ("longtailed", "softmax"), ("longtailed", "balanced_softmax")]


def test_records_do_not_depend_on_the_number_of_jobs(out, monkeypatch, tmp_path):
    profile, said = tiny(), []
    compute_runs(profile, jobs=1, device="cpu", say=said.append)
    one = results_of(profile)
    assert any("[3/3]" in line for line in said)
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "second"))
    compute_runs(profile, jobs=2, device="cpu", say=said.append)
    assert results_of(profile) == one


def test_nothing_is_done_when_all_is_there(out, monkeypatch):
    profile, said = tiny(losses=["softmax"]), []
    compute_runs(profile, jobs=1, device="cpu", say=said.append)
    monkeypatch.setattr(launch, "prepare", lambda *_: pytest.fail("prepared again"))
    compute_runs(profile, jobs=1, device="cpu", say=said.append)
    assert "2 of 2 runs are done, 0 to go" in said[-1]


def test_a_failing_run_does_not_stop_the_others(out):
    profile = tiny()
    runs = unique_runs(profile)
    logits_path(runs[1]).mkdir(parents=True)  # a folder where its logits should be: writing fails
    with pytest.raises(RunsFailed, match="1 of 3 runs failed"):
        compute_runs(profile, jobs=1, device="cpu", say=lambda line: None)
    assert [run_state(run) for run in runs] == ["done", "interrupted", "done"]


def test_a_killed_worker_is_explained(out, monkeypatch):
    monkeypatch.setattr(launch, "_run", die)
    profile = tiny(losses=["softmax"])
    with pytest.raises(RunsFailed, match="smaller JOBS"):
        compute_runs(profile, jobs=1, device="cpu", say=lambda line: None)


def test_states_of_a_run(out):
    run = unique_runs(tiny())[0]
    assert run_state(run) == "missing"
    record_path(run).parent.mkdir(parents=True)
    record_path(run).write_text("{")
    assert run_state(run) == "unreadable"
    record_path(run).unlink()
    diverging = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, lr=1.0e30, epochs=2))
    assert "diverged" in launch._run(diverging, "cpu")
    assert run_state(diverging) == "diverged"


def test_jobs_must_be_positive_and_default_to_the_cores(out):
    with pytest.raises(ConfigError, match="JOBS = 0"):
        compute_runs(tiny(), jobs=0)
    assert default_jobs(training.torch.device("cpu")) == training.cpu_count() >= 1


def test_each_gpu_gets_a_worker(monkeypatch):
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 4)
    assert default_jobs(launch.torch.device("cuda")) == 4


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert launch.duration(seconds) == text
