"""Balanced softmax, which trains under the training set's prior: notebook 06."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ltlib.losses.base import Loss


class BalancedSoftmax(Loss):
    """Softmax under the training prior: CE(z + ln n, y); d/dz = softmax(z + ln n) - Y; mean.

    Predictions are of z itself, without the prior. Shapes and errors: see :class:`Loss`.
    Source: Ren et al. 2020, Balanced Meta-Softmax for Long-Tailed Visual Recognition.
    """

    def __init__(self, class_counts):
        super().__init__(class_counts)
        self.register_buffer(
            "log_counts", torch.as_tensor(np.log(self.counts)), persistent=False
        )  # (C,)

    @property
    def equals_softmax(self) -> bool:
        return self.equal_counts  # a constant shift of the logits changes no softmax

    def adjusted(self, logits: Tensor, labels: Tensor, generator=None) -> Tensor:
        return logits + self.log_counts.to(logits)
