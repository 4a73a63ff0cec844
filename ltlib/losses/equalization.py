"""Softmax equalization loss, which spares rare classes: notebook 08."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ltlib.errors import require_number
from ltlib.losses.base import Loss


class Equalization(Loss):
    """Softmax equalization loss: rare classes are spared the gradient that they get as negatives.

    A negative class j of image i is dropped when f_j < threshold and u_ij < gamma, u ~ U[0, 1)
    drawn anew for each element and call; CE over the logits that are kept: d/dz = q - Y there, q
    their softmax, and 0 on the dropped. Mean. In ``eval()`` mode nothing is dropped.

    threshold  >= 0, a share of the training images. At CIFAR100-LT, IF 100, the smallest f is
               4.6e-4: the survey's ImageNet-LT threshold of 4.3e-4 drops nothing there; 5e-3 makes
               52 classes rare
    gamma      in [0, 1], the probability that a rare negative is dropped
    Call with ``generator`` to draw from it, or with ``uniform`` (B, C) to fix the draw; ValueError
    for another shape of it. Raises ConfigError for other options. Shapes and further errors: see
    :class:`Loss`.
    Source: Tan et al. 2020, Equalization Loss for Long-Tailed Object Recognition (softmax form of
    the survey's code).
    """

    def __init__(self, class_counts, threshold: float = 5e-3, gamma: float = 0.9):
        super().__init__(class_counts)
        require_number("threshold", threshold, 0)
        require_number("gamma", gamma, 0, 1)
        self.gamma = gamma
        rare = torch.as_tensor(self.counts / self.counts.sum() < threshold)
        self.register_buffer("rare", rare, persistent=False)  # (C,) bool

    @property
    def equals_softmax(self) -> bool:
        return self.equal_counts and not bool(self.rare.any())

    def adjusted(
        self, logits: Tensor, labels: Tensor, generator=None, uniform: Tensor | None = None
    ) -> Tensor:
        if uniform is not None and uniform.shape != logits.shape:
            raise ValueError(
                f"uniform: expected shape {tuple(logits.shape)}, got {tuple(uniform.shape)}"
            )
        if not self.training:
            return logits
        below = self.draw(logits, generator) if uniform is None else uniform < self.gamma
        dropped = (self.rare & below).scatter(1, labels[:, None], False)  # the label is no negative
        return logits.masked_fill(dropped, -math.inf)

    def draw(self, logits: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, C) bool: where u < gamma, of a new u ~ U[0, 1) for each of the logits (B, C).

        u has 16 random bits, and its lower 8 are shared by all classes of an image. Drawing is most
        of what this loss costs, and which bits are drawn decides the numbers of all its records.
        """
        size, rows = logits.numel(), len(logits)
        words = torch.randint(
            -(2**63),
            2**63 - 1,
            (math.ceil((size + rows) / 8),),
            generator=generator,
            device=logits.device,
        )
        random_bytes = words.view(torch.uint8)
        upper = random_bytes[:size].view_as(logits)
        lower = random_bytes[size : size + rows, None]
        limit_upper, limit_lower = divmod(math.ceil(self.gamma * 2**16), 2**8)
        return upper < limit_upper + (lower < limit_lower).to(torch.int16)
