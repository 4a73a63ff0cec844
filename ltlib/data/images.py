"""A labelled data set of images, as arrays."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ImageData:
    """A labelled data set.

    train_images, test_images  (N, H, W, 3) uint8; of an imported data set, validation images are
                               the last of train_images
    train_labels, test_labels  (N,) int64, 0 to C - 1
    class_names                C strings
    checksums                  sha256 of each array's bytes, and where they came from
    """

    name: str
    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    checksums: dict[str, str]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


def sha256(array: np.ndarray) -> str:
    """Checksum of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def image_data(name, x_train, y_train, x_test, y_test, class_names, origin) -> ImageData:
    """A data set of these arrays, which become read-only, with their checksums."""
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    y_train, y_test = y_train.astype(np.int64), y_test.astype(np.int64)
    checksums = {"origin": origin} | {key: sha256(value) for key, value in arrays.items()}
    for array in (x_train, y_train, x_test, y_test):
        array.setflags(write=False)  # shared by every run of a process
    return ImageData(
        name, x_train, y_train, x_test, y_test, tuple(map(str, class_names)), checksums
    )
