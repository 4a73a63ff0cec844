"""GCPL and Affinity: losses of the distances to the classes' centres, ARConvL's rivals."""

from __future__ import annotations

import torch
from torch import Tensor

from ltlib.errors import require_number
from ltlib.losses.base import Loss, cross_entropy


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of rows (n, D) and (m, D) -> (n, m). The gradient of equal rows is 0.

    |a|^2 - 2 a b + |b|^2, whose product is faster than differences; in float64, in which no small
    distance is lost to cancellation.
    """
    x, y = a.double(), b.double()
    squares = x.square().sum(1)[:, None] + y.square().sum(1)  # (n, m)
    found = torch.addmm(squares, x, y.T, alpha=-2)
    # what is left of equal rows by rounding is 0
    return found.where(found > 1e-14 * squares, 0.0).to(a.dtype)


class GCPL(Loss):
    """Generalised convolutional prototype learning: mean of CE(z) + weight |f - C_y|^2, z = -d^2.

    weight >= 0; 0 is CPL, softmax with a distance head. Raises ConfigError for another. Shapes and
    further errors: see :class:`ltlib.losses.base.Loss`.
    Source: Yang et al. 2018, Robust Classification with Convolutional Prototype Learning.
    """

    def __init__(self, class_counts, weight: float = 0.1):
        super().__init__(class_counts)
        require_number("weight", weight, 0)
        self.weight = weight

    def criterion(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        own = logits.gather(1, labels[:, None])[:, 0]  # (B,), -d^2 of the own centre
        losses = cross_entropy(logits, labels) - self.weight * own
        return losses.mean() if reduction == "mean" else losses


class Affinity(Loss):
    """mean_i sum_{j != y} max(0, margin + S_ij - S_iy) + mean_{j < k} (|C_j - C_k|^2 - mu)^2.

    S = exp(-d^2 / sigma), mu the mean of |C_j - C_k|^2 over pairs of centres; one centre per class.
    In eval mode, where no centres are given, the first term alone.

    margin  in [0, 1]. ARConvL's authors use 0.75 for 28 px images and 0.43 otherwise
    sigma   > 0, in units of d^2
    Raises ConfigError for other options. Shapes and further errors: see
    :class:`ltlib.losses.base.Loss`.
    Source: Hayat et al. 2019, Gaussian Affinity for Max-Margin Class Imbalanced Learning.
    """

    def __init__(self, class_counts, margin: float = 0.75, sigma: float = 10.0):
        super().__init__(class_counts)
        require_number("margin", margin, 0, 1)
        require_number("sigma", sigma, 0, open_low=True)
        self.margin, self.sigma = margin, sigma

    def batch_loss(
        self, logits: Tensor, labels: Tensor, reduction: str, *, features, head, **draw
    ) -> Tensor:
        value = self.criterion(logits, labels, reduction)
        if head is None or not self.training or reduction == "none" or self.num_classes < 2:
            return value
        return value + torch.pdist(head.weight).square().var(unbiased=False)

    def criterion(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        similarity = (logits / self.sigma).exp()  # (B, C)
        own = similarity.gather(1, labels[:, None])  # (B, 1)
        hinge = (self.margin + similarity - own).clamp_min(0)
        losses = hinge.sum(1) - self.margin  # the label's own term is the margin
        return losses.mean() if reduction == "mean" else losses
