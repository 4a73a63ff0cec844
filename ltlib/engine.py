"""The training loop: optimizer, schedule, checkpoints, and how to stop it.

A run that was killed at any moment goes on from its last checkpoint and, on a CPU, ends with the same bits as one that was
left alone: a checkpoint holds everything that the next step depends on.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import glob
import hashlib
import json
import math
import os
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ltlib.batches import FeatureBatches, stream
from ltlib.config import Recipe, atomic_path
from ltlib.losses import Loss

CHECKPOINT_SCHEMA = 1


class Diverged(RuntimeError):
    """A loss or a logit is not a finite number."""


class Stopped(RuntimeError):
    """The process was asked to stop; what it trains has its checkpoint written."""


class CheckpointError(RuntimeError):
    """A whole checkpoint of this very run that does not fit its model or optimizer."""


_stop_requested = False
_saving = threading.Lock()


def request_stop() -> None:
    """Ask the runs of this process to write a checkpoint after the step under way and to raise Stopped."""
    global _stop_requested
    _stop_requested = True


def wait_for_save(seconds: float) -> None:
    """Wait until no checkpoint is being written by this process, at most so long."""
    if _saving.acquire(timeout=seconds):
        _saving.release()


# ------------------------------------------------------------------------------------------ checkpoints


def _say_nothing(line: str) -> None:
    pass


@dataclass
class Checkpoints:
    """The file that a run goes on from: written after every epoch and every ``minutes``, atomically.

    key             what must be the same for the state to be of use (JSON values: config, data, device, libraries)
    starts          who computed from which epoch on: ``start`` for this process, after those of the stored state
    seconds_before  what went into the stored state
    """

    path: Path
    key: dict
    minutes: float = 10.0
    say: Callable[[str], None] = _say_nothing
    start: dict = field(default_factory=dict)
    starts: list[dict] = field(init=False)
    seconds_before: float = field(default=0.0, init=False)

    def __post_init__(self):
        self._began = self._written = time.monotonic()
        self.starts = [self.start | {"epoch": 0, "step": 0}]

    @property
    def seconds(self) -> float:
        """Time spent on the run, by this process and by those whose work it goes on from."""
        return time.monotonic() - self._began + self.seconds_before

    def due(self) -> bool:
        return time.monotonic() - self._written >= 60 * self.minutes

    def save(self, state: dict) -> None:
        """Write the state. A checkpoint is an insurance: if it cannot be written, the run says so and goes on."""
        try:
            with _saving, atomic_path(self.path) as partial:
                torch.save({"schema": CHECKPOINT_SCHEMA, "key": self.key, "starts": self.starts, "state": state,
                            "seconds": self.seconds}, partial)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            before = "the checkpoint before" if self.path.exists() else "its beginning"
            self.say(f"checkpoint not written ({error}). Training goes on; if it were killed now, the next start would be from {before}. "
                     f"Is there room, and is {self.path.parent} yours?")
        self._written = time.monotonic()

    def load(self) -> dict | None:
        """The stored state, on the CPU, or None where there is none that fits.

        A file that cannot be used is named and put aside; one that was written with other libraries, data or device is found again
        when these come back. Raises OSError where the file is there and cannot be read.
        """
        state = self._load()
        if state is None and (own := self._aside({"schema": CHECKPOINT_SCHEMA, "key": self.key})).exists():
            os.replace(own, self.path)
            self.say(f"going on from {own.name}, which was put aside before")
            state = self._load()
        return state

    def _load(self) -> dict | None:
        if not self.path.exists():
            return None
        with open(self.path, "rb") as file:  # what cannot be read now is no damage: the one OSError that is passed on
            while file.read(2**24):
                pass
        try:
            with zipfile.ZipFile(self.path) as parts:  # torch.load does not look at the checksums
                if parts.testzip() is not None:
                    raise ValueError("wrong checksum")
            stored = torch.load(self.path, map_location="cpu", weights_only=True)
            schema, key, state = stored["schema"], dict(stored["key"]), stored["state"]
            starts, seconds = [*stored["starts"], self.start | {"epoch": state["epoch"], "step": state["step"]}], stored["seconds"]
            aside = self._aside({"schema": schema, "key": key})
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can fail anywhere in the parsers
            first = (str(error).splitlines() or [type(error).__name__])[0]
            return self._put_aside(f"is damaged or not one of ours ({first[:60]})", self.path.with_name(f"{self.path.name}.damaged"))
        if schema != CHECKPOINT_SCHEMA:
            return self._put_aside(f"has schema {schema}, expected {CHECKPOINT_SCHEMA}", aside)
        if other := [name for name in self.key if key.get(name, self.key[name]) != self.key[name]]:
            changes = [f"{name} ({key[name]}, now {self.key[name]})" if isinstance(key[name], str) else name for name in other]
            return self._put_aside(f"was written with another {', '.join(changes)}", aside)
        self.starts, self.seconds_before = starts, seconds
        return state

    def _aside(self, of: dict) -> Path:
        digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:10]
        return self.path.with_name(f"{self.path.name}.{digest}.unused")

    def _put_aside(self, fault: str, aside: Path) -> None:
        os.replace(self.path, aside)
        self.say(f"the checkpoint {self.path} {fault}: the run starts from its beginning; the file is kept as {aside.name}")

    def remove(self) -> None:
        """The run is done: nothing goes on from here."""
        for path in (self.path, *self.path.parent.glob(f"{glob.escape(self.path.name)}.*")):
            path.unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------- the loop


def schedule_factor(recipe: Recipe, epoch: float) -> float:
    """Factor of the learning rate after ``epoch`` epochs (fractional within one).

    "cosine": e / w for e < w = warmup_epochs, then (1 + cos(pi (e - w) / (E - w))) / 2; "step": decay^(milestones passed),
    with the same warm-up.
    """
    warm = recipe.warmup_epochs
    if epoch < warm:
        return max(epoch, 1e-3) / warm
    if recipe.schedule == "step":
        return recipe.decay ** sum(epoch >= m for m in recipe.milestones)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warm) / (recipe.epochs - warm)))


def build_optimizer(model: nn.Module, recipe: Recipe, own=()) -> torch.optim.Optimizer:
    """The recipe's optimizer, by timm, for the model and a loss's ``own`` groups (:meth:`ltlib.losses.Loss.param_groups`), the last ones.

    Weight decay leaves biases, normalisation and what the backbone exempts (position embeddings) alone, unless
    ``decay_all``. With ``layer_decay`` d the l-th layer of the backbone from its end has the rate lr d^l; the head has lr.
    """
    from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay

    parts = [model.backbone, model.head] if hasattr(model, "backbone") else [model]
    groups = []
    for part in parts:
        exempt = part.no_weight_decay() if hasattr(part, "no_weight_decay") else ()
        if recipe.decay_all:
            groups.append({"params": list(part.parameters()), "weight_decay": recipe.weight_decay})
        elif recipe.layer_decay < 1 and part is not parts[-1]:
            groups += param_groups_layer_decay(part, recipe.weight_decay, no_weight_decay_list=exempt, layer_decay=recipe.layer_decay)
        else:
            groups += param_groups_weight_decay(part, recipe.weight_decay, no_weight_decay_list=exempt)
    for group in groups:
        group["lr"] = recipe.lr * group.pop("lr_scale", 1.0)
    groups = [group for group in groups if group["params"]] + [{key: group[key] for key in group if key != "factor"} for group in own]
    name = {"sgd": "momentum"}.get(recipe.optimizer, recipe.optimizer)  # timm's "sgd" is Nesterov's, the literature's is not
    return create_optimizer_v2(groups, opt=name, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum, fused=True)


def predict(model: nn.Module, batches: FeatureBatches, precision: str = "float32") -> Tensor:
    """Outputs of the model for all rows in order, in eval mode: (N, ...) float32 on the CPU. Stopped after ``request_stop``."""
    model.eval()
    outputs = []
    with torch.inference_mode():
        for x in batches.in_order():
            if _stop_requested:
                raise Stopped("stopped while predicting")
            with _autocast(batches.labels.device, precision):
                outputs.append(model(x).float())
        return torch.cat(outputs).cpu()


def _autocast(device: torch.device, precision: str):
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def fit(model: nn.Module, loss: Loss, batches: FeatureBatches, recipe: Recipe, seed: int, *, precision: str = "float32",
        validate: Callable[[nn.Module], dict] | None = None, drw_epoch: int | None = None, drw_weights=None,
        checkpoints: Checkpoints | None = None, progress: Callable[[int, int, float | Tensor], None] | None = None,
        ) -> tuple[list[dict], dict | None]:
    """Train in place; return the curve, one dict per epoch, and the state of the epoch that validation picks.

    ``validate`` gives val_acc and val_loss (and val_gmean) of a model after an epoch; the picked epoch has the highest val_acc (the
    earliest of equals; or as ``recipe.pick`` says), and its state is {"epoch", "model"}; None without ``validate``. From ``drw_epoch``
    on the loss uses ``drw_weights``, before it none. With ``recipe.ema`` the moving average is validated, and the model ends as it.
    The loss sees logits, labels, features and head of each batch, and takes part as :class:`ltlib.losses.Loss` says.
    ``progress`` is told (steps done, of the epoch, loss so far) after each step. With ``checkpoints`` the run goes on from
    the stored state, if there is one. Raises Diverged, naming the epoch, as soon as an epoch's loss is not finite, Stopped after
    ``request_stop``, CheckpointError or OSError where the stored state does not fit the model or cannot be read.
    """
    from timm.utils import ModelEmaV3

    device = batches.labels.device
    loss.attach(model)
    loss.to(device)
    own = loss.param_groups(recipe.lr)
    optimizer = build_optimizer(model, recipe, own)
    factors = [functools.partial(schedule_factor, recipe)] * (len(optimizer.param_groups) - len(own))
    factors += [group.get("factor", factors[0]) for group in own]
    scheduler = LambdaLR(optimizer, [lambda step, factor=factor: factor(step / len(batches)) for factor in factors])
    head = getattr(model, "head", model)
    ema = ModelEmaV3(model, decay=recipe.ema, use_warmup=True) if recipe.ema else None
    evaluated = ema.module if ema else model
    forward = torch.compile(model, dynamic=False) if recipe.compile else model
    run = _RunState(model, loss, optimizer, scheduler, ema, device)
    generator = None
    if checkpoints and (stored := checkpoints.load()):
        try:
            generator = run.restore(stored)
        except (RuntimeError, KeyError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):  # the device's fault, not the file's
                raise
            raise CheckpointError(
                f"{checkpoints.path} does not fit this version of the code ({textwrap.shorten(str(error), 200)}). Go on with the version "
                "that wrote it, or remove the file to start the run from its beginning.") from None

    def save():
        if checkpoints:
            checkpoints.save(run.state(generator))

    def better(entry, best):
        if recipe.pick == "gmean":
            return entry["val_gmean"] >= best["val_gmean"]
        return entry["val_acc"] > best["val_acc"]

    while run.epoch < recipe.epochs:
        epoch = run.epoch
        if drw_epoch is not None:
            loss.set_weights(drw_weights if epoch >= drw_epoch else None)
            loss.to(device)
        generator = generator or _generator(seed, epoch, device)
        model.train()
        loss.train()
        if run.step == 0:
            loss.start_epoch(epoch, model, batches)
            run.total = torch.zeros((), device=device)
            run.lr = max(group["lr"] for group in optimizer.param_groups[: len(optimizer.param_groups) - len(own)])
        for x, labels in batches.epoch(seed, epoch, run.step):
            with _autocast(device, precision):
                logits, features = (forward(x), x) if head is model else forward(x, return_features=True)
            value = loss(logits, labels, features=features, head=head, generator=generator)
            optimizer.zero_grad(set_to_none=True)
            run.total += loss.backward(value, model)
            if recipe.clip_grad:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad)
            optimizer.step()
            scheduler.step()
            run.step += 1
            if ema:
                ema.update(model, epoch * len(batches) + run.step)
            if progress:
                progress(epoch * len(batches) + run.step, recipe.epochs * len(batches), run.total / run.step)
            if _stop_requested or (checkpoints and run.step < len(batches) and checkpoints.due()):
                save()
            if _stop_requested:
                raise Stopped(f"stopped in epoch {epoch + 1} of {recipe.epochs}")
        mean = float(run.total) / len(batches)
        if not math.isfinite(mean):
            raise Diverged(f"the training loss of epoch {epoch + 1} of {recipe.epochs} is {mean}")
        entry = {"epoch": epoch + 1, "lr": run.lr, "train_loss": mean} | loss.report(head)
        if validate is not None:
            try:
                entry |= validate(evaluated)
            except Stopped:  # the epoch's steps are done: what is left of it is this validation
                save()
                raise
            if not math.isfinite(entry["val_loss"]):
                raise Diverged(f"the validation loss of epoch {epoch + 1} of {recipe.epochs} is {entry['val_loss']}")
            if run.picked is None or better(entry, run.curve[run.picked["epoch"] - 1]):
                run.picked = {"epoch": epoch + 1, "model": copy.deepcopy(evaluated.state_dict())}
        run.curve.append(entry)
        run.epoch, run.step, generator = epoch + 1, 0, None
        save()
    if ema:
        model.load_state_dict(ema.module.state_dict())
    return run.curve, run.picked


def _generator(seed: int, epoch: int, device) -> torch.Generator:
    generator = stream(seed, epoch, "loss")
    return generator if device.type == "cpu" else torch.Generator(device).manual_seed(generator.initial_seed())


class _RunState:
    """All that the next step depends on, but the data: what a checkpoint holds."""

    def __init__(self, model, loss, optimizer, scheduler, ema, device):
        self.parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler} | ({"ema": ema.module} if ema else {})
        if loss.state_dict():
            self.parts["loss"] = loss
        self.device = device
        self.epoch = self.step = 0  # finished epochs; finished steps of the one under way
        self.total, self.lr = torch.zeros((), device=device), 0.0
        self.curve: list[dict] = []
        self.picked: dict | None = None

    def state(self, generator: torch.Generator | None) -> dict:
        own = {key: value for key, value in vars(self).items() if key not in ("parts", "device")}
        random = {"cpu": torch.get_rng_state(), "loss": generator.get_state() if generator else None}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        return own | {"random": random, "parts": {name: part.state_dict() for name, part in self.parts.items()}}

    def restore(self, stored: dict) -> torch.Generator | None:
        """Put everything back; return the loss's generator of the epoch under way, if one is."""
        random = stored.pop("random")
        for name, part in stored.pop("parts").items():
            self.parts[name].load_state_dict(part)
        vars(self).update(stored)
        self.total = self.total.to(self.device)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.device)
        if random["loss"] is None:
            return None
        generator = torch.Generator(self.device)
        generator.set_state(random["loss"])
        return generator


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """This many threads for PyTorch on the CPU; the number before it is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """One CPU thread and the global random state from ``seed`` (dropout, stochastic depth, fresh layers); both put back."""
    with torch.random.fork_rng(range(torch.cuda.device_count())), threads(1):
        torch.manual_seed(seed)
        yield
