"""Focal loss, which turns from the images that are already right: notebook 04."""

from __future__ import annotations

import torch
from torch import Tensor

from ltlib.errors import require_number
from ltlib.losses.base import Loss, cross_entropy
from ltlib.losses.class_balanced import weights_by_name


class Focal(Loss):
    """(1 - p_y)^gamma ce; d/dz = [(1-p_y)^gamma + gamma p_y (1-p_y)^(gamma-1) ce] (p - Y); mean.

    The factor is not detached: it is part of the gradient. With weights (DRW's, or of
    ``weighting``) each loss is w_y times this.

    gamma      >= 0; 0 is softmax
    weighting  "none"; "inverse": w_c = (1 / n_c) C / sum_k (1 / n_k); "class_balanced":
               :func:`class_balanced_weights`
    normalize  with weights: sum / sum(w_y) for "weights", sum / B for "batch"
    Raises ConfigError for other options. Shapes and further errors: see :class:`Loss`.
    Source: Lin et al. 2017, Focal Loss for Dense Object Detection.
    """

    def __init__(
        self, class_counts, gamma: float = 2.0, weighting: str = "none", normalize: str = "weights"
    ):
        weights = weights_by_name(weighting, class_counts)
        super().__init__(class_counts, weights=weights, normalize=normalize)
        require_number("gamma", gamma, 0)
        self.gamma = gamma

    def criterion(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        ce = cross_entropy(logits, labels)  # (B,)
        # 1 - p without cancellation; where p is 1, 0^(gamma - 1) would be infinite for gamma < 1,
        # and the clamp gives the gradient its limit, 0
        one_minus_p = (-torch.expm1(-ce)).clamp_min(torch.finfo(ce.dtype).tiny)
        losses = one_minus_p**self.gamma * ce
        if self.weights is None:
            return losses.mean() if reduction == "mean" else losses
        weights = self.weights.to(logits)[labels]  # (B,)
        losses = weights * losses
        if reduction == "none":
            return losses
        return losses.sum() / (weights.sum() if self.normalize == "weights" else len(labels))
