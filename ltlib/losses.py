"""The seven losses of the thesis, and what training asks of any method.

Notation: logits z (B, C), labels y (B,), p = softmax(z), n_c = training images of class c, f_c = n_c / sum n,
ce = -log p_y. Every loss is an ``nn.Module``, called as ``loss(logits, labels)``; it returns the batch's scalar, or the (B,) per-sample
losses with ``reduction="none"``. bfloat16 and float16 logits are cast to float32 first. Weights and margins are computed in float64
and kept as buffers. The seven have no learnable parameters and look at logits and labels alone; :mod:`ltlib.methods` has those that
do more, by the same interface.
"""

from __future__ import annotations

import inspect
import math
import numbers

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltlib.config import ConfigError
from ltlib.longtail import check_counts

_NO_LABEL = torch.iinfo(torch.int64).min  # F.cross_entropy would silently pass over its default, -100


def _finite_range(name: str, value: float, low: float, high: float, *, open_low=False, open_high=False) -> None:
    ok = isinstance(value, numbers.Real) and math.isfinite(value)
    ok = ok and (value > low if open_low else value >= low) and (value < high if open_high else value <= high)
    if not ok:
        left, right = "(" if open_low else "[", ")" if open_high or high == math.inf else "]"
        raise ConfigError(f"{name} = {value!r}: expected a number in {left}{low}, {high}{right}")


def _whole(name: str, value: int, low: int, high: float = math.inf) -> None:
    if not (isinstance(value, numbers.Integral) and not isinstance(value, bool) and low <= value <= high):
        raise ConfigError(f"{name} = {value!r}: expected a whole number, {f'at least {low}' if high == math.inf else f'{low} to {high}'}")


def _flag(name: str, value: bool) -> None:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} = {value!r}: expected true or false")


def _choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} = {value!r}: expected one of {', '.join(allowed)}")


def _counts(class_counts) -> np.ndarray:
    try:
        counts = np.asarray(class_counts.cpu() if isinstance(class_counts, Tensor) else class_counts)
    except ValueError:  # lists of different lengths
        counts = np.empty(0, object)
    if counts.ndim != 1 or len(counts) == 0 or counts.dtype.kind not in "iuf" or not np.all(np.isfinite(counts)):
        raise ConfigError(f"class_counts: expected a list of C numbers, got shape {counts.shape}, dtype {counts.dtype}")
    check_counts(counts)
    return counts.astype(np.float64)


def _sum_to_classes(weights: np.ndarray) -> np.ndarray:
    return weights * (len(weights) / weights.sum())


class Loss(nn.Module):
    """Softmax cross-entropy, the base of all seven: ce = -log p_y; d ce / dz = p - Y; mean over the batch.

    Arguments: class_counts (C,), training images per class, all >= 1 (ConfigError otherwise).
    Call: logits (B, C) floating, labels (B,) int64 in 0..C-1, B >= 1; raises ValueError otherwise. On an
    accelerator, and under ``torch.compile``, labels out of range are caught by the device's own index check.

    With per-class weights w (C,) the per-sample losses are w_y ce, and the mean is sum(w_y ce) / sum(w_y) for
    normalize "weights", sum(w_y ce) / B for "batch".

    What a method may do beyond that, all of it in training mode alone (in eval mode every loss is a function of logits and labels):
    look at the ``features`` (B, D) and the ``head``; return one loss per group of classes and say in ``backward`` how they
    become one gradient; have parameters of its own (``param_groups``), made in ``attach``; look at the model before each epoch
    (``start_epoch``); and tell of its own state after it (``report``). Persistent buffers go into checkpoints.
    """

    def __init__(self, class_counts, *, weights=None, normalize: str = "weights"):
        super().__init__()
        _choice("normalize", normalize, ("weights", "batch"))
        self.num_classes = len(_counts(class_counts))
        self.normalize = normalize
        self.register_buffer("weights", None, persistent=False)
        self.set_weights(weights)

    def set_weights(self, weights) -> None:
        """Use these per-class weights (C,) from now on; None for none. ConfigError unless positive, finite, C of them."""
        if weights is not None:
            fault = f"class weights: expected {self.num_classes} finite numbers above 0"
            try:
                weights = torch.as_tensor(weights, dtype=torch.float64)
            except (TypeError, ValueError):
                raise ConfigError(fault) from None
            if weights.shape != (self.num_classes,) or not bool((weights.isfinite() & (weights > 0)).all()):
                raise ConfigError(fault)
        self.weights = weights

    def attach(self, model: nn.Module) -> None:
        """Before training: make what needs the model's sizes."""

    def param_groups(self, lr: float) -> list[dict]:
        """Groups for the optimizer: "params", "lr", and "factor", a function of the epoch; without it the recipe's schedule."""
        return []

    def start_epoch(self, epoch: int, model: nn.Module, batches) -> None:
        """Before each epoch, counted from 0."""

    def backward(self, value: Tensor, model: nn.Module) -> Tensor:
        """Put the gradient of what ``forward`` gave into the parameters; return the batch's loss, a detached scalar."""
        value.backward()
        return value.detach()

    def report(self, head: nn.Module) -> dict:
        """JSON values for the entry of the curve of the epoch just ended."""
        return {}

    def forward(self, logits: Tensor, labels: Tensor, reduction: str = "mean", *, features: Tensor | None = None,
                head: nn.Module | None = None, **draw) -> Tensor:
        """draw: ``generator`` for the losses that draw at random (equalization); the others leave it alone."""
        logits = self._checked(logits, labels, reduction)
        try:
            return self._value(logits, labels, reduction, features=features, head=head, **draw)
        except (IndexError, RuntimeError):
            low, high = map(int, labels.aminmax())
            if low >= 0 and high < self.num_classes:
                raise
            raise ValueError(f"labels: expected 0 to {self.num_classes - 1}, got {low} to {high}") from None

    def _value(self, logits: Tensor, labels: Tensor, reduction: str, *, features: Tensor | None, head: nn.Module | None, **draw) -> Tensor:
        """What ``forward`` gives, of checked arguments."""
        return self._cross_entropy(self._adjusted(logits, labels, **draw), labels, reduction)

    def _adjusted(self, logits: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, C) float32 or float64 logits, (B,) labels -> the logits whose cross-entropy is the loss."""
        return logits

    def prediction_logits(self, logits: Tensor) -> Tensor:
        """The logits whose softmax is the model's prediction: z itself for all but ldam."""
        return logits

    def _cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        weights = None if self.weights is None else self.weights.to(logits)
        by_batch = reduction == "mean" and self.normalize == "batch"
        ce = F.cross_entropy(logits, labels, weights, reduction="sum" if by_batch else reduction, ignore_index=_NO_LABEL)
        return ce / len(labels) if by_batch else ce

    def _apply(self, fn, recurse=True):
        # .to() and .half() move the weights and margins, but leave them as exact as they are
        return super()._apply(lambda buffer: buffer.to(fn(buffer).device), recurse)

    def _checked(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction = {reduction!r}: expected 'mean' or 'none'")
        if logits.ndim != 2 or logits.shape[1] != self.num_classes or not logits.is_floating_point():
            raise ValueError(f"logits: expected floating (B, {self.num_classes}), got {logits.dtype} {tuple(logits.shape)}")
        if labels.dtype != torch.int64 or labels.shape != logits.shape[:1]:
            raise ValueError(f"labels: expected int64 ({logits.shape[0]},), got {labels.dtype} {tuple(labels.shape)}")
        if labels.shape[0] == 0:
            raise ValueError("the batch is empty: expected at least one sample")
        return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


class Softmax(Loss):
    """Softmax cross-entropy, ce = -log p_y; d/dz = p - Y; mean over the batch."""

    def __init__(self, class_counts):
        super().__init__(class_counts)


class WeightedSoftmax(Loss):
    """Cross-entropy weighted by class frequency: w_y ce; d/dz = w_y (p - Y).

    weighting "log": w_c = 1 - ln(n_c / max n), 1 to 5.6 at IF 100 (the rule of the survey's code);
    "inverse": w_c = (1 / n_c) C / sum_k (1 / n_k). normalize: see Loss.
    Source: Zhang et al. 2023, Deep Long-Tailed Learning: A Survey.
    """

    def __init__(self, class_counts, weighting: str = "log", normalize: str = "weights"):
        counts = _counts(class_counts)
        _choice("weighting", weighting, ("log", "inverse"))
        weights = 1 - np.log(counts / counts.max()) if weighting == "log" else _sum_to_classes(1 / counts)
        super().__init__(class_counts, weights=weights, normalize=normalize)


class Focal(Loss):
    """(1 - p_y)^gamma ce; d/dz = [(1 - p_y)^gamma + gamma p_y (1 - p_y)^(gamma - 1) ce] (p - Y); mean.

    gamma >= 0; 0 is softmax. The factor is not detached: it is part of the gradient. With weights (DRW's) each loss is w_y
    times this, reduced as sum / sum(w_y), or sum / B with normalize "batch". weighting "inverse": w_c = (1 / n_c) C / sum_k (1 / n_k);
    "class_balanced": :func:`class_balanced_weights`; "none".
    Source: Lin et al. 2017, Focal Loss for Dense Object Detection.
    """

    def __init__(self, class_counts, gamma: float = 2.0, weighting: str = "none", normalize: str = "weights"):
        super().__init__(class_counts, weights=_weighting(weighting, class_counts), normalize=normalize)
        _finite_range("gamma", gamma, 0, math.inf)
        self.gamma = gamma

    def _cross_entropy(self, logits: Tensor, labels: Tensor, reduction: str) -> Tensor:
        ce = F.cross_entropy(logits, labels, reduction="none", ignore_index=_NO_LABEL)
        # 1 - p without cancellation; the clamp gives the limit gradient 0 at p = 1, where 0^(gamma - 1) is infinite
        one_minus_p = (-torch.expm1(-ce)).clamp_min(torch.finfo(ce.dtype).tiny)
        losses = one_minus_p**self.gamma * ce
        if self.weights is None:
            return losses.mean() if reduction == "mean" else losses
        weights = self.weights.to(logits)[labels]
        if reduction == "none":
            return weights * losses
        return (weights * losses).sum() / (weights.sum() if self.normalize == "weights" else len(labels))


def _weighting(name: str, class_counts) -> np.ndarray | None:
    _choice("weighting", name, ("none", "inverse", "class_balanced"))
    if name == "none":
        return None
    return _sum_to_classes(1 / _counts(class_counts)) if name == "inverse" else class_balanced_weights(class_counts)


class ClassBalanced(Loss):
    """Cross-entropy weighted by the inverse effective number of samples: w_y ce; d/dz = w_y (p - Y).

    w_c ~ (1 - beta) / (1 - beta^n_c), scaled to sum to C; 0 <= beta < 1. beta = 0 is softmax, beta -> 1 inverse
    frequency. normalize "weights" (default) or "batch" (Cui's TensorFlow code).
    Source: Cui et al. 2019, Class-Balanced Loss Based on Effective Number of Samples.
    """

    def __init__(self, class_counts, beta: float = 0.9999, normalize: str = "weights"):
        super().__init__(class_counts, weights=class_balanced_weights(class_counts, beta), normalize=normalize)


def class_balanced_weights(class_counts, beta: float = 0.9999) -> np.ndarray:
    """(C,) float64 weights (1 - beta) / (1 - beta^n_c), scaled to sum to C; 0 <= beta < 1."""
    counts = _counts(class_counts)
    _finite_range("beta", beta, 0, 1, open_high=True)
    if beta == 0:
        return np.ones_like(counts)
    return _sum_to_classes(1 / -np.expm1(counts * math.log(beta)))


class BalancedSoftmax(Loss):
    """Softmax under the training prior: CE(z + ln n, y); d/dz = softmax(z + ln n) - Y; mean. Predict with z.

    Source: Ren et al. 2020, Balanced Meta-Softmax for Long-Tailed Visual Recognition.
    """

    def __init__(self, class_counts):
        super().__init__(class_counts)
        self.register_buffer("log_counts", torch.as_tensor(np.log(_counts(class_counts))), persistent=False)

    def _adjusted(self, logits: Tensor, labels: Tensor, generator=None) -> Tensor:
        return logits + self.log_counts.to(logits)


class LDAM(Loss):
    """Label-distribution-aware margins: CE(s (z - m_y Y), y), z cosines; d/dz = s (softmax(s (z - m_y Y)) - Y).

    m_c = max_margin n_c^(-1/4) / max_k n_k^(-1/4). The scale s is applied here, once; pair with a cosine head.
    class_weights (C,) or None, or weighting "inverse": w_y times that, reduced as sum / sum(w_y); DRW sets them with ``set_weights``.
    max_margin in [0, 2), scale > 0. ``prediction_logits`` are s z.
    Source: Cao et al. 2019, Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss.
    """

    def __init__(self, class_counts, max_margin: float = 0.5, scale: float = 30.0, class_weights=None, weighting: str = "none"):
        super().__init__(class_counts, weights=_weighting(weighting, class_counts) if class_weights is None else class_weights)
        _finite_range("max_margin", max_margin, 0, 2, open_high=True)
        _finite_range("scale", scale, 0, math.inf, open_low=True)
        self.scale = scale
        margins = _counts(class_counts) ** -0.25
        self.register_buffer("margins", torch.as_tensor(max_margin * margins / margins.max()), persistent=False)

    def _adjusted(self, logits: Tensor, labels: Tensor, generator=None) -> Tensor:
        shift = -self.scale * self.margins.to(logits)[labels]
        return (self.scale * logits).scatter_add(1, labels[:, None], shift[:, None])

    def prediction_logits(self, logits: Tensor) -> Tensor:
        return self.scale * logits


class Equalization(Loss):
    """Softmax equalization loss: rare classes are spared the gradient that they get as negatives.

    A negative class j of sample i is dropped when f_j < threshold and u_ij < gamma, u ~ U[0, 1) drawn anew for each
    element and call; CE over the logits that are kept: d/dz = q - Y there, 0 on the dropped. Mean.
    threshold >= 0, gamma in [0, 1]. In ``eval()`` mode nothing is dropped. Pass ``uniform`` (B, C) to fix the draw,
    or a ``generator``; u has 16 random bits then. At CIFAR100-LT IF 100 the smallest f is 4.6e-4: the survey's
    ImageNet-LT threshold of 4.3e-4 drops nothing there; 5e-3 makes 52 classes rare.
    Source: Tan et al. 2020, Equalization Loss for Long-Tailed Object Recognition (softmax form of the survey's code).
    """

    def __init__(self, class_counts, threshold: float = 5e-3, gamma: float = 0.9):
        super().__init__(class_counts)
        _finite_range("threshold", threshold, 0, math.inf)
        _finite_range("gamma", gamma, 0, 1)
        self.gamma = gamma
        counts = _counts(class_counts)
        rare = torch.as_tensor(counts / counts.sum() < threshold)
        self.register_buffer("rare", rare.to(torch.uint8), persistent=False)  # the type of the draws: nothing to convert

    def _adjusted(self, logits: Tensor, labels: Tensor, generator=None, uniform: Tensor | None = None) -> Tensor:
        if uniform is not None and uniform.shape != logits.shape:
            raise ValueError(f"uniform: expected shape {tuple(logits.shape)}, got {tuple(uniform.shape)}")
        if not self.training:
            return logits
        dropped = self._draw(logits, generator) if uniform is None else self.rare * (uniform < self.gamma)
        dropped.scatter_(1, labels[:, None], 0)  # the label itself is never a negative
        # not -inf: 0 * inf is nan. exp(-1e30) is 0 as well, and adding has no pass of its own in backward
        return torch.add(logits, dropped, alpha=-1e30)

    def _draw(self, logits: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, C) uint8: 1 where a class is rare and u < gamma, else 0.

        Random bits are what this loss costs: u has 16 of them, and the lower 8 are shared by all classes of a sample.
        """
        upper, lower = divmod(math.ceil(self.gamma * 2**16), 2**8)
        if upper == 2**8:
            return self.rare.repeat(len(logits), 1)
        size, rows = logits.numel(), len(logits)
        words = torch.randint(-(2**63), 2**63 - 1, (-(-(size + rows) // 8),), generator=generator, device=logits.device)
        draws = words.view(torch.uint8)
        limit = draws[size : size + rows].lt_(lower).add_(upper)
        return draws[:size].view_as(logits).lt_(limit[:, None]).mul_(self.rare)


LOSSES: dict[str, type[Loss]] = {
    "softmax": Softmax,
    "weighted_softmax": WeightedSoftmax,
    "focal": Focal,
    "class_balanced": ClassBalanced,
    "balanced_softmax": BalancedSoftmax,
    "ldam": LDAM,
    "equalization": Equalization,
}


def build_loss(name: str, class_counts, **options) -> Loss:
    """Build a loss by its name in ``LOSSES`` or ``ltlib.methods.METHODS``; options are those of the class. Raises ConfigError for
    unknown ones."""
    from ltlib.methods import METHODS  # which builds upon this module

    known_losses = LOSSES | METHODS
    _choice("loss", name, tuple(known_losses))
    known = [p for p in inspect.signature(known_losses[name]).parameters if p != "class_counts"]
    for option in options:
        if option not in known:
            raise ConfigError(f"{name} has no option {option!r}: expected {', '.join(known) or 'none'}")
    return known_losses[name](class_counts, **options)


def equals_softmax(name: str, class_counts, **options) -> bool:
    """Whether this loss is, by mathematics, softmax cross-entropy on these counts (all equal).

    Equal counts give weights 1 (weighted_softmax, class_balanced), a constant shift of the logits (balanced_softmax),
    and no rare class when threshold <= 1 / C (equalization). Special options (focal gamma 0, say) are not looked for.
    """
    loss = build_loss(name, class_counts, **options)
    if name == "softmax" or np.ptp(_counts(class_counts)) != 0:
        return name == "softmax"
    return name in ("weighted_softmax", "class_balanced", "balanced_softmax") or (
        name == "equalization" and not bool(loss.rare.any())
    )
