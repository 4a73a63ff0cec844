"""Batches made on the device, whole batches at a time.

Images stay there as uint8. Each batch is gathered, cropped, flipped, normalised and scaled to the model's resolution as one
tensor. The order of an epoch depends on (seed, epoch) alone, the augmentation of an image on
(seed, epoch, index) alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import functional as TF


def stream(seed: int, epoch: int, purpose: str) -> torch.Generator:
    """A CPU generator of its own for each (seed, epoch, purpose)."""
    state = np.random.SeedSequence([seed, epoch, *purpose.encode()]).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(state[0]) << 32 | int(state[1]))


def _check_sizes(x, labels) -> None:
    if len(x) != len(labels) or len(x) == 0:
        raise ValueError(f"expected as many labels as rows, and at least one: got {len(labels)} and {len(x)}")


class FeatureBatches:
    """Batches of vectors: x (N, D) float32, labels (N,) int64; the interface that training uses."""

    def __init__(self, x: Tensor, labels: Tensor, batch_size: int):
        _check_sizes(x, labels)
        self.x, self.labels, self.batch_size = x, labels, batch_size

    def __len__(self) -> int:
        """Batches of an epoch."""
        return math.ceil(len(self.labels) / self.batch_size)

    def epoch(self, seed: int, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled training batches from the ``start``-th on, (x (B, ...), labels (B,)). Their sizes differ by one at most,
        so that no tiny last batch upsets batch normalisation; none is larger than ``batch_size``."""
        order = torch.randperm(len(self.labels), generator=stream(seed, epoch, "order"))
        drawn = self._draw(seed, epoch)
        for index in order.tensor_split(len(self))[start:]:
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
    probability 1/2 if ``flip``, two random operations of magnitude ``rand_augment`` (0 to 30; 0: none); then
    (x / 255 - mean) / std and scaling to ``resolution`` (bicubic or bilinear, antialiased).
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, batch_size: int, resolution: int, mean, std,
                 interpolation: str = "bicubic", crop_padding: int = 0, flip: bool = False, rand_augment: int = 0, device="cpu"):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: expected uint8 (N, H, W, 3), got {images.dtype} {images.shape}")
        _check_sizes(images, labels)
        # padded once, and four bytes a pixel: a crop is then a gather of whole pixels, seen as int32
        self.height, self.width = images.shape[1:3]
        self.crop_padding = pad = crop_padding
        stored = np.zeros((len(images), self.height + 2 * pad, self.width + 2 * pad, 4), np.uint8)
        stored[:, pad : pad + self.height, pad : pad + self.width, :3] = images
        super().__init__(torch.as_tensor(stored, device=device).view(torch.int32)[..., 0],
                         torch.as_tensor(np.array(labels), device=device), batch_size)
        self.flip, self.rand_augment = flip, rand_augment
        self.scale = 1 / (255 * torch.tensor(std, device=device))
        self.shift = -torch.tensor(mean, device=device) / torch.tensor(std, device=device)
        self.resize = None
        if images.shape[1:3] != (resolution, resolution):
            rows, columns = (_resize_matrix(n, resolution, interpolation).to(device) for n in (self.height, self.width))
            # on (B, H, 3 W), where the three channels of a pixel stand side by side: what comes out is channels last
            self.resize = rows, torch.kron(columns.T.contiguous(), torch.eye(3, device=device))

    def _draw(self, seed: int, epoch: int) -> dict[str, Tensor]:
        """Crop offsets (2, N), flips (N,) and, for RandAugment, operations (2, N) and signs (2, N) of the epoch."""
        n, device = len(self.labels), self.labels.device
        generator = stream(seed, epoch, "augment")
        drawn = {"offsets": torch.randint(0, 2 * self.crop_padding + 1, (2, n), generator=generator)}
        drawn["flips"] = (torch.rand(n, generator=generator) < 0.5) & self.flip
        if self.rand_augment:
            generator = stream(seed, epoch, "rand_augment")
            drawn["operations"] = torch.randint(0, len(OPERATIONS), (2, n), generator=generator)
            drawn["signs"] = torch.randint(0, 2, (2, n), generator=generator) * 2 - 1
        return {name: value.to(device) for name, value in drawn.items()}

    def _train_batch(self, index: Tensor, drawn) -> tuple[Tensor, Tensor]:
        device = self.labels.device
        top, left = drawn["offsets"][:, index]
        columns = torch.arange(self.width, device=device)
        columns = torch.where(drawn["flips"][index, None], columns.flip(0), columns) + left[:, None]  # (B, W)
        rows = torch.arange(self.height, device=device) + top[:, None]  # (B, H)
        x = self.x[index[:, None, None], rows[:, :, None], columns[:, None, :]]
        return self._to_model(x, drawn, index), self.labels[index]

    def _eval_batch(self, rows: slice) -> Tensor:
        pad = self.crop_padding
        return self._to_model(self.x[rows, pad : pad + self.height, pad : pad + self.width])

    def _to_model(self, pixels: Tensor, drawn=None, index=None) -> Tensor:
        x = pixels.contiguous().view(torch.uint8).unflatten(-1, (-1, 4))[..., :3]  # (B, H, W, 3)
        if drawn and self.rand_augment:
            x = x.permute(0, 3, 1, 2)
            for operations, signs in zip(drawn["operations"][:, index], drawn["signs"][:, index], strict=True):
                x = rand_augment(x, operations, signs, self.rand_augment)
            x = x.permute(0, 2, 3, 1)
        x = x.float().mul_(self.scale).add_(self.shift)
        if self.resize:  # linear, with rows that sum to 1: the order of resizing and normalising does not matter
            rows, columns = self.resize
            x = (rows @ (x.flatten(2) @ columns)).unflatten(-1, (-1, 3))
        return x.permute(0, 3, 1, 2)  # (B, 3, R, R); NHWC memory is channels_last


def _resize_matrix(size: int, resolution: int, interpolation: str) -> Tensor:
    """(resolution, size): what antialiased interpolation does along one dimension."""
    unit = torch.eye(size)[None, None]
    return F.interpolate(unit, (resolution, size), mode=interpolation, antialias=True, align_corners=False)[0, 0].contiguous()


# name -> (strength at magnitude 30, whether it has a sign), as in torchvision's RandAugment for 32 px images
OPERATIONS = {
    "identity": (0.0, False), "shear_x": (0.3, True), "shear_y": (0.3, True), "translate_x": (150 / 331, True),
    "translate_y": (150 / 331, True), "rotate": (30.0, True), "brightness": (0.9, True), "color": (0.9, True),
    "contrast": (0.9, True), "sharpness": (0.9, True), "posterize": (4.0, False), "solarize": (255.0, False),
    "autocontrast": (0.0, False), "equalize": (0.0, False),
}


def rand_augment(x: Tensor, operations: Tensor, signs: Tensor, magnitude: int) -> Tensor:
    """One operation of RandAugment per image: uint8 (B, 3, H, W), operations (B,) indices of ``OPERATIONS``, signs (B,) -1 or 1.

    Images with the same operation and sign are transformed together. Source: Cubuk et al. 2020, RandAugment; the
    operations and their strengths are torchvision's.
    """
    x = x.clone()
    for number, (name, (strength, signed)) in enumerate(OPERATIONS.items()):
        for sign in (-1, 1) if signed else (1,):
            chosen = (operations == number) & ((signs == sign) | (not signed))
            if name != "identity" and bool(chosen.any()):
                x[chosen] = _operate(name, x[chosen], sign * strength * magnitude / 30)
    return x


def _operate(name: str, x: Tensor, strength: float) -> Tensor:
    height, width = x.shape[-2:]
    match name:
        case "shear_x":
            return TF.affine(x, 0.0, [0, 0], 1.0, [math.degrees(math.atan(strength)), 0.0], center=[0, 0])
        case "shear_y":
            return TF.affine(x, 0.0, [0, 0], 1.0, [0.0, math.degrees(math.atan(strength))], center=[0, 0])
        case "translate_x":
            return TF.affine(x, 0.0, [round(strength * width), 0], 1.0, [0.0, 0.0])
        case "translate_y":
            return TF.affine(x, 0.0, [0, round(strength * height)], 1.0, [0.0, 0.0])
        case "rotate":
            return TF.rotate(x, strength)
        case "brightness":
            return TF.adjust_brightness(x, 1 + strength)
        case "color":
            return TF.adjust_saturation(x, 1 + strength)
        case "contrast":
            return TF.adjust_contrast(x, 1 + strength)
        case "sharpness":
            return TF.adjust_sharpness(x, 1 + strength)
        case "posterize":
            return TF.posterize(x, 8 - round(strength))
        case "solarize":
            return TF.solarize(x, 255 - strength)
        case "autocontrast":
            return TF.autocontrast(x)
        case "equalize":
            return TF.equalize(x)
