"""Every loss and method by its name: the one place that lists them.

A new loss is one file in ``ltlib/losses`` (or ``ltlib/methods``) and one entry here. Names, titles,
colours and heads are asked of this module, which loads no loss until one is built.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

HEADS = ("linear", "cosine", "scaled_cosine", "distance")


@dataclass(frozen=True)
class Entry:
    """What everything but the formula needs to know of a loss.

    name        in profiles and run ids; never changed once runs carry it
    where       "module:Class", imported when the loss is first built
    title       in tables and figures; short: where columns are narrow
    color       of its line in figures, "#rrggbb"
    marker      of its points in figures, as matplotlib names them; deferred_marker of its variant
    heads       those that its logits allow, the first one the default
    version     of the formula. A changed formula gets the next number, and so other run ids
    deferrable  whether ``<name>_drw``, its weights deferred to the last epochs, is a variant
    """

    name: str
    where: str
    title: str
    short: str
    color: str
    marker: str = "."
    heads: tuple[str, ...] = ("linear", "scaled_cosine", "distance")
    version: int = 1
    deferrable: bool = False
    deferred_marker: str = "."


def _by_name(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


# colours: seaborn's "colorblind" palette in its order, then darker shades of it
LOSSES = _by_name(
    Entry("softmax", "ltlib.losses.softmax:Softmax", "Softmax", "Soft", "#0173b2", "o"),
    Entry(
        "weighted_softmax",
        "ltlib.losses.weighted_softmax:WeightedSoftmax",
        "Weighted softmax",
        "Weight",
        "#de8f05",
        "s",
        deferrable=True,
        deferred_marker="2",
    ),
    Entry(
        "focal",
        "ltlib.losses.focal:Focal",
        "Focal",
        "Focal",
        "#029e73",
        "D",
        deferrable=True,
        deferred_marker="3",
    ),
    Entry(
        "class_balanced",
        "ltlib.losses.class_balanced:ClassBalanced",
        "Class-balanced",
        "CB",
        "#d55e00",
        "^",
        deferrable=True,
        deferred_marker="1",
    ),
    Entry(
        "balanced_softmax",
        "ltlib.losses.balanced_softmax:BalancedSoftmax",
        "Balanced softmax",
        "BalSoft",
        "#cc78bc",
        "v",
    ),
    Entry(
        "ldam",
        "ltlib.losses.ldam:LDAM",
        "LDAM",
        "LDAM",
        "#ca9161",
        "P",
        heads=("cosine",),
        deferrable=True,
        deferred_marker="H",
    ),
    Entry(
        "equalization",
        "ltlib.losses.equalization:Equalization",
        "Equalization",
        "EQL",
        "#fbafe4",
        "X",
    ),
)

METHODS = _by_name(
    Entry("pf", "ltlib.methods.pf:PF", "PF-loss", "PF", "#56b4e9", "*"),
    Entry(
        "gcpl", "ltlib.methods.distance:GCPL", "GCPL", "GCPL", "#7f7f00", "<", heads=("distance",)
    ),
    Entry(
        "affinity",
        "ltlib.methods.distance:Affinity",
        "Affinity",
        "Affinity",
        "#8c0800",
        ">",
        heads=("distance",),
    ),
    Entry(
        "arconvl",
        "ltlib.methods.arconvl:ARConvL",
        "ARConvL",
        "ARC",
        "#591e71",
        "h",
        heads=("distance",),
    ),
    Entry(
        "gbg", "ltlib.methods.gbg:GBG", "GBG", "GBG", "#12711c", "d", heads=("cosine",), version=2
    ),
)

ENTRIES = LOSSES | METHODS
LOSS_NAMES, METHOD_NAMES = tuple(LOSSES), tuple(METHODS)

DRW = "_drw"  # deferred re-weighting (Cao et al. 2019): a variant of a loss, not a loss
# of the softmax run
_ADJUSTED = {"logit_adjusted": ("Logit adjustment", "LA", "#949494", "p")}
VARIANTS = (*(e.name + DRW for e in ENTRIES.values() if e.deferrable), *_ADJUSTED)


def entry(name: str) -> Entry:
    """The entry of a loss or method. Raises KeyError for another name."""
    return ENTRIES[name]


def loss_class(name: str) -> type:
    """The class of a loss or method, a subclass of :class:`ltlib.losses.Loss`."""
    module, _, attribute = ENTRIES[name].where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def heads_of(name: str) -> tuple[str, ...]:
    """The heads that a loss or method can have, the default first."""
    return ENTRIES[name].heads


def version(name: str) -> int:
    """The version of a loss's formula: 1 at first."""
    return ENTRIES[name].version


def _base(name: str) -> Entry | None:
    return ENTRIES.get(name.removesuffix(DRW) if name in VARIANTS else name)


def title(name: str) -> str:
    """What tables and figures call a loss, method or variant; any other name is its own title."""
    if name in _ADJUSTED:
        return _ADJUSTED[name][0]
    if name == "ldam" + DRW:
        return "LDAM-DRW"  # the name that its authors gave it
    found = _base(name)
    if found is None:
        return name
    return found.title + (", DRW" if name in VARIANTS else "")


def short_title(name: str) -> str:
    """The title where columns are narrow; any other name is its own."""
    if name in _ADJUSTED:
        return _ADJUSTED[name][1]
    found = _base(name)
    return name if found is None else found.short + ("-D" if name in VARIANTS else "")


def color(name: str) -> str:
    """The colour of a loss or method, "#rrggbb"; a deferred variant has its loss's.

    Raises KeyError for another name: a profile has colours for what it names itself.
    """
    if name in _ADJUSTED:
        return _ADJUSTED[name][2]
    return ENTRIES[name.removesuffix(DRW) if name in VARIANTS else name].color


def marker(name: str) -> str:
    """The marker of a loss, method or variant, of its own. Raises KeyError for another name."""
    if name in _ADJUSTED:
        return _ADJUSTED[name][3]
    if name in VARIANTS:
        return ENTRIES[name.removesuffix(DRW)].deferred_marker
    return ENTRIES[name].marker
