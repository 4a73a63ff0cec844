"""LDAM, which asks for the wider margins the rarer a class is: notebook 07."""

from __future__ import annotations

import torch
from torch import Tensor

from ltlib.errors import require_number
from ltlib.losses.base import Loss
from ltlib.losses.class_balanced import weights_by_name


class LDAM(Loss):
    """Label-distribution-aware margins: CE(s (z - m_y Y), y), z cosines (B, C).

    m_c = max_margin n_c^(-1/4) / max_k n_k^(-1/4); d/dz = s (softmax(s (z - m_y Y)) - Y).

    max_margin     in [0, 2): the margin of the rarest class, in units of the cosine
    scale          s > 0. It is applied here, once: pair the loss with a cosine head
    class_weights  (C,) or None: w_y times the loss, reduced as sum / sum(w_y). DRW sets them by
                   ``set_weights`` from its epoch on
    weighting      instead of class_weights: "none", "inverse" or "class_balanced"
    ``prediction_logits`` are s z. Raises ConfigError for other options. Shapes and further errors:
    see :class:`Loss`.
    Source: Cao et al. 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss.
    """

    def __init__(
        self,
        class_counts,
        max_margin: float = 0.5,
        scale: float = 30.0,
        class_weights=None,
        weighting: str = "none",
    ):
        if class_weights is None:
            class_weights = weights_by_name(weighting, class_counts)
        super().__init__(class_counts, weights=class_weights)
        require_number("max_margin", max_margin, 0, 2, open_high=True)
        require_number("scale", scale, 0, open_low=True)
        self.scale = scale
        margins = self.counts**-0.25
        self.register_buffer(
            "margins", torch.as_tensor(max_margin * margins / margins.max()), persistent=False
        )  # (C,)

    def adjusted(self, logits: Tensor, labels: Tensor, generator=None) -> Tensor:
        margin = self.margins.to(logits)[labels]  # (B,)
        # s z - s m_y at the label, and not s (z - m_y), whose last bit would not be the records'
        return (self.scale * logits).scatter_add(
            1, labels[:, None], (-self.scale * margin)[:, None]
        )

    def prediction_logits(self, logits: Tensor) -> Tensor:
        return self.scale * logits
