"""Data sets that are one .npz file of arrays: the quickest way to bring images of your own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ltlib.data.images import ImageData, image_data
from ltlib.data.sizes import dataset_size
from ltlib.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test", "class_names")


def load_npz(name: str, path: Path, side: int | None = None, otherwise: str = "") -> ImageData:
    """The data set ``name`` of :mod:`ltlib.data.sizes` from a file of its arrays.

    x_train, x_test (N, H, W, 3) uint8, H = W = ``side`` where that is said; y_train, y_test (N,)
    whole numbers 0 to C - 1, each class as often as its size says; class_names (C,) strings. Raises
    DataError that names what is otherwise.
    """
    try:
        if not path.is_file():
            raise OSError("not a file")
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in KEYS}
    except Exception as error:  # zipfile, zlib, NumPy and KeyError: all mean the same to the user
        raise DataError(
            f"{path}: not readable as an .npz with {', '.join(KEYS)} ({error}). Make or copy the"
            f" file again{otherwise}."
        ) from None
    size = dataset_size(name)
    _check_shape(path, "class_names", arrays["class_names"], (size.num_classes,))
    for part, each in (("train", size.train_per_class), ("test", size.test_per_class)):
        x, y, count = arrays[f"x_{part}"], arrays[f"y_{part}"], size.num_classes * each
        sides = (side, side) if side else x.shape[1:3] if x.ndim == 4 else ("H", "W")
        _check_shape(path, f"x_{part}", x, (count, *sides, 3))
        _check_shape(path, f"y_{part}", y, (count,))
        _check_values(path, part, x, y, size.num_classes, each)
    return image_data(name, *arrays.values(), path.name)


def _check_shape(path: Path, key: str, array: np.ndarray, expected: tuple) -> None:
    if array.shape != expected:
        raise DataError(f"{path}: {key} has shape {array.shape}, expected {expected}")


def _check_values(
    path: Path, part: str, x: np.ndarray, y: np.ndarray, classes: int, each: int
) -> None:
    if x.dtype != np.uint8:
        raise DataError(f"{path}: x_{part} has dtype {x.dtype}, expected uint8 (0 to 255)")
    in_range = y.dtype.kind in "iu" and y.min() >= 0 and y.max() < classes
    if not in_range or np.any(np.bincount(y, minlength=classes) != each):
        raise DataError(
            f"{path}: y_{part} should hold whole numbers 0 to {classes - 1}, each {each} times"
        )
