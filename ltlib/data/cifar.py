"""CIFAR-100 and CIFAR-10."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from ltlib.data.download import check_md5, download, from_torchvision
from ltlib.data.images import ImageData, image_data
from ltlib.data.npz import KEYS, load_npz
from ltlib.errors import DataError
from ltlib.files import data_dir


def cifar100() -> ImageData:
    """CIFAR-100 from ``cifar100.npz`` where that is, otherwise from the authors' archive.

    An .npz whose images or labels are not the published ones, in any order, is another version: its
    origin, in ``checksums`` and in the records of its runs, says so.
    """
    npz = data_dir() / "cifar100.npz"
    if not npz.exists():
        return _official(data_dir())
    data = load_npz("cifar100", npz, 32, ", or remove it to use the official archive")
    if _is_published(data):
        return data
    origin = f"{npz.name}, another version than the published one"
    return dataclasses.replace(data, checksums=data.checksums | {"origin": origin})


# of the images of training and test class by class, and of images with labels in any order
_BY_CLASS = (
    "2aa2e92a742ec0fbd361b0b1386394899dfac5a05c448330d3371fd9b63b3e87",
    "2716d826d85ee9ca7f948fb4dc3b3d7515225d1a436d1c4b7e6975855da3d9ee",
)
_CONTENT = (
    "36ce7a701fbea47796e570c34382aad50f2539687cfcbc6ae96e2f56530d29b6",
    "d3cd5d87a1b9317a0982c8ef5535fe3b86da8da90b13ce5e9b23ea06400dd5eb",
)


def _is_published(data: ImageData) -> bool:
    by_class = all((np.diff(y) >= 0).all() for y in (data.train_labels, data.test_labels))
    if by_class and (data.checksums["x_train"], data.checksums["x_test"]) == _BY_CLASS:
        return True  # the usual case, without a checksum for each image
    parts = (data.train_images, data.train_labels), (data.test_images, data.test_labels)
    return tuple(_content(*part) for part in parts) == _CONTENT


def _content(images: np.ndarray, labels: np.ndarray) -> str:
    """A checksum of images with their labels that does not depend on their order."""
    pairs = zip(images, labels, strict=True)
    each = [hashlib.sha256(bytes([label]) + image.tobytes()).digest() for image, label in pairs]
    return hashlib.sha256(b"".join(sorted(each))).hexdigest()


def _official(root: Path) -> ImageData:
    """The archive of the authors; torchvision checks the MD5 of every file before it unpickles
    it."""
    from torchvision.datasets import CIFAR100

    folder = root / CIFAR100.base_folder
    if not folder.exists():
        _unpack(root, CIFAR100)
    try:
        train, test = CIFAR100(root, train=True), CIFAR100(root, train=False)
    except RuntimeError as error:
        raise DataError(
            f"{folder}: the files are incomplete or damaged ({error}). Remove the folder and run"
            " again."
        ) from None
    return _from_parts("cifar100", train, test, CIFAR100.filename)


def _unpack(root: Path, official) -> None:
    """The archive in ``root``, downloaded if it is not there, checked and unpacked whole or not at
    all."""
    archive = root / official.filename
    if not archive.exists():
        try:
            download(official.url, archive, official.tgz_md5)
        except OSError as error:
            raise DataError(
                f"CIFAR-100 is not in {root} and could not be downloaded ({error}). Two ways to get"
                f" it:\n  1. download {official.url} on any machine (the download here resumes"
                f" where it stopped) and put {archive.name} into {root};\n  2. put cifar100.npz"
                f" ({', '.join(KEYS)}) into {root}.\nLTLIB_DATA names another folder."
            ) from error
    check_md5(archive, official.tgz_md5)
    with (
        tempfile.TemporaryDirectory(prefix=".unpacking-", dir=root) as temporary,
        tarfile.open(archive) as tar,
    ):
        # Python 3.11.2 does not know the filter yet
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(temporary)
        os.replace(Path(temporary) / official.base_folder, root / official.base_folder)


def cifar10() -> ImageData:
    """CIFAR-10 by torchvision."""
    from torchvision.datasets import CIFAR10

    train, test = from_torchvision(
        "CIFAR-10", lambda part: CIFAR10(data_dir(), train=part == "train", download=True)
    )
    return _from_parts("cifar10", train, test, CIFAR10.filename)


def _from_parts(name: str, train, test, origin: str) -> ImageData:
    y_train, y_test = (np.asarray(part.targets, np.uint8) for part in (train, test))
    return image_data(name, train.data, y_train, test.data, y_test, train.classes, origin)


# Krizhevsky 2009; the class ids are the places of these names in alphabetical order
_CIFAR100_SUPERCLASSES = {
    "aquatic mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food containers": "bottle bowl can cup plate",
    "fruit and vegetables": "apple mushroom orange pear sweet_pepper",
    "household electrical devices": "clock keyboard lamp telephone television",
    "household furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large carnivores": "bear leopard lion tiger wolf",
    "large man-made outdoor things": "bridge castle house road skyscraper",
    "large natural outdoor scenes": "cloud forest mountain plain sea",
    "large omnivores and herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized mammals": "fox porcupine possum raccoon skunk",
    "non-insect invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles 1": "bicycle bus motorcycle pickup_truck train",
    "vehicles 2": "lawn_mower rocket streetcar tank tractor",
}


def superclasses(dataset: str) -> dict[str, np.ndarray]:
    """Class ids by superclass: the 20 of CIFAR-100, the first digit of the digit pairs; {} for a
    data set that has none."""
    if dataset == "cifar100":
        names = sorted(" ".join(_CIFAR100_SUPERCLASSES.values()).split())
        return {
            title: np.array([names.index(name) for name in members.split()])
            for title, members in _CIFAR100_SUPERCLASSES.items()
        }
    return (
        {f"{digit}x": np.arange(10 * digit, 10 * digit + 10) for digit in range(10)}
        if dataset == "digits"
        else {}
    )
