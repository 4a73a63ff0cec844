"""The example that notebooks 02 to 09 share: long-tailed points in the plane, and what a linear
model makes of them with each loss."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from torch import Tensor, nn

from ltlib.longtail import class_counts, groups
from ltlib.losses import Loss
from ltlib.models import build_head
from ltlib.report.figures import TEXT_WIDTH
from ltlib.training import reproducible

CLASSES, RADIUS = 6, 2.6
COLORS = ("#08519c", "#6baed6", "#238b45", "#a1d99b", "#a50f15", "#fc9272")  # head, middle, tail
LIMIT, STEPS = 5.5, 400


@dataclass(frozen=True)
class Plane:
    """Six classes around a circle, each normal with deviation 1: x (N, 2), labels (N,), counts
    (6,), 500 to 5; equal: as many training points of equal counts, x and labels; test_x and
    test_labels: 1,000 points of each class; centres (6, 2); groups."""

    x: Tensor
    labels: Tensor
    equal: tuple[Tensor, Tensor]
    test_x: Tensor
    test_labels: Tensor
    counts: np.ndarray
    centres: np.ndarray
    groups: dict[str, np.ndarray]


@functools.cache
def plane() -> Plane:
    """The points, always the same ones. Head and tail alternate around the circle, so that every
    class of the tail has one of the head beside it."""
    counts, rng = class_counts(CLASSES, 500, 100), np.random.default_rng(0)
    places = np.array([0, 2, 4, 1, 3, 5]) * 2 * np.pi / CLASSES
    centres = RADIUS * np.column_stack([np.cos(places), np.sin(places)])

    def draw(images: np.ndarray) -> tuple[Tensor, Tensor]:
        labels = np.repeat(np.arange(CLASSES), images)
        x = centres[labels] + rng.normal(size=(len(labels), 2))
        return torch.tensor(x, dtype=torch.float32), torch.tensor(labels)

    train, test = draw(counts), draw(np.full(CLASSES, 1000))
    equal = draw(np.full(CLASSES, counts.sum() // CLASSES))
    return Plane(*train, equal, *test, counts, centres, groups("thesis", counts))


def fit_plane(loss: Loss, head: str = "linear", balanced: bool = False) -> nn.Module:
    """A linear model of the plane, (B, 3) -> (B, 6), for points (x, y, 1): 400 steps of Adam with
    all training points, or with those of equal counts (``balanced``)."""
    data, generator = plane(), torch.Generator().manual_seed(0)
    x, labels = data.equal if balanced else (data.x, data.labels)
    with reproducible(0):
        model = build_head(head, 3, CLASSES)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss.train()(model(_with_one(x)), labels, generator=generator).backward()
            optimizer.step()
    return model.eval()


def accuracy_by_group(model: nn.Module) -> dict[str, float]:
    """Of a model of :func:`fit_plane`: accuracy on the balanced test points, head, middle, tail and
    all."""
    data = plane()
    with torch.inference_mode():
        hits = (model(_with_one(data.test_x)).argmax(1) == data.test_labels).double()
    found = {
        name: hits[torch.isin(data.test_labels, torch.as_tensor(ids))].mean().item()
        for name, ids in data.groups.items()
    }
    return found | {"all": hits.mean().item()}


def regions_figure(models: dict[str, nn.Module], columns: int = 4) -> matplotlib.figure.Figure:
    """Which class each model predicts where, a panel for each; points: training images, black
    lines: the boundaries that are best on a balanced test."""
    rows = -(-len(models) // columns)
    size = (TEXT_WIDTH, 0.25 + rows * TEXT_WIDTH / columns * 1.15)
    shape = {"figsize": size, "sharex": True, "sharey": True, "squeeze": False}
    figure, axes = plt.subplots(rows, columns, **shape)
    for ax in axes.flat[len(models) :]:
        ax.axis("off")
    for ax, (title, model) in zip(axes.flat, models.items(), strict=False):
        _regions(ax, model)
        by_group = accuracy_by_group(model)
        shares = " / ".join(f"{100 * by_group[name]:.0f}" for name in ("head", "middle", "tail"))
        ax.set_title(f"{title}\n{shares}", fontsize=8)
    return figure


def _regions(ax: matplotlib.axes.Axes, model: nn.Module) -> None:
    data, line = plane(), np.linspace(-LIMIT, LIMIT, 221)
    grid = np.stack(np.meshgrid(line, line), -1)  # (221, 221, 2)
    flat = torch.tensor(grid.reshape(-1, 2), dtype=torch.float32)
    with torch.inference_mode():
        said = model(_with_one(flat)).argmax(1).numpy().reshape(grid.shape[:2])
    best = np.linalg.norm(grid[:, :, None] - data.centres, axis=-1).argmin(-1)
    colors = ListedColormap(COLORS)
    extent = (-LIMIT, LIMIT, -LIMIT, LIMIT)
    ax.imshow(said, cmap=colors, vmin=0, vmax=5, origin="lower", extent=extent, alpha=0.45)
    for c in range(CLASSES):
        ax.contour(line, line, best == c, levels=[0.5], colors="black", linewidths=0.6)
    points = data.x.numpy()
    ax.scatter(*points.T, s=2.5, c=data.labels.numpy(), cmap=colors, vmin=0, vmax=5, linewidths=0)
    ax.set(xlim=(-LIMIT, LIMIT), ylim=(-LIMIT, LIMIT), xticks=[], yticks=[])
    ax.grid(visible=False)


def _with_one(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones(len(x), 1)], 1)
