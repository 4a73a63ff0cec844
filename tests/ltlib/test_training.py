import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from tiny_training import COUNTS, RECIPE, blobs, small_classifier, train

from ltlib.batches import FeatureBatches
from ltlib.hooks import Hook
from ltlib.losses import build_loss, class_balanced_weights
from ltlib.models import Classifier, build_backbone, build_head
from ltlib.runs.profiles import load_profile
from ltlib.training import (
    Diverged,
    Training,
    build_optimizer,
    fit,
    predict,
    predict_with_features,
    schedule_factor,
)
from ltlib.training import train as train_with

# the loop


def fit_blobs(model, loss, recipe=RECIPE, *, seed=0, size=8, blank=False, **options):
    """Train on blobs, one of them nan where ``blank``: the curve and what validation picks."""
    x, labels = blobs()
    if blank:
        x[5] = math.nan
    return fit(model, loss, FeatureBatches(x, labels, size), recipe, seed, **options)


def test_cosine_schedule_warms_up_and_ends_at_zero():
    recipe = dataclasses.replace(RECIPE, epochs=10, warmup_epochs=2.0)
    assert schedule_factor(recipe, 1) == 0.5
    assert schedule_factor(recipe, 2) == 1
    assert math.isclose(schedule_factor(recipe, 6), 0.5)
    assert math.isclose(schedule_factor(recipe, 10), 0, abs_tol=1e-12)
    assert 0 < schedule_factor(recipe, 0) < 0.01


def test_step_schedule_of_the_thesis():
    recipe = load_profile("thesis").recipe
    factors = [schedule_factor(recipe, e) for e in (0, 29.9, 30, 59.9, 60, 89)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_fit_learns_and_equals_plain_sgd_written_out():
    recipe = dataclasses.replace(RECIPE, schedule="step", momentum=0.0)
    torch.manual_seed(0)
    model, reference = build_head("linear", 5, 3), build_head("linear", 5, 3)
    reference.load_state_dict(model.state_dict())
    curve, picked = fit_blobs(model, build_loss("softmax", [1, 1, 1]), recipe, seed=7)
    for epoch in range(3):
        for xb, yb in FeatureBatches(*blobs(), 8).epoch(7, epoch):
            torch.nn.functional.cross_entropy(reference(xb), yb).backward()
            with torch.no_grad():
                for p in reference.parameters():
                    p -= 0.1 * p.grad
                    p.grad = None
    assert torch.allclose(model.weight, reference.weight, atol=1e-6)
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert picked is None


@pytest.mark.parametrize(
    ("pick", "accuracies", "gmeans", "best"),
    [
        ("accuracy", [0.2, 0.9, 0.9, 0.1], [0.5, 0.1, 0.1, 0.9], 2),  # the earliest of equals
        ("gmean", [0.9, 0.1, 0.1, 0.9], [0.5, 0.7, 0.7, 0.2], 3),  # the latest of equals
    ],
)
def test_the_epoch_that_validation_picks_and_its_weights(pick, accuracies, gmeans, best):
    weights = []

    def validate(model):
        weights.append(model.weight.detach().clone())
        epoch = len(weights) - 1
        return {"val_acc": accuracies[epoch], "val_loss": 1.0, "val_gmean": gmeans[epoch]}

    recipe = dataclasses.replace(RECIPE, epochs=4, pick=pick)
    model, loss = build_head("linear", 5, 3), build_loss("softmax", [1, 1, 1])
    curve, picked = fit_blobs(model, loss, recipe, validate=validate)
    assert picked["epoch"] == best
    same = [torch.equal(picked["model"]["weight"], w) for w in weights]
    assert same == [epoch == best for epoch in range(1, 5)]
    assert [entry["val_gmean"] for entry in curve] == gmeans


def test_hooks_are_called_at_their_places_and_add_to_the_curve():
    said = []

    class Told(Hook):
        def before_training(self, run):
            said.append("begin")

        def before_epoch(self, run):
            said.append(f"epoch {run.epoch}")

        def after_step(self, run):
            said.append(f"step {run.steps_done}")

        def after_steps(self, run, entry):
            entry["seen"] = run.step

        def after_epoch(self, run):
            said.append(f"done {run.epoch}")

        def after_training(self, run):
            said.append("end")

    batches, loss = FeatureBatches(*blobs(), 12), build_loss("softmax", [1, 1, 1])
    recipe = dataclasses.replace(RECIPE, epochs=2)
    run = Training(build_head("linear", 5, 3), loss, batches, recipe, seed=0)
    train_with(run, [Told()])
    epochs = ["epoch 0", "step 1", "step 2", "done 1", "epoch 1", "step 3", "step 4", "done 2"]
    assert said == ["begin", *epochs, "end"]
    assert [entry["seen"] for entry in run.curve] == [2, 2]


def test_a_losss_own_parameters_follow_their_own_rate_and_the_model_the_recipes():
    """Plain SGD: each step of the radii is their rate times their gradient."""
    torch.manual_seed(0)
    model, loss = small_classifier("distance"), build_loss("arconvl", [16, 6, 2])
    steps = {"schedule": "step", "milestones": (1, 2)}
    recipe = dataclasses.replace(RECIPE, epochs=5, momentum=0.0, weight_decay=0.5, **steps)
    radii, gradients = [loss.a.detach().clone()], []

    def see(*_):
        radii.append(loss.a.detach().clone())
        gradients.append(loss.a.grad.clone())

    curve, _ = fit_blobs(model, loss, recipe, progress=see)
    for step, gradient in enumerate(gradients):
        rate = 0.001 if step // 3 < 3 else 0.01
        torch.testing.assert_close(radii[step + 1], radii[step] - rate * gradient)
        assert gradient.abs().max() > 0
    # the model's, though the radii's is higher
    assert [entry["lr"] for entry in curve] == pytest.approx([0.1, 0.01, 0.001, 0.001, 0.001])
    assert all(len(entry["regions"]["radii"]) == 3 for entry in curve)
    assert curve[-1]["regions"]["radii"] == pytest.approx(radii[-1].tolist(), abs=1e-6)


def test_gbg_trains_and_its_curve_tells_of_groups_and_weights():
    options = {"groups": 2, "warmup": 1}
    curve, _, _ = train(dataclasses.replace(RECIPE, lr=0.02), "gbg", loss_options=options)
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert curve[0]["group_of"] == [0, 0, 0]
    assert sorted(set(curve[1]["group_of"])) == [0, 1]
    assert curve[0]["group_weights"] == [1, 0]
    assert all(0 < w < 1 for w in curve[2]["group_weights"])


def test_a_gbg_run_that_diverges_says_so():
    loss = build_loss("gbg", [1, 1, 1], groups=2, grouping="count")
    with pytest.raises(Diverged, match="epoch 1 of 3 is nan"):
        fit_blobs(small_classifier("cosine"), loss, blank=True)


def test_drw_sets_its_weights_at_its_epoch():
    loss, weights, seen = build_loss("ldam", COUNTS), class_balanced_weights(COUNTS), []
    deferred = {"drw_epoch": 2, "drw_weights": weights}
    look = lambda *_: seen.append(loss.weights is not None)  # noqa: E731
    fit_blobs(build_head("cosine", 5, 3), loss, size=24, progress=look, **deferred)
    assert seen == [False, False, True]
    assert np.allclose(loss.weights, weights)


@pytest.mark.parametrize("where", ["train", "val"])
def test_nan_stops_a_run_and_names_the_epoch(where):
    model, loss = build_head("linear", 5, 3), build_loss("softmax", [1, 1, 1])
    found = {"val_acc": 0.1, "val_loss": math.nan}
    options = {"blank": True} if where == "train" else {"validate": lambda model: found}
    with pytest.raises(Diverged, match="epoch 1 of 3 is nan"):
        fit_blobs(model, loss, **options)


# the optimizer


def vit_classifier():
    return Classifier(build_backbone("vit_small32", None), build_head("linear", 128, 10))


@pytest.mark.parametrize(("precision", "fused"), [("float32", True), ("bfloat16", False)])
def test_attention_is_fused_but_where_that_is_slow(precision, fused):
    model = vit_classifier()
    Training(
        model, build_loss("softmax", COUNTS), FeatureBatches(*blobs(), 8), RECIPE, 0, precision
    )
    assert {block.attn.fused_attn for block in model.backbone.blocks} == {fused}


def rates(model, recipe):
    names, found = {id(p): name for name, p in model.named_parameters()}, {}
    for group in build_optimizer(model, recipe).param_groups:
        of_group = (group["lr"], group["weight_decay"])
        found |= {names[id(p)]: of_group for p in group["params"]}
    return found


def test_weight_decay_leaves_biases_norms_and_position_embeddings_alone():
    recipe = dataclasses.replace(RECIPE, optimizer="adamw", weight_decay=0.05)
    found = rates(vit_classifier(), recipe)
    assert len(found) == len(list(vit_classifier().parameters()))
    decayed = {name for name, (_, decay) in found.items() if decay}
    assert {"backbone.blocks.0.attn.qkv.weight", "head.weight"} <= decayed
    exempt = {"backbone.pos_embed", "backbone.cls_token", "backbone.norm.weight", "head.bias"}
    assert not decayed & exempt
    assert {lr for lr, _ in found.values()} == {0.1}


def test_decay_all_decays_everything():
    found = rates(vit_classifier(), dataclasses.replace(RECIPE, weight_decay=2e-4, decay_all=True))
    assert {decay for _, decay in found.values()} == {2e-4}


def test_layer_decay_lowers_the_rate_towards_the_input():
    found = rates(vit_classifier(), dataclasses.replace(RECIPE, layer_decay=0.5))
    blocks = [f"backbone.blocks.{i}.mlp.fc1.weight" for i in (1, 0)]
    order = ["head.weight", *blocks, "backbone.patch_embed.proj.weight"]
    lrs = [found[name][0] for name in order]
    for name in ("head.weight", "backbone.norm.weight", "backbone.blocks.2.mlp.fc1.weight"):
        assert found[name][0] == 0.1
    for above, below in itertools.pairwise(lrs):
        assert below == pytest.approx(above / 2)


def test_clipping_bounds_the_gradient():
    """With SGD and a tiny bound, no step can be longer than the rate times the bound."""
    recipe = dataclasses.replace(RECIPE, epochs=1, momentum=0.0, schedule="step", clip_grad=1e-3)
    recipes = (dataclasses.replace(recipe, clip_grad=clip) for clip in (0.0, 1e-3))
    free, bound = (train(recipe, validate=False)[2] for recipe in recipes)
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


def test_a_compiled_model_trains_as_the_plain_one_does(monkeypatch):
    """Traced and differentiated as on a GPU; no C++ is written, which takes a CPU a minute."""
    traced = functools.partial(torch.compile, backend="aot_eager")
    monkeypatch.setattr(torch, "compile", traced)
    weights = []
    for compile in (False, True):
        torch.manual_seed(1)
        model, loss = build_head("linear", 5, 3), build_loss("softmax", [1, 1, 1])
        fit_blobs(model, loss, dataclasses.replace(RECIPE, epochs=1, compile=compile))
        weights.append(model.weight)
    assert torch.allclose(*weights, atol=1e-6)


def test_predictions_come_with_the_features_that_they_are_made_of():
    x, labels = blobs()
    model = Classifier(torch.nn.Linear(5, 4), build_head("linear", 4, 3)).train()
    batches = FeatureBatches(x, labels, 7)
    logits, features = predict_with_features(model, batches)
    assert not model.training
    assert torch.equal(logits, predict(model, batches))
    with torch.inference_mode():
        torch.testing.assert_close(features, model.backbone(x))
        torch.testing.assert_close(logits, model.head(features))
