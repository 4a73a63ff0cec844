"""How training, validation and test sets are cut from a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np

from ltlib.checked import Count, Name, Positive, Several, bounds, checked, later
from ltlib.data import ImageData
from ltlib.data.sizes import DatasetSize
from ltlib.errors import require
from ltlib.longtail import GROUPS, class_counts, groups, select, shuffled_by_class, step_counts

TRAIN_SETS = ("balanced", "longtailed")


@checked
class Protocol:
    """How training, validation and test sets are cut from a data set.

    max_count         training images of the largest class in the long-tailed set (n_0)
    balanced_count    training images per class in the balanced set
    val_per_class     validation images per class, taken from the training images that were not
                      selected; a class that was selected whole has none
    test_per_class    test images per class of the balanced test set
    longtailed_test   whether there is a long-tailed test set too,
                      n_c = max(1, int(test_per_class IF^(-c/(C-1))))
    groups            "thesis" (thirds of the classes), "survey" (> 100, 20 to 100, < 20 training
                      images) or "step" (the classes with the most images, and all others: head and
                      tail, without a middle)
    imbalance_factor  n_0 / n_(C-1) of the long-tailed sets
    data_seed         seed of the selection; one for all training seeds, as in the literature
    counts            training images of each class of an imported data set, whose own training,
                      validation and test parts are used as they are; empty for the others, whose
                      sets are cut. The sizes above then say what follows from it (:meth:`natural`)
    imbalance         "exponential", or "step": even classes keep int(n / IF) of their n images, odd
                      ones all, in the long-tailed training set and in the long-tailed test set
    val_fraction      instead of val_per_class: this share of the selected training images of each
                      class validates, and is not trained on
    """

    name: Name
    max_count: Positive
    balanced_count: Positive
    val_per_class: Count
    test_per_class: Positive
    longtailed_test: bool
    groups: Literal["thesis", "survey", "step"]
    imbalance_factor: Annotated[float, bounds("at least 1", ge=1)] = 100.0
    data_seed: Annotated[int, bounds("0 to 4294967295", ge=0, lt=2**32)] = 0
    counts: Several[int] = later(())
    imbalance: Literal["exponential", "step"] = later("exponential")
    val_fraction: Annotated[float, bounds("0 <= val_fraction < 1", ge=0, lt=1)] = later(0.0)

    @staticmethod
    def natural(size: DatasetSize) -> dict:
        """The keys of the protocol of an imported data set, but for its name and groups."""
        largest, smallest = max(size.counts), min(size.counts)
        return {
            "max_count": largest,
            "balanced_count": smallest,
            "imbalance_factor": largest / smallest,
            "counts": list(size.counts),
            "val_per_class": size.val_per_class,
            "test_per_class": size.test_per_class,
            "longtailed_test": False,
        }

    def __post_init__(self):
        share, factor = self.val_fraction, self.imbalance_factor
        require(
            not share or not self.val_per_class, "val_fraction", share, "0, or val_per_class = 0"
        )
        if not self.counts:
            kept = int(self.max_count * (1 / factor))
            most = f"at most max_count = {self.max_count}, so that the rarest class keeps an image"
            require(kept >= 1, "imbalance_factor", factor, most)
            return
        require(not share, "val_fraction", share, "0: own class counts are used as they are")
        least = "at least one training image of every class"
        require(min(self.counts) >= 1, "counts", self.counts, least)
        own = max(self.counts) / min(self.counts)
        require(
            factor == own,
            "imbalance_factor",
            factor,
            f"{own:g}, that of the imported photographs: their own class counts are used as"
            " they are",
        )


def longtailed_counts(protocol: Protocol, num_classes: int) -> np.ndarray:
    """(C,) training counts of the protocol's long-tailed set; they define its groups for both
    training sets."""
    if protocol.counts:
        return np.array(protocol.counts, dtype=np.int64)
    if protocol.imbalance == "step":
        return step_counts(num_classes, protocol.max_count, protocol.imbalance_factor)
    return class_counts(num_classes, protocol.max_count, protocol.imbalance_factor)


def train_counts(protocol: Protocol, train_set: str, num_classes: int) -> np.ndarray:
    """(C,) training counts of the "balanced" or the "longtailed" training set, without the images
    that ``val_fraction`` takes."""
    counts = _selected_counts(protocol, train_set, num_classes)
    return counts - _held_out(protocol, counts)


def _selected_counts(protocol: Protocol, train_set: str, num_classes: int) -> np.ndarray:
    if train_set == "balanced":
        return np.full(num_classes, protocol.balanced_count, dtype=np.int64)
    return longtailed_counts(protocol, num_classes)


def _held_out(protocol: Protocol, counts: np.ndarray) -> np.ndarray:
    """Of each class, rounded; at least one image is left to train on."""
    return np.minimum(np.rint(protocol.val_fraction * counts).astype(np.int64), counts - 1)


def longtailed_test_counts(protocol: Protocol, num_classes: int) -> np.ndarray:
    """(C,) counts of the long-tailed test set, max(1, int(test_per_class IF^(-c / (C - 1)))), or
    those of a step."""
    if protocol.imbalance == "step":
        return step_counts(num_classes, protocol.test_per_class, protocol.imbalance_factor)
    return class_counts(num_classes, protocol.test_per_class, protocol.imbalance_factor, minimum=1)


@dataclass(frozen=True)
class Splits:
    """Index arrays into the training images (train, val) and the test images (tests, by evaluation
    set)."""

    train: np.ndarray
    val: np.ndarray
    tests: dict[str, np.ndarray]


def make_splits(data: ImageData, protocol: Protocol, train_set: str) -> Splits:
    """Cut the training, validation and evaluation sets of a protocol.

    train   the first n_c of each class in the shuffled order
    val     the last ``val_per_class`` of each class, as far as they are not in train: always
            training images, never test images. With pools larger than n_c (protocol "thesis") every
            class has its full number. With ``val_fraction``: that share of the n_c, the last of
            them, which are then not in train
    tests   "balanced", and "longtailed" where the protocol has it (a subset of "balanced").
            "longtailed" is cut into "head", "middle", "tail"; "balanced" into "balanced_head",
            "balanced_middle", "balanced_tail".

    A protocol with ``counts`` cuts nothing: train is the first sum(counts) of the training images,
    val the others, and the test images are one set: "balanced" where every class has the same
    number of them, otherwise "longtailed", cut as above.
    """
    splits = _natural if protocol.counts else _cut
    train, val, tests = splits(data, protocol, train_set)
    _cut_into_groups(tests, data, protocol)
    return Splits(train, val, tests)


def _natural(data: ImageData, protocol: Protocol, train_set: str):
    """The parts that an imported data set came with."""
    index, end = np.arange(len(data.train_labels)), sum(protocol.counts)
    images = np.bincount(data.test_labels, minlength=data.num_classes)
    name = "balanced" if len(set(images)) == 1 else "longtailed"
    return index[:end], index[end:], {name: np.arange(len(data.test_labels))}


def _cut(data: ImageData, protocol: Protocol, train_set: str):
    """Training, validation and whole test sets by the protocol's counts."""
    seed, classes = protocol.data_seed, data.num_classes
    order = shuffled_by_class(data.train_labels, seed)
    counts = train_counts(protocol, train_set, classes)
    if protocol.val_fraction:
        firsts, ends = counts, _selected_counts(protocol, train_set, classes)
    else:
        ends = np.array([len(index) for index in order])
        firsts = np.maximum(counts, ends - protocol.val_per_class)
    val = [index[a:b] for index, a, b in zip(order, firsts, ends, strict=True)]
    test_counts = {"balanced": np.full(classes, protocol.test_per_class)}
    if protocol.longtailed_test:
        test_counts["longtailed"] = longtailed_test_counts(protocol, classes)
    tests = {name: np.sort(select(data.test_labels, n, seed)) for name, n in test_counts.items()}
    return select(data.train_labels, counts, seed), np.concatenate(val), tests


def _cut_into_groups(tests: dict[str, np.ndarray], data: ImageData, protocol: Protocol) -> None:
    ids = groups(protocol.groups, longtailed_counts(protocol, data.num_classes))
    for base, prefix in (("longtailed", ""), ("balanced", "balanced_")):
        for name in GROUPS if base in tests else ():
            member = tests[base][np.isin(data.test_labels[tests[base]], ids[name])]
            if len(member):
                tests[prefix + name] = member


def base_set(names) -> str:
    """The evaluation set that holds all the others: "balanced" where it is among these names,
    otherwise "longtailed"."""
    return "balanced" if "balanced" in names else "longtailed"
