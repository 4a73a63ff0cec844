"""The look of all figures."""

from __future__ import annotations

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

TEXT_WIDTH = 6.3  # inches: A4 with margins of 2.5 cm
GROUP_COLORS = {"head": "#3b6fb6", "middle": "#e0a030", "tail": "#b5403a"}
_STYLE = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "pdf.fonttype": 42,
    "figure.dpi": 120,
    "axes.grid": True,
    "grid.linewidth": 0.5,
    "figure.constrained_layout.use": True,
}


def set_style() -> None:
    """One look for all figures: for print at text width, fonts embedded, legible at 8 points."""
    import seaborn as sns

    sns.set_theme(style="whitegrid", context="paper", palette="colorblind", rc=_STYLE)


def plain_log(axis: matplotlib.axis.Axis) -> None:
    """Ticks at 1, 2, 5, 10, ... of a logarithmic axis, written as plain numbers."""
    low, high = axis.get_view_interval()
    subs = (1, 2, 5) if high < 1e4 * low else (1,)
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def panels(
    count: int, height: float, more: float, **options
) -> tuple[matplotlib.figure.Figure, np.ndarray]:
    """A figure of text width with ``count`` panels, two in a row, and its axes (count,).

    height: inches of a row; more: inches for legend and titles. options go to ``plt.subplots``.
    """
    rows, columns = -(-max(count, 1) // 2), min(2, max(count, 1))
    size = (TEXT_WIDTH, height * rows + more)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, **options)
    for unused in axes.flat[count:]:
        unused.axis("off")
    for last in axes.flat[max(0, count - columns) : count]:  # also above a panel that is off
        last.tick_params(labelbottom=True)
    return figure, axes.flat[:count]
