import time

import pytest

from ltlib.files import atomic_path
from ltlib.runs.profiles import load_profile
from ltlib.runs.progress import Progress, live_path, unique_runs
from workbook.display import Display


@pytest.fixture
def three(out):
    """Three runs, none of them begun."""
    return unique_runs(
        load_profile(
            "smoke", backbones=["resnetv2_small32"], losses=["softmax", "balanced_softmax"]
        )
    )


def under_way(run, updated):
    """What a run writes of itself, in epoch 3 of 8."""
    path = live_path(run, ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial:
        partial.write_text(
            '{"epoch": 3, "epochs": 8, "done": 0.3, "loss": 1.25, "seconds_left": 100.0, '
            f'"updated": {updated}}}'
        )


def test_in_a_log_each_run_under_way_gets_a_line_about_every_20_s(three):
    said = []
    with Display(three, 2, said.append) as display:
        under_way(three[0], display.start - 5)  # left over from a process that was killed
        display.refresh()
        for second in range(1, 50):
            under_way(three[1], display.start + second)
            display.refresh()
    assert said == [f"{three[1].describe()}: epoch 3/8, loss 1.250, 2 min left"] * 2


def test_how_runs_ended_is_counted_and_after_two_the_time_left_is_told(three):
    said = []
    with Display(three, 2, said.append) as display:
        display.start -= 60
        for run in three:
            display.finished(run, "fine")
    assert said == [
        f"[1/3] {three[0].describe()}: fine",
        f"[2/3] {three[1].describe()}: fine; about 30 s left",
        f"[3/3] {three[2].describe()}: fine",
    ]
    assert display.done == 3


def test_it_reads_what_progress_writes(three, monkeypatch):
    said, now = [], time.monotonic()
    with Display(three, 2, said.append) as display:
        display.said[three[0].id] -= 60
        progress = Progress(4, said.append, live_path(three[0], ".json"))
        for step in range(4):
            monkeypatch.setattr(time, "monotonic", lambda step=step: now + 2 * step)
            progress(step + 1, 8, 0.5)
        display.refresh()
    assert len(said) == 1
    assert said[0].startswith(f"{three[0].describe()}: epoch 2/4, loss 0.500, ")
