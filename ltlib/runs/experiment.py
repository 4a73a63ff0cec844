"""One training run in plain values: it is fitted, and what it then says of the test images is
evaluated.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltlib.checkpoints import Checkpoints
from ltlib.hooks import Diverged
from ltlib.losses import Loss
from ltlib.metrics import (
    balanced_accuracy,
    class_hits,
    evaluate,
    geometric_mean,
    participation_ratio,
)
from ltlib.models import Classifier
from ltlib.protocol import base_set
from ltlib.recipe import Recipe
from ltlib.runs.progress import Progress
from ltlib.runs.sets import Sets
from ltlib.training import fit, predict, predict_with_features


@dataclass
class Experiment:
    """What a run trains, and on what.

    criterion    the loss in eval mode, on the CPU and without deferred weights: it evaluates
    drw_weights  (C,) class weights from ``drw_epoch`` on, or None
    groups       classes of the head, the middle and the tail, by name
    """

    model: nn.Module
    loss: Loss
    criterion: Loss
    sets: Sets
    recipe: Recipe
    seed: int
    precision: str
    drw_epoch: int | None
    drw_weights: np.ndarray | Tensor | None
    groups: dict[str, np.ndarray]

    def fit(self, checkpoints: Checkpoints, progress: Progress):
        """Train the model and predict the test images.

        -> the curve; of "last", and "picked" where something validated, the epoch, counted from 1,
        and the logits (N, C) of the largest test set after it; and the weights after the last
        epoch, on the CPU. Raises what :func:`ltlib.training.fit` does.
        """
        model, last = self.model, self.recipe.epochs
        curve, picked = fit(
            model,
            self.loss,
            self.sets.train,
            self.recipe,
            self.seed,
            precision=self.precision,
            validate=self.validate if self.sets.val else None,
            drw_epoch=self.drw_epoch,
            drw_weights=self.drw_weights,
            checkpoints=checkpoints,
            progress=progress,
        )
        logits = predict(model, self.sets.test, self.precision)
        found = {"last": (last, logits)}
        weights = {name: value.cpu().clone() for name, value in model.state_dict().items()}
        if picked is not None:
            if picked["epoch"] < last:
                model.load_state_dict(picked["model"])
                logits = predict(model, self.sets.test, self.precision)
            found["picked"] = picked["epoch"], logits
        return curve, found, weights

    def validate(self, model: nn.Module) -> dict[str, float]:
        """What the curve says of the validation images after an epoch; val_spread: in how many
        directions their features spread, where they are trained."""
        labels = self.sets.val.labels.cpu()
        spread = {}
        if isinstance(model, Classifier):  # in mode "probe" the features stay what they are
            logits, features = predict_with_features(model, self.sets.val, self.precision)
            spread["val_spread"] = participation_ratio(features)
        else:
            logits = predict(model, self.sets.val, self.precision)
        val_loss = F.cross_entropy(self.criterion.prediction_logits(logits.double()), labels)
        found = {
            "val_acc": balanced_accuracy(logits, labels),
            "val_loss": float(val_loss),
            "val_gmean": geometric_mean(logits, labels),
        } | spread
        for name, rows in self._rows_of_groups.items():
            found[f"val_{name}"] = balanced_accuracy(logits[rows], labels[rows])
        return found

    @functools.cached_property
    def _rows_of_groups(self) -> dict[str, Tensor]:
        """Validation images of each group that occurs, (N,) bool."""
        labels = self.sets.val.labels.cpu()
        rows = {name: torch.isin(labels, torch.as_tensor(c)) for name, c in self.groups.items()}
        return {name: mask for name, mask in rows.items() if bool(mask.any())}


def evaluation(
    epoch: int, logits: Tensor, tests: dict[str, np.ndarray], labels: np.ndarray, criterion: Loss
) -> dict:
    """Metrics of every evaluation set, all of them parts of the largest one, whose logits (N, C)
    these are. Raises Diverged where they are not finite.
    """
    if not bool(logits.isfinite().all()):
        raise Diverged("the logits of the test set are not finite")
    base = tests[base_set(tests)]
    labels = torch.as_tensor(labels[base])
    sets, per_class = {}, {}
    for name, index in tests.items():
        rows = torch.as_tensor(np.searchsorted(base, index))
        sets[name] = evaluate(logits[rows], labels[rows], criterion)
        if name in ("balanced", "longtailed"):
            images, hits = class_hits(logits[rows], labels[rows])
            per_class[name] = {"images": images, "hits": hits}
    return {"epoch": epoch, "sets": sets, "per_class": per_class}
