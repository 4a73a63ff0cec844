"""Softmax cross-entropy weighted by the effective number of images of a class: notebook 05."""

from __future__ import annotations

import math

import numpy as np

from ltlib.errors import require_number, require_one_of
from ltlib.losses.base import Loss, as_counts, sum_to_classes
from ltlib.losses.weighted_softmax import inverse_weights


class ClassBalanced(Loss):
    """Cross-entropy weighted by the inverse effective number of samples: w_y ce; d/dz = w_y (p -
    Y).

    w_c ~ (1 - beta) / (1 - beta^n_c), scaled to sum to C.

    beta       0 <= beta < 1; 0 is softmax, beta -> 1 inverse frequency
    normalize  the batch's loss is sum(w_y ce) / sum(w_y) for "weights", sum(w_y ce) / B for "batch"
               (Cui's TensorFlow code)
    Raises ConfigError for other options. Shapes and further errors: see :class:`Loss`.
    Source: Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples.
    """

    def __init__(self, class_counts, beta: float = 0.9999, normalize: str = "weights"):
        weights = class_balanced_weights(class_counts, beta)
        super().__init__(class_counts, weights=weights, normalize=normalize)

    @property
    def equals_softmax(self) -> bool:
        return self.equal_counts  # all weights are 1


def class_balanced_weights(class_counts, beta: float = 0.9999) -> np.ndarray:
    """(C,) float64 weights (1 - beta) / (1 - beta^n_c), scaled to sum to C; 0 <= beta < 1.

    Raises ConfigError for another beta, and for counts below 1.
    """
    counts = as_counts(class_counts)
    require_number("beta", beta, 0, 1, open_high=True)
    if beta == 0:
        return np.ones_like(counts)
    # 1 - beta^n without cancellation; the constant 1 - beta falls out by scaling
    return sum_to_classes(1 / -np.expm1(counts * math.log(beta)))


def weights_by_name(weighting: str, class_counts) -> np.ndarray | None:
    """Weights (C,) of an option ``weighting``: "none", "inverse" or "class_balanced"."""
    require_one_of("weighting", weighting, ("none", "inverse", "class_balanced"))
    if weighting == "none":
        return None
    return (inverse_weights if weighting == "inverse" else class_balanced_weights)(class_counts)
