"""Which runs there are, what state they are in, and what they tell of themselves."""

import dataclasses
import json
import os

import pytest

from ltlib.runs import load_profile, run_or_load
from ltlib.runs import progress as module
from ltlib.runs.progress import (
    Progress,
    duration,
    live_path,
    run_progress,
    run_state,
    unique_runs,
)
from ltlib.runs.records import record_path


@pytest.fixture
def runs(out):
    return unique_runs(
        load_profile(
            "smoke", backbones=["resnetv2_small32"], losses=["softmax", "balanced_softmax"]
        )
    )


def test_identical_runs_are_computed_once(runs):
    assert [(run.train_set, run.loss) for run in runs] == [
        ("balanced", "softmax"),
        ("longtailed", "softmax"),
        ("longtailed", "balanced_softmax"),
    ]


def test_states_of_a_run(runs):
    run = runs[0]
    assert run_state(run) == "missing"
    record_path(run).parent.mkdir(parents=True)
    record_path(run).write_text("{")
    assert run_state(run) == "unreadable"
    record_path(run).unlink()
    recipe = dataclasses.replace(run.recipe, lr=1.0e30, epochs=2)
    diverging = dataclasses.replace(run, mode="scratch", recipe=recipe)
    run_or_load(diverging, "cpu")
    assert run_state(diverging) == "diverged"


def test_a_run_whose_lock_is_not_ours_has_a_state_all_the_same(runs):
    live_path(runs[0], ".lock").mkdir(parents=True)  # as little to be opened as one of someone else
    live_path(runs[0], ".pt").write_text("")
    assert run_state(runs[0]) == "interrupted"


@pytest.mark.parametrize("text", ["", "[]", "7", '{"epoch": 1}', '{"epoch": null}'])
def test_progress_that_is_none_is_no_progress(runs, text):
    path = live_path(runs[0], ".json")
    os.makedirs(path.parent)
    path.write_text(text)
    assert run_progress(runs[0]) is None


@pytest.fixture
def forty_seconds(monkeypatch):
    """Tells a Progress of 4 epochs, 10 steps each, a step a second."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])

    def tell(path):
        said = []
        progress = Progress(4, said.append, path)
        for step in range(1, 41):
            now[0] = float(step)
            progress(step, 40, 2.5)
        return said

    return tell


def test_progress_is_said_every_20_s_and_written_every_second(tmp_path, forty_seconds):
    assert forty_seconds(tmp_path / "run.json") == ["epoch 3/4, loss 2.500, 19 s left"]
    state = json.loads((tmp_path / "run.json").read_text())
    last = {"epoch": 4, "epochs": 4, "done": 1.0, "loss": 2.5, "seconds_left": 0.0}
    assert {name: state[name] for name in last} == last


def test_progress_that_cannot_be_written_costs_nothing_but_itself(tmp_path, forty_seconds):
    (tmp_path / "file").write_text("")
    assert forty_seconds(tmp_path / "file" / "run.json") == ["epoch 3/4, loss 2.500, 19 s left"]


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text
