"""What notebooks 17 to 19 share, on PF-loss, ARConvL and GBG: batches, small trainings, gains."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy
import torch
from torch import Tensor
from torch.nn import Module

from ltlib.batches import FeatureBatches
from ltlib.losses import Loss
from ltlib.metrics import mean_interval
from ltlib.models import backbone_title
from ltlib.protocol import Protocol
from ltlib.recipe import Recipe
from ltlib.report.figures import GROUP_COLORS, TEXT_WIDTH
from ltlib.report.tables import Gain, number
from ltlib.runs.profiles import Profile
from ltlib.runs.records import load_records
from ltlib.training import fit, reproducible

FINDINGS = ("as claimed", "against the claim", "undecided")

PF_METHODS = {  # the methods of Du et al. 2021 as losses of ltlib: name, options
    "softmax": ("softmax", {}),
    "wce": ("weighted_softmax", {"weighting": "inverse"}),
    "focal": ("focal", {}),
    "focal_alpha": ("focal", {"weighting": "inverse"}),
    "ldam": ("ldam", {}),
    "wldam": ("ldam", {"weighting": "inverse"}),
    "pf": ("pf", {}),
    "pfh": ("pf", {"hard": True}),
}


def absence(counts, size: int) -> np.ndarray:
    """The probability that each class is absent from a batch of ``size`` images, (M,).

    Hypergeometric, for counts (M,) of training images: an epoch draws without replacement.
    """
    counts = np.asarray(counts)
    return scipy.stats.hypergeom.pmf(0, counts.sum(), counts, min(size, counts.sum()))


def batch_counts(counts, size: int, epochs: int = 3) -> np.ndarray:
    """How many images of each class the batches of some epochs hold, as training draws them.

    counts (M,) -> (batches, M).
    """
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.as_tensor(counts))
    batches = FeatureBatches(torch.zeros(len(labels), 1), labels, size)
    drawn = (held for epoch in range(epochs) for _, held in batches.epoch(0, epoch))
    return np.array([held.bincount(minlength=len(counts)).numpy() for held in drawn])


@functools.cache
def scikit_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 handwritten digits: x (N, 64), 0 to 1, and labels (N,)."""
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(labels)


def trained(
    network: Callable[[], Module],
    loss: Loss,
    x: Tensor,
    labels: Tensor,
    recipe: Recipe,
    seed: int,
    validate: Callable[[Module], dict] | None = None,
) -> tuple[Module, list[dict]]:
    """A network trained on rows of features: the model and the curve of its training.

    network: makes it, with the random numbers of ``seed``. validate: looks at it after every epoch.
    """
    with reproducible(seed):
        model = network()
        batches = FeatureBatches(x, labels, recipe.batch_size)
        curve, _ = fit(model, loss, batches, recipe, seed, validate=validate)
    return model, curve


def percent_table(results: dict[str, pd.DataFrame], title=str) -> pd.DataFrame:
    """A row for each method, a column for each score: percent, mean ± half the 95 % t interval.

    results: of each method a table of fractions with a row per seed; title: what rows are called.
    """
    rows = {}
    for method, found in results.items():
        rows[title(method)] = {name: number(*mean_interval(found[name])) for name in found}
    return pd.DataFrame(rows).T


def error_line(ax: matplotlib.axes.Axes, x, values: Iterable[pd.Series], **style) -> None:
    """Draw means over seeds in percent with half their 95 % t intervals.

    values: the fractions by seed at each x.
    """
    means, halves = zip(*(mean_interval(100 * found) for found in values), strict=True)
    ax.errorbar(x, means, halves, **style)


def runs_note(profile: Profile, records: pd.DataFrame) -> str:
    """The note under a table on a profile's runs: "Ours: 54 of 72 runs, 15 epochs, seeds ..."."""
    own = records[records["profile"] == profile.name]
    seeds = ", ".join(map(str, sorted(own["seed"].unique())))
    counted = f"Ours: {own['run_id'].nunique()} of {len(profile.configs())} runs"
    return f"{counted}, {profile.recipe.epochs} epochs" + (f", seeds {seeds}." if seeds else ".")


def tally(findings: pd.Series, words: Iterable[str] = FINDINGS) -> str:
    """The findings of :func:`ltlib.report.published.compare` in words, with the rivals of each.

    "2 as claimed (WCE, Focal); 1 undecided (LDAM)", "" where there are no runs.
    """
    of = {word: list(findings.index[findings == word]) for word in words}
    return "; ".join(f"{len(them)} {word} ({', '.join(them)})" for word, them in of.items() if them)


def beside(profile: Profile, losses: Iterable[str]) -> tuple[Profile, pd.DataFrame]:
    """A profile narrowed to those of these losses that it has, and its long-tailed results."""
    own = tuple(loss for loss in losses if loss in profile.losses)
    narrow = dataclasses.replace(profile, losses=own)
    records = load_records(narrow)
    return narrow, records[records["train_set"] == "longtailed"]


def gains_by_group(
    profile: Profile, records: pd.DataFrame, protocol: Protocol, sets: dict[str, str], method: str
) -> Iterator[str]:
    """Sentences: what a method gains over the profile's other losses in each group of classes.

    sets: of :func:`ltlib.report.grids.group_sets`.
    """
    last = records.query("metric == 'acc1' and epoch_choice == 'last'")
    last = last[last["protocol"] == protocol.name]
    for backbone, group in itertools.product(profile.backbones, sets):
        rows = last[(last["backbone"] == backbone) & (last["eval_set"] == sets[group])]
        found = rows.pivot_table(index="seed", columns="loss", values="value")
        if method not in found:  # a step has no middle, for instance
            continue
        parts = []
        for rival in profile.losses:
            if rival in found and rival != method:
                gain = Gain.of(found[method], found[rival])
                parts.append(f"{gain} against {profile.loss_title(rival)}")
        what = f"{backbone_title(backbone)}, {protocol.name}, {group}"
        yield f"{what}: {profile.loss_title(method)} {', '.join(parts) or 'has no partner yet'}"


def effective_prior(entry: dict, counts, ce: str = "plain", within: str = "images") -> np.ndarray:
    """What prior GBG's loss leaves in the predictions, scaled to the sum 1, (C,).

    The share of a class in the gradient is w_k n_c / N_k; where the ``within`` of the loss is
    "classes", w_k / C_k, but for batches that miss a class. A "balanced" cross-entropy ``ce`` takes
    n_c out of it again.
    entry: of a curve, with group_of (C,) and group_weights (K,). counts: training images n (C,).
    """
    group_of, counts = np.asarray(entry["group_of"]), np.asarray(counts, float)
    weights = np.asarray(entry["group_weights"])[group_of]
    size = counts if within == "images" else np.ones_like(counts)
    share = weights * size / np.bincount(group_of, size)[group_of]
    prior = share / counts if ce == "balanced" else share
    return prior / prior.sum()


def seesaw(curve: list[dict]) -> tuple[float, float]:
    """Do head and tail change in opposite directions from one epoch to the next?

    Of a curve with val_head and val_tail: the share of the epochs with opposite changes (of those
    in which both change), and the correlation of the changes; nan with fewer than three.
    """
    groups = ("val_head", "val_tail")
    rows = np.array([[entry.get(name, np.nan) for name in groups] for entry in curve])
    change = np.diff(rows, axis=0)
    moved = change[np.isfinite(change).all(1) & (change != 0).all(1)]
    if len(moved) < 3:
        return np.nan, np.nan
    return float((moved.prod(1) < 0).mean()), float(np.corrcoef(moved.T)[0, 1])


def seesaw_row(curves: Iterable[list[dict]]) -> dict[str, str]:
    """:func:`seesaw` of several seeds: mean ± half the 95 % t interval, as a row of a table."""
    found = np.array([seesaw(curve) for curve in curves]).reshape(-1, 2)
    row = {}
    titles = {"Opposite changes (%)": (100, 0), "Correlation": (1, 2)}
    for (title, (scale, digits)), column in zip(titles.items(), found.T, strict=True):
        known = column[np.isfinite(column)]
        interval = mean_interval(known) if len(known) else (np.nan, np.nan)
        row[title] = number(*interval, scale=scale, digits=digits)
    return row


def seesaw_figure(panels: dict[str, list[dict]]) -> matplotlib.figure.Figure:
    """The accuracy of head, middle and tail over the epochs: a panel for each curve."""
    shape = {"figsize": (TEXT_WIDTH, 2.4), "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(1, len(panels), **shape)
    for ax, (name, curve) in zip(axes[0], panels.items(), strict=True):
        for group, style in (("head", "-"), ("middle", ":"), ("tail", "--")):
            line = [100 * entry.get(f"val_{group}", np.nan) for entry in curve]
            ax.plot(np.arange(len(curve)) + 1, line, style, color=GROUP_COLORS[group], label=group)
        ax.set(title=name, xlabel="Epoch")
    axes[0, 0].set(ylabel="Accuracy (%)", ylim=(0, 100))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
