"""GBG, which steps down for all groups of classes at once: notebook 19."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltlib.errors import require_number, require_one_of, require_whole
from ltlib.losses.base import Loss, whole_batch_only
from ltlib.methods.contrastive import balanced_contrastive
from ltlib.methods.grouping import class_gradients, cosine_matrix, equal_parts, group_by_gradient
from ltlib.methods.min_norm import gbg_weights

HIDDEN = 512  # features within a projection
WORDS = {
    "ce": ("plain", "balanced"),
    "within": ("images", "classes"),
    "grouping": ("gradient", "random", "count"),
    "weights": ("min_norm", "equal"),
}


class GBG(Loss):
    """Gradient-balancing grouping: L = alpha sum_g w_g L_g + beta BSCL, K groups, z = scale cos.

    L_g is the mean cross-entropy, over all classes, of the batch's images of group g; groups
    without any are passed over. w are the min-norm weights (:func:`min_norm_weights`) of the scaled
    gradients g_g / (L_g |g_g|) of the groups with respect to the backbone; they are constants and
    apply to the unscaled L_g, so that every step is close to a Pareto descent direction.
    Groups are made once, before training (or after ``warmup`` epochs, one group until then; every
    ``refresh_every`` epochs again): spectral clustering of the classes' gradients by cosine + 1.

    ce          the cross-entropy of L_g: "plain", or "balanced", that of z + ln n, which the code
                has for ImageNet-LT (Ren et al. 2020)
    within      L_g averages over the "images" of the group in the batch, or over its "classes": the
                mean of the means of those that the batch holds, the paper's words
    groups      K >= 1; at most as many as classes. 1 is softmax with a cosine head
    grouping    "gradient"; the controls "random" (K equal parts of a permutation, by ``seed``) and
                "count" (K equal parts by class count: head, middle and tail for 3)
    weights     "min_norm", or the control "equal": w_g = 1 / K
    beta        of the balanced contrastive term (:func:`balanced_contrastive`), for
                ``views = "contrastive"``; 0: none. Its features pass a projection (linear, batch
                normalisation, ReLU, linear; 512 and ``projection`` outputs), the centres of its
                classes another
    The class vectors of the head begin with length 1. In eval mode: CE(scale cos).
    Raises ConfigError for other options; ValueError for reduction "none" in training, and with
    beta > 0 for one view. Further errors: see :class:`ltlib.losses.base.Loss`.
    Source: Li et al. 2023, Long-Tailed Learning as Multi-Objective Optimization, and its code.
    """

    # made with the model, where beta > 0
    project: nn.Module | None
    project_centres: nn.Module | None
    # what ``forward`` hands to ``backward``: groups of this batch (K',), its contrastive term; of a
    # model whose images do not see each other, the logits of each group, of its own pass
    _present: Tensor | None
    _contrastive: Tensor | None
    _parts: list[Tensor]

    def __init__(
        self,
        class_counts,
        groups: int = 4,
        ce: str = "plain",
        within: str = "images",
        grouping: str = "gradient",
        weights: str = "min_norm",
        alpha: float = 2.0,
        beta: float = 0.0,
        scale: float = 30.0,
        temperature: float = 0.1,
        projection: int = 128,
        warmup: int = 0,
        refresh_every: int = 0,
        seed: int = 0,
    ):
        super().__init__(class_counts)
        require_whole("groups", groups, 1, self.num_classes)
        _require_words(ce=ce, within=within, grouping=grouping, weights=weights)
        _require_positive(alpha=alpha, scale=scale, temperature=temperature)
        _require_whole(warmup=warmup, refresh_every=refresh_every, seed=seed)
        require_whole("projection", projection, 1)
        require_number("beta", beta, 0)
        self.groups, self.grouping, self.weighting, self.within = groups, grouping, weights, within
        self.alpha, self.beta, self.scale = alpha, beta, scale
        self.temperature, self.projection = temperature, projection
        self.warmup, self.refresh_every, self.seed = warmup, refresh_every, seed
        shift = np.log(self.counts) if ce == "balanced" else np.zeros(self.num_classes)
        self.register_buffer("shift", torch.as_tensor(shift), persistent=False)  # (C,)
        # persistent: a checkpoint in the middle of an epoch holds them
        self.register_buffer("group_of", torch.zeros(self.num_classes, dtype=torch.int64))
        self.register_buffer("weight_sum", torch.zeros(groups, dtype=torch.float64))
        self.register_buffer("weight_steps", torch.zeros(groups, dtype=torch.float64))
        self.project = self.project_centres = self._present = self._contrastive = None
        self._apart, self._parts = False, []

    def prediction_logits(self, logits: Tensor) -> Tensor:
        return self.scale * logits

    @torch.no_grad()
    def attach(self, model: nn.Module) -> None:
        # as in the code; a step turns a class vector by the rate over its squared length
        model.head.weight.copy_(F.normalize(model.head.weight, dim=1))
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]
        self._apart = not norms and not self.beta
        if self.beta:
            size = model.backbone.num_features
            self.project, self.project_centres = (
                nn.Sequential(
                    nn.Linear(size, HIDDEN),
                    nn.BatchNorm1d(HIDDEN),
                    nn.ReLU(),
                    nn.Linear(HIDDEN, self.projection),
                )
                for _ in range(2)
            )

    def param_groups(self, lr: float) -> list[dict]:
        own = list(self.parameters())
        return [{"params": own, "lr": lr}] if own else []

    # ------------------------------------------------------------------------------- groups

    def start_epoch(self, epoch: int, model: nn.Module, batches) -> None:
        self.weight_sum.zero_()
        self.weight_steps.zero_()
        since = epoch - self.warmup
        again = bool(self.refresh_every) and since > 0 and since % self.refresh_every == 0
        if self.groups > 1 and (since == 0 or again):
            self.group_of.copy_(torch.as_tensor(self.make_groups(model, batches)))

    def make_groups(self, model: nn.Module, batches) -> np.ndarray:
        """(C,) the group of each class, 0 to K - 1, by ``grouping``."""
        if self.grouping == "count":
            return equal_parts(np.argsort(-self.counts, kind="stable"), self.groups)
        if self.grouping == "random":
            order = np.random.default_rng(self.seed).permutation(self.num_classes)
            return equal_parts(order, self.groups)
        return group_by_gradient(cosine_matrix(class_gradients(model, batches, self)), self.groups)

    # --------------------------------------------------------------------------------- loss

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        reduction: str = "mean",
        *,
        features: Tensor | None = None,
        head: nn.Module | None = None,
        **draw,
    ) -> Tensor:
        """In training with a head: the losses of the groups that the batch holds (K',), for
        ``backward``.

        logits (V B, C) and features (V B, D) hold V views of each image, the first B rows the
        first;
        labels (B,). The cross-entropy looks at the first view alone.
        """
        if head is not None and self.training:
            logits = logits[: len(labels)]
        return super().forward(logits, labels, reduction, features=features, head=head)

    def outputs(self, forward, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Where images do not see each other (no batch normalisation), the images of each group on
        their own: the gradient of a group's loss then takes a backward pass through them alone, and
        those of all groups together as much as one through the batch."""
        if not self._apart:
            return forward(x)
        groups = self.group_of[labels]
        rows = [(groups == group).nonzero()[:, 0] for group in groups.unique()]
        found = [forward(x[index]) for index in rows]
        self._parts = [logits for logits, _ in found]
        back = torch.cat(rows).argsort()
        logits, features = (torch.cat(parts)[back] for parts in zip(*found, strict=True))
        return logits, features

    def batch_loss(
        self, logits: Tensor, labels: Tensor, reduction: str, *, features, head, **draw
    ) -> Tensor:
        if head is None or not self.training:
            return self.criterion(self.scale * logits, labels, reduction)
        whole_batch_only(reduction)
        z = self.scale * logits + self.shift.to(logits)
        ce = self.criterion(z, labels, "none")  # (B,)
        member = F.one_hot(self.group_of[labels], self.groups).to(ce)  # (B, K)
        self._present = member.any(0).nonzero()[:, 0]
        member = member[:, self._present]  # (B, K')
        if self.within == "classes":
            member = member / labels.bincount(minlength=self.num_classes)[labels, None]
        self._contrastive = self._contrastive_term(labels, features, head) if self.beta else None
        return ce @ (member / member.sum(0))

    def _contrastive_term(self, labels: Tensor, features: Tensor | None, head: nn.Module) -> Tensor:
        if features is None or len(features) == len(labels):
            raise ValueError(
                f"beta = {self.beta!r}: expected more than one view of each image; "
                'set views = "contrastive" in the recipe, or beta = 0'
            )
        views = F.normalize(self.project(features[len(labels) :]), dim=1)
        centres = F.normalize(self.project_centres(head.weight), dim=1)
        return balanced_contrastive(views, labels, centres, self.temperature)

    # ----------------------------------------------------------------------------- gradient

    def backward(self, value: Tensor, model: nn.Module) -> Tensor:
        if value.ndim == 0:
            return super().backward(value, model)
        shared = [p for p in model.backbone.parameters() if p.requires_grad]
        others = [p for p in (*model.head.parameters(), *self.parameters()) if p.requires_grad]
        by_group = [self._gradient(i, loss, shared) for i, loss in enumerate(value)]
        self._parts = []
        weights = self._weights(by_group, value.detach())  # (K',)
        total = self.alpha * (weights @ value)
        total.backward(inputs=others, retain_graph=self._contrastive is not None)
        # the backbone's gradient is a sum of those at hand, and no pass of its own
        for parameter, *gradients in zip(shared, *by_group, strict=True):
            parameter.grad = sum(
                self.alpha * w * gradient for w, gradient in zip(weights, gradients, strict=True)
            )
        if self._contrastive is not None:
            (self.beta * self._contrastive).backward(inputs=[*shared, *others])
            total = total + self.beta * self._contrastive
        self.weight_sum[self._present] += weights
        self.weight_steps[self._present] += 1
        return total.detach()

    def _gradient(self, i: int, loss: Tensor, shared: list[Tensor]) -> tuple[Tensor, ...]:
        """Of the i-th group's loss with respect to the backbone."""
        start, above = loss, None
        if self._parts:
            start = self._parts[i]
            (above,) = torch.autograd.grad(loss, start, retain_graph=True)
        how = {"retain_graph": True, "materialize_grads": True}
        return torch.autograd.grad(start, shared, above, **how)

    def _weights(self, by_group: list, losses: Tensor) -> Tensor:
        if self.weighting == "equal" or len(by_group) == 1:
            return torch.full_like(losses, 1 / len(by_group))
        rows = [torch.cat([g.flatten().float() for g in gradients]) for gradients in by_group]
        flat = torch.stack(rows)  # (K', P)
        if not bool(flat.isfinite().all() & losses.isfinite().all()):
            # the run diverges: training says so of a loss that is no number
            return torch.full_like(losses, math.nan)
        return torch.as_tensor(gbg_weights(flat, losses)).to(losses)

    def report(self, head: nn.Module) -> dict:
        """group_weights (K,): means over the epoch's batches that held the group; group_of (C,)."""
        mean = (self.weight_sum / self.weight_steps.clamp_min(1)).tolist()
        return {"group_weights": [round(w, 6) for w in mean], "group_of": self.group_of.tolist()}


def _require_words(**words: str) -> None:
    for name, value in words.items():
        require_one_of(name, value, WORDS[name])


def _require_positive(**values: float) -> None:
    for name, value in values.items():
        require_number(name, value, 0, open_low=True)


def _require_whole(**values: int) -> None:
    for name, value in values.items():
        require_whole(name, value, 0)
