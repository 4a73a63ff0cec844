"""ARConvL, which learns a region around each class's centre: notebook 18."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ltlib.errors import ConfigError, require_flag, require_number, require_one_of
from ltlib.losses.base import Loss, cross_entropy, whole_batch_only
from ltlib.methods.distance import squared_distances


class ARConvL(Loss):
    """Adaptive region-based learning: L = L_R + L_D + L_M, with a radius R_j for each class.

    C_j are the head's centres, d_ij the distance from image i to C_j.

    L_R = mean_i alpha_y [max(0, d_iy - R_y)^2 + gamma R_y^2], d constant: it moves the radii alone;
    L_D = beta mean_i alpha_y d^2_iy;
    L_M = mean_i CE(-d^2_ij + log eta_j + sigma^2 1[j != y]) +
          mean_j CE(-|C_j - C_j'|^2 + sigma^2 1[j' != j]).

    alpha_j = max n / n_j, eta_j = n_j / sum n. dmin_j: from C_j to its nearest centre,
    R_ben^2 = min_j dmin_j^2 / 4, R_upp^2 = max(max_j R_j^2, max_j dmin_j^2 / 4),
    beta = min(1, R_upp^2 / R_ben^2 - 1), sigma^2 = min(R_ben^2, R_upp^2 - R_ben^2), all constants.
    Lengths are in units of the features. Predict with argmin_j d^2. In eval mode: CE(-d^2).

    gamma         >= 0, of L_R
    ld_weight     "mean1" (the official code): alpha / mean(alpha) instead of alpha in L_D; "paper":
                  alpha
    beta, sigma2  a number >= 0 instead of what the regions say, as in the paper's ablation; None:
                  adaptive
    centre_loss   the second term of L_M
    Radii are |a_j|, a_j = 0.1 at first, with a rate of their own: 0.001 for three epochs, then
    0.01, never decayed. Raises ConfigError for other options and for fewer than two classes;
    ValueError for reduction "none" in training. Shapes and further errors: see
    :class:`ltlib.losses.base.Loss`.
    Source: Li et al. 2023, ARConvL, and its code.
    """

    RADIUS_LR, FIRST_EPOCHS, FIRST_FACTOR = 0.01, 3, 0.1

    def __init__(
        self,
        class_counts,
        gamma: float = 0.05,
        ld_weight: str = "mean1",
        beta: float | None = None,
        sigma2: float | None = None,
        centre_loss: bool = True,
    ):
        super().__init__(class_counts)
        if self.num_classes < 2:
            raise ConfigError(
                f"class_counts = {self.counts.tolist()}: expected at least two classes: ARConvL "
                "measures the distance between their centres"
            )
        require_number("gamma", gamma, 0)
        require_one_of("ld_weight", ld_weight, ("mean1", "paper"))
        for name, value in (("beta", beta), ("sigma2", sigma2)):
            if value is not None:
                require_number(name, value, 0)
        require_flag("centre_loss", centre_loss)
        self.gamma, self.beta, self.sigma2, self.centre_loss = gamma, beta, sigma2, centre_loss
        alpha = self.counts.max() / self.counts
        ld_alpha = alpha / alpha.mean() if ld_weight == "mean1" else alpha
        log_eta = np.log(self.counts / self.counts.sum())
        for name, value in (("alpha", alpha), ("ld_alpha", ld_alpha), ("log_eta", log_eta)):
            self.register_buffer(name, torch.as_tensor(value), persistent=False)  # (C,)
        self.a = nn.Parameter(torch.full((self.num_classes,), 0.1))

    @property
    def radii(self) -> Tensor:
        """(C,) R_j = |a_j|."""
        return self.a.abs()

    def param_groups(self, lr: float) -> list[dict]:
        def factor(epoch: float) -> float:
            return self.FIRST_FACTOR if epoch < self.FIRST_EPOCHS else 1.0

        own = {"params": [self.a], "lr": self.RADIUS_LR, "weight_decay": 0.0, "factor": factor}
        return [own]

    def regions(self, centres: Tensor) -> dict[str, Tensor]:
        """R_ben^2, R_upp^2, beta and sigma^2 of these centres (C, D): scalars without gradients."""
        return self._regions(squared_distances(centres, centres))

    @torch.no_grad()
    def _regions(self, between: Tensor) -> dict[str, Tensor]:
        """Of the squared distances between centres (C, C)."""
        between = between.detach().clone().fill_diagonal_(math.inf)
        quarter = between.min(1).values / 4  # (C,)
        ben = quarter.min()
        upp = torch.maximum(self.radii.square().max().to(quarter), quarter.max())
        if self.beta is None:
            beta = (upp / ben.clamp_min(1e-12) - 1).clamp(0, 1)
        else:
            beta = torch.full_like(ben, self.beta)
        if self.sigma2 is None:
            sigma2 = torch.minimum(ben, upp - ben)
        else:
            sigma2 = torch.full_like(ben, self.sigma2)
        return {"ben2": ben, "upp2": upp, "beta": beta, "sigma2": sigma2}

    def terms(self, logits: Tensor, labels: Tensor, centres: Tensor) -> dict[str, Tensor]:
        """The terms region, distribution, points and centres (the two of L_M), each a scalar.

        logits (B, C) = -d^2, labels (B,), centres (C, D).
        """
        apart = squared_distances(centres, centres)  # (C, C)
        region = self._regions(apart)
        alpha, ld_alpha = self.alpha.to(logits)[labels], self.ld_alpha.to(logits)[labels]  # (B,)
        radius = self.radii.to(logits)[labels]  # (B,)
        own = -logits.gather(1, labels[:, None])[:, 0]  # (B,), d^2_iy
        outside = (own.detach().clamp_min(0).sqrt() - radius).clamp_min(0)
        margin = region["sigma2"].to(logits)
        prior = logits + self.log_eta.to(logits)
        terms = {
            "region": (alpha * (outside.square() + self.gamma * radius.square())).mean(),
            "distribution": region["beta"].to(logits) * (ld_alpha * own).mean(),
            "points": cross_entropy(_with_margin(prior, labels, margin), labels, reduction="mean"),
        }
        if self.centre_loss:
            classes = torch.arange(len(centres), device=centres.device)
            between = _with_margin(-apart, classes, margin)
            terms["centres"] = cross_entropy(between, classes, reduction="mean")
        return terms

    def batch_loss(
        self, logits: Tensor, labels: Tensor, reduction: str, *, features, head, **draw
    ) -> Tensor:
        if head is None or not self.training:
            return self.criterion(logits, labels, reduction)
        whole_batch_only(reduction)
        return sum(self.terms(logits, labels, head.weight).values())

    def report(self, head: nn.Module) -> dict:
        """regions: ben2, upp2, beta, sigma2 (:meth:`regions`) and the radii (C,)."""
        state = {name: float(value) for name, value in self.regions(head.weight).items()}
        return {"regions": state | {"radii": [round(r, 6) for r in self.radii.tolist()]}}


def _with_margin(logits: Tensor, labels: Tensor, margin: Tensor) -> Tensor:
    """z_ij + margin for j != y_i, but for a constant: z_iy - margin. (B, C), (B,) -> (B, C)."""
    return logits.scatter_add(1, labels[:, None], (-margin).expand(len(labels), 1).to(logits))
