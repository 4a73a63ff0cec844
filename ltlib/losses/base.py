"""What training asks of any loss, and what all of them share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltlib.errors import ConfigError, require_one_of
from ltlib.longtail import check_counts


class Loss(nn.Module):
    """Cross-entropy ce = -log p_y of adjusted logits, weighted by class: the base of all losses.

    Constructor
        class_counts  (C,) training images per class, all >= 1; ConfigError otherwise
        weights       (C,) per-class weights, or None; see ``set_weights``
        normalize     with weights, images' losses are w_y ce; the batch's is then
                      sum(w_y ce) / sum(w_y) for "weights", as ``torch.nn.CrossEntropyLoss`` has it,
                      or sum(w_y ce) / B for "batch"
    Call
        logits (B, C) floating, labels (B,) int64 in 0..C-1, B >= 1 -> scalar, in nats; (B,) with
        reduction "none". bfloat16 and float16 logits are cast to float32 first. Raises ValueError
        for anything else; on an accelerator and under ``torch.compile`` the device itself refuses
        a label out of range.

    A loss of your own overrides the first of these that is enough: ``adjusted`` (other logits),
    ``criterion`` (no cross-entropy), ``batch_loss`` (looks at the features and the head).

    What a method may do beyond that, in training mode alone (in eval mode every loss is a function
    of logits and labels): return one loss per group of classes and say in ``backward`` how they
    become one gradient; have parameters of its own (``param_groups``), made in ``attach``; look at
    the model before each epoch (``start_epoch``); tell of its state after it (``report``).
    Persistent buffers go into checkpoints.
    """

    def __init__(self, class_counts, *, weights=None, normalize: str = "weights"):
        super().__init__()
        require_one_of("normalize", normalize, ("weights", "batch"))
        self.counts = as_counts(class_counts)  # (C,) float64, NumPy
        self.num_classes = len(self.counts)
        self.normalize = normalize
        # float64 until the moment of use, so that float64 logits see exact weights
        self.register_buffer("weights", None, persistent=False)
        self.set_weights(weights)

    def set_weights(self, weights) -> None:
        """Use these per-class weights (C,) from now on, None for none: how DRW switches its own on.

        Raises ConfigError unless they are C finite numbers above 0.
        """
        if weights is not None:
            fault = (
                f"class weights = {weights!r}: expected {self.num_classes} finite numbers above 0"
            )
            try:
                weights = torch.as_tensor(weights, dtype=torch.float64)
            except (TypeError, ValueError):
                raise ConfigError(fault) from None
            usable = weights.isfinite() & (weights > 0)
            if weights.shape != (self.num_classes,) or not bool(usable.all()):
                raise ConfigError(fault)
        self.weights = weights

    @property
    def equals_softmax(self) -> bool:
        """Whether, by mathematics, this is softmax cross-entropy on these class counts.

        Such runs are computed once. Special options (focal's gamma 0, say) are not looked for.
        """
        return False

    @property
    def equal_counts(self) -> bool:
        """Whether all classes have the same number of training images."""
        return bool(np.ptp(self.counts) == 0)

    # ------------------------------------------------------------------------------ the loss

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
        """draw: ``generator`` for losses that draw at random; the others leave it alone."""
        self._check(logits, labels, reduction)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        try:
            return self.batch_loss(logits, labels, reduction, features=features, head=head, **draw)
        except (IndexError, RuntimeError):
            # looked at only now: on an accelerator it would wait for the device at every step
            low, high = map(int, labels.aminmax())
            if low >= 0 and high < self.num_classes:
                raise
            raise ValueError(
                f"labels: expected 0 to {self.num_classes - 1}, got {low} to {high}"
            ) from None

    def batch_loss(
        self,
        logits: Tensor,
        labels: Tensor,
        reduction: str,
        *,
        features: Tensor | None,
        head: nn.Module | None,
        **draw,
    ) -> Tensor:
        """What ``forward`` gives, of checked arguments; features (B, D) and head in training."""
        return self.criterion(self.adjusted(logits, labels, **draw), labels, reduction)

    def adjusted(
        self, logits: Tensor, labels: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, C) logits, (B,) labels -> the (B, C) logits whose cross-entropy is the loss."""
        return logits

    def criterion(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        """Of adjusted logits: the scalar, or the (B,) images' losses for reduction "none"."""
        weights = None if self.weights is None else self.weights.to(logits)
        if reduction == "mean" and self.normalize == "batch":
            return cross_entropy(logits, labels, weights, "sum") / len(labels)
        return cross_entropy(logits, labels, weights, reduction)

    def prediction_logits(self, logits: Tensor) -> Tensor:
        """The (B, C) logits whose softmax is the model's prediction: z, or scaled cosines."""
        return logits

    def _check(self, logits: Tensor, labels: Tensor, reduction: str) -> None:
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction = {reduction!r}: expected 'mean' or 'none'")
        shape = tuple(logits.shape)
        if len(shape) != 2 or shape[1] != self.num_classes or not logits.is_floating_point():
            raise ValueError(
                f"logits: expected floating (B, {self.num_classes}), got {logits.dtype} {shape}"
            )
        if labels.dtype != torch.int64 or labels.shape != shape[:1]:
            raise ValueError(
                f"labels: expected int64 ({shape[0]},), got {labels.dtype} {tuple(labels.shape)}"
            )
        if shape[0] == 0:
            raise ValueError("the batch is empty: expected at least one image")

    # --------------------------------------------------------- what training asks of a method

    def attach(self, model: nn.Module) -> None:
        """Before training: make what needs the model's sizes."""

    def param_groups(self, lr: float) -> list[dict]:
        """Groups of own parameters for the optimizer, beside the model's of learning rate ``lr``.

        Keys: "params", "lr", and "factor", a function of the epoch; without it the recipe's
        schedule.
        """
        return []

    def start_epoch(self, epoch: int, model: nn.Module, batches) -> None:
        """Before each epoch, counted from 0."""

    def outputs(self, forward, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, C) and features (B, D) of a batch, by ``forward`` of x (B, ...)."""
        return forward(x)

    def backward(self, value: Tensor, model: nn.Module) -> Tensor:
        """Put the gradient of ``forward``'s value into the parameters; the loss, detached."""
        value.backward()
        return value.detach()

    def report(self, head: nn.Module) -> dict:
        """JSON values for the entry of the curve of the epoch just ended."""
        return {}


def cross_entropy(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None, reduction: str = "none"
) -> Tensor:
    """``F.cross_entropy`` without its label -100, which it would silently pass over.

    logits (B, C), labels (B,), weights (C,) -> scalar, or (B,) for reduction "none".
    """
    # the label that would be passed over instead becomes -1, which is refused like all of its kind
    no_label = torch.iinfo(torch.int64).min
    labels = labels.clamp_min(-1)
    return F.cross_entropy(logits, labels, weights, reduction=reduction, ignore_index=no_label)


def whole_batch_only(reduction: str) -> None:
    """ValueError for reduction "none", of a loss that is no mean over its images."""
    if reduction == "none":
        raise ValueError(
            "reduction = 'none': expected 'mean': in training this loss is a function of a batch, "
            "not a mean over its images"
        )


def as_counts(class_counts) -> np.ndarray:
    """Class counts (C,) of a list, array or tensor as float64.

    Raises ConfigError unless they are C >= 1 finite numbers, all at least 1.
    """
    if isinstance(class_counts, Tensor):
        class_counts = class_counts.cpu()
    try:
        counts = np.asarray(class_counts)
    except ValueError:  # lists of different lengths
        counts = np.empty(0, object)
    numeric = counts.ndim == 1 and len(counts) > 0 and counts.dtype.kind in "iuf"
    if not numeric or not np.all(np.isfinite(counts)):
        raise ConfigError(
            f"class_counts = {class_counts!r}: expected a list of C numbers, "
            f"got shape {counts.shape}, dtype {counts.dtype}"
        )
    check_counts(counts)
    return counts.astype(np.float64)


def sum_to_classes(weights: np.ndarray) -> np.ndarray:
    """Weights (C,) scaled to sum to C, so that their mean is 1."""
    return weights * (len(weights) / weights.sum())
