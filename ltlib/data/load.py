"""Data sets by their names."""

from __future__ import annotations

import functools
import hashlib

import numpy as np

from ltlib.data.cifar import cifar10, cifar100
from ltlib.data.digits import stored_digit_pairs
from ltlib.data.images import ImageData, image_data, sha256
from ltlib.data.npz import load_npz
from ltlib.data.numerals import idx, svhn
from ltlib.data.sizes import DATASETS, ONE_VS_REST, dataset_size
from ltlib.errors import DataError
from ltlib.files import data_dir, imported_dir


@functools.cache
def load_dataset(name: str) -> ImageData:
    """Load a data set by its name. Raises ConfigError for an unknown one (it names those that
    exist), DataError if the data are not to be had."""
    dataset_size(name)
    if task := ONE_VS_REST.fullmatch(name):
        return _one_vs_rest(name, load_dataset(task[1]), int(task[2]))
    load = {
        "cifar100": cifar100,
        "digits": stored_digit_pairs,
        "fashion_mnist": functools.partial(idx, "fashion_mnist"),
        "mnist": functools.partial(idx, "mnist"),
        "cifar10": cifar10,
        "svhn": svhn,
    }
    if name in load:
        return load[name]()
    if name in DATASETS:
        return load_npz(name, data_dir() / f"{name}.npz")
    return _imported(name)


def _one_vs_rest(name: str, data: ImageData, positive: int) -> ImageData:
    """The binary task: 1 for one class, 0 for all others."""
    y_train, y_test = (
        (labels == positive).astype(np.uint8) for labels in (data.train_labels, data.test_labels)
    )
    names = ("rest", data.class_names[positive])
    origin = data.checksums["origin"]
    return image_data(name, data.train_images, y_train, data.test_images, y_test, names, origin)


IMPORTED = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "class_names")


def imported_name(name: str, arrays: dict[str, np.ndarray]) -> str:
    """What the imported data set of these arrays (``IMPORTED``) is called: "<name>-<hash of their
    content>"."""
    parts = [sha256(arrays[key]) for key in IMPORTED[:-1]]
    parts += [repr(str(class_name)) for class_name in arrays["class_names"]]
    return f"{name}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()[:10]}"


def _imported(name: str) -> ImageData:
    path = imported_dir() / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in IMPORTED}
        whole = imported_name(name.rpartition("-")[0], arrays) == name
        fault = "" if whole else "its content is not what its name says"
    except Exception as error:  # zipfile, NumPy, KeyError, OSError: all mean the same to the user
        fault = str(error)
    if fault:
        raise DataError(
            f"{path}: expected the images of {name}, and they cannot be read ({fault}). Remove the"
            " file and import the photographs again (notebook 16)."
        ) from None
    x_train, y_train = (
        np.concatenate([arrays[f"{kind}_train"], arrays[f"{kind}_val"]]) for kind in "xy"
    )
    return image_data(
        name, x_train, y_train, arrays["x_test"], arrays["y_test"], arrays["class_names"], path.name
    )
