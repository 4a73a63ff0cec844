"""Fashion-MNIST, MNIST and SVHN."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from ltlib.data.download import first_line, from_torchvision
from ltlib.data.images import ImageData, image_data
from ltlib.errors import DataError
from ltlib.files import data_dir

_IDX_PARTS = {
    "x_train": ("train-images-idx3-ubyte", (60000, 28, 28)),
    "y_train": ("train-labels-idx1-ubyte", (60000,)),
    "x_test": ("t10k-images-idx3-ubyte", (10000, 28, 28)),
    "y_test": ("t10k-labels-idx1-ubyte", (10000,)),
}


_IDX_FOLDERS = {
    "fashion_mnist": ("fashion-mnist", "FashionMNIST/raw", "."),
    "mnist": ("mnist", "MNIST/raw"),
}


def idx(name: str) -> ImageData:
    """Fashion-MNIST or MNIST, grey images as three equal channels."""
    from torchvision import datasets

    official = {"fashion_mnist": datasets.FashionMNIST, "mnist": datasets.MNIST}[name]
    folders = [data_dir() / part for part in _IDX_FOLDERS[name]]
    found = next(
        (f for f in folders if all(_idx_path(f, stem) for stem, _ in _IDX_PARTS.values())), None
    )
    if found is None:
        found = _download(official, folders[0])
    arrays = {
        key: _read_idx(_idx_path(found, stem), shape) for key, (stem, shape) in _IDX_PARTS.items()
    }
    for key, size in (("x_train", "y_train"), ("x_test", "y_test")):
        arrays[key] = np.repeat(arrays[key][..., None], 3, axis=-1)
        if arrays[size].max() > 9:
            raise DataError(
                f"{found}: expected labels 0 to 9, got {arrays[size].max()}. Get the files again."
            )
    return image_data(name, *arrays.values(), official.classes, found.name or name)


def _download(official, folder: Path) -> Path:
    """The folder into which torchvision downloads its files."""
    try:
        official(data_dir(), download=True)
    except (OSError, RuntimeError) as error:
        files = ", ".join(f"{stem}.gz" for stem, _ in _IDX_PARTS.values())
        if official.__name__ == "FashionMNIST":
            files += " (Debian's package dataset-fashion-mnist holds them)"
        raise DataError(
            f"{official.__name__} is not in {data_dir()} and could not be downloaded"
            f" ({first_line(error)}). Put its four files, {files}, into {folder}, or let LTLIB_DATA"
            " name the folder that holds them."
        ) from error
    return data_dir() / official.__name__ / "raw"


def _idx_path(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An IDX file of bytes, gzipped or not: 0, 0, type 8 (uint8), number of dimensions, each as
    four bytes, then the values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            # no more than there should be, of a file that unpacks to any size
            content = file.read(4 + 4 * len(shape) + math.prod(shape) + 1)
        header = np.frombuffer(content[: 4 + 4 * len(shape)], ">i4")
        if header.tolist() != [0x0800 + len(shape), *shape]:
            raise ValueError(
                f"its header says {header.tolist()}, expected {[0x0800 + len(shape), *shape]}"
            )
        return np.frombuffer(content, np.uint8, offset=header.nbytes).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(
            f"{path}: expected an IDX file of {' x '.join(map(str, shape))} bytes, and it cannot be"
            f" read as one ({error}). Get the file again."
        ) from None


def svhn() -> ImageData:
    """SVHN's cropped digits by torchvision."""
    from torchvision.datasets import SVHN

    train, test = from_torchvision("SVHN", lambda part: SVHN(data_dir(), split=part, download=True))
    parts = [
        array
        for part in (train, test)
        for array in (part.data.transpose(0, 2, 3, 1), part.labels.astype(np.uint8))
    ]
    return image_data("svhn", *parts, range(10), "train_32x32.mat, test_32x32.mat")
