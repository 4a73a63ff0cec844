"""Softmax cross-entropy weighted by how frequent a class is: notebook 03."""

from __future__ import annotations

import numpy as np

from ltlib.errors import require_one_of
from ltlib.losses.base import Loss, as_counts, sum_to_classes


class WeightedSoftmax(Loss):
    """Cross-entropy weighted by class frequency: w_y ce; d/dz = w_y (p - Y).

    weighting  "log": w_c = 1 - ln(n_c / max n), 1 to 5.6 at IF 100 (the rule of the survey's code);
               "inverse": w_c = (1 / n_c) C / sum_k (1 / n_k)
    normalize  the batch's loss is sum(w_y ce) / sum(w_y) for "weights", sum(w_y ce) / B for "batch"
    Raises ConfigError for other options. Shapes and further errors: see :class:`Loss`.
    Source: Zhang et al. 2023, Deep Long-Tailed Learning: A Survey.
    """

    def __init__(self, class_counts, weighting: str = "log", normalize: str = "weights"):
        require_one_of("weighting", weighting, ("log", "inverse"))
        if weighting == "log":
            counts = as_counts(class_counts)
            weights = 1 - np.log(counts / counts.max())
        else:
            weights = inverse_weights(class_counts)
        super().__init__(class_counts, weights=weights, normalize=normalize)

    @property
    def equals_softmax(self) -> bool:
        return self.equal_counts  # all weights are 1


def inverse_weights(class_counts) -> np.ndarray:
    """(C,) float64 weights 1 / n_c, scaled to sum to C."""
    return sum_to_classes(1 / as_counts(class_counts))
