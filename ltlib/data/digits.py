"""The embedded data set: pairs of handwritten digits, made on the spot from those of
scikit-learn."""

from __future__ import annotations

import contextlib
import hashlib
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ltlib.data.images import ImageData, image_data
from ltlib.data.sizes import DATASETS
from ltlib.files import atomic_path, cache_dir

_ARRAYS = ("train_images", "train_labels", "test_images", "test_labels")
_POOLS = {"pretrain": (0.0, 0.5), "train": (0.5, 0.75), "test": (0.75, 1.0)}
_SIZE = 14  # pixels of a digit's side on the 32 x 32 canvas


def digit_pairs(seed: int = 0) -> ImageData:
    """100 classes "00" to "99": two handwritten digits side by side, coloured and noisy, on 32 x 32
    pixels.

    Training and test images use disjoint sets of handwritten digits (a quarter of scikit-learn's
    ``load_digits`` each, which does not say who wrote which), disjoint from that of
    :func:`digit_pairs_for_pretraining`. Deterministic in ``seed``.
    """
    train = pairs("train", DATASETS["digits"].train_per_class, seed, clean=False)
    test = pairs("test", DATASETS["digits"].test_per_class, seed, clean=False)
    return image_data("digits", *train, *test, **_described(seed))


def _described(seed: int) -> dict:
    """What the arrays do not say."""
    names = [f"{c:02d}" for c in range(100)]
    return {"class_names": names, "origin": f"scikit-learn load_digits, seed {seed}"}


def stored_digit_pairs() -> ImageData:
    """:func:`digit_pairs` from the cache, where they are put first if they are not there: to make
    them takes two seconds, and every process asks for them."""
    made_by = [version(name) for name in ("numpy", "scipy", "scikit-learn")]
    made_by.append(Path(__file__).read_text(encoding="utf-8"))
    digest = hashlib.sha256("\n".join(made_by).encode()).hexdigest()[:10]
    path = cache_dir() / f"digits-{digest}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return image_data("digits", *(file[key] for key in _ARRAYS), **_described(0))
    except Exception:  # not there, or damaged: made again
        data = digit_pairs()
    with contextlib.suppress(OSError), atomic_path(path, durable=False) as partial:
        np.savez(partial, **{key: getattr(data, key) for key in _ARRAYS})
    return data


def digit_pairs_for_pretraining(images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Balanced, clean, white on black pairs from the pretraining pool: images (N, 32, 32, 3) uint8,
    labels (N,)."""
    return pairs("pretrain", -(-images // 100), seed, clean=True)


def pairs(pool: str, per_class: int, seed: int, clean: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of digits of a pool: images (100 per_class, 32, 32, 3) uint8, labels; clean: white on
    black."""
    glyphs, by_digit = _writings(pool, seed)
    rng = np.random.default_rng([seed, list(_POOLS).index(pool)])
    labels = np.repeat(np.arange(100), per_class)
    count = len(labels)
    canvas = np.zeros((count, 32, 32))
    for digits, left in ((labels // 10, 0), (labels % 10, 16)):
        draws = rng.integers(0, 10_000, count)
        pick = [by_digit[d][i % len(by_digit[d])] for d, i in zip(digits, draws, strict=True)]
        top = rng.integers(8, 11, count)  # within 1 px of the middle
        shift = rng.integers(0, 16 - _SIZE + 1, count)
        rows = top[:, None, None] + np.arange(_SIZE)[None, :, None]
        columns = (left + shift)[:, None, None] + np.arange(_SIZE)[None, None, :]
        canvas[np.arange(count)[:, None, None], rows, columns] = glyphs[np.array(pick)]
    paper, ink = np.zeros((count, 1, 1, 3)), np.ones((count, 1, 1, 3))
    if not clean:
        paper, ink = rng.uniform(0, 0.4, paper.shape), rng.uniform(0.5, 1, ink.shape)
    images = np.empty((*canvas.shape, 3), np.uint8)
    # parts that fit a cache: quicker than the whole
    for rows in np.array_split(np.arange(count), max(1, count // 256)):
        part = paper[rows] + canvas[rows][..., None] * (ink - paper)[rows]
        if not clean:
            part += rng.normal(0, 0.1, part.shape)
        images[rows] = (part.clip(0, 1) * 255).round()
    return images, labels


def _writings(pool: str, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """All handwritten digits, (1797, 14, 14) in [0, 1], and for each digit those of the pool."""
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    source = load_digits()
    glyphs = zoom(source.images / 16.0, (1, _SIZE / 8, _SIZE / 8), order=1)
    low, high = _POOLS[pool]
    by_digit = []
    for digit in range(10):
        writings = np.flatnonzero(source.target == digit)
        # the same cut for every pool
        writings = np.random.default_rng([seed, 10, digit]).permutation(writings)
        by_digit.append(writings[int(low * len(writings)) : int(high * len(writings))])
    return glyphs, by_digit
