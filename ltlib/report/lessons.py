"""What the notebooks on the losses share: gradients, what each class receives, a small model."""

from __future__ import annotations

import functools
import itertools
import numbers
import time
from collections.abc import Callable
from dataclasses import dataclass

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from ltlib.batches import FeatureBatches
from ltlib.data import load_dataset
from ltlib.data.sizes import DATASETS
from ltlib.errors import require, require_number, require_whole
from ltlib.longtail import class_counts, groups, select
from ltlib.losses import Loss, build_loss, class_balanced_weights
from ltlib.models import backbone_title, build_head, check_name
from ltlib.protocol import base_set
from ltlib.recipe import Recipe
from ltlib.registry import LOSS_NAMES, heads_of
from ltlib.report.figures import GROUP_COLORS, TEXT_WIDTH, plain_log
from ltlib.report.systems import percent_table
from ltlib.runs.profiles import Profile
from ltlib.runs.records import computed_as, load_record, logits_path
from ltlib.training import fit, predict, reproducible

PLAIN = "F.cross_entropy"
LARGEST = DATASETS["digits"].train_per_class  # images of the largest class of Digits-LT
_DRW_BETA = 0.9999  # of the class-balanced weights that deferred re-weighting turns on


def value_and_gradient(
    loss: Loss, logits: np.ndarray, labels: np.ndarray, **draw
) -> tuple[float, np.ndarray]:
    """A loss and its gradient by autograd, float64: logits (B, C), labels (B,) -> mean, (B, C)."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    value = loss(z, torch.as_tensor(labels), **draw)
    value.backward()
    return value.item(), z.grad.numpy()


def central_differences(
    function: Callable[[np.ndarray], float], z: np.ndarray, step: float = 1e-5
) -> np.ndarray:
    """(f(z + h e_k) - f(z - h e_k)) / 2h for every element k of z: the derivative, up to h^2."""
    result = np.empty(z.shape)
    for k in np.ndindex(z.shape):
        shift = np.zeros(z.shape)
        shift[k] = step
        result[k] = (function(z + shift) - function(z - shift)) / (2 * step)
    return result


@dataclass(frozen=True)
class Epoch:
    """A network's outputs on images that stand for an epoch of its long-tailed training set.

    logits (N, C) float64, labels (N,) int64, counts (C,) training images per class, groups: class
    ids of head, middle and tail, a third of the classes each. An image of class c stands for
    n_c / m_c training images, where m_c images of the class are there: with test images it is an
    epoch of images that the network has not memorised, with the training images the epoch itself.
    """

    logits: Tensor
    labels: Tensor
    counts: np.ndarray
    groups: dict[str, np.ndarray]
    source: str


def epoch_of_run(profile: Profile, loss: str, imbalance_factor: float) -> Epoch:
    """The stored test logits of the profile's first long-tailed run with this loss.

    A small model (:func:`train_small`, trained here and now) stands in where there is no finished
    run, no file of logits, or where ``imbalance_factor`` is another one than the run's; with at
    most 110, its own largest.
    """
    backbone, protocol = profile.backbones[0], profile.protocols[0]
    check_name(backbone)
    config = computed_as(profile.config(backbone, loss, "longtailed", profile.seeds[0], protocol))
    record, path = load_record(config), logits_path(config)
    done = record is not None and record.status == "done" and path.exists()
    if not done or protocol.imbalance_factor != imbalance_factor:
        data = small_data(min(imbalance_factor, LARGEST))
        return train_small(build_loss(loss, data.counts), data, head=heads_of(loss)[0]).epoch
    stored = load_file(path)
    counts = config.counts
    trained = f"{backbone_title(backbone)} trained with {loss} on long-tailed {config.dataset}"
    source = f"{trained} ({profile.name}, {protocol.name})"
    logits = stored[base_set(stored)].double()
    return Epoch(logits, stored["labels"], counts, groups("thesis", counts), source)


def class_gradients(loss: Loss, epoch: Epoch) -> pd.DataFrame:
    """The gradient that each class's logit receives in an epoch, as the label and as a negative.

    One row per class c, columns: count n_c; group; label, the sum of |dL_i/dz_ic| over images i of
    the class (they pull z_c up); negative, the same sum over all other images (they push z_c down).
    L_i is image i's share of N times the mean loss, so losses are compared as they train: with
    ``normalize="weights"`` divided by the mean weight of an image.
    """
    z, labels = epoch.logits.clone().requires_grad_(), epoch.labels
    generator = torch.Generator().manual_seed(0)
    total = loss.train()(z, labels, reduction="none", generator=generator).sum()
    (gradient,) = torch.autograd.grad(total, z)
    counts = torch.as_tensor(epoch.counts, dtype=torch.float64)
    # training images that a row stands for
    images = (counts / labels.bincount(minlength=len(counts)))[labels]
    if loss.weights is not None and loss.normalize == "weights":
        images = images * images.sum() / (images * loss.weights[labels]).sum()
    received = gradient.abs() * images[:, None]
    own = F.one_hot(labels, len(counts)).bool()
    group = pd.Series(index=range(len(counts)), dtype=object)
    for name, ids in epoch.groups.items():
        group[ids] = name
    up, down = received.where(own, 0).sum(0), received.where(~own, 0).sum(0)
    return pd.DataFrame({"count": epoch.counts, "group": group, "label": up, "negative": down})


def gradient_figure(tables: dict[str, pd.DataFrame]) -> matplotlib.figure.Figure:
    """What a class of each group receives in an epoch, on average: a line for each loss.

    tables: of :func:`class_gradients`.
    """
    figure, axes = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.7), sharey=True)
    titles = {"label": "As the label: pulled up", "negative": "As a negative: pushed down"}
    for ax, (kind, title) in zip(axes, titles.items(), strict=True):
        for marker, (name, table) in zip(itertools.cycle("osD^v"), tables.items(), strict=False):
            means = table.groupby("group")[kind].mean()
            shown = [group for group in GROUP_COLORS if group in means.index]
            ax.plot(shown, means[shown], marker=marker, label=name, markersize=5)
        ax.set(title=title, yscale="log", xlabel="Group of classes")
        plain_log(ax.yaxis)
        ax.margins(x=0.15)
    axes[0].set_ylabel("|gradient| per class\nand epoch, sum over images")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@dataclass(frozen=True)
class SmallData:
    """Digits-LT for a linear model: x (N, 160), test_x (5000, 160), labels, counts (C,), groups."""

    x: Tensor
    labels: Tensor
    test_x: Tensor
    test_labels: Tensor
    counts: np.ndarray
    groups: dict[str, np.ndarray]


class ResampledBatches(FeatureBatches):
    """Batches of images that every epoch draws anew, with replacement, as many as there are.

    An image of class c has a probability proportional to n_c^(power - 1), so the class has one
    proportional to n_c^power: power 0 is class-balanced sampling, 1/2 square-root sampling. Raises
    ConfigError unless power >= 0.
    Source: Kang et al. 2020, Decoupling Representation and Classifier for Long-Tailed Recognition.
    """

    def __init__(self, x: Tensor, labels: Tensor, batch_size: int, power: float):
        super().__init__(x, labels, batch_size)
        require_number("power", power, 0)
        self.chances = labels.bincount()[labels].double() ** (power - 1)

    def _order(self, generator: torch.Generator) -> Tensor:
        n = len(self.labels)
        return torch.multinomial(self.chances, n, replacement=True, generator=generator)


@dataclass(frozen=True)
class SmallModel:
    """A trained linear model: its head, the curve of its training, its outputs on both parts."""

    head: torch.nn.Module
    curve: list[dict]
    epoch: Epoch  # of the test images
    training: Epoch

    def accuracy(self, shift: np.ndarray | float = 0) -> dict[str, float]:
        """Balanced test accuracy of argmax(z + shift), 0 to 1: head, middle, tail, all."""
        said = (self.epoch.logits + torch.as_tensor(shift)).argmax(1)
        hits, labels = (said == self.epoch.labels).numpy(), self.epoch.labels.numpy()
        rows = {name: np.isin(labels, ids) for name, ids in self.epoch.groups.items()}
        by_group = {name: float(hits[of_group].mean()) for name, of_group in rows.items()}
        return by_group | {"all": float(hits.mean())}


def small_data(imbalance_factor: float = 100) -> SmallData:
    """Digits-LT: pairs of digits cut by the law of CIFAR100-LT, n_0 = 110, as 160 numbers each.

    1 <= imbalance_factor <= 110. Each image is made grey, cropped to the rows of its digits,
    averaged over 2 x 2 pixels and brought to mean 0 and deviation 1; then every feature, by the
    training images. Groups: thirds of the classes.
    """
    fits = isinstance(imbalance_factor, numbers.Real) and 1 <= imbalance_factor <= LARGEST
    expected = f"a number from 1 to {LARGEST} (images of the largest class)"
    require(fits, "imbalance_factor", imbalance_factor, expected)
    x, labels, test_x, test_labels = _digit_features()
    counts = class_counts(100, LARGEST, imbalance_factor)
    rows = select(labels, counts)
    mean, std = x[rows].mean(0), x[rows].std(0) + 1e-6
    tensors = [(x[rows] - mean) / std, labels[rows], (test_x - mean) / std, test_labels]
    return SmallData(*map(torch.tensor, tensors), counts, groups("thesis", counts))


def long_tails(
    profile: Profile, imbalance_factor: float | None
) -> tuple[float, np.ndarray, SmallData]:
    """The imbalance factor, None for that of the profile, and what has it: two long tails.

    The class counts of CIFAR100-LT, and Digits-LT (:func:`small_data`, at most 110) for quick
    experiments.
    """
    if imbalance_factor is None:
        imbalance_factor = profile.protocols[0].imbalance_factor
    counts = class_counts(100, 500, imbalance_factor)
    return imbalance_factor, counts, small_data(min(imbalance_factor, LARGEST))


@functools.cache
def _digit_features() -> tuple[np.ndarray, ...]:
    data = load_dataset("digits")

    def grey(images: np.ndarray) -> np.ndarray:
        # digits stand in rows 8 to 23, give or take one
        x = images[:, 6:26].mean(-1, dtype=np.float32)
        x = (x - x.mean((1, 2), keepdims=True)) / x.std((1, 2), keepdims=True)
        return x.reshape(len(x), 10, 2, 16, 2).mean((2, 4)).reshape(len(x), -1)

    return grey(data.train_images), data.train_labels, grey(data.test_images), data.test_labels


def train_small(
    loss: Loss,
    data: SmallData,
    *,
    head: str = "linear",
    epochs: int = 30,
    seed: int = 0,
    drw: float | None = None,
    sampling: float | None = None,
) -> SmallModel:
    """Train a linear (or cosine) model of Digits-LT: a fraction of a second.

    AdamW, rate 5e-3 falling by a cosine, batches of 128: fixed beforehand, the same for every loss.
    drw: the fraction of the epochs from which on the loss uses class-balanced weights (beta
    0.9999).
    sampling: the power of :class:`ResampledBatches`; None: every image once an epoch.
    """
    require(epochs >= 1, "epochs", epochs, "at least 1")
    deferred = None if drw is None else round(drw * epochs)
    some = f"a fraction that leaves some of the {epochs} epochs, 0 <= drw < 1"
    require(deferred is None or 0 <= deferred < epochs, "drw", drw, some)
    optimizer = {"optimizer": "adamw", "lr": 5e-3, "weight_decay": 0.01}
    recipe = Recipe(epochs=epochs, batch_size=128, resolution=32, **optimizer)
    batches = FeatureBatches(data.x, data.labels, recipe.batch_size)
    if sampling is not None:
        batches = ResampledBatches(data.x, data.labels, recipe.batch_size, sampling)
    how = {"drw_epoch": deferred, "drw_weights": class_balanced_weights(data.counts, _DRW_BETA)}
    images = f"{data.counts[0]} to {data.counts[-1]} images per class"
    source = f"a linear model of Digits-LT ({images}), trained here with {type(loss).__name__}"
    with reproducible(seed):
        model = build_head(head, data.x.shape[1], len(data.counts))
        curve, _ = fit(model, loss, batches, recipe, seed, **how)
        epochs_of = []
        for x, labels in ((data.test_x, data.test_labels), (data.x, data.labels)):
            logits = predict(model, FeatureBatches(x, labels, 1000)).double()
            epochs_of.append(Epoch(logits, labels, data.counts, data.groups, source))
    return SmallModel(model, curve, *epochs_of)


def over_seeds(
    make_loss: Callable[[], Loss], data: SmallData, seeds: int = 3, **options
) -> pd.DataFrame:
    """:func:`train_small` with a fresh loss for each seed: balanced test accuracy.

    One row per seed, 0 to ``seeds`` - 1 and at least two, columns head, middle, tail, all.
    """
    require_whole("seeds", seeds, 2)
    models = (train_small(make_loss(), data, seed=seed, **options) for seed in range(seeds))
    return pd.DataFrame([model.accuracy() for model in models])


def small_table(results: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """A row for each of :func:`over_seeds`.

    Accuracy in percent, mean ± half the 95 % t interval over seeds.
    """
    shown = {name: table.rename(columns=str.capitalize) for name, table in results.items()}
    return percent_table(shown)


def loss_times(shapes=((512, 100), (512, 8142)), seconds=8.0, device="cpu") -> pd.DataFrame:
    """Time of forward and backward of each loss, beside PyTorch's own cross-entropy.

    shapes: (batch, classes) pairs, as of CIFAR-100 and iNaturalist 2018; each is measured for about
    ``seconds``. Float32 logits in [-1, 1], so that ldam has its cosines. The losses take turns, and
    the best turn counts. A row for each loss, columns (shape, "ms") in milliseconds and (shape,
    "ratio").
    """
    result = {}
    for batch, classes in shapes:
        counts = class_counts(classes, 1000, 100)
        logits = (2 * torch.rand(batch, classes, device=device) - 1).requires_grad_()
        labels = torch.randint(classes, (batch,), device=device)

        def turn(loss, logits=logits, labels=labels):
            for _ in range(5):
                logits.grad = None
                loss(logits, labels).backward()

        losses = {name: build_loss(name, counts).to(device) for name in LOSS_NAMES}
        losses = {PLAIN: F.cross_entropy} | losses
        turns = {name: functools.partial(turn, loss) for name, loss in losses.items()}
        best = best_of_turns(turns, seconds, logits.device)
        title = f"({batch}, {classes:,})"
        result[title, "ms"] = {name: 1e3 * value / 5 for name, value in best.items()}
        result[title, "ratio"] = {name: value / best[PLAIN] for name, value in best.items()}
    return pd.DataFrame(result)


def best_of_turns(actions: dict[str, Callable], seconds: float, device) -> dict[str, float]:
    """Seconds that each action takes when nothing else interferes: the shortest of its turns.

    They take turns for about ``seconds`` after a first round, so that a busy moment of the machine
    strikes all of them.
    """
    best = dict.fromkeys(actions, float("inf"))
    for action in actions.values():
        action()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or float("inf") in best.values():
        for name, action in actions.items():
            _synchronize(device)
            start = time.perf_counter()
            action()
            _synchronize(device)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _synchronize(device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
