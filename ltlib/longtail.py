"""Long-tailed class counts, the selection of images, evaluation splits, head/middle/tail groups."""

from __future__ import annotations

import numbers

import numpy as np

from ltlib.errors import ConfigError

GROUPS = ("head", "middle", "tail")


def class_counts(
    num_classes: int = 100,
    max_count: int = 500,
    imbalance_factor: float = 100,
    minimum: int | None = None,
) -> np.ndarray:
    """Images per class of an exponential long tail, n_c = int(max_count * IF^(-c / (C - 1))).

    Arguments
        num_classes       C >= 1
        max_count         n_0, images of the most frequent class
        imbalance_factor  IF = n_0 / n_(C-1) >= 1; 1 gives equal counts
        minimum           raise smaller counts to this (the thesis's test set uses 1); None refuses
                          counts below 1
    Returns (C,) int64, not increasing. The defaults give CIFAR100-LT: 10,847 images.
    Raises ConfigError for IF < 1, C < 1, or counts below 1 (it names the classes).
    Source: Cao et al. 2019 (LDAM-DRW), ``get_img_num_per_cls``; Cui et al. 2019.
    """
    _check_arguments(num_classes, max_count, imbalance_factor)
    # the official order of operations, so that int() cuts at the same places
    ratio = 1 / imbalance_factor
    counts = np.array(
        [int(max_count * ratio ** (c / max(num_classes - 1, 1))) for c in range(num_classes)],
        dtype=np.int64,
    )
    if minimum is not None:
        counts = np.maximum(counts, minimum)
    try:
        check_counts(counts)
    except ConfigError as error:
        raise ConfigError(
            f"imbalance_factor = {imbalance_factor!r}, max_count = {max_count}: {error}"
        ) from None
    return counts


def _check_arguments(num_classes: int, max_count: int, imbalance_factor: float) -> None:
    if num_classes < 1 or max_count < 1:
        raise ConfigError(
            f"num_classes = {num_classes}, max_count = {max_count}: expected at least 1 of each"
        )
    if not (
        isinstance(imbalance_factor, numbers.Real)
        and np.isfinite(imbalance_factor)
        and imbalance_factor >= 1
    ):
        raise ConfigError(
            f"imbalance_factor = {imbalance_factor!r}: expected a number >= 1 (1 is balanced, 100"
            " is CIFAR100-LT)"
        )


def step_counts(num_classes: int, max_count: int, imbalance_factor: float) -> np.ndarray:
    """Images per class of a step: odd classes max_count, even ones int(max_count / IF), at least 1.
    Returns (C,) int64.

    Raises ConfigError for IF < 1 or C < 1. Source: Buda et al. 2018, with the even classes as
    minorities, as in PF-loss (Du et al. 2021) and ARConvL (Li et al. 2023).
    """
    _check_arguments(num_classes, max_count, imbalance_factor)
    few = max(1, int(max_count / imbalance_factor))
    return np.where(np.arange(num_classes) % 2 == 0, few, max_count).astype(np.int64)


def check_counts(counts: np.ndarray) -> None:
    """Raise ConfigError if a class has less than one image: log n and n^(-1/4) need n >= 1."""
    empty = np.flatnonzero(np.asarray(counts) < 1)
    if len(empty):
        raise ConfigError(
            f"classes {', '.join(map(str, empty[:10]))}{' ...' if len(empty) > 10 else ''} would"
            " have fewer than 1 image: expected at least 1 in every class. Lower imbalance_factor"
            " or raise max_count."
        )


def shuffled_by_class(labels: np.ndarray, seed: int) -> list[np.ndarray]:
    """Indices of each class in random order: one ``RandomState(seed)``, class by class, as LDAM-DRW
    does it.

    labels (N,) -> list of C index arrays. The first n of each are the images that LDAM-DRW keeps.
    """
    random = np.random.RandomState(seed)
    order = []
    for label in np.unique(labels):
        index = np.flatnonzero(labels == label)
        random.shuffle(index)
        order.append(index)
    return order


def select(labels: np.ndarray, counts: np.ndarray, seed: int = 0) -> np.ndarray:
    """Indices of ``counts[c]`` images of each class c, class by class. Raises ConfigError if a
    class has fewer."""
    order = shuffled_by_class(labels, seed)
    if len(order) != len(counts):
        raise ConfigError(
            f"counts for {len(counts)} classes, but the labels hold {len(order)} classes"
        )
    for label, (index, count) in enumerate(zip(order, counts, strict=True)):
        if count > len(index):
            raise ConfigError(
                f"class {label}: {count} images asked for, but there are {len(index)}; lower"
                " max_count"
            )
    return np.concatenate([index[:count] for index, count in zip(order, counts, strict=True)])


def groups(kind: str, class_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Class ids of head, middle and tail.

    kind "thesis": thirds of the classes by falling count, the tail taking the rest (33, 33 and 34
    of 100; with falling counts the ids 0-32, 33-65, 66-99). kind "survey": more than 100, 20 to
    100, fewer than 20 training images (35, 35 and 30 classes of CIFAR100-LT at IF 100); a group can
    be empty. kind "step": head, the classes with the most images; tail, all others; no middle.
    """
    counts = np.asarray(class_counts)
    if kind == "thesis":
        by_count = np.argsort(-counts, kind="stable")
        third = len(counts) // 3
        parts = (by_count[:third], by_count[third : 2 * third], by_count[2 * third :])
    elif kind == "survey":
        parts = (
            np.flatnonzero(counts > 100),
            np.flatnonzero((counts >= 20) & (counts <= 100)),
            np.flatnonzero(counts < 20),
        )
    elif kind == "step":
        parts = (
            np.flatnonzero(counts == counts.max()),
            np.arange(0),
            np.flatnonzero(counts < counts.max()),
        )
    else:
        raise ConfigError(f"groups {kind!r}: expected 'thesis', 'survey' or 'step'")
    return {name: np.sort(part) for name, part in zip(GROUPS, parts, strict=True)}
