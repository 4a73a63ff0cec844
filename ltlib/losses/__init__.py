"""Losses for long-tailed classes, each an ``nn.Module``: ``loss(logits, labels)`` -> scalar.

    from ltlib.losses import build_loss
    loss = build_loss("ldam", class_counts, max_margin=0.5, scale=30.0)

Notation of all docstrings: logits z (B, C), labels y (B,), p = softmax(z), Y = onehot(y) (B, C),
n_c = training images of class c, f_c = n_c / sum n, ce = -log p_y in nats. Gradients stand there
per image, before the mean.

The seven of the thesis have no learnable parameters and look at logits and labels alone.
:mod:`ltlib.methods` has those that do more, by the same interface, :class:`ltlib.losses.base.Loss`.
Names, titles and heads stand in :mod:`ltlib.registry`.
"""

from __future__ import annotations

import inspect

from ltlib import registry
from ltlib.errors import ConfigError, require_one_of
from ltlib.losses.balanced_softmax import BalancedSoftmax
from ltlib.losses.base import Loss
from ltlib.losses.class_balanced import ClassBalanced, class_balanced_weights
from ltlib.losses.equalization import Equalization
from ltlib.losses.focal import Focal
from ltlib.losses.ldam import LDAM
from ltlib.losses.softmax import Softmax
from ltlib.losses.weighted_softmax import WeightedSoftmax

__all__ = [
    "LDAM",
    "BalancedSoftmax",
    "ClassBalanced",
    "Equalization",
    "Focal",
    "Loss",
    "Softmax",
    "WeightedSoftmax",
    "build_loss",
    "class_balanced_weights",
    "equals_softmax",
]


def build_loss(name: str, class_counts, **options) -> Loss:
    """The loss or method of this name in :mod:`ltlib.registry`.

    class_counts (C,): training images of each class, all >= 1. options: those of its class.
    Raises ConfigError for an unknown name or option, and for counts or options that cannot be
    meant.
    """
    require_one_of("loss", name, registry.ENTRIES)
    cls = registry.loss_class(name)
    known = [p for p in inspect.signature(cls).parameters if p != "class_counts"]
    for option in options:
        if option not in known:
            raise ConfigError(
                f"{name} has no option {option!r}: expected {', '.join(known) or 'none'}"
            )
    return cls(class_counts, **options)


def equals_softmax(name: str, class_counts, **options) -> bool:
    """Whether this loss is softmax cross-entropy on these counts: :attr:`Loss.equals_softmax`."""
    return build_loss(name, class_counts, **options).equals_softmax
