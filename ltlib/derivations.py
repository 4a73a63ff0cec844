"""What the notebooks on the losses share: numerical gradients, the gradient that each class receives, a small model."""

from __future__ import annotations

import functools
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor

from ltlib.backbones import backbone_title, build_head, check_name
from ltlib.batches import FeatureBatches
from ltlib.config import DATASETS, ConfigError, Profile, Recipe, dataset_size
from ltlib.datasets import load_dataset
from ltlib.engine import fit, predict, reproducible
from ltlib.longtail import base_set, class_counts, groups, longtailed_counts, select
from ltlib.losses import Loss, build_loss, class_balanced_weights
from ltlib.records import computed_as, load_record, logits_path
from ltlib.training import DRW_BETA

# ---------------------------------------------------------------------------------------- gradients


def value_and_gradient(loss: Loss, logits: np.ndarray, labels: np.ndarray, **draw) -> tuple[float, np.ndarray]:
    """A loss and, by autograd, its gradient in float64: logits (B, C), labels (B,) -> mean, (B, C)."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    value = loss(z, torch.as_tensor(labels), **draw)
    value.backward()
    return value.item(), z.grad.numpy()


def central_differences(function: Callable[[np.ndarray], float], z: np.ndarray, step: float = 1e-5) -> np.ndarray:
    """(f(z + h e_k) - f(z - h e_k)) / 2h for every element k of z: the derivative, up to h^2 and rounding / h."""
    result = np.empty(z.shape)
    for k in np.ndindex(z.shape):
        shift = np.zeros(z.shape)
        shift[k] = step
        result[k] = (function(z + shift) - function(z - shift)) / (2 * step)
    return result


@dataclass(frozen=True)
class Epoch:
    """One network's outputs on images that stand for an epoch of its long-tailed training set.

    logits (N, C) float64, labels (N,) int64, counts (C,) training images per class, groups: class ids of head, middle
    and tail, a third of the classes each. An image of class c stands for n_c / m_c training images, where m_c images of the
    class are there: with test images it is an epoch of images that the network has not memorised, with the training images
    it is the epoch itself.
    """

    logits: Tensor
    labels: Tensor
    counts: np.ndarray
    groups: dict[str, np.ndarray]
    source: str


def epoch_of_run(profile: Profile, loss: str, imbalance_factor: float) -> Epoch:
    """The stored test logits of the profile's first long-tailed run with this loss, or those of a small model.

    The small model (:func:`train_small`, trained here and now) stands in where there is no finished run, no file of logits,
    or where ``imbalance_factor`` is another one than the run's; with at most 110, its own largest.
    """
    check_name(profile.backbones[0])
    protocol = profile.protocols[0]
    config = computed_as(profile.config(profile.backbones[0], loss, "longtailed", profile.seeds[0], protocol))
    record = load_record(config)
    if record and record.status == "done" and logits_path(config).exists() and protocol.imbalance_factor == imbalance_factor:
        stored = load_file(logits_path(config))
        counts = longtailed_counts(protocol, dataset_size(config.dataset).num_classes)
        source = f"{backbone_title(config.backbone)} trained with {loss} on long-tailed {config.dataset} ({profile.name}, {protocol.name})"
        return Epoch(stored[base_set(stored)].double(), stored["labels"], counts, groups("thesis", counts), source)
    data = small_data(min(imbalance_factor, DATASETS["digits"].train_per_class))
    return train_small(build_loss(loss, data.counts), data, head="cosine" if loss == "ldam" else "linear").epoch


def class_gradients(loss: Loss, epoch: Epoch) -> pd.DataFrame:
    """The gradient that each class's logit receives in an epoch, as the label and as a negative.

    One row per class c, columns: count n_c; group; label, the sum of |dL_i/dz_ic| over images i of the class (they pull z_c up);
    negative, the same sum over all other images (they push z_c down). L_i is image i's share of N times the mean loss, so losses
    are compared as they train: with ``normalize="weights"`` divided by the mean weight of an image.
    """
    z = epoch.logits.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    (gradient,) = torch.autograd.grad(loss.train()(z, epoch.labels, reduction="none", generator=generator).sum(), z)
    counts = torch.as_tensor(epoch.counts, dtype=torch.float64)
    images = (counts / epoch.labels.bincount(minlength=len(counts)))[epoch.labels]  # training images that a row stands for
    if loss.weights is not None and loss.normalize == "weights":
        images = images * images.sum() / (images * loss.weights[epoch.labels]).sum()
    received = gradient.abs() * images[:, None]
    own = torch.nn.functional.one_hot(epoch.labels, len(counts)).bool()
    group = pd.Series(index=range(len(counts)), dtype=object)
    for name, ids in epoch.groups.items():
        group[ids] = name
    up, down = received.where(own, 0).sum(0), received.where(~own, 0).sum(0)
    return pd.DataFrame({"count": epoch.counts, "group": group, "label": up, "negative": down})


# -------------------------------------------------------------------------------------- a small model


@dataclass(frozen=True)
class SmallData:
    """Digits-LT for a linear model: x (N, 160) and test_x (5000, 160) float32, labels, counts (C,), groups."""

    x: Tensor
    labels: Tensor
    test_x: Tensor
    test_labels: Tensor
    counts: np.ndarray
    groups: dict[str, np.ndarray]

    def resampled(self, seed: int = 0) -> SmallData:
        """The same number of images drawn with replacement, every class with the same probability."""
        drawn = torch.multinomial((1 / torch.as_tensor(self.counts))[self.labels], len(self.labels), replacement=True,
                                  generator=torch.Generator().manual_seed(seed))
        return SmallData(self.x[drawn], self.labels[drawn], self.test_x, self.test_labels, self.counts, self.groups)


@dataclass(frozen=True)
class SmallModel:
    """A trained linear model: its head, the curve of its training, its outputs on the test and on its training images."""

    head: torch.nn.Module
    curve: list[dict]
    epoch: Epoch
    training: Epoch

    def accuracy(self, shift: np.ndarray | float = 0) -> dict[str, float]:
        """Balanced test accuracy of argmax(z + shift), 0 to 1: head, middle, tail, all."""
        hits = ((self.epoch.logits + torch.as_tensor(shift)).argmax(1) == self.epoch.labels).numpy()
        labels = self.epoch.labels.numpy()
        return {name: float(hits[np.isin(labels, ids)].mean()) for name, ids in self.epoch.groups.items()} | {"all": float(hits.mean())}


def small_data(imbalance_factor: float = 100) -> SmallData:
    """Digits-LT: pairs of handwritten digits cut by the law of CIFAR100-LT, n_0 = 110, as 160 numbers per image.

    1 <= imbalance_factor <= 110. Each image is made grey, cropped to the rows of its digits, averaged over 2 x 2 pixels and brought
    to mean 0 and deviation 1; then every feature, by the training images. Groups: thirds of the classes.
    """
    largest = DATASETS["digits"].train_per_class
    if not (isinstance(imbalance_factor, numbers.Real) and 1 <= imbalance_factor <= largest):
        raise ConfigError(f"imbalance_factor = {imbalance_factor!r}: expected a number from 1 to {largest} (images of the largest class)")
    x, labels, test_x, test_labels = _digit_features()
    counts = class_counts(100, largest, imbalance_factor)
    rows = select(labels, counts)
    mean, std = x[rows].mean(0), x[rows].std(0) + 1e-6
    tensors = [(x[rows] - mean) / std, labels[rows], (test_x - mean) / std, test_labels]
    return SmallData(*map(torch.tensor, tensors), counts, groups("thesis", counts))


@functools.cache
def _digit_features() -> tuple[np.ndarray, ...]:
    data = load_dataset("digits")

    def grey(images):
        x = images[:, 6:26].mean(-1, dtype=np.float32)  # digits stand in rows 8 to 23, give or take one
        x = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
        return x.reshape(len(x), 10, 2, 16, 2).mean((2, 4)).reshape(len(x), -1)

    return grey(data.train_images), data.train_labels, grey(data.test_images), data.test_labels


def train_small(loss: Loss, data: SmallData, *, head: str = "linear", epochs: int = 30, seed: int = 0,
                drw: float | None = None) -> SmallModel:
    """Train a linear (or cosine) model of Digits-LT: AdamW, rate 5e-3 falling by a cosine, batches of 128; a fraction of a second.

    The recipe was fixed beforehand and is the same for every loss. ``drw``: the fraction of the epochs from which on the loss uses
    class-balanced weights (beta 0.9999).
    """
    if epochs < 1:
        raise ConfigError(f"epochs = {epochs}: expected at least 1")
    if drw is not None and not 0 <= round(drw * epochs) < epochs:
        raise ConfigError(f"drw = {drw}: expected a fraction that leaves some of the {epochs} epochs, 0 <= drw < 1")
    recipe = Recipe(epochs=epochs, batch_size=128, optimizer="adamw", lr=5e-3, weight_decay=0.01, resolution=32)
    with reproducible(seed):
        model = build_head(head, data.x.shape[1], len(data.counts))
        curve, _ = fit(model, loss, FeatureBatches(data.x, data.labels, recipe.batch_size), recipe, seed,
                       drw_epoch=None if drw is None else round(drw * epochs), drw_weights=class_balanced_weights(data.counts, DRW_BETA))
        logits, train_logits = (predict(model, FeatureBatches(*part, 1000)).double()
                                for part in ((data.test_x, data.test_labels), (data.x, data.labels)))
    images = f"{data.counts[0]} to {data.counts[-1]} images per class"
    source = f"a linear model of Digits-LT ({images}), trained here with {type(loss).__name__}"
    return SmallModel(model, curve, Epoch(logits, data.test_labels, data.counts, data.groups, source),
                      Epoch(train_logits, data.labels, data.counts, data.groups, source))


def over_seeds(make_loss: Callable[[], Loss], data: SmallData, *, seeds=range(3), **options) -> pd.DataFrame:
    """:func:`train_small` with a fresh loss for each seed: balanced test accuracy, one row per seed, columns head, middle, tail, all."""
    return pd.DataFrame([train_small(make_loss(), data, seed=seed, **options).accuracy() for seed in seeds])
