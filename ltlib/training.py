"""The training loop, the optimizer with its schedule, and prediction.

A run that was killed at any moment goes on from its last checkpoint and, on a CPU, ends with the
same bits as one that was left alone: :class:`Training` is everything that the next step depends on.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ltlib.batches import FeatureBatches, stream
from ltlib.checkpoints import Checkpoints, Stopped, stop_requested
from ltlib.hooks import (
    Diverged,
    Hook,
    MovingAverage,
    Reweighting,
    Saving,
    Stopping,
    Telling,
    Validation,
)
from ltlib.losses import Loss
from ltlib.recipe import Recipe


def fit(
    model: nn.Module,
    loss: Loss,
    batches: FeatureBatches,
    recipe: Recipe,
    seed: int,
    *,
    precision: str = "float32",
    validate: Callable[[nn.Module], dict] | None = None,
    drw_epoch: int | None = None,
    drw_weights=None,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[int, int, float | Tensor], None] | None = None,
) -> tuple[list[dict], dict | None]:
    """Train in place; return the curve, one dict per epoch, and the epoch that validation picks,
    {"epoch", "model"}, or None without ``validate``.

    validate     what is to be known of a model after an epoch: val_acc, val_loss, val_gmean
    drw_epoch    from it on the loss uses ``drw_weights`` (C,), before it none
    checkpoints  the run goes on from the stored state, if there is one, and stores its own
    progress     told the steps done, of all, and the epoch's loss so far, after each step

    The loss takes part as :class:`ltlib.losses.Loss` says. Raises Diverged, naming the epoch, as
    soon as an epoch's loss is not finite; Stopped after ``request_stop``; CheckpointError or
    OSError where the stored state does not fit the model or cannot be read.
    """
    run = Training(model, loss, batches, recipe, seed, precision)
    hooks: list[Hook] = [] if drw_epoch is None else [Reweighting(drw_epoch, drw_weights)]
    hooks += [MovingAverage(recipe.ema)] if recipe.ema else []
    hooks += [Telling(progress)] if progress else []
    hooks += [Validation(validate, recipe.pick)] if validate else []
    hooks += [Stopping()]
    hooks += [Saving(checkpoints)] if checkpoints else []
    try:
        train(run, hooks)
    except Stopped:
        if checkpoints:
            checkpoints.save(run.state())
        raise
    return run.curve, run.picked


def train(run: Training, hooks: list[Hook]) -> None:
    """The loop. B images, C classes, D features; V views of each image, V = 1 but for GBG."""
    model, loss = run.model, run.loss
    for hook in hooks:
        hook.before_training(run)
    while run.epoch < run.recipe.epochs:
        for hook in hooks:
            hook.before_epoch(run)
        run.start_epoch()
        for x, labels in run.batches.epoch(run.seed, run.epoch, run.step):  # (V B, ...), (B,)
            logits, features = loss.outputs(run.forward, x, labels)  # (V B, C), (V B, D)
            given = {"features": features, "head": run.head, "generator": run.generator}
            value = loss(logits, labels, **given)  # scalar; of GBG one for each group
            run.optimizer.zero_grad(set_to_none=True)
            run.total += loss.backward(value, model)
            if run.recipe.clip_grad:
                nn.utils.clip_grad_norm_(model.parameters(), run.recipe.clip_grad)
            run.optimizer.step()
            run.scheduler.step()
            run.step += 1
            for hook in hooks:
                hook.after_step(run)
        entry = run.entry()
        for hook in hooks:
            hook.after_steps(run, entry)
        run.end_epoch(entry)
        for hook in hooks:
            hook.after_epoch(run)
    for hook in hooks:
        hook.after_training(run)


COUNTED = ("epoch", "step", "total", "lr", "curve", "picked")  # of Training, in a checkpoint


class Training:
    """A training under way: all that its next step depends on, but the data.

    epoch      epochs done; step  steps done of the one under way, out of ``len(batches)``
    total      sum of the losses of these steps; lr  the model's learning rate as the epoch began
    average    the model whose weights are the moving average, or None
    curve      one dict per epoch done; picked  {"epoch", "model"} that validation picks, or None
    generator  what the loss draws from in this epoch
    """

    def __init__(self, model, loss, batches, recipe, seed, precision="float32"):
        self.model, self.loss, self.batches = model, loss, batches
        self.recipe, self.seed, self.precision = recipe, seed, precision
        self.device = batches.labels.device
        self.head = getattr(model, "head", model)
        if self.device.type == "cpu" and precision == "bfloat16":
            _unfuse_attention(model)
        loss.attach(model)
        loss.to(self.device)
        own = loss.param_groups(recipe.lr)
        self.optimizer = build_optimizer(model, recipe, own)
        self.scheduler = build_scheduler(self.optimizer, recipe, own, len(batches))
        self._groups_of_model = len(self.optimizer.param_groups) - len(own)
        self._forward = torch.compile(model, dynamic=False) if recipe.compile else model
        self.average: nn.Module | None = None
        self.epoch = self.step = 0
        self.total, self.lr = torch.zeros((), device=self.device), 0.0
        self.curve: list[dict] = []
        self.picked: dict | None = None
        self.generator: torch.Generator | None = None

    @property
    def steps_done(self) -> int:
        """Steps done since the first epoch."""
        return self.epoch * len(self.batches) + self.step

    @property
    def place(self) -> str:
        """The epoch under way, for messages."""
        return f"epoch {self.epoch + 1} of {self.recipe.epochs}"

    def start_epoch(self) -> None:
        """Make model and loss ready for the epoch, from its first step or where it goes on."""
        if self.generator is None:
            self.generator = stream(self.seed, self.epoch, "loss")
            if self.device.type != "cpu":
                seed = self.generator.initial_seed()
                self.generator = torch.Generator(self.device).manual_seed(seed)
        self.model.train()
        self.loss.train()
        if self.step == 0:
            self.loss.start_epoch(self.epoch, self.model, self.batches)
            self.total = torch.zeros((), device=self.device)
            groups = self.optimizer.param_groups[: self._groups_of_model]
            self.lr = max(group["lr"] for group in groups)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of x (B, ...): logits (B, C) and features (B, D), which are the backbone's, or x itself
        where a head alone is trained.
        """
        with _autocast(self.device, self.precision):
            if self.head is self.model:
                return self._forward(x), x
            return self._forward(x, return_features=True)

    def entry(self) -> dict:
        """What the curve says of the epoch's steps. Raises Diverged where the loss is no number."""
        mean = float(self.total) / len(self.batches)
        if not math.isfinite(mean):
            raise Diverged(f"the training loss of {self.place} is {mean}")
        entry = {"epoch": self.epoch + 1, "lr": self.lr, "train_loss": mean}
        return entry | self.loss.report(self.head)

    def end_epoch(self, entry: dict) -> None:
        """The epoch is over, and this is its entry in the curve."""
        self.curve.append(entry)
        self.epoch, self.step, self.generator = self.epoch + 1, 0, None

    def _parts(self) -> dict:
        parts = {"model": self.model, "optimizer": self.optimizer, "scheduler": self.scheduler}
        if self.average is not None:
            parts["ema"] = self.average
        if self.loss.state_dict():
            parts["loss"] = self.loss
        return parts

    def state(self) -> dict:
        """What a checkpoint holds: plain values and tensors."""
        loss = None if self.generator is None else self.generator.get_state()
        random = {"cpu": torch.get_rng_state(), "loss": loss}
        if self.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(self.device)
        values = {name: getattr(self, name) for name in COUNTED}
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return values | {"random": random, "parts": parts}

    def restore(self, stored: dict) -> None:
        """Put everything back to what :meth:`state` gave. Raises RuntimeError, KeyError or
        ValueError for the state of another model, optimizer or loss.
        """
        parts, random = self._parts(), stored["random"]
        for name, part in stored["parts"].items():
            parts[name].load_state_dict(part)
        for name in COUNTED:
            setattr(self, name, stored[name])
        self.total = self.total.to(self.device)
        torch.set_rng_state(random["cpu"])
        if "cuda" in random:
            torch.cuda.set_rng_state(random["cuda"], self.device)
        if random["loss"] is not None:
            self.generator = torch.Generator(self.device)
            self.generator.set_state(random["loss"])


def _unfuse_attention(model: nn.Module) -> None:
    """Have timm's transformers compute attention step by step: on a CPU and in bfloat16, the fused
    one's backward pass alone takes as long as all the rest of the step."""
    for module in model.modules():
        if getattr(module, "fused_attn", False):
            module.fused_attn = False


def _autocast(device: torch.device, precision: str):
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def schedule_factor(recipe: Recipe, epoch: float) -> float:
    """Factor of the learning rate after ``epoch`` epochs (fractional within one).

    "cosine": e / w for e < w = warmup_epochs, then (1 + cos(pi (e - w) / (E - w))) / 2; "step":
    decay^(milestones passed), with the same warm-up.
    """
    warm = recipe.warmup_epochs
    if epoch < warm:
        return max(epoch, 1e-3) / warm
    if recipe.schedule == "step":
        return recipe.decay ** sum(epoch >= m for m in recipe.milestones)
    return 0.5 * (1 + math.cos(math.pi * (epoch - warm) / (recipe.epochs - warm)))


def build_scheduler(
    optimizer: torch.optim.Optimizer, recipe: Recipe, own: list[dict], steps: int
) -> LambdaLR:
    """The recipe's schedule, moved on at each of an epoch's ``steps``; of a loss's ``own`` groups,
    the last ones, those that have a "factor" follow it.
    """
    recipes = functools.partial(schedule_factor, recipe)
    factors = [recipes] * (len(optimizer.param_groups) - len(own))
    factors += [group.get("factor", recipes) for group in own]
    by_step = [lambda step, factor=factor: factor(step / steps) for factor in factors]
    return LambdaLR(optimizer, by_step)


def build_optimizer(model: nn.Module, recipe: Recipe, own=()) -> torch.optim.Optimizer:
    """The recipe's optimizer for the model and a loss's ``own`` groups
    (:meth:`ltlib.losses.Loss.param_groups`), the last ones.

    Weight decay leaves biases, normalisation and what the backbone exempts (position embeddings)
    alone, unless ``decay_all``. With ``layer_decay`` d the l-th layer of the backbone from its end
    has the rate lr d^l; the head has lr.
    """
    parts = [model.backbone, model.head] if hasattr(model, "backbone") else [model]
    groups = [group for part in parts for group in _groups(part, recipe, part is parts[-1])]
    for group in groups:
        group["lr"] = recipe.lr * group.pop("lr_scale", 1.0)
    groups = [group for group in groups if group["params"]]
    groups += [{key: group[key] for key in group if key != "factor"} for group in own]
    how = {"lr": recipe.lr, "weight_decay": recipe.weight_decay, "fused": True}
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=recipe.momentum, **how)
    return {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[recipe.optimizer](groups, **how)


def _groups(part: nn.Module, recipe: Recipe, is_head: bool) -> list[dict]:
    """Parameter groups of a backbone or a head, with the rates' factors as "lr_scale"."""
    decay = recipe.weight_decay
    exempt = part.no_weight_decay() if hasattr(part, "no_weight_decay") else ()
    if recipe.layer_decay < 1 and not is_head:
        from timm.optim import param_groups_layer_decay

        how = {"no_weight_decay_list": exempt, "layer_decay": recipe.layer_decay}
        return param_groups_layer_decay(part, decay, **how)
    trained = {name: p for name, p in part.named_parameters() if p.requires_grad}
    if recipe.decay_all or not decay:
        return [{"params": list(trained.values()), "weight_decay": decay}]
    free = {n for n, p in trained.items() if p.ndim <= 1 or n.endswith(".bias") or n in exempt}
    return [
        {"params": [p for n, p in trained.items() if n in free], "weight_decay": 0.0},
        {"params": [p for n, p in trained.items() if n not in free], "weight_decay": decay},
    ]


def predict(model: nn.Module, batches: FeatureBatches, precision: str = "float32") -> Tensor:
    """Outputs of the model for all rows in order, in eval mode: (N, ...) float32 on the CPU.

    Raises Stopped after ``request_stop``.
    """
    (outputs,) = _outputs(lambda x: (model(x),), model, batches, precision)
    return outputs


def predict_with_features(
    model: nn.Module, batches: FeatureBatches, precision: str = "float32"
) -> tuple[Tensor, Tensor]:
    """As :func:`predict`, of a classifier: its logits (N, C) and its features (N, D)."""
    return _outputs(lambda x: model(x, return_features=True), model, batches, precision)


def _outputs(forward, model, batches, precision) -> tuple[Tensor, ...]:
    model.eval()
    outputs = []
    with torch.inference_mode():
        for x in batches.in_order():
            if stop_requested():
                raise Stopped("stopped while predicting")
            with _autocast(batches.labels.device, precision):
                outputs.append([part.float() for part in forward(x)])
        return tuple(torch.cat(parts).cpu() for parts in zip(*outputs, strict=True))


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for PyTorch on the CPU; the number before it is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def reproducible(seed: int, count: int = 1) -> Iterator[None]:
    """One CPU thread, or ``count`` with other digits, and the global random state from ``seed``
    (dropout, stochastic depth, fresh layers); both put back.
    """
    with torch.random.fork_rng(range(torch.cuda.device_count())), threads(count):
        torch.manual_seed(seed)
        yield
