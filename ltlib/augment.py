"""Augmentations of whole batches: RandAugment, AutoAugment, and the views of contrastive
learning."""

from __future__ import annotations

import functools
import math
import re

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

# name -> (strength at magnitude 30, whether it has a sign), as in torchvision's RandAugment for 32
# px images
OPERATIONS = {
    "identity": (0.0, False),
    "shear_x": (0.3, True),
    "shear_y": (0.3, True),
    "translate_x": (150 / 331, True),
    "translate_y": (150 / 331, True),
    "rotate": (30.0, True),
    "brightness": (0.9, True),
    "color": (0.9, True),
    "contrast": (0.9, True),
    "sharpness": (0.9, True),
    "posterize": (4.0, False),
    "solarize": (255.0, False),
    "autocontrast": (0.0, False),
    "equalize": (0.0, False),
}


def rand_augment(x: Tensor, operations: Tensor, signs: Tensor, magnitude: int) -> Tensor:
    """One operation of RandAugment per image: uint8 (B, 3, H, W), operations (B,) indices of
    ``OPERATIONS``, signs (B,) -1 or 1.

    Images with the same operation and sign are transformed together. Source: Cubuk et al. 2020,
    RandAugment; the operations and their strengths are torchvision's.
    """
    x = x.clone()
    numbers, ways = operations.cpu().numpy(), signs.cpu().numpy()  # the one wait for the device
    for number, (name, (strength, signed)) in enumerate(OPERATIONS.items()):
        for sign in (-1, 1) if signed else (1,):
            chosen = np.flatnonzero((numbers == number) & ((ways == sign) | (not signed)))
            if name != "identity" and len(chosen):
                rows = torch.as_tensor(chosen, device=x.device)
                x[rows] = _operate(name, x[rows], sign * strength * magnitude / 30)
    return x


def _operate(name: str, x: Tensor, strength: float) -> Tensor:
    """uint8 (B, 3, H, W): one of torchvision's operations on all images."""
    from torchvision.transforms import functional as TF

    height, width = x.shape[-2:]
    degrees = math.degrees(math.atan(strength))
    operations = {
        "shear_x": lambda: TF.affine(x, 0.0, [0, 0], 1.0, [degrees, 0.0], center=[0, 0]),
        "shear_y": lambda: TF.affine(x, 0.0, [0, 0], 1.0, [0.0, degrees], center=[0, 0]),
        "translate_x": lambda: TF.affine(x, 0.0, [round(strength * width), 0], 1.0, [0.0, 0.0]),
        "translate_y": lambda: TF.affine(x, 0.0, [0, round(strength * height)], 1.0, [0.0, 0.0]),
        "rotate": lambda: TF.rotate(x, strength),
        "brightness": lambda: TF.adjust_brightness(x, 1 + strength),
        "color": lambda: TF.adjust_saturation(x, 1 + strength),
        "contrast": lambda: TF.adjust_contrast(x, 1 + strength),
        "sharpness": lambda: TF.adjust_sharpness(x, 1 + strength),
        "posterize": lambda: TF.posterize(x, 8 - round(strength)),
        "solarize": lambda: TF.solarize(x, 255 - strength),
        "autocontrast": lambda: TF.autocontrast(x),
        "equalize": lambda: TF.equalize(x),
        "invert": lambda: TF.invert(x),
    }
    return operations[name]()


@functools.cache
def auto_augment_policies() -> list[tuple]:
    """AutoAugment's 25 policies for CIFAR, torchvision's: pairs of (operation, probability,
    magnitude 0 to 9 or None)."""
    from torchvision.transforms import AutoAugment, AutoAugmentPolicy

    return AutoAugment(AutoAugmentPolicy.CIFAR10).policies


def auto_augment(x: Tensor, policies: Tensor, chances: Tensor, signs: Tensor) -> Tensor:
    """AutoAugment's policy for CIFAR: uint8 (B, 3, H, W), policies (B,) their indices, chances (2,
    B) in [0, 1), signs (2, B).

    Images with the same operation, magnitude and sign are transformed together. Source: Cubuk et
    al. 2019, AutoAugment; the policies are :func:`auto_augment_policies`.
    """
    x = x.clone()
    for step in range(2):
        wanted: dict[tuple, list[int]] = {}
        for row, (policy, chance, sign) in enumerate(
            zip(policies.tolist(), chances[step].tolist(), signs[step].tolist(), strict=True)
        ):
            operation, probability, magnitude = auto_augment_policies()[policy][step]
            if chance < probability:
                name = (
                    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", operation)
                    .lower()
                    .replace("auto_contrast", "autocontrast")
                )
                strength, signed = OPERATIONS.get(name, (0.0, False))
                wanted.setdefault(
                    (name, (sign if signed else 1) * strength * (magnitude or 0) / 9), []
                ).append(row)
        for (name, strength), rows in wanted.items():
            rows = torch.tensor(rows, device=x.device)
            x[rows] = _operate(name, x[rows], strength)
    return x


HUES = 9  # a hue is one of so many, so that images with the same one are turned together


def simclr_view(x: Tensor, u: Tensor) -> Tensor:
    """SimCLR's augmentation for CIFAR: uint8 (B, 3, H, W), u (11, B) in [0, 1) -> float (B, 3, H,
    W), 0 to 255.

    A crop of 0.2 to 1 of the area, 3/4 to 4/3 as wide as high, scaled back (bilinear); flip (1/2);
    with probability 0.8 brightness, contrast and saturation times 0.6 to 1.4 and hue turned by up
    to 0.1, in this order; grey with probability 0.2.
    Source: Chen et al. 2020, SimCLR, with the strengths of Khosla et al. 2020, SupCon.
    """
    from torchvision.transforms import functional as TF

    area, ratio = 0.2 + 0.8 * u[0], torch.exp(math.log(3 / 4) + u[1] * math.log(16 / 9))
    width, height = (area * ratio).sqrt().clamp_max(1), (area / ratio).sqrt().clamp_max(1)
    left, top = (2 * u[2] - 1) * (1 - width), (2 * u[3] - 1) * (1 - height)
    zero = torch.zeros_like(left)
    mirror = torch.where(u[4] < 0.5, -1.0, 1.0)
    theta = torch.stack(
        [torch.stack([width * mirror, zero, left], 1), torch.stack([zero, height, top], 1)], 1
    )
    y = F.grid_sample(
        x.float(),
        F.affine_grid(theta, list(x.shape), align_corners=False),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    brightness, contrast, saturation = (0.6 + 0.8 * u[i, :, None, None, None] for i in (5, 6, 7))
    z = (brightness * y).clamp(0, 255)
    z = (
        contrast * z + (1 - contrast) * TF.rgb_to_grayscale(z).mean((1, 2, 3), keepdim=True)
    ).clamp(0, 255)
    z = (saturation * z + (1 - saturation) * TF.rgb_to_grayscale(z)).clamp(0, 255)
    turns = (u[8] * HUES).long()
    for turn in range(HUES):
        if bool((turns == turn).any()):
            z[turns == turn] = 255 * TF.adjust_hue(
                z[turns == turn] / 255, 0.2 * turn / (HUES - 1) - 0.1
            )
    y = torch.where((u[9] < 0.8)[:, None, None, None], z, y)
    return torch.where((u[10] < 0.2)[:, None, None, None], TF.rgb_to_grayscale(y, 3), y)
