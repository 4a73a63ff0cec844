import dataclasses
import math

import numpy as np
import pytest
import torch

from ltlib.backbones import build_head
from ltlib.batches import FeatureBatches
from ltlib.config import Recipe, load_profile
from ltlib.engine import Diverged, fit, schedule_factor
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
