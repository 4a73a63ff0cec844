"""Trainings of a second's fraction: three classes of vectors, a model, a run of three epochs."""

import torch

from ltlib.batches import FeatureBatches
from ltlib.losses import build_loss, class_balanced_weights
from ltlib.models import Classifier, build_head
from ltlib.recipe import Recipe
from ltlib.training import fit, predict

RECIPE = Recipe(epochs=3, batch_size=8, optimizer="sgd", lr=0.1, resolution=32)
COUNTS = [16, 6, 2]


def blobs(n=24, classes=3, width=5):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    x = torch.randn(n, width, generator=generator) + 3 * torch.eye(classes, width)[labels]
    return x, labels


class ThreeViews(FeatureBatches):
    """Three views of each row, as the contrastive term of GBG wants them."""

    def _train_batch(self, index, drawn):
        x, labels = super()._train_batch(index, drawn)
        return torch.cat([x, x + 0.1, x - 0.1]), labels


def small_classifier(kind):
    """A backbone that draws at random and keeps statistics, and a head."""
    backbone = torch.nn.Sequential(
        torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.3)
    )
    backbone.num_features = 4
    return Classifier(backbone, build_head(kind, 4, 3))


def small_model(loss):
    """The model that a loss is trained with here."""
    if loss in ("arconvl", "gbg"):
        return small_classifier("distance" if loss == "arconvl" else "cosine")
    if loss == "ldam":
        return torch.nn.Sequential(build_head("cosine", 5, 3), torch.nn.Identity())
    return torch.nn.Sequential(torch.nn.Dropout(0.3), build_head("linear", 5, 3))


def train(
    recipe,
    loss="softmax",
    *,
    model=None,
    loss_options=(),
    batches=FeatureBatches,
    look=predict,
    validate=True,
    **options,
):
    """A small run from its beginning: (curve, picked, weights). ``look`` predicts for validation;
    options: those of ``fit``."""
    x, labels = blobs()
    torch.manual_seed(1)
    model = model or small_model(loss)
    batches = batches(x, labels, 8)

    def check(model):
        logits = look(model, batches)
        accuracy = (logits.argmax(1) == labels).float().mean()
        return {"val_acc": float(accuracy), "val_loss": float(logits.abs().mean())}

    curve, picked = fit(
        model,
        build_loss(loss, COUNTS, **dict(loss_options)),
        batches,
        recipe,
        3,
        validate=check if validate else None,
        drw_weights=class_balanced_weights(COUNTS),
        **options,
    )
    return curve, picked, {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    """Two runs to the bit."""

    def equal(x, y):
        return x.keys() == y.keys() and all(torch.equal(x[name], y[name]) for name in x)

    (curve, picked, weights), (other_curve, other_picked, other_weights) = a, b
    return (
        curve == other_curve
        and picked["epoch"] == other_picked["epoch"]
        and equal(picked["model"], other_picked["model"])
        and equal(weights, other_weights)
    )
