"""Batches made on the device, whole batches at a time.

Images stay there as uint8. Each batch is gathered, cropped, flipped, normalised and scaled to the
model's resolution as one tensor. The order of an epoch depends on (seed, epoch) alone, the
augmentation of an image on (seed, epoch, index) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ltlib.augment import OPERATIONS, auto_augment, auto_augment_policies, rand_augment, simclr_view


def stream(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator of its own for each (seed, epoch, purpose)."""
    state = np.random.SeedSequence([seed, epoch, *purpose.encode()]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def _check_sizes(x, labels) -> None:
    if len(x) != len(labels) or len(x) == 0:
        got = f"{len(labels)} and {len(x)}"
        raise ValueError(f"expected as many labels as rows, and at least one: got {got}")


class FeatureBatches:
    """Batches of vectors: x (N, D) float32, labels (N,) int64; the interface that training uses."""

    def __init__(self, x: Tensor, labels: Tensor, batch_size: int):
        _check_sizes(x, labels)
        self.x, self.labels, self.batch_size = x, labels, batch_size

    def __len__(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled training batches from the ``start``-th on, (x (B, ...), labels (B,)). Their
        sizes differ by one at most, so that no tiny last batch upsets batch normalisation; none is
        larger than ``batch_size``."""
        order = self._order(stream(seed, epoch, "order"))
        order = order.to(self.labels.device)  # once: each copy waits for the device
        drawn = self._draw(seed, epoch)
        for index in order.tensor_split(len(self))[start:]:
            yield self._train_batch(index, drawn)

    def take(self, index: Tensor) -> Tensor:
        """x of these rows (n,), without augmentation."""
        return self._eval_batch(index)

    def in_order(self) -> Iterator[Tensor]:
        """Batches of x in the stored order, without augmentation."""
        for start in range(0, len(self.labels), self.batch_size):
            yield self._eval_batch(slice(start, start + self.batch_size))

    def _order(self, generator: torch.Generator) -> Tensor:
        """The rows of an epoch: all of them, shuffled."""
        return torch.randperm(len(self.labels), generator=generator)

    def _draw(self, seed: int, epoch: int):
        """What an epoch's augmentation needs, for all images: nothing here."""

    def _train_batch(self, index: Tensor, drawn) -> tuple[Tensor, Tensor]:
        return self.x[index], self.labels[index]

    def _eval_batch(self, rows: slice | Tensor) -> Tensor:
        return self.x[rows]


class ImageBatches(FeatureBatches):
    """Batches of images: uint8 (N, H, W, 3) in, normalised float32 (B, 3, R, R), channels last,
    out.

    Augmentation: zero padding by ``crop_padding`` and a random crop of the original size,
    horizontal flip with probability 1/2 if ``flip``, two random operations of magnitude
    ``rand_augment`` (0 to 30; 0: none); then (x / 255 - mean) / std, a square of ``cutout`` pixels
    around a random one set to 0, and scaling to ``resolution`` (bicubic or bilinear, antialiased).
    With ``views`` "contrastive" a training batch holds three views of each image, (3 B, 3, R, R):
    one with AutoAugment, and two with SimCLR's augmentation instead of crop, flip and Cutout.
    """

    def __init__(
        self,
        images: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        resolution: int,
        mean,
        std,
        interpolation: str = "bicubic",
        crop_padding: int = 0,
        flip: bool = False,
        rand_augment: int = 0,
        cutout: int = 0,
        views: str = "one",
        device="cpu",
    ):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            got = f"{images.dtype} {images.shape}"
            raise ValueError(f"images: expected uint8 (N, H, W, 3), got {got}")
        _check_sizes(images, labels)
        if views not in ("one", "contrastive"):
            raise ValueError(f"views = {views!r}: expected one, contrastive")
        self.height, self.width = images.shape[1:3]
        self.crop_padding = crop_padding
        pixels = _padded_pixels(images, crop_padding, device)
        super().__init__(pixels, torch.as_tensor(np.array(labels), device=device), batch_size)
        self.flip, self.rand_augment, self.cutout, self.views = flip, rand_augment, cutout, views
        self.scale = 1 / (255 * torch.tensor(std, device=device))
        self.shift = -torch.tensor(mean, device=device) / torch.tensor(std, device=device)
        self.resize = None
        if images.shape[1:3] != (resolution, resolution):
            rows = _resize_matrix(self.height, resolution, interpolation).to(device)
            columns = _resize_matrix(self.width, resolution, interpolation).to(device)
            # on (B, H, 3 W): the three channels of a pixel stand side by side
            self.resize = rows, torch.kron(columns.T.contiguous(), torch.eye(3, device=device))

    def _draw(self, seed: int, epoch: int) -> dict[str, Tensor]:
        """Crop offsets (2, N), flips (N,) and, where they are asked for, what the other
        augmentations need of the epoch."""
        n, device = len(self.labels), self.labels.device

        def of(purpose: str) -> dict[str, torch.Generator]:
            return {"generator": stream(seed, epoch, purpose)}

        shared, places = of("augment"), 2 * self.crop_padding + 1
        drawn = {"offsets": torch.randint(0, places, (2, n), **shared)}
        drawn["flips"] = (torch.rand(n, **shared) < 0.5) & self.flip
        if self.rand_augment:
            shared = of("rand_augment")
            drawn["operations"] = torch.randint(0, len(OPERATIONS), (2, n), **shared)
            drawn["signs"] = torch.randint(0, 2, (2, n), **shared) * 2 - 1
        if self.cutout:
            sides = torch.tensor([[self.height], [self.width]])
            drawn["holes"] = (torch.rand(2, n, **of("cutout")) * sides).long()
        if self.views == "contrastive":
            policies = len(auto_augment_policies())
            drawn["policies"] = torch.randint(0, policies, (n,), **of("auto_augment"))
            drawn["chances"] = torch.rand(2, n, **of("auto_augment_chances"))
            drawn["signs"] = torch.randint(0, 2, (2, n), **of("auto_augment_signs")) * 2 - 1
            drawn["simclr"] = torch.rand(2, 11, n, **of("simclr"))
        return {name: value.to(device) for name, value in drawn.items()}

    def _train_batch(self, index: Tensor, drawn) -> tuple[Tensor, Tensor]:
        device = self.labels.device
        of = {name: values[..., index] for name, values in drawn.items()}  # these images'
        top, left = of["offsets"]
        columns = torch.arange(self.width, device=device)
        columns = torch.where(of["flips"][:, None], columns.flip(0), columns)
        columns = columns + left[:, None]  # (B, W)
        rows = torch.arange(self.height, device=device) + top[:, None]  # (B, H)
        x = self.x[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        x = _channels(x).permute(0, 3, 1, 2)
        if self.rand_augment:
            for operations, signs in zip(of["operations"], of["signs"], strict=True):
                x = rand_augment(x, operations, signs, self.rand_augment)
        if self.views == "contrastive":
            x = auto_augment(x, of["policies"], of["chances"], of["signs"])
        x = self._normalised(x, of.get("holes"))
        if self.views == "contrastive":
            whole = self._whole(index)
            x = torch.cat([x, *(self._normalised(simclr_view(whole, u)) for u in of["simclr"])])
        return x, self.labels[index]

    def _eval_batch(self, rows: slice | Tensor) -> Tensor:
        return self._normalised(self._whole(rows))

    def _whole(self, rows: slice | Tensor) -> Tensor:
        """Images (B, 3, H, W) without their padding."""
        pad = self.crop_padding
        x = self.x[rows, pad : pad + self.height, pad : pad + self.width]
        return _channels(x).permute(0, 3, 1, 2)

    def _normalised(self, x: Tensor, holes: Tensor | None = None) -> Tensor:
        """(B, 3, H, W) values 0 to 255 -> (B, 3, R, R); ``holes`` (2, B): the pixel in the middle
        of what Cutout blanks."""
        x = x.permute(0, 2, 3, 1).float().mul_(self.scale).add_(self.shift)  # (B, H, W, 3)
        if holes is not None:
            inside, half = [], self.cutout // 2
            for side, at in zip(x.shape[1:3], holes, strict=True):
                distance = torch.arange(side, device=x.device) - at[:, None]
                inside.append((distance >= -half) & (distance < self.cutout - half))
            rows, columns = inside
            x = x.masked_fill((rows[:, :, None] & columns[:, None, :])[..., None], 0)
        if self.resize:
            # linear, with rows that sum to 1: it may come after normalising as well as before
            rows, columns = self.resize
            x = (rows @ (x.flatten(2) @ columns)).unflatten(-1, (-1, 3))
        return x.permute(0, 3, 1, 2)  # NHWC memory is channels_last


def _padded_pixels(images: np.ndarray, pad: int, device) -> Tensor:
    """uint8 (N, H, W, 3) -> int32 (N, H + 2 pad, W + 2 pad): padded once, and four bytes a pixel,
    so that a crop is a gather of whole pixels."""
    n, height, width, _ = images.shape
    stored = np.zeros((n, height + 2 * pad, width + 2 * pad, 4), np.uint8)
    stored[:, pad : pad + height, pad : pad + width, :3] = images
    return torch.as_tensor(stored, device=device).view(torch.int32)[..., 0]


def _channels(pixels: Tensor) -> Tensor:
    """(B, H, W) of four bytes -> (B, H, W, 3) uint8."""
    return pixels.contiguous().view(torch.uint8).unflatten(-1, (-1, 4))[..., :3]


def _resize_matrix(size: int, resolution: int, interpolation: str) -> Tensor:
    """(resolution, size): what antialiased interpolation does along one dimension."""
    unit, smooth = torch.eye(size)[None, None], {"antialias": True, "align_corners": False}
    rows = F.interpolate(unit, (resolution, size), mode=interpolation, **smooth)
    return rows[0, 0].contiguous()
