"""What hangs on the training loop: small objects that :func:`ltlib.training.fit` calls at its
turning points, in the order of its list.
"""

from __future__ import annotations

import copy
import math
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ltlib.checkpoints import CheckpointError, Checkpoints, Stopped, stop_requested

if TYPE_CHECKING:
    from ltlib.training import Training


class Diverged(RuntimeError):
    """A loss or a logit is not a finite number."""


class Hook:
    """Does nothing; each hook overrides what it needs."""

    def before_training(self, run: Training) -> None:
        """Once, before the first epoch."""

    def before_epoch(self, run: Training) -> None:
        """Before an epoch's first step, or before the one where a resumed training goes on."""

    def after_step(self, run: Training) -> None:
        """After every step."""

    def after_steps(self, run: Training, entry: dict) -> None:
        """After an epoch's last step; what is put into ``entry`` goes into the curve."""

    def after_epoch(self, run: Training) -> None:
        """When the epoch is over: ``run.epoch`` is the next one."""

    def after_training(self, run: Training) -> None:
        """Once, after the last epoch."""


class Reweighting(Hook):
    """Deferred re-weighting: class weights (C,) from an epoch on, counted from 0; none before."""

    def __init__(self, epoch: int, weights):
        self.epoch, self.weights = epoch, weights

    def before_epoch(self, run: Training) -> None:
        run.loss.set_weights(self.weights if run.epoch >= self.epoch else None)
        run.loss.to(run.device)


class MovingAverage(Hook):
    """Exponential moving average of the weights, by timm: it is validated, and the model ends as
    it.
    """

    def __init__(self, decay: float):
        self.decay = decay

    def before_training(self, run: Training) -> None:
        from timm.utils import ModelEmaV3

        self.ema = ModelEmaV3(run.model, decay=self.decay, use_warmup=True)
        run.average = self.ema.module

    def after_step(self, run: Training) -> None:
        self.ema.update(run.model, run.steps_done)

    def after_training(self, run: Training) -> None:
        run.model.load_state_dict(run.average.state_dict())


class Telling(Hook):
    """Tells ``progress`` the steps done, those of the whole training, and the epoch's mean loss so
    far.
    """

    def __init__(self, progress: Callable[[int, int, float | Tensor], None]):
        self.progress = progress

    def after_step(self, run: Training) -> None:
        self.progress(run.steps_done, run.recipe.epochs * len(run.batches), run.total / run.step)


class Validation(Hook):
    """Puts what ``validate`` finds of the model into the curve, and keeps the best epoch's weights.

    pick  "accuracy": the highest val_acc, the earliest of equals; "gmean": the highest val_gmean,
          the latest of equals
    """

    def __init__(self, validate: Callable[[nn.Module], dict], pick: str):
        self.validate, self.pick = validate, pick

    def after_steps(self, run: Training, entry: dict) -> None:
        """Validate. Raises Diverged where val_loss is not finite."""
        model = run.model if run.average is None else run.average
        entry |= self.validate(model)
        if not math.isfinite(entry["val_loss"]):
            raise Diverged(f"the validation loss of {run.place} is {entry['val_loss']}")
        if run.picked is None or self._better(entry, run.curve[run.picked["epoch"] - 1]):
            run.picked = {"epoch": run.epoch + 1, "model": copy.deepcopy(model.state_dict())}

    def _better(self, entry: dict, best: dict) -> bool:
        if self.pick == "gmean":
            return entry["val_gmean"] >= best["val_gmean"]
        return entry["val_acc"] > best["val_acc"]


class Stopping(Hook):
    """Ends the training after the step in which :func:`ltlib.checkpoints.request_stop` was
    called.
    """

    def after_step(self, run: Training) -> None:
        if stop_requested():
            raise Stopped(f"stopped in {run.place}")


class Saving(Hook):
    """Goes on from the checkpoint, if there is one, and writes it. Comes last in the list, so that
    all that belongs to the state is there.
    """

    def __init__(self, checkpoints: Checkpoints):
        self.checkpoints = checkpoints

    def before_training(self, run: Training) -> None:
        """Go on from the stored state. Raises OSError, CheckpointError."""
        stored = self.checkpoints.load()
        if not stored:
            return
        try:
            run.restore(stored)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # the device's fault, not the file's
        except (RuntimeError, KeyError, ValueError) as error:
            raise CheckpointError(
                f"{self.checkpoints.path} does not fit this version of the code"
                f" ({textwrap.shorten(str(error), 200)}). Go on with the version that wrote it, or"
                " remove the file to start the run from its beginning."
            ) from None

    def after_step(self, run: Training) -> None:
        # at an epoch's end the state is written after its validation
        if run.step < len(run.batches) and self.checkpoints.due():
            self.checkpoints.save(run.state())

    def after_epoch(self, run: Training) -> None:
        at_end = run.epoch == run.recipe.epochs  # what is left to do may fail
        if at_end or self.checkpoints.due_after_epoch():
            self.checkpoints.save(run.state())
