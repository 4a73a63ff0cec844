"""What a model is judged by: accuracy, F1 and cross-entropy on an evaluation set, and their intervals."""

from __future__ import annotations

import numpy as np
import torch
from scipy import stats
from sklearn.metrics import f1_score
from torch import Tensor
from torch.nn import functional as F

from ltlib.losses import Loss


def evaluate(logits: Tensor, labels: Tensor, loss: Loss) -> dict[str, float]:
    """Metrics of one evaluation set.

    logits (N, C) as the model gives them, labels (N,), loss in eval mode ->
      n          images
      acc1       share with argmax z = y, 0 to 1
      hits       n * acc1, a whole number
      loss       plain cross-entropy of ``loss.prediction_logits``, mean over images: comparable between losses
      criterion  the training loss itself, mean as it defines it: not comparable between losses
      f1         F1 per class, averaged with the classes' support as weight (the thesis's F1)
      f1_macro   F1 per class, averaged over the classes that occur
      class_acc  accuracy of each class that occurs, averaged: acc1 where they have equal numbers of images. Records from before
                 it was measured do not have it
    """
    logits = logits.double()
    predicted = logits.argmax(1)
    hits = int((predicted == labels).sum())
    y, y_hat = labels.numpy(), predicted.numpy()
    f1 = {average: float(f1_score(y, y_hat, labels=np.unique(y), average=average, zero_division=0)) for average in ("weighted", "macro")}
    return {
        "n": len(labels),
        "acc1": hits / len(labels),
        "hits": hits,
        "loss": float(F.cross_entropy(loss.prediction_logits(logits), labels)),
        "criterion": float(loss(logits, labels)),
        "f1": f1["weighted"],
        "f1_macro": f1["macro"],
        "class_acc": balanced_accuracy(logits, labels),
    }


def class_hits(logits: Tensor, labels: Tensor) -> tuple[list[int], list[int]]:
    """Images and hits of each class: logits (N, C), labels (N,) -> two lists of C whole numbers."""
    num_classes = logits.shape[1]
    right = logits.argmax(1) == labels
    return (torch.bincount(labels, minlength=num_classes).tolist(), torch.bincount(labels[right], minlength=num_classes).tolist())


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Accuracy of each class that occurs, averaged, 0 to 1: what the validation set is judged by, too."""
    counts, hits = map(np.array, class_hits(logits, labels))
    present = counts > 0
    return float((hits[present] / counts[present]).mean())


def proportion_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of n images: what the finite test set leaves open, for one trained model.

    0 <= hits <= n, n >= 1 -> (low, high) within [0, 1]. Raises ValueError otherwise. Source: Wilson 1927.
    """
    if not 0 <= hits <= n or n < 1:
        raise ValueError(f"hits = {hits} of n = {n}: hits must lie between 0 and n, and n must be at least 1")
    low, high = stats.binomtest(hits, n).proportion_ci(confidence_level=level, method="wilson")
    return float(low), float(high)


def mean_interval(values, level: float = 0.95) -> tuple[float, float]:
    """Mean over seeds and the half width of Student's t interval: mean +- t_(k-1) s / sqrt(k).

    values: k numbers, one per seed. k = 1 gives a half width of nan: one seed says nothing about the spread.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * stats.sem(values)
    return float(values.mean()), float(half)
