"""Batches made on the device, whole batches at a time.

Images stay there as uint8 (N, H, W, 3). Each batch is gathered, cropped, flipped, scaled to the model's resolution and
normalised as one tensor. The order of an epoch depends on (seed, epoch) alone, the augmentation of an image on
(seed, epoch, index) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def stream(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator of its own for each (seed, epoch, purpose)."""
    state = np.random.SeedSequence([seed, epoch, *purpose.encode()]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


class FeatureBatches:
    """Batches of vectors: x (N, D) float32, labels (N,) int64; the interface that training uses."""

    def __init__(self, x: Tensor, labels: Tensor, batch_size: int):
        if len(x) != len(labels) or len(x) == 0:
            raise ValueError(f"expected as many labels as rows, and at least one: got {len(labels)} and {len(x)}")
        self.x, self.labels, self.batch_size = x, labels, batch_size

    def __len__(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled training batches, (x (B, ...), labels (B,)). Their sizes differ by one at most, so that no tiny
        last batch upsets batch normalisation; none is larger than ``batch_size``."""
        order = torch.randperm(len(self.labels), generator=stream(seed, epoch, "order"))
        drawn = self._draw(seed, epoch)
        for index in order.tensor_split(len(self)):
            yield self._train_batch(index.to(self.labels.device), drawn)

    def in_order(self) -> Iterator[Tensor]:
        """Batches of x in the stored order, without augmentation."""
        for start in range(0, len(self.labels), self.batch_size):
            yield self._eval_batch(slice(start, start + self.batch_size))

    def _draw(self, seed: int, epoch: int):
        """What an epoch's augmentation needs, for all images: nothing here."""

    def _train_batch(self, index: Tensor, drawn) -> tuple[Tensor, Tensor]:
        return self.x[index], self.labels[index]

    def _eval_batch(self, rows: slice) -> Tensor:
        return self.x[rows]


class ImageBatches(FeatureBatches):
    """Batches of images: uint8 (N, H, W, 3) in, normalised float32 (B, 3, R, R), channels last, out.

    Augmentation: zero padding by ``crop_padding`` and a random crop of the original size, horizontal flip with
    probability 1/2 if ``flip``; then scaling to ``resolution`` (bicubic or bilinear, antialiased) and (x / 255 - mean) / std.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, batch_size: int, resolution: int, mean, std,
                 interpolation: str = "bicubic", crop_padding: int = 0, flip: bool = False, device="cpu"):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: expected uint8 (N, H, W, 3), got {images.dtype} {images.shape}")
        super().__init__(torch.as_tensor(np.array(images), device=device), torch.as_tensor(np.array(labels), device=device), batch_size)
        self.resolution, self.interpolation = resolution, interpolation
        self.crop_padding, self.flip = crop_padding, flip
        self.mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self.std = torch.tensor(std, device=device).view(1, 3, 1, 1) * 255

    def _draw(self, seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        """Crop offsets (2, N) and flips (N,) of the epoch."""
        generator = stream(seed, epoch, "augment")
        offsets = torch.randint(0, 2 * self.crop_padding + 1, (2, len(self.labels)), generator=generator)
        flips = torch.rand(len(self.labels), generator=generator) < 0.5
        return offsets.to(self.labels.device), flips.to(self.labels.device)

    def _train_batch(self, index: Tensor, drawn) -> tuple[Tensor, Tensor]:
        x = self.x[index]  # (B, H, W, 3)
        height, width = x.shape[1:3]
        offsets, flips = drawn
        if self.crop_padding or self.flip:
            columns = torch.arange(width, device=x.device).expand(len(x), width)
            if self.flip:
                columns = torch.where(flips[index, None], columns.flip(1), columns)
            top, left = offsets[:, index]
            rows = top[:, None] + torch.arange(height, device=x.device)  # (B, H)
            columns = left[:, None] + columns  # (B, W)
            pad = self.crop_padding
            x = F.pad(x, (0, 0, pad, pad, pad, pad))
            x = x[torch.arange(len(x), device=x.device)[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._to_model(x), self.labels[index]

    def _eval_batch(self, rows: slice) -> Tensor:
        return self._to_model(self.x[rows])

    def _to_model(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2).float()  # (B, 3, H, W); NHWC memory is channels_last
        if x.shape[-1] != self.resolution or x.shape[-2] != self.resolution:
            x = F.interpolate(x, (self.resolution, self.resolution), mode=self.interpolation, antialias=True, align_corners=False)
        return (x - self.mean) / self.std
