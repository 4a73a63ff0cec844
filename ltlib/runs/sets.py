"""Batches of a run's training, validation and test images, or of their features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ltlib.batches import FeatureBatches, ImageBatches
from ltlib.data import ImageData
from ltlib.models import Weights
from ltlib.protocol import Splits, base_set
from ltlib.recipe import Recipe

AUGMENTATION = ("crop_padding", "flip", "rand_augment", "cutout", "views")  # keys of a recipe


@dataclass(frozen=True)
class Sets:
    """Batches of the training images, of the validation images (None where there are none), and of
    the largest test set, of which the others are parts.
    """

    train: FeatureBatches
    val: FeatureBatches | None
    test: FeatureBatches


def image_sets(
    data: ImageData, splits: Splits, weights: Weights, recipe: Recipe, device: torch.device
) -> Sets:
    """Images, augmented for training as the recipe says, normalised as the weights want them."""

    def batches(images, labels, index, **augmentation):
        how = weights, recipe, recipe.batch_size, device
        return image_batches(images[index], labels[index], *how, **augmentation)

    augmentation = {name: getattr(recipe, name) for name in AUGMENTATION}
    train = batches(data.train_images, data.train_labels, splits.train, **augmentation)
    val = batches(data.train_images, data.train_labels, splits.val) if len(splits.val) else None
    tests = splits.tests[base_set(splits.tests)]
    return Sets(train, val, batches(data.test_images, data.test_labels, tests))


def feature_sets(
    train_x: np.ndarray,
    test_x: np.ndarray,
    data: ImageData,
    splits: Splits,
    batch_size: int,
    device: torch.device,
) -> Sets:
    """Features (N, D) of all training and all test images, standardised with the training set of
    this very run: nothing of the validation or test images goes in.
    """
    mean, std = train_x[splits.train].mean(0), train_x[splits.train].std(0) + 1e-6  # (D,), (D,)

    def batches(x, labels, index):
        x = torch.as_tensor((x[index] - mean) / std, device=device)
        return FeatureBatches(x, torch.as_tensor(labels[index], device=device), batch_size)

    val = batches(train_x, data.train_labels, splits.val) if len(splits.val) else None
    test = batches(test_x, data.test_labels, splits.tests[base_set(splits.tests)])
    return Sets(batches(train_x, data.train_labels, splits.train), val, test)


def image_batches(
    images: np.ndarray,
    labels: np.ndarray | None,
    weights: Weights,
    recipe: Recipe,
    batch_size: int,
    device: torch.device,
    **augmentation,
) -> ImageBatches:
    """Batches of images (N, H, W, 3), scaled to the recipe's resolution and normalised as the
    weights want them; ``labels`` None where nobody asks for them.
    """
    return ImageBatches(
        images,
        np.zeros(len(images), np.int64) if labels is None else labels,
        batch_size=batch_size,
        resolution=recipe.resolution,
        mean=weights.mean,
        std=weights.std,
        interpolation=weights.interpolation,
        device=device,
        **augmentation,
    )
