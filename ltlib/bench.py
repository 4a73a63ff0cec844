"""What things cost, measured in one run on one machine: ``make bench``."""

from __future__ import annotations

import time
from collections.abc import Callable

import pandas as pd
import torch
from torch.nn import functional as F

from ltlib.longtail import class_counts
from ltlib.losses import LOSSES, build_loss
from ltlib.training import pick_device

LOSS_SHAPES = ((512, 100), (512, 8142))  # batch, classes: CIFAR-100, iNaturalist 2018
PLAIN = "F.cross_entropy"


def loss_times(shapes=LOSS_SHAPES, seconds: float = 8.0, device="cpu") -> pd.DataFrame:
    """Time of forward and backward of each loss in milliseconds, beside PyTorch's own cross-entropy.

    shapes: (batch, classes) pairs; each is measured for about ``seconds``. Float32 logits in [-1, 1],
    so that ldam has its cosines. The losses take turns, so that a busy moment of the machine strikes all of them, and the best
    turn counts: what the computation takes when nothing else interferes. Returns one row per loss, columns (shape, "ms") and
    (shape, "ratio").
    """
    result = {}
    for batch, classes in shapes:
        counts = class_counts(classes, 1000, 100)
        logits = (2 * torch.rand(batch, classes, device=device) - 1).requires_grad_()
        labels = torch.randint(classes, (batch,), device=device)
        losses = {PLAIN: F.cross_entropy} | {name: build_loss(name, counts).to(device) for name in LOSSES}
        best = dict.fromkeys(losses, float("inf"))
        for loss in losses.values():
            _seconds(loss, logits, labels)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for name, loss in losses.items():
                best[name] = min(best[name], _seconds(loss, logits, labels))
        title = f"({batch}, {classes:,})"
        result[title, "ms"] = {name: 1e3 * value for name, value in best.items()}
        result[title, "ratio"] = {name: value / best[PLAIN] for name, value in best.items()}
    return pd.DataFrame(result)


def report_losses(say: Callable[[str], None] = print, seconds: float = 8.0) -> None:
    """Print :func:`loss_times` on the device of ``DEVICE=``."""
    device = pick_device()
    say(f"Forward and backward in milliseconds, and as a multiple of {PLAIN}; (images, classes), float32, {device.type}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    say(loss_times(seconds=seconds, device=device).round(3).to_string())


def _seconds(loss, logits, labels, repeat: int = 5) -> float:
    _synchronize(logits.device)
    start = time.perf_counter()
    for _ in range(repeat):
        logits.grad = None
        loss(logits, labels).backward()
    _synchronize(logits.device)
    return (time.perf_counter() - start) / repeat


def _synchronize(device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
