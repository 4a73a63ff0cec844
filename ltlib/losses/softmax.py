"""Softmax cross-entropy, the loss that all others are measured against: notebook 02."""

from __future__ import annotations

from ltlib.losses.base import Loss


class Softmax(Loss):
    """Softmax cross-entropy, ce = -log p_y; d/dz = p - Y; mean over the batch, in nats.

    class_counts (C,) give the number of classes alone. Shapes and errors: see :class:`Loss`.
    """

    def __init__(self, class_counts):
        super().__init__(class_counts)

    @property
    def equals_softmax(self) -> bool:
        return True
