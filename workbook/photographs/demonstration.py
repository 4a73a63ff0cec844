"""A folder of photographs to try the import on, with the faults that such folders have."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from ltlib.data import ImageData, digit_pairs
from ltlib.files import HOST, exclusive
from ltlib.longtail import class_counts


def write_demonstration(folder: Path) -> None:
    """Make ``folder``, unless it is there: photographs/<class>/*.png, 110 to 1 images of 100
    classes, and new/*.png, six others.

    The images are those of the embedded data set. Among them are the faults that such folders have:
    a file that is no image, one that broke off, an empty class, a photograph that is there twice,
    hidden files; and images that are turned by EXIF, grey, transparent or of 16 bits, with which
    nothing is wrong.
    """
    data = digit_pairs()
    # which classes are rare does not show in their names
    names = [str(name) for name in np.random.default_rng(0).permutation(data.class_names)]
    prefix = f".{folder.name}.{HOST}.{os.getpid()}."
    with exclusive(folder, f"{folder} is being written by another process"):
        if folder.exists():
            return
        with tempfile.TemporaryDirectory(".tmp", prefix, folder.parent) as temporary:
            whole = Path(temporary) / folder.name
            _write_photographs(whole / "photographs", data, names)
            _make_faults(whole / "photographs", *names[:2])
            _write_new(whole / "new", data, names)
            os.replace(whole, folder)


def _write_photographs(place: Path, data: ImageData, names: list[str]) -> None:
    for name, count in zip(names, class_counts(100, 110, 110), strict=True):
        (place / name).mkdir(parents=True)
        rows = np.flatnonzero(data.train_labels == data.class_names.index(name))[:count]
        for number, row in enumerate(rows):
            Image.fromarray(data.train_images[row]).save(place / name / f"{number:03}.png")


def _make_faults(place: Path, most: str, more: str) -> None:
    """In the folders of the two most frequent classes."""
    most, more = place / most, place / more
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    Image.open(most / "000.png").rotate(90).save(most / "000.png", exif=turned)
    shutil.copy(more / "001.png", more / "001 (copy).png")
    Image.open(most / "002.png").convert("L").save(most / "002.png")
    Image.open(most / "003.png").convert("RGBA").save(most / "003.png")
    grey = np.asarray(Image.open(most / "004.png").convert("L"), np.uint16) * 257
    Image.fromarray(grey).save(most / "004.png")
    (most / "005.png").write_bytes((most / "005.png").read_bytes()[:900])
    (more / "label.jpg").write_text("not an image")
    (more / ".DS_Store").write_bytes(bytes(8))
    (place / "not yet seen").mkdir()


def _write_new(folder: Path, data: ImageData, names: list[str]) -> None:
    """Six photographs of classes from the most frequent to the rarest, to be classified."""
    folder.mkdir()
    for number, rank in enumerate((0, 1, 40, 50, 85, 95)):
        row = np.flatnonzero(data.test_labels == int(names[rank]))[0]
        Image.fromarray(data.test_images[row]).save(folder / f"new_{number}_{names[rank]}.png")
