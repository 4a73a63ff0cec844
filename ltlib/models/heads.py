"""Heads: what turns features into logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltlib.methods.distance import squared_distances


class CosineHead(nn.Module):
    """cos(x, w_c) = normalize(x) . normalize(w_c): features (B, D) -> cosines (B, C) in [-1, 1], no
    bias.

    The scale is the loss's business. Source: Cao et al. 2019 (NormedLinear).
    """

    def __init__(self, features: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=1).T


class ScaledCosineHead(CosineHead):
    """25 cos(x, w_c): features (B, D) -> logits (B, C) in [-25, 25], for losses that scale nothing
    themselves.

    The scale is that of LIFT (Shi et al. 2024), and is not learned.
    """

    scale = 25.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * super().forward(x)


class DistanceHead(nn.Module):
    """z_c = -|x - w_c|^2: features (B, D) -> logits (B, C) <= 0; the rows w_c of ``weight`` are the
    classes' centres.

    Centres start uniform in +-sqrt(6 / C), He's rule with the classes as fan-in, as ARConvL's code
    has it.
    Source: Yang et al. 2018, Robust Classification with Convolutional Prototype Learning (one
    centre per class).
    """

    def __init__(self, features: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(num_classes, features).uniform_(-1, 1) * math.sqrt(6 / num_classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        return -squared_distances(x, self.weight)


HEADS = {
    "linear": nn.Linear,
    "cosine": CosineHead,
    "scaled_cosine": ScaledCosineHead,
    "distance": DistanceHead,
}


def build_head(kind: str, features: int, num_classes: int) -> nn.Module:
    """ "linear": (B, D) -> x W + b, (B, C); "cosine": :class:`CosineHead`; "scaled_cosine":
    :class:`ScaledCosineHead`; "distance": :class:`DistanceHead`."""
    return HEADS[kind](features, num_classes)


@torch.no_grad()
def start_at_class_means(head: nn.Module, features: Tensor, labels: Tensor) -> None:
    """Let a head begin as the classifier by the nearest class mean m_c: features (N, D), labels
    (N,).

    cosine    w_c = normalize(mean of the normalised features of class c)
    distance  w_c = m_c
    linear    w_c = m_c / s^2, b_c = -|m_c|^2 / 2 s^2, so that z_c = -|x - m_c|^2 / 2 s^2 up to what
              all classes share; s^2 is the mean of |x - m_y|^2 over the images
    Raises ValueError for a class without images.
    """
    classes = len(head.weight)
    if len(labels.unique()) < classes:
        raise ValueError(f"labels of {len(labels.unique())} classes: expected all {classes}")
    cosine = isinstance(head, CosineHead)
    x = F.normalize(features.double(), dim=1) if cosine else features.double()
    sums = torch.zeros(classes, x.shape[1], dtype=x.dtype, device=x.device)
    counts = labels.bincount(minlength=classes)[:, None]
    means = sums.index_add_(0, labels, x) / counts  # (C, D)
    if cosine:
        head.weight.copy_(F.normalize(means, dim=1))
        return
    if isinstance(head, DistanceHead):
        head.weight.copy_(means)
        return
    spread = (x - means[labels]).square().sum(1).mean()
    head.weight.copy_(means / spread)
    head.bias.copy_(-means.square().sum(1) / (2 * spread))


class Classifier(nn.Module):
    """A backbone and a head: images (B, 3, R, R) -> logits (B, C), or with ``return_features``
    those and the features (B, D)."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor, return_features: bool = False):
        # the head in float32: a bfloat16 cosine moves in steps of 0.004, which LDAM's scale makes
        # 0.12
        features = self.backbone(x).float()
        with torch.autocast(x.device.type, enabled=False):
            logits = self.head(features)
        return (logits, features) if return_features else logits


def build_classifier(backbone: nn.Module, head: str, num_classes: int) -> Classifier:
    """The backbone with a new head (:func:`build_head`) of its number of features."""
    return Classifier(backbone, build_head(head, backbone.num_features, num_classes))
