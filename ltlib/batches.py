"""Batches made on the device, whole batches at a time.

Images stay there as uint8. Each batch is gathered, cropped, flipped, normalised and scaled to the model's resolution as one
tensor. The order of an epoch depends on (seed, epoch) alone, the augmentation of an image on
(seed, epoch, index) alone.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


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

    def take(self, index: Tensor) -> Tensor:
        """x of these rows (n,), without augmentation."""
        return self._eval_batch(index)

    def in_order(self) -> Iterator[Tensor]:
        """Batches of x in the stored order, without augmentation."""
        for start in range(0, len(self.labels), self.batch_size):
            yield self._eval_batch(slice(start, start + self.batch_size))

    def _draw(self, seed: int, epoch: int):
        """What an epoch's augmentation needs, for all images: nothing here."""

    def _train_batch(self, index: Tensor, drawn) -> tuple[Tensor, Tensor]:
        return self.x[index], self.labels[index]

    def _eval_batch(self, rows: slice | Tensor) -> Tensor:
        return self.x[rows]


class ImageBatches(FeatureBatches):
    """Batches of images: uint8 (N, H, W, 3) in, normalised float32 (B, 3, R, R), channels last, out.

    Augmentation: zero padding by ``crop_padding`` and a random crop of the original size, horizontal flip with
    probability 1/2 if ``flip``, two random operations of magnitude ``rand_augment`` (0 to 30; 0: none); then
    (x / 255 - mean) / std, a square of ``cutout`` pixels around a random one set to 0, and scaling to ``resolution`` (bicubic or
    bilinear, antialiased). With ``views`` "contrastive" a training batch holds three views of each image, (3 B, 3, R, R): one with
    AutoAugment, and two with SimCLR's augmentation instead of crop, flip and Cutout.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, *, batch_size: int, resolution: int, mean, std,
                 interpolation: str = "bicubic", crop_padding: int = 0, flip: bool = False, rand_augment: int = 0, cutout: int = 0,
                 views: str = "one", device="cpu"):
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images: expected uint8 (N, H, W, 3), got {images.dtype} {images.shape}")
        _check_sizes(images, labels)
        if views not in ("one", "contrastive"):
            raise ValueError(f"views = {views!r}: expected one, contrastive")
        # padded once, and four bytes a pixel: a crop is then a gather of whole pixels, seen as int32
        self.height, self.width = images.shape[1:3]
        self.crop_padding = pad = crop_padding
        stored = np.zeros((len(images), self.height + 2 * pad, self.width + 2 * pad, 4), np.uint8)
        stored[:, pad : pad + self.height, pad : pad + self.width, :3] = images
        super().__init__(torch.as_tensor(stored, device=device).view(torch.int32)[..., 0],
                         torch.as_tensor(np.array(labels), device=device), batch_size)
        self.flip, self.rand_augment, self.cutout, self.views = flip, rand_augment, cutout, views
        self.scale = 1 / (255 * torch.tensor(std, device=device))
        self.shift = -torch.tensor(mean, device=device) / torch.tensor(std, device=device)
        self.resize = None
        if images.shape[1:3] != (resolution, resolution):
            rows, columns = (_resize_matrix(n, resolution, interpolation).to(device) for n in (self.height, self.width))
            # on (B, H, 3 W), where the three channels of a pixel stand side by side: what comes out is channels last
            self.resize = rows, torch.kron(columns.T.contiguous(), torch.eye(3, device=device))

    def _draw(self, seed: int, epoch: int) -> dict[str, Tensor]:
        """Crop offsets (2, N), flips (N,) and, where they are asked for, what the other augmentations need of the epoch."""
        n, device = len(self.labels), self.labels.device
        generator = stream(seed, epoch, "augment")
        drawn = {"offsets": torch.randint(0, 2 * self.crop_padding + 1, (2, n), generator=generator)}
        drawn["flips"] = (torch.rand(n, generator=generator) < 0.5) & self.flip
        if self.rand_augment:
            generator = stream(seed, epoch, "rand_augment")
            drawn["operations"] = torch.randint(0, len(OPERATIONS), (2, n), generator=generator)
            drawn["signs"] = torch.randint(0, 2, (2, n), generator=generator) * 2 - 1
        if self.cutout:
            sides = torch.tensor([[self.height], [self.width]])
            drawn["holes"] = (torch.rand(2, n, generator=stream(seed, epoch, "cutout")) * sides).long()
        if self.views == "contrastive":
            drawn["policies"] = torch.randint(0, len(auto_augment_policies()), (n,), generator=stream(seed, epoch, "auto_augment"))
            drawn["chances"] = torch.rand(2, n, generator=stream(seed, epoch, "auto_augment_chances"))
            drawn["signs"] = torch.randint(0, 2, (2, n), generator=stream(seed, epoch, "auto_augment_signs")) * 2 - 1
            drawn["simclr"] = torch.rand(2, 11, n, generator=stream(seed, epoch, "simclr"))
        return {name: value.to(device) for name, value in drawn.items()}

    def _train_batch(self, index: Tensor, drawn) -> tuple[Tensor, Tensor]:
        device = self.labels.device
        top, left = drawn["offsets"][:, index]
        columns = torch.arange(self.width, device=device)
        columns = torch.where(drawn["flips"][index, None], columns.flip(0), columns) + left[:, None]  # (B, W)
        rows = torch.arange(self.height, device=device) + top[:, None]  # (B, H)
        x = self._to_model(self.x[index[:, None, None], rows[:, :, None], columns[:, None, :]], drawn, index)
        if self.views == "contrastive":
            pad = self.crop_padding
            whole = _channels(self.x[index, pad : pad + self.height, pad : pad + self.width]).permute(0, 3, 1, 2)
            more = [self._normalised(simclr_view(whole, u).permute(0, 2, 3, 1)) for u in drawn["simclr"][..., index]]
            x = torch.cat([x, *more])
        return x, self.labels[index]

    def _eval_batch(self, rows: slice | Tensor) -> Tensor:
        pad = self.crop_padding
        return self._to_model(self.x[rows, pad : pad + self.height, pad : pad + self.width])

    def _to_model(self, pixels: Tensor, drawn=None, index=None) -> Tensor:
        x = _channels(pixels)
        if drawn and self.rand_augment:
            x = x.permute(0, 3, 1, 2)
            for operations, signs in zip(drawn["operations"][:, index], drawn["signs"][:, index], strict=True):
                x = rand_augment(x, operations, signs, self.rand_augment)
            x = x.permute(0, 2, 3, 1)
        if drawn and self.views == "contrastive":
            x = auto_augment(x.permute(0, 3, 1, 2), drawn["policies"][index], drawn["chances"][:, index],
                             drawn["signs"][:, index]).permute(0, 2, 3, 1)
        return self._normalised(x, drawn["holes"][:, index] if drawn and self.cutout else None)

    def _normalised(self, x: Tensor, holes: Tensor | None = None) -> Tensor:
        """(B, H, W, 3) values 0 to 255 -> (B, 3, R, R); ``holes`` (2, B): the pixel in the middle of what Cutout blanks."""
        x = x.float().mul_(self.scale).add_(self.shift)
        if holes is not None:
            half = self.cutout // 2
            rows, columns = (torch.arange(side, device=x.device) - at[:, None] for side, at in zip(x.shape[1:3], holes, strict=True))
            inside = [(d >= -half) & (d < self.cutout - half) for d in (rows, columns)]
            x = x.masked_fill((inside[0][:, :, None] & inside[1][:, None, :])[..., None], 0)
        if self.resize:  # linear, with rows that sum to 1: the order of resizing and normalising does not matter
            rows, columns = self.resize
            x = (rows @ (x.flatten(2) @ columns)).unflatten(-1, (-1, 3))
        return x.permute(0, 3, 1, 2)  # (B, 3, R, R); NHWC memory is channels_last


def _channels(pixels: Tensor) -> Tensor:
    """(B, H, W) of four bytes -> (B, H, W, 3) uint8."""
    return pixels.contiguous().view(torch.uint8).unflatten(-1, (-1, 4))[..., :3]


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
    from torchvision.transforms import functional as TF

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
        case "invert":
            return TF.invert(x)


@functools.cache
def auto_augment_policies() -> list[tuple]:
    """AutoAugment's 25 policies for CIFAR, torchvision's: pairs of (operation, probability, magnitude 0 to 9 or None)."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return AutoAugment(AutoAugmentPolicy.CIFAR10).policies


def auto_augment(x: Tensor, policies: Tensor, chances: Tensor, signs: Tensor) -> Tensor:
    """AutoAugment's policy for CIFAR: uint8 (B, 3, H, W), policies (B,) their indices, chances (2, B) in [0, 1), signs (2, B).

    Images with the same operation, magnitude and sign are transformed together. Source: Cubuk et al. 2019, AutoAugment; the policies
    are :func:`auto_augment_policies`.
    """
    x = x.clone()
    for step in range(2):
        wanted: dict[tuple, list[int]] = {}
        for row, (policy, chance, sign) in enumerate(zip(policies.tolist(), chances[step].tolist(), signs[step].tolist(), strict=True)):
            operation, probability, magnitude = auto_augment_policies()[policy][step]
            if chance < probability:
                name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation).lower().replace("auto_contrast", "autocontrast")
                strength, signed = OPERATIONS.get(name, (0.0, False))
                wanted.setdefault((name, (sign if signed else 1) * strength * (magnitude or 0) / 9), []).append(row)
        for (name, strength), rows in wanted.items():
            rows = torch.tensor(rows, device=x.device)
            x[rows] = _operate(name, x[rows], strength)
    return x


HUES = 9  # a hue is one of so many, so that images with the same one are turned together


def simclr_view(x: Tensor, u: Tensor) -> Tensor:
    """SimCLR's augmentation for CIFAR: uint8 (B, 3, H, W), u (11, B) in [0, 1) -> float (B, 3, H, W), 0 to 255.

    A crop of 0.2 to 1 of the area, 3/4 to 4/3 as wide as high, scaled back (bilinear); flip (1/2); with probability 0.8 brightness,
    contrast and saturation times 0.6 to 1.4 and hue turned by up to 0.1, in this order; grey with probability 0.2.
    Source: Chen et al. 2020, SimCLR, with the strengths of Khosla et al. 2020, SupCon.
    """
    from torchvision.transforms import functional as TF

    area, ratio = 0.2 + 0.8 * u[0], torch.exp(math.log(3 / 4) + u[1] * math.log(16 / 9))
    width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    left, top = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)
    zero = torch.zeros_like(left)
    mirror = torch.where(u[4] < 0.5, -1.0, 1.0)
    theta = torch.stack([torch.stack([width * mirror, zero, left], 1), torch.stack([zero, height, top], 1)], 1)
    y = F.grid_sample(x.float(), F.affine_grid(theta, list(x.shape), align_corners=False), mode="bilinear", padding_mode="border",
                      align_corners=False)
    brightness, contrast, saturation = (0.6 + 0.8 * u[i, :, None, None, None] for i in (5, 6, 7))
    z = (brightness * y).clamp(0, 255)
    z = (contrast * z + (1 - contrast) * TF.rgb_to_grayscale(z).mean((1, 2, 3), keepdim=True)).clamp(0, 255)
    z = (saturation * z + (1 - saturation) * TF.rgb_to_grayscale(z)).clamp(0, 255)
    turns = (u[8] * HUES).long()
    for turn in range(HUES):
        if bool((turns == turn).any()):
            z[turns == turn] = 255 * TF.adjust_hue(z[turns == turn] / 255, 0.2 * turn / (HUES - 1) - 0.1)
    y = torch.where((u[9] < 0.8)[:, None, None, None], z, y)
    return torch.where((u[10] < 0.2)[:, None, None, None], TF.rgb_to_grayscale(y, 3), y)
