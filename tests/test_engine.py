import dataclasses
import errno
import io
import itertools
import math
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ltlib import engine
from ltlib.backbones import Classifier, build_backbone, build_head
from ltlib.batches import FeatureBatches
from ltlib.config import Recipe, load_profile
from ltlib.engine import CheckpointError, Checkpoints, Diverged, Stopped, build_optimizer, fit, predict, schedule_factor
from ltlib.losses import build_loss, class_balanced_weights

RECIPE = Recipe(epochs=3, batch_size=8, optimizer="sgd", lr=0.1, resolution=32)


def blobs(n=24, classes=3, width=5):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    return torch.randn(n, width, generator=generator) + 3 * torch.eye(classes, width)[labels], labels


# ---------------------------------------------------------------------------------------------- the loop


def test_cosine_schedule_warms_up_and_ends_at_zero():
    recipe = dataclasses.replace(RECIPE, epochs=10, warmup_epochs=2.0)
    assert schedule_factor(recipe, 1) == 0.5
    assert schedule_factor(recipe, 2) == 1
    assert math.isclose(schedule_factor(recipe, 6), 0.5)
    assert math.isclose(schedule_factor(recipe, 10), 0, abs_tol=1e-12)
    assert 0 < schedule_factor(recipe, 0) < 0.01


def test_step_schedule_of_the_thesis():
    recipe = load_profile("thesis").recipe
    assert [round(schedule_factor(recipe, e), 6) for e in (0, 29.9, 30, 59.9, 60, 89)] == [1, 1, 0.1, 0.1, 0.01, 0.01]


def test_fit_learns_and_equals_plain_sgd_written_out():
    x, labels = blobs()
    recipe = dataclasses.replace(RECIPE, schedule="step", momentum=0.0)
    torch.manual_seed(0)
    model, reference = build_head("linear", 5, 3), build_head("linear", 5, 3)
    reference.load_state_dict(model.state_dict())
    batches = FeatureBatches(x, labels, 8)
    curve, picked = fit(model, build_loss("softmax", [1, 1, 1]), batches, recipe, seed=7)
    for epoch in range(3):
        for xb, yb in batches.epoch(7, epoch):
            torch.nn.functional.cross_entropy(reference(xb), yb).backward()
            with torch.no_grad():
                for p in reference.parameters():
                    p -= 0.1 * p.grad
                    p.grad = None
    assert torch.allclose(model.weight, reference.weight, atol=1e-6)
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert picked is None


def test_the_picked_epoch_is_the_earliest_with_the_best_validation_accuracy():
    x, labels = blobs()
    model = build_head("linear", 5, 3)
    accuracies = iter([0.2, 0.9, 0.9])
    states = []

    def validate(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"val_acc": next(accuracies), "val_loss": 1.0}

    _, picked = fit(model, build_loss("softmax", [1, 1, 1]), FeatureBatches(x, labels, 8), RECIPE, 0, validate=validate)
    assert picked["epoch"] == 2
    assert torch.equal(picked["model"]["weight"], states[1]["weight"])
    assert not torch.equal(picked["model"]["weight"], states[2]["weight"])


def test_by_g_mean_the_picked_epoch_is_the_latest_of_the_best():
    x, labels = blobs()
    recipe, states = dataclasses.replace(RECIPE, epochs=4, pick="gmean"), []
    gmeans, accuracies = iter([0.5, 0.7, 0.7, 0.2]), iter([0.9, 0.1, 0.1, 0.9])

    def validate(model):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return {"val_acc": next(accuracies), "val_loss": 1.0, "val_gmean": next(gmeans)}

    loss = build_loss("softmax", [1, 1, 1])
    _, picked = fit(build_head("linear", 5, 3), loss, FeatureBatches(x, labels, 8), recipe, 0, validate=validate)
    assert picked["epoch"] == 3
    assert torch.equal(picked["model"]["weight"], states[2]["weight"])
    assert not torch.equal(picked["model"]["weight"], states[1]["weight"])


def test_a_losss_own_parameters_follow_their_own_rate_and_the_model_the_recipes():
    """Plain SGD: each step of the radii is their rate times their gradient."""
    torch.manual_seed(0)
    model, loss = small_classifier("distance"), build_loss("arconvl", [16, 6, 2])
    recipe = dataclasses.replace(RECIPE, epochs=5, momentum=0.0, schedule="step", milestones=(1, 2), weight_decay=0.5)
    radii, gradients = [loss.a.detach().clone()], []

    def see(*_):
        radii.append(loss.a.detach().clone())
        gradients.append(loss.a.grad.clone())

    curve, _ = fit(model, loss, FeatureBatches(*blobs(), 8), recipe, 0, progress=see)
    for step, gradient in enumerate(gradients):
        rate = 0.001 if step // 3 < 3 else 0.01
        torch.testing.assert_close(radii[step + 1], radii[step] - rate * gradient)
        assert gradient.abs().max() > 0
    assert [entry["lr"] for entry in curve] == pytest.approx([0.1, 0.01, 0.001, 0.001, 0.001]), "the model's, though the radii's is higher"
    assert all(len(entry["regions"]["radii"]) == 3 for entry in curve)
    assert curve[-1]["regions"]["radii"] == pytest.approx(radii[-1].tolist(), abs=1e-6)


def test_gbg_trains_and_its_curve_tells_of_groups_and_weights():
    curve, _, _ = train(dataclasses.replace(RECIPE, lr=0.02), "gbg", loss_options={"groups": 2, "warmup": 1})
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert curve[0]["group_of"] == [0, 0, 0]
    assert sorted(set(curve[1]["group_of"])) == [0, 1]
    assert curve[0]["group_weights"] == [1, 0]
    assert all(0 < w < 1 for w in curve[2]["group_weights"])


def test_a_gbg_run_that_diverges_says_so():
    x, labels = blobs()
    x[5] = math.nan
    with pytest.raises(Diverged, match="epoch 1 of 3 is nan"):
        fit(small_classifier("cosine"), build_loss("gbg", [1, 1, 1], groups=2, grouping="count"), FeatureBatches(x, labels, 8), RECIPE, 0)


def test_drw_sets_its_weights_at_its_epoch():
    x, labels = blobs()
    counts = [100, 10, 1]
    loss = build_loss("ldam", counts)
    seen = []
    original = loss.forward

    def spy(*args, **kwargs):
        seen.append(loss.weights is not None)
        return original(*args, **kwargs)

    loss.forward = spy
    fit(build_head("cosine", 5, 3), loss, FeatureBatches(x, labels, 24), RECIPE, 0, drw_epoch=2, drw_weights=class_balanced_weights(counts))
    assert seen == [False, False, True]
    assert np.allclose(loss.weights, class_balanced_weights(counts))


@pytest.mark.parametrize("where", ["train", "val"])
def test_nan_stops_a_run_and_names_the_epoch(where):
    x, labels = blobs()
    if where == "train":
        x[5] = math.nan
    validate = None if where == "train" else lambda model: {"val_acc": 0.1, "val_loss": math.nan}
    with pytest.raises(Diverged, match="epoch 1 of 3 is nan"):
        fit(build_head("linear", 5, 3), build_loss("softmax", [1, 1, 1]), FeatureBatches(x, labels, 8), RECIPE, 0, validate=validate)


# ------------------------------------------------------------------------------------------ the optimizer


def vit_classifier():
    return Classifier(build_backbone("vit_small32", None), build_head("linear", 128, 10))


def rates(model, recipe):
    names = {id(p): name for name, p in model.named_parameters()}
    optimizer = build_optimizer(model, recipe)
    return {names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}


def test_weight_decay_leaves_biases_norms_and_position_embeddings_alone():
    found = rates(vit_classifier(), dataclasses.replace(RECIPE, optimizer="adamw", weight_decay=0.05))
    assert len(found) == len(list(vit_classifier().parameters()))
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert "backbone.blocks.0.attn.qkv.weight" in decayed
    assert "head.weight" in decayed
    assert not decayed & {"backbone.pos_embed", "backbone.cls_token", "backbone.norm.weight", "head.bias"}
    assert {lr for lr, _ in found.values()} == {0.1}


def test_decay_all_decays_everything():
    found = rates(vit_classifier(), dataclasses.replace(RECIPE, weight_decay=2e-4, decay_all=True))
    assert {decay for _, decay in found.values()} == {2e-4}


def test_layer_decay_lowers_the_rate_towards_the_input():
    found = {name: lr for name, (lr, _) in rates(vit_classifier(), dataclasses.replace(RECIPE, layer_decay=0.5)).items()}
    order = ["head.weight", "backbone.blocks.1.mlp.fc1.weight", "backbone.blocks.0.mlp.fc1.weight",
             "backbone.patch_embed.proj.weight"]
    lrs = [found[name] for name in order]
    assert lrs[0] == found["backbone.norm.weight"] == found["backbone.blocks.2.mlp.fc1.weight"] == 0.1
    for above, below in itertools.pairwise(lrs):
        assert below == pytest.approx(above / 2)


class ThreeViews(FeatureBatches):
    """Three views of each row, as the contrastive term of GBG wants them."""

    def _train_batch(self, index, drawn):
        x, labels = super()._train_batch(index, drawn)
        return torch.cat([x, x + 0.1, x - 0.1]), labels


def small_classifier(kind):
    """A backbone that draws at random and keeps statistics, and a head."""
    backbone = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.3))
    backbone.num_features = 4
    return Classifier(backbone, build_head(kind, 4, 3))


def train(recipe, loss="softmax", model=None, checkpoints=None, validate=True, loss_options=(), batches=FeatureBatches, **options):
    """A small run from its beginning: (curve, picked, weights)."""
    x, labels = blobs()
    torch.manual_seed(1)
    if loss in ("arconvl", "gbg"):
        model = small_classifier("distance" if loss == "arconvl" else "cosine")
    else:
        model = model or build_head("cosine" if loss == "ldam" else "linear", 5, 3)
        model = torch.nn.Sequential(model, torch.nn.Identity()) if loss == "ldam" else torch.nn.Sequential(torch.nn.Dropout(0.3), model)
    batches = batches(x, labels, 8)

    def check(model):
        logits = predict(model, batches)
        return {"val_acc": float((logits.argmax(1) == labels).float().mean()), "val_loss": float(logits.abs().mean())}

    counts = [16, 6, 2]
    curve, picked = fit(model, build_loss(loss, counts, **dict(loss_options)), batches, recipe, 3, validate=check if validate else None,
                        checkpoints=checkpoints, drw_weights=class_balanced_weights(counts), **options)
    return curve, picked, {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return (a[0] == b[0] and a[1]["epoch"] == b[1]["epoch"] and all(torch.equal(a[2][k], b[2][k]) for k in a[2])
            and all(torch.equal(a[1]["model"][k], b[1]["model"][k]) for k in a[1]["model"]))


def test_clipping_bounds_the_gradient():
    """With SGD and a tiny bound, no step can be longer than the rate times the bound."""
    recipe = dataclasses.replace(RECIPE, epochs=1, momentum=0.0, schedule="step", clip_grad=1e-3)
    free, bound = (train(dataclasses.replace(recipe, clip_grad=clip), validate=False)[2] for clip in (0.0, 1e-3))
    torch.manual_seed(1)
    start = build_head("linear", 5, 3).weight
    assert (free["1.weight"] - start).norm() > 3 * 0.1 * 1e-3
    assert (bound["1.weight"] - start).norm() <= 3 * 0.1 * 1e-3 * 1.0001


def test_the_moving_average_is_what_is_evaluated_and_kept():
    recipe = dataclasses.replace(RECIPE, epochs=4, schedule="step")
    plain, averaged = train(recipe), train(dataclasses.replace(recipe, ema=0.99))
    assert [e["train_loss"] for e in plain[0]] == [e["train_loss"] for e in averaged[0]]
    assert [e["val_loss"] for e in plain[0]] != [e["val_loss"] for e in averaged[0]]
    torch.manual_seed(1)
    start = build_head("linear", 5, 3).weight
    assert (averaged[2]["1.weight"] - start).norm() < (plain[2]["1.weight"] - start).norm()


def test_a_compiled_model_trains_as_the_plain_one_does():
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU, and there is none")
    recipe = dataclasses.replace(RECIPE, epochs=1)
    x, labels = blobs()
    weights = []
    for compile in (False, True):
        torch.manual_seed(1)
        model = build_head("linear", 5, 3)
        fit(model, build_loss("softmax", [1, 1, 1]), FeatureBatches(x, labels, 8), dataclasses.replace(recipe, compile=compile), 0)
        weights.append(model.weight)
    assert torch.allclose(*weights, atol=1e-6)


# ------------------------------------------------------------------------------------------ checkpoints


@pytest.fixture(autouse=True)
def _no_request_to_stop():
    yield
    engine._stop_requested = False


def checkpoints(tmp_path, key=None, said=None, minutes=0.0):
    return Checkpoints(tmp_path / "run.pt", key or {"config": 1}, minutes, (said if said is not None else []).append, {"who": "test"})


CASES = {
    "sgd": ({}, "softmax", {}),
    "adamw, clipped": ({"optimizer": "adamw", "lr": 0.01, "clip_grad": 1.0, "warmup_epochs": 0.5}, "focal", {}),
    "average": ({"ema": 0.9, "schedule": "step", "milestones": (2,)}, "softmax", {}),
    "random draws": ({"optimizer": "adam", "lr": 0.01}, "equalization", {}),
    "ldam, drw": ({"optimizer": "adamw", "lr": 0.01}, "ldam", {"drw_epoch": 1}),
    "arconvl, its radii": ({"lr": 0.05, "schedule": "step", "milestones": (1,)}, "arconvl", {}),
    "gbg, its groups": ({"lr": 0.05}, "gbg", {"loss_options": {"groups": 2, "warmup": 1}}),
    "gbg, its projections": ({"optimizer": "adam", "lr": 0.01}, "gbg",
                             {"loss_options": {"groups": 2, "beta": 1.0, "projection": 3}, "batches": ThreeViews}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stop_after", range(1, 9))
def test_stopped_after_any_step_it_goes_on_to_the_same_bits(tmp_path, monkeypatch, case, stop_after):
    changes, loss, options = CASES[case]
    recipe = dataclasses.replace(RECIPE, **changes)
    undisturbed = train(recipe, loss, **options)

    def stop(done, total, value):
        if done == stop_after:
            engine.request_stop()

    with pytest.raises(Stopped, match=f"stopped in epoch {(stop_after - 1) // 3 + 1} of 3"):
        train(recipe, loss, checkpoints=checkpoints(tmp_path), progress=stop, **options)
    monkeypatch.setattr(engine, "_stop_requested", False)
    again = checkpoints(tmp_path)
    seen = []
    resumed = train(recipe, loss, checkpoints=again, progress=lambda done, *_: seen.append(done), **options)
    assert seen == list(range(stop_after + 1, 10))
    assert same(resumed, undisturbed)
    assert [3 * s["epoch"] + s["step"] for s in again.starts] == [0, stop_after]
    assert again.seconds_before > 0


def test_a_finished_run_is_not_trained_again(tmp_path):
    first = train(RECIPE, checkpoints=checkpoints(tmp_path))
    again = train(RECIPE, checkpoints=checkpoints(tmp_path), progress=lambda *_: pytest.fail("a step"))
    assert same(first, again)


def test_checkpoints_are_written_every_epoch_and_every_n_minutes(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(Checkpoints, "save", lambda self, state: written.append((state["epoch"], state["step"])))
    train(RECIPE, checkpoints=checkpoints(tmp_path, minutes=60))
    assert written == [(1, 0), (2, 0), (3, 0)]
    written.clear()
    train(RECIPE, checkpoints=checkpoints(tmp_path, minutes=0))
    assert written == [(0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (3, 0)]


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
            number = torch.load(path, weights_only=True)["state"]["parts"]["model"]["1.weight"].numpy().tobytes()
            assert content.count(number) >= 1
            path.write_bytes(content.replace(number, bytes([number[0] ^ 1]) + number[1:]))
        case "another schema":
            torch.save(torch.load(path, weights_only=True) | {"schema": 0}, path)
        case "another thing":
            torch.save([1, 2], path)


@pytest.mark.parametrize(("how", "message"), [
    ("truncated", "is damaged"), ("empty", "is damaged"), ("text", "is damaged"), ("another thing", "is damaged"),
    ("flipped", "is damaged or not one of ours (wrong checksum)"),
    ("another schema", "has schema 0, expected 1"),
])
def test_a_checkpoint_that_cannot_be_used_is_named_and_the_run_starts_over(tmp_path, how, message):
    undisturbed = train(RECIPE, checkpoints=checkpoints(tmp_path))
    damage(how, tmp_path / "run.pt")
    useless, said = (tmp_path / "run.pt").read_bytes(), []
    again = checkpoints(tmp_path, said=said)
    assert same(train(RECIPE, checkpoints=again), undisturbed)
    assert message in said[0]
    assert str(tmp_path / "run.pt") in said[0]
    aside, = tmp_path.glob("run.pt.*")
    assert f"starts from its beginning; the file is kept as {aside.name}" in said[0]
    assert aside.read_bytes() == useless
    assert len(again.starts) == 1
    again.remove()
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_another_run_is_not_used(tmp_path):
    train(RECIPE, checkpoints=checkpoints(tmp_path, key={"config": 1, "torch": "2.0"}))
    said = []
    assert checkpoints(tmp_path, key={"config": 1, "torch": "2.1"}, said=said).load() is None
    assert "was written with another torch (2.0, now 2.1): the run" in said[0]


def test_back_with_the_libraries_of_a_checkpoint_the_run_goes_on_from_it(tmp_path):
    """One version's run, another's, and the first again: nothing that was computed is lost."""
    old, new, said = {"config": 1, "torch": "2.0"}, {"config": 1, "torch": "2.1"}, []
    undisturbed = train(RECIPE)
    for key, stop_after in ((old, 5), (new, 2)):

        def stop(done, total, value, stop_after=stop_after):
            if done == stop_after:
                engine.request_stop()

        with pytest.raises(Stopped):
            train(RECIPE, checkpoints=checkpoints(tmp_path, key=key), progress=stop)
        engine._stop_requested = False
    for key, first in ((old, 6), (new, 3)):
        seen, ours = [], checkpoints(tmp_path, key=key, said=said)
        resumed = train(RECIPE, checkpoints=ours, progress=lambda done, *_, seen=seen: seen.append(done))
        assert seen[0] == first
        assert same(resumed, undisturbed)
    assert [line[:10] for line in said] == ["the checkp", "going on f"] * 2


def test_a_name_that_an_older_checkpoint_did_not_know_is_no_difference(tmp_path):
    train(RECIPE, checkpoints=checkpoints(tmp_path, key={"config": 1}))
    assert checkpoints(tmp_path, key={"config": 1, "timm": "1.0"}).load()["epoch"] == 3


def test_a_checkpoint_that_does_not_fit_the_model_is_kept_and_named(tmp_path):
    train(RECIPE, checkpoints=checkpoints(tmp_path))
    before = (tmp_path / "run.pt").read_bytes()
    other = torch.nn.Sequential(build_head("linear", 5, 3), torch.nn.Linear(3, 3))
    with pytest.raises(CheckpointError, match=r"run.pt does not fit this version of the code .*or remove the file"):
        train(RECIPE, model=other, checkpoints=checkpoints(tmp_path))
    assert (tmp_path / "run.pt").read_bytes() == before


def test_a_checkpoint_that_cannot_be_read_is_left_where_it_is(tmp_path, monkeypatch):
    """A disk or a network that fails for a moment is no reason to start over."""
    train(RECIPE, checkpoints=checkpoints(tmp_path))

    class Failing(io.FileIO):
        def read(self, *_):
            raise OSError(errno.EIO, "Input/output error")

        readinto = readall = read

    monkeypatch.setattr("builtins.open", lambda path, mode: Failing(path, "r"))
    with pytest.raises(OSError, match="Input/output error"):
        checkpoints(tmp_path).load()
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_whatever_is_damaged_the_run_starts_over_and_nothing_worse(tmp_path):
    """Bytes at random places, most of them where the file says what it holds."""
    train(RECIPE, checkpoints=checkpoints(tmp_path))
    content, generator = (tmp_path / "run.pt").read_bytes(), np.random.default_rng(0)
    for trial in range(200):
        damaged = bytearray(content)
        first = len(content) - 1500 if trial % 2 else 0
        for place in generator.integers(first, len(content), 5):
            damaged[place] = generator.integers(256)
        (tmp_path / "run.pt").write_bytes(damaged)
        state = checkpoints(tmp_path).load()  # a byte that nothing reads may be another
        assert state is None or state["epoch"] == 3


@pytest.mark.parametrize("case", ["sgd", "arconvl, its radii", "gbg, its groups"])
@pytest.mark.parametrize("epoch", [1, 3])
def test_stopped_while_it_validates_it_goes_on_with_the_validation(tmp_path, monkeypatch, epoch, case):
    changes, loss, options = CASES[case]
    recipe = dataclasses.replace(RECIPE, **changes)
    undisturbed, validations = train(recipe, loss, **options), []
    ours = checkpoints(tmp_path)

    def stop(model):
        validations.append(1)
        if len(validations) == epoch:
            engine.request_stop()
        return engine.predict(model, batches)

    batches = FeatureBatches(*blobs(), 8)
    monkeypatch.setitem(train.__globals__, "predict", lambda model, _: stop(model))
    with pytest.raises(Stopped, match="stopped while predicting"):
        train(recipe, loss, checkpoints=ours, **options)
    monkeypatch.undo()
    engine._stop_requested = False
    seen = []
    resumed = train(recipe, loss, checkpoints=checkpoints(tmp_path), progress=lambda done, *_: seen.append(done), **options)
    assert seen == list(range(3 * epoch + 1, 10))
    assert same(resumed, undisturbed)


def test_whoever_ends_a_process_can_wait_for_the_checkpoint_under_way(tmp_path, monkeypatch):
    begun, original = threading.Event(), torch.save

    def slow(*args, **kwargs):
        begun.set()
        time.sleep(0.3)
        original(*args, **kwargs)

    monkeypatch.setattr(torch, "save", slow)
    thread = threading.Thread(target=checkpoints(tmp_path).save, args=({},))
    thread.start()
    begun.wait()
    engine.wait_for_save(0.01)
    assert not (tmp_path / "run.pt").exists(), "no longer than it was told to"
    engine.wait_for_save(60)
    assert (tmp_path / "run.pt").exists()
    thread.join()


def test_a_checkpoint_runs_no_code(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path(tmp_path / "boom").write_text, ("boom",))

    torch.save({"schema": 1, "key": {"config": 1}, "state": Bomb()}, tmp_path / "run.pt")
    said = []
    assert checkpoints(tmp_path, said=said).load() is None
    assert "damaged or not one of ours" in said[0]
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed")])
def test_a_full_disk_costs_the_checkpoint_and_not_the_run(tmp_path, monkeypatch, error):
    undisturbed = train(RECIPE)
    said, left = [], 2
    ours, original = checkpoints(tmp_path, said=said), torch.save

    def full(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise error
        original(*args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    assert same(train(RECIPE, checkpoints=ours), undisturbed)
    assert "checkpoint not written" in said[0]
    assert "the next start would be from the checkpoint before" in said[0]
    assert checkpoints(tmp_path).load()["step"] == 2  # the last that could be written is whole
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]
