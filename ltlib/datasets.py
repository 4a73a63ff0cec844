"""Where images come from. Each data set gives uint8 images (N, H, W, 3), int64 labels (N,), names and checksums.

CIFAR-100 comes from ``cifar100.npz`` in ``LTLIB_DATA``, or from the official archive through torchvision; Fashion-MNIST and MNIST from
their IDX files in ``LTLIB_DATA``, or through torchvision, as CIFAR-10 and SVHN do. "cifar100_class19" is the binary task of one class
against the rest. The embedded data set "digits" is made on the spot from the handwriting that scikit-learn ships. Photographs of your
own are imported by :mod:`ltlib.imagefolder` and loaded here.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ltlib.config import DATASETS, ONE_VS_REST, data_dir, dataset_size, imported_dir


class DataError(RuntimeError):
    """A data set is missing, damaged, or not what it should be."""


@dataclass(frozen=True)
class ImageData:
    """A labelled data set.

    train_images, test_images  (N, H, W, 3) uint8; of an imported data set, validation images are the last of train_images
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


@functools.cache
def load_dataset(name: str) -> ImageData:
    """Load a data set by its name. Raises ConfigError for an unknown one (it names those that exist), DataError if the data are not to
    be had."""
    dataset_size(name)
    if task := ONE_VS_REST.fullmatch(name):
        return _one_vs_rest(name, load_dataset(task[1]), int(task[2]))
    load = {"cifar100": _cifar100, "digits": digit_pairs, "fashion_mnist": functools.partial(_idx, "fashion_mnist"),
            "mnist": functools.partial(_idx, "mnist"), "cifar10": _cifar10, "svhn": _svhn}
    return load.get(name, functools.partial(_imported, name))()


def sha256(array: np.ndarray) -> str:
    """Checksum of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()


def _make(name, x_train, y_train, x_test, y_test, class_names, origin) -> ImageData:
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    y_train, y_test = y_train.astype(np.int64), y_test.astype(np.int64)
    checksums = {"origin": origin} | {key: sha256(value) for key, value in arrays.items()}
    for array in (x_train, y_train, x_test, y_test):
        array.setflags(write=False)  # shared by every run of a process
    return ImageData(name, x_train, y_train, x_test, y_test, tuple(map(str, class_names)), checksums)


# ------------------------------------------------------------------------------------------- CIFAR-100

_NPZ_SHAPES = {"x_train": (50000, 32, 32, 3), "y_train": (50000,), "x_test": (10000, 32, 32, 3), "y_test": (10000,),
               "class_names": (100,)}


def _cifar100() -> ImageData:
    npz = data_dir() / "cifar100.npz"
    return _cifar100_npz(npz) if npz.exists() else _cifar100_torchvision(data_dir())


def _cifar100_npz(path: Path) -> ImageData:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _NPZ_SHAPES}
    except Exception as error:  # zipfile, zlib, NumPy and KeyError: all mean the same to the user
        raise DataError(f"{path}: not readable as an .npz with {', '.join(_NPZ_SHAPES)} ({error}). "
                        "Make or copy the file again, or remove it to use the official archive.") from None
    for key, shape in _NPZ_SHAPES.items():
        if arrays[key].shape != shape:
            raise DataError(f"{path}: {key} has shape {arrays[key].shape}, expected {shape}")
    for key in ("x_train", "x_test"):
        if arrays[key].dtype != np.uint8:
            raise DataError(f"{path}: {key} has dtype {arrays[key].dtype}, expected uint8 (0 to 255)")
    for key, per_class in (("y_train", 500), ("y_test", 100)):
        labels = arrays[key]
        in_range = labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() <= 99
        if not in_range or np.any(np.bincount(labels, minlength=100) != per_class):
            raise DataError(f"{path}: {key} should hold whole numbers 0 to 99, each {per_class} times")
    return _make("cifar100", *(arrays[key] for key in _NPZ_SHAPES), path.name)


def _cifar100_torchvision(root: Path) -> ImageData:
    from torchvision.datasets import CIFAR100

    folder, archive = root / CIFAR100.base_folder, root / CIFAR100.filename
    if not folder.exists():
        if not archive.exists():
            try:
                download(CIFAR100.url, archive, CIFAR100.tgz_md5)
            except OSError as error:
                raise DataError(
                    f"CIFAR-100 is not in {root} and could not be downloaded ({error}). Two ways to get it:\n"
                    f"  1. download {CIFAR100.url} on any machine (the download here resumes where it stopped) and put "
                    f"{archive.name} into {root};\n"
                    f"  2. put cifar100.npz ({', '.join(_NPZ_SHAPES)}) into {root}.\n"
                    "LTLIB_DATA names another folder."
                ) from error
        check_md5(archive, CIFAR100.tgz_md5)
        with tempfile.TemporaryDirectory(prefix=".unpacking-", dir=root) as temporary, tarfile.open(archive) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # which Python 3.11.2 does not know yet
            tar.extractall(temporary)
            os.replace(Path(temporary) / CIFAR100.base_folder, folder)
    try:
        # torchvision checks the md5 of every file before it unpickles it
        train, test = CIFAR100(root, train=True), CIFAR100(root, train=False)
    except RuntimeError as error:
        raise DataError(f"{folder}: the files are incomplete or damaged ({error}). Remove the folder and run again.") from None
    return _make("cifar100", train.data, np.asarray(train.targets, np.uint8), test.data,
                 np.asarray(test.targets, np.uint8), train.classes, archive.name)


# ------------------------------------------------------------------- Fashion-MNIST, MNIST, CIFAR-10, SVHN

_IDX_PARTS = {"x_train": ("train-images-idx3-ubyte", (60000, 28, 28)), "y_train": ("train-labels-idx1-ubyte", (60000,)),
              "x_test": ("t10k-images-idx3-ubyte", (10000, 28, 28)), "y_test": ("t10k-labels-idx1-ubyte", (10000,))}
_IDX_FOLDERS = {"fashion_mnist": ("fashion-mnist", "FashionMNIST/raw", "."), "mnist": ("mnist", "MNIST/raw")}


def _idx(name: str) -> ImageData:
    """Fashion-MNIST or MNIST, grey images as three equal channels."""
    from torchvision import datasets

    official = {"fashion_mnist": datasets.FashionMNIST, "mnist": datasets.MNIST}[name]
    folders = [data_dir() / part for part in _IDX_FOLDERS[name]]
    found = next((f for f in folders if all(_idx_path(f, stem) for stem, _ in _IDX_PARTS.values())), None)
    if found is None:
        found = data_dir() / official.__name__ / "raw"
        try:
            official(data_dir(), download=True)
        except (OSError, RuntimeError) as error:
            files = ", ".join(f"{stem}.gz" for stem, _ in _IDX_PARTS.values())
            debian = " (Debian's package dataset-fashion-mnist holds them)" if name == "fashion_mnist" else ""
            raise DataError(f"{official.__name__} is not in {data_dir()} and could not be downloaded ({_first_line(error)}). Put its four "
                            f"files, {files}{debian}, into {folders[0]}, or let LTLIB_DATA name the folder that holds them.") from error
    arrays = {key: _read_idx(_idx_path(found, stem), shape) for key, (stem, shape) in _IDX_PARTS.items()}
    for key, size in (("x_train", "y_train"), ("x_test", "y_test")):
        arrays[key] = np.repeat(arrays[key][..., None], 3, axis=-1)
        if arrays[size].max() > 9:
            raise DataError(f"{found}: expected labels 0 to 9, got {arrays[size].max()}. Get the files again.")
    return _make(name, *arrays.values(), official.classes, found.name or name)


def _idx_path(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.exists()), None)


def _read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An IDX file of bytes, gzipped or not: 0, 0, type 8 (uint8), number of dimensions, each as four bytes, then the values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
        header = np.frombuffer(content[: 4 + 4 * len(shape)], ">i4")
        if header.tolist() != [0x0800 + len(shape), *shape]:
            raise ValueError(f"its header says {header.tolist()}, expected {[0x0800 + len(shape), *shape]}")
        return np.frombuffer(content, np.uint8, offset=header.nbytes).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: expected an IDX file of {' x '.join(map(str, shape))} bytes, and it cannot be read as one ({error}). "
                        "Get the file again.") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _from_torchvision(name: str, load) -> tuple:
    """The training and the test part of a data set of torchvision."""
    try:
        train, test = load("train"), load("test")
    except (OSError, RuntimeError) as error:
        raise DataError(f"{name} is not in {data_dir()} and could not be downloaded ({_first_line(error)}). Put what torchvision expects "
                        "of it there, or let LTLIB_DATA name the folder that holds it.") from error
    return train, test


def _cifar10() -> ImageData:
    from torchvision.datasets import CIFAR10

    train, test = _from_torchvision("CIFAR-10", lambda part: CIFAR10(data_dir(), train=part == "train", download=True))
    return _make("cifar10", train.data, np.asarray(train.targets, np.uint8), test.data, np.asarray(test.targets, np.uint8), train.classes,
                 CIFAR10.filename)


def _svhn() -> ImageData:
    from torchvision.datasets import SVHN

    train, test = _from_torchvision("SVHN", lambda part: SVHN(data_dir(), split=part, download=True))
    parts = [array for part in (train, test) for array in (part.data.transpose(0, 2, 3, 1), part.labels.astype(np.uint8))]
    return _make("svhn", *parts, range(10), "train_32x32.mat, test_32x32.mat")


def _one_vs_rest(name: str, data: ImageData, positive: int) -> ImageData:
    """The binary task: 1 for one class, 0 for all others."""
    y_train, y_test = ((labels == positive).astype(np.uint8) for labels in (data.train_labels, data.test_labels))
    return _make(name, data.train_images, y_train, data.test_images, y_test, ("rest", data.class_names[positive]), data.checksums["origin"])


def check_md5(path: Path, expected: str) -> None:
    """Raise DataError unless the file has this MD5 checksum (the only one that the authors publish)."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(f"{path}: its MD5 checksum is {found}, expected {expected}. Remove the file and run again.")


def download(url: str, path: Path, md5: str) -> None:
    """Download ``url`` to ``path`` with a progress bar; go on where an earlier attempt stopped; check the MD5.

    The unfinished file is ``<path>.part``. Raises OSError if the server is out of reach or breaks off (what has come
    is kept), DataError if the finished file is not the expected one (it is removed).
    """
    part = path.with_name(path.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is left to fetch
            raise
        response = None
    if response is not None:
        with response:
            resumed = response.status == 206
            total = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
            with open(part, "ab" if resumed else "wb") as file, tqdm(
                total=total or None, initial=have if resumed else 0, unit="B", unit_scale=True, desc=path.name
            ) as bar:
                while block := response.read(1 << 18):
                    file.write(block)
                    bar.update(len(block))
        if total and part.stat().st_size < total:
            raise OSError(f"the server broke off after {part.stat().st_size} of {total} bytes; run again to go on")
    try:
        check_md5(part, md5)
    except DataError:
        part.unlink()
        raise
    part.replace(path)


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
    """Class ids by superclass: the 20 of CIFAR-100, the first digit of the digit pairs; {} for a data set that has none."""
    if dataset == "cifar100":
        names = sorted(" ".join(_CIFAR100_SUPERCLASSES.values()).split())
        return {title: np.array([names.index(name) for name in members.split()]) for title, members in _CIFAR100_SUPERCLASSES.items()}
    return {f"{digit}x": np.arange(10 * digit, 10 * digit + 10) for digit in range(10)} if dataset == "digits" else {}


# ------------------------------------------------------------------------------- photographs of your own

IMPORTED = ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "class_names")


def imported_name(name: str, arrays: dict[str, np.ndarray]) -> str:
    """What the imported data set of these arrays (``IMPORTED``) is called: "<name>-<hash of their content>"."""
    text = " ".join([*(sha256(arrays[key]) for key in IMPORTED[:-1]), *map(repr, map(str, arrays["class_names"]))])
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def _imported(name: str) -> ImageData:
    path = imported_dir() / f"{name}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in IMPORTED}
        fault = "" if imported_name(name.rpartition("-")[0], arrays) == name else "its content is not what its name says"
    except Exception as error:  # zipfile, NumPy, KeyError, OSError: all mean the same to the user
        fault = str(error)
    if fault:
        raise DataError(f"{path}: expected the images of {name}, and they cannot be read ({fault}). Remove the file and import the "
                        "photographs again (notebook 16).") from None
    x_train, y_train = (np.concatenate([arrays[f"{kind}_train"], arrays[f"{kind}_val"]]) for kind in "xy")
    return _make(name, x_train, y_train, arrays["x_test"], arrays["y_test"], arrays["class_names"], path.name)


# ----------------------------------------------------------------------------------- the embedded data set

_POOLS = {"pretrain": (0.0, 0.5), "train": (0.5, 0.75), "test": (0.75, 1.0)}
_SIZE = 14  # pixels of a digit's side on the 32 x 32 canvas


def digit_pairs(seed: int = 0) -> ImageData:
    """100 classes "00" to "99": two handwritten digits side by side, coloured and noisy, on 32 x 32 pixels.

    Training and test images use disjoint sets of handwritten digits (a quarter of scikit-learn's ``load_digits`` each, which
    does not say who wrote which), disjoint from that of :func:`digit_pairs_for_pretraining`. Deterministic in ``seed``.
    """
    x_train, y_train = _pairs("train", DATASETS["digits"].train_per_class, seed, clean=False)
    x_test, y_test = _pairs("test", DATASETS["digits"].test_per_class, seed, clean=False)
    names = [f"{c:02d}" for c in range(100)]
    return _make("digits", x_train, y_train, x_test, y_test, names, f"scikit-learn load_digits, seed {seed}")


def digit_pairs_for_pretraining(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Balanced, clean, white on black pairs from the pretraining pool: images (N, 32, 32, 3) uint8, labels (N,)."""
    return _pairs("pretrain", -(-images // 100), seed, clean=True)


def _pairs(pool: str, per_class: int, seed: int, clean: bool) -> tuple[np.ndarray, np.ndarray]:
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    source = load_digits()
    glyphs = zoom(source.images / 16.0, (1, _SIZE / 8, _SIZE / 8), order=1)  # (1797, 14, 14) in [0, 1]
    rng = np.random.default_rng([seed, list(_POOLS).index(pool)])
    low, high = _POOLS[pool]
    by_digit = []
    for digit in range(10):
        writings = np.flatnonzero(source.target == digit)
        writings = np.random.default_rng([seed, 10, digit]).permutation(writings)  # the same cut for every pool
        by_digit.append(writings[int(low * len(writings)) : int(high * len(writings))])

    labels = np.repeat(np.arange(100), per_class)
    count = len(labels)
    canvas = np.zeros((count, 32, 32))
    for digits, left in ((labels // 10, 0), (labels % 10, 16)):
        pick = np.array([by_digit[d][i % len(by_digit[d])] for d, i in zip(digits, rng.integers(0, 10_000, count), strict=True)])
        top, shift = rng.integers(8, 11, count), rng.integers(0, 16 - _SIZE + 1, count)  # within 1 px of the middle
        rows = top[:, None, None] + np.arange(_SIZE)[None, :, None]
        columns = (left + shift)[:, None, None] + np.arange(_SIZE)[None, None, :]
        canvas[np.arange(count)[:, None, None], rows, columns] = glyphs[pick]
    paper, ink = np.zeros((count, 1, 1, 3)), np.ones((count, 1, 1, 3))
    if not clean:
        paper, ink = rng.uniform(0, 0.4, paper.shape), rng.uniform(0.5, 1, ink.shape)
    images = np.empty((*canvas.shape, 3), np.uint8)
    for rows in np.array_split(np.arange(count), max(1, count // 256)):  # parts that fit a cache: quicker than the whole
        part = paper[rows] + canvas[rows][..., None] * (ink - paper)[rows]
        if not clean:
            part += rng.normal(0, 0.1, part.shape)
        images[rows] = (part.clip(0, 1) * 255).round()
    return images, labels
