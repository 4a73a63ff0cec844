import dataclasses
import errno
import functools
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import RECIPE, ThreeViews, same, train

from ltlib import checkpoints as checkpoints_module
from ltlib.checkpoints import (
    CheckpointError,
    Checkpoints,
    Stopped,
    checkpoint_minutes,
    request_stop,
    wait_for_save,
)
from ltlib.errors import ConfigError
from ltlib.models import build_head
from ltlib.training import predict


@pytest.fixture(autouse=True)
def _no_request_to_stop():
    yield
    request_stop(False)


def checkpoints(folder, key=None, said=None, minutes=0.0):
    say = (said if said is not None else []).append
    return Checkpoints(folder / "run.pt", key or {"config": 1}, minutes, say, {"who": "test"})


def stop_after(step):
    """A ``progress`` that asks to stop after this step of the run."""
    return lambda done, total, loss: request_stop() if done == step else None


# going on to the same bits

CASES = {
    "sgd": ({}, "softmax", {}),
    "adamw, clipped": (
        {"optimizer": "adamw", "lr": 0.01, "clip_grad": 1.0, "warmup_epochs": 0.5},
        "focal",
        {},
    ),
    "average": ({"ema": 0.9, "schedule": "step", "milestones": (2,)}, "softmax", {}),
    "random draws": ({"optimizer": "adam", "lr": 0.01}, "equalization", {}),
    "ldam, drw": ({"optimizer": "adamw", "lr": 0.01}, "ldam", {"drw_epoch": 1}),
    "arconvl, its radii": ({"lr": 0.05, "schedule": "step", "milestones": (1,)}, "arconvl", {}),
    "gbg, its groups": ({"lr": 0.05}, "gbg", {"loss_options": {"groups": 2, "warmup": 1}}),
    "gbg, its projections": (
        {"optimizer": "adam", "lr": 0.01},
        "gbg",
        {"loss_options": {"groups": 2, "beta": 1.0, "projection": 3}, "batches": ThreeViews},
    ),
}


def run_case(case, **more):
    changes, loss, options = CASES[case]
    return train(dataclasses.replace(RECIPE, **changes), loss, **options, **more)


@functools.cache
def undisturbed(case="sgd"):
    return run_case(case)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("step", range(1, 9))
def test_stopped_after_any_step_it_goes_on_to_the_same_bits(tmp_path, case, step):
    with pytest.raises(Stopped, match=f"stopped in epoch {(step - 1) // 3 + 1} of 3"):
        run_case(case, checkpoints=checkpoints(tmp_path), progress=stop_after(step))
    request_stop(False)
    again, seen = checkpoints(tmp_path), []
    resumed = run_case(case, checkpoints=again, progress=lambda done, *_: seen.append(done))
    assert seen == list(range(step + 1, 10))
    assert same(resumed, undisturbed(case))
    assert [3 * s["epoch"] + s["step"] for s in again.starts] == [0, step]
    assert again.seconds_before > 0


@pytest.mark.parametrize("case", ["sgd", "arconvl, its radii", "gbg, its groups"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_stopped_while_it_validates_it_goes_on_with_the_validation(tmp_path, epoch, case):
    validations = []

    def look(model, batches):
        validations.append(1)
        if len(validations) == epoch:
            request_stop()
        return predict(model, batches)

    with pytest.raises(Stopped, match="stopped while predicting"):
        run_case(case, checkpoints=checkpoints(tmp_path), look=look)
    request_stop(False)
    ours, seen = checkpoints(tmp_path), []
    resumed = run_case(case, checkpoints=ours, progress=lambda done, *_: seen.append(done))
    assert seen == list(range(3 * epoch + 1, 10))
    assert same(resumed, undisturbed(case))


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = run_case("sgd", checkpoints=checkpoints(tmp_path))
    step = lambda *_: pytest.fail("a step")  # noqa: E731
    assert same(first, run_case("sgd", checkpoints=checkpoints(tmp_path), progress=step))


def test_checkpoints_are_written_every_n_minutes_and_at_the_end(tmp_path):
    class Noting(Checkpoints):
        def save(self, state):
            written.append((state["epoch"], state["step"]))

    for minutes, places in (
        (60, [(3, 0)]),
        (0, [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)]),
    ):
        written = []
        train(RECIPE, checkpoints=Noting(tmp_path / "run.pt", {}, minutes))
        assert written == places


@pytest.mark.parametrize(("cost", "wait"), [(0, 60), (1, 60), (10, 200)])
def test_after_an_epoch_one_is_written_where_it_costs_a_twentieth_of_the_time(
    tmp_path, monkeypatch, cost, wait
):
    clock = iter([0, 0, 100, 100 + cost])  # made, its seconds twice, written
    now = [0.0]
    monkeypatch.setattr(checkpoints_module.time, "monotonic", lambda: next(clock, now[0]))
    ours = Checkpoints(tmp_path / "run.pt", {})
    ours.save({})
    for passed in (wait - 1, wait):
        now[0] = 100 + cost + passed
        assert ours.due_after_epoch() == (passed == wait)


# files that do not fit


def damage(how, path):
    content = path.read_bytes()
    match how:
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
        case "empty":
            path.write_bytes(b"")
        case "text":
            path.write_text("no checkpoint")
        case "flipped":
            weights = torch.load(path, weights_only=True)["state"]["parts"]["model"]["1.weight"]
            number = weights.numpy().tobytes()
            assert content.count(number) >= 1
            path.write_bytes(content.replace(number, bytes([number[0] ^ 1]) + number[1:]))
        case "another schema":
            torch.save(torch.load(path, weights_only=True) | {"schema": 0}, path)
        case "another thing":
            torch.save([1, 2], path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The checkpoint of a finished run."""
    folder = tmp_path_factory.mktemp("whole")
    run_case("sgd", checkpoints=checkpoints(folder))
    return (folder / "run.pt").read_bytes()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "is damaged"),
        ("empty", "is damaged"),
        ("text", "is damaged"),
        ("another thing", "is damaged"),
        ("flipped", "is damaged or not one of ours (wrong checksum)"),
        ("another schema", "has schema 0, expected 1"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_named_and_the_run_starts_over(
    tmp_path, whole, how, message
):
    path, said = tmp_path / "run.pt", []
    path.write_bytes(whole)
    damage(how, path)
    useless, again = path.read_bytes(), checkpoints(tmp_path, said=said)
    assert same(run_case("sgd", checkpoints=again), undisturbed())
    assert message in said[0]
    assert str(path) in said[0]
    (aside,) = tmp_path.glob("run.pt.*")
    assert f"starts from its beginning; the file is kept as {aside.name}" in said[0]
    assert aside.read_bytes() == useless
    assert len(again.starts) == 1
    again.remove()
    assert not list(tmp_path.iterdir())


def test_whatever_is_damaged_the_run_starts_over_and_nothing_worse(tmp_path, whole):
    """Bytes at random places, most of them where the file says what it holds."""
    generator = np.random.default_rng(0)
    for trial in range(200):
        damaged = bytearray(whole)
        first = len(whole) - 1500 if trial % 2 else 0
        for place in generator.integers(first, len(whole), 5):
            damaged[place] = generator.integers(256)
        (tmp_path / "run.pt").write_bytes(damaged)
        state = checkpoints(tmp_path).load()  # a byte that nothing reads may be another
        assert state is None or state["epoch"] == 3


def test_a_checkpoint_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "boom").write_text, ("boom",))

    torch.save({"schema": 1, "key": {"config": 1}, "state": Bomb()}, tmp_path / "run.pt")
    said = []
    assert checkpoints(tmp_path, said=said).load() is None
    assert "damaged or not one of ours" in said[0]
    assert not (tmp_path / "boom").exists()


def test_a_checkpoint_that_cannot_be_read_is_left_where_it_is(tmp_path):
    """A disk or a network that fails for a moment is no reason to start over."""
    unreadable = Path("/proc/self/mem")  # it opens, and its first byte is an input/output error
    if not unreadable.exists():
        pytest.skip("this system has no /proc")
    (tmp_path / "run.pt").symlink_to(unreadable)
    with pytest.raises(OSError, match="Input/output error"):
        checkpoints(tmp_path).load()
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_a_checkpoint_of_another_run_is_not_used(tmp_path):
    train(RECIPE, checkpoints=checkpoints(tmp_path, key={"config": 1, "torch": "2.0"}))
    said = []
    assert checkpoints(tmp_path, key={"config": 1, "torch": "2.1"}, said=said).load() is None
    assert "was written with another torch (2.0, now 2.1): the run" in said[0]


def test_back_with_the_libraries_of_a_checkpoint_the_run_goes_on_from_it(tmp_path):
    """One version's run, another's, and the first again: nothing that was computed is lost."""
    old, new, said = {"config": 1, "torch": "2.0"}, {"config": 1, "torch": "2.1"}, []
    for key, step in ((old, 5), (new, 2)):
        with pytest.raises(Stopped):
            train(RECIPE, checkpoints=checkpoints(tmp_path, key=key), progress=stop_after(step))
        request_stop(False)
    for key, first in ((old, 6), (new, 3)):
        ours, seen = checkpoints(tmp_path, key=key, said=said), []
        resumed = train(
            RECIPE, checkpoints=ours, progress=lambda done, *_, seen=seen: seen.append(done)
        )
        assert seen[0] == first
        assert same(resumed, undisturbed())
    assert [line[:10] for line in said] == ["the checkp", "going on f"] * 2


def test_a_name_that_an_older_checkpoint_did_not_know_is_no_difference(tmp_path, whole):
    (tmp_path / "run.pt").write_bytes(whole)
    assert checkpoints(tmp_path, key={"config": 1, "timm": "1.0"}).load()["epoch"] == 3


def test_a_checkpoint_that_does_not_fit_the_model_is_kept_and_named(tmp_path, whole):
    (tmp_path / "run.pt").write_bytes(whole)
    other = torch.nn.Sequential(build_head("linear", 5, 3), torch.nn.Linear(3, 3))
    with pytest.raises(
        CheckpointError, match=r"run.pt does not fit this version of the code .*or remove the file"
    ):
        train(RECIPE, model=other, checkpoints=checkpoints(tmp_path))
    assert (tmp_path / "run.pt").read_bytes() == whole


# being written


def test_whoever_ends_a_process_can_wait_for_the_checkpoint_under_way(tmp_path):
    begun = threading.Event()

    class Slow:
        def __reduce__(self):
            begun.set()
            time.sleep(0.3)
            return (int, ())

    thread = threading.Thread(target=checkpoints(tmp_path).save, args=({"slow": Slow()},))
    thread.start()
    begun.wait()
    wait_for_save(0.01)
    assert not (tmp_path / "run.pt").exists(), "no longer than it was told to"
    wait_for_save(60)
    assert (tmp_path / "run.pt").exists()
    thread.join()


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed")],
)
def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch, error):
    said, left = [], 2
    ours, original = checkpoints(tmp_path, said=said), torch.save

    def full(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise error
        original(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    assert same(train(RECIPE, checkpoints=ours), undisturbed())
    assert "checkpoint not written" in said[0]
    assert "the next start would be from the checkpoint before" in said[0]
    assert checkpoints(tmp_path).load()["step"] == 2  # the last that could be written is whole
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_impossible_minutes_between_checkpoints_are_refused(monkeypatch, text):
    monkeypatch.setenv("CHECKPOINT_MINUTES", text)
    message = f"CHECKPOINT_MINUTES = '{text}': expected a number of minutes"
    with pytest.raises(ConfigError, match=message):
        checkpoint_minutes()
