"""Photographs from files: read, turned upright, cut square and scaled."""

from __future__ import annotations

import functools
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

# what a photograph is saved as; Pillow would run other programs for some of the rest (PostScript)
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")


def read_image(path: Path, size: int) -> np.ndarray:
    """A photograph as uint8 (size, size, 3): turned upright, in colour, scaled and cut as training
    and evaluation see it.

    Turned as its EXIF data say; transparency laid on white; palettes, grey, CMYK and 16 bits per
    channel to 8-bit RGB; the shorter side scaled to ``size`` (bicubic, antialiased), the middle cut
    out. Of an animation, the first frame. Raises OSError, ValueError and whatever else Pillow
    raises for a file that is no whole image.
    """
    with Image.open(path, formats=_formats()) as image:
        # a JPEG of a camera: decoded at half, a quarter ... of its size, never below this
        image.draft(None, (2 * size, 2 * size))
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion cuts at 255
            pixels = np.asarray(image).clip(0, 65535) / 257
            image = Image.fromarray(pixels.round().astype(np.uint8))
        elif image.mode == "F":
            raise ValueError(
                "numbers with a fraction, whose range is not known: save it with 8 or 16 bits"
            )
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BICUBIC)
        return np.asarray(image)


@functools.cache
def _formats() -> list[str]:
    """Those of ``FORMATS`` that this Pillow knows."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def read_images(paths: list[Path], size: int) -> tuple[np.ndarray, list[str]]:
    """:func:`read_image` for many, on all cores: uint8 (N, size, size, 3), and for each what is
    wrong with it ("": nothing)."""
    pixels = np.zeros((len(paths), size, size, 3), np.uint8)

    def read(number: int) -> str:
        if paths[number].exists() and not paths[number].is_file():
            return "not a file"  # a pipe would be waited for
        try:
            pixels[number] = read_image(paths[number], size)
        except UnidentifiedImageError:
            if paths[number].suffix.lower() in (".heic", ".heif"):
                return "HEIC, which is not read here: export it as JPEG"
            return "not an image" if paths[number].stat().st_size else "an empty file"
        # OSError, ValueError, SyntaxError, struct.error, ...: Pillow has one for each format
        except Exception as error:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        return ""

    # no bar for what takes a second
    bar = {"total": len(paths), "unit": "image", "delay": 2, "leave": False}
    with warnings.catch_warnings(), ThreadPoolExecutor(joblib.cpu_count()) as pool:
        warnings.simplefilter("ignore")  # Pillow on odd EXIF data: the pixels are what counts
        return pixels, list(tqdm(pool.map(read, range(len(paths))), "reading images", **bar))


def image_files(folder: Path) -> list[Path]:
    """The files below a folder, by name, without hidden ones and what Windows and macOS put beside
    images."""
    found = []
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not hidden(name))
        found += [Path(top, name) for name in sorted(files) if not hidden(name)]
    return found


def hidden(name: str) -> bool:
    """Whether a file or folder is one that a person did not put there."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini", "__macosx")
