"""Classes and images of each data set: what a profile can be checked against before anything is
loaded."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ltlib.errors import ConfigError, require_one_of
from ltlib.files import imported_dir


@dataclass(frozen=True)
class DatasetSize:
    """Classes of a data set, and images of each class in its training and its test part.

    An imported data set (:mod:`workbook.photographs`) has ``counts`` too, the training images of
    each class; the two numbers are then the largest of any class, and so is ``val_per_class``,
    whose images its training part holds beside those of ``counts``.
    """

    num_classes: int
    train_per_class: int
    test_per_class: int
    counts: tuple[int, ...] = ()
    val_per_class: int = 0


DATASETS = {
    "cifar100": DatasetSize(100, 500, 100),
    "digits": DatasetSize(100, 110, 50),
    "cifar10": DatasetSize(10, 5000, 1000),
    "fashion_mnist": DatasetSize(10, 6000, 1000),
    # the smallest class: the others have more, of which no protocol takes any
    "mnist": DatasetSize(10, 5421, 892),
    "svhn": DatasetSize(10, 4659, 1595),
}


ONE_VS_REST = re.compile(r"(cifar10|cifar100)_class(0|[1-9][0-9]?)")


def dataset_size(name: str) -> DatasetSize:
    """The size of a data set, built in or imported. Raises ConfigError for an unknown one: it names
    those that exist."""
    if name in DATASETS:
        return DATASETS[name]
    if (task := ONE_VS_REST.fullmatch(str(name))) and int(task[2]) < (
        whole := DATASETS[task[1]]
    ).num_classes:
        rest = whole.num_classes - 1
        return DatasetSize(
            2,
            rest * whole.train_per_class,
            rest * whole.test_per_class,
            (rest * whole.train_per_class, whole.train_per_class),
        )
    found = sorted(path.stem for path in imported_dir().glob("*.json"))
    if name in found:
        return _imported_size(imported_dir() / f"{name}.json")
    if re.fullmatch(r".+-[0-9a-f]{10}", str(name)):
        raise ConfigError(
            f"dataset = {name!r}: expected one of {', '.join([*DATASETS, *found])}. So imported"
            f" photographs are called, and {imported_dir()} does not hold these: import them again"
            " (notebook 16), or let LTLIB_OUT name the folder where that was done."
        )
    require_one_of(
        "dataset", name, [*DATASETS, "cifar10_class<0 to 9>", "cifar100_class<0 to 99>", *found]
    )


@functools.cache
def _imported_size(path: Path) -> DatasetSize:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        train, val, test = (tuple(map(int, about[key])) for key in ("train", "val", "test"))
        return DatasetSize(
            len(train), max(map(sum, zip(train, val, strict=True))), max(test), train, max(val)
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(
            f"{path}: expected what an import wrote there, and it cannot be read ({error}). Remove"
            " the file and import the photographs again (notebook 16)."
        ) from None
