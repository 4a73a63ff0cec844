"""The training loop, and the one function that notebooks and make call: ``run_or_load``.

Two modes: "finetune" trains backbone and head; "probe" computes the features of a frozen backbone once (cached) and
trains heads on them. Both go through the same ``fit``. On a CPU every run uses one thread, whatever the machine and
however many runs go on beside it, so that the same config gives the same record, digit for digit.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import joblib
import numpy as np
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from ltlib.backbones import Classifier, Weights, build_backbone, build_head, check_name, find_weights, is_small, require_weights
from ltlib.batches import FeatureBatches, ImageBatches, stream
from ltlib.config import DATASETS, ConfigError, Profile, Recipe, RunConfig, atomic_path, cache_dir
from ltlib.datasets import ImageData, digit_pairs_for_pretraining, load_dataset
from ltlib.longtail import make_splits, train_counts
from ltlib.losses import Loss, build_loss, class_balanced_weights
from ltlib.metrics import balanced_accuracy, class_hits, evaluate
from ltlib.records import Record, check_origin, computed_as, environment, load_record, logits_path, save_record

DRW_BETA = 0.9999


class Diverged(RuntimeError):
    """A loss or a logit is not a finite number."""


def pick_device(wanted: str | None = None) -> torch.device:
    """The device of ``DEVICE=``: "auto" (default) takes a GPU where there is one. Raises ConfigError if it is not there."""
    wanted = wanted or os.environ.get("DEVICE") or "auto"
    fault = "another kind of device"
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
        if device.type in ("cpu", "cuda"):
            return device
    except Exception as error:  # RuntimeError, AssertionError: whatever the backend says
        fault = str(error).splitlines()[0]
    raise ConfigError(f"DEVICE = {wanted!r}: expected auto, cpu, or a CUDA device of this machine ({fault})")


def cpu_count() -> int:
    """Cores that this process may use: affinity and the limits of its container counted in."""
    return joblib.cpu_count()


@contextlib.contextmanager
def _threads(count: int):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


def predict(model: nn.Module, batches: FeatureBatches, precision: str = "float32") -> Tensor:
    """Outputs of the model for all rows in order, in eval mode: (N, ...) float32 on the CPU."""
    model.eval()
    with torch.inference_mode(), _autocast(batches.labels.device, precision):
        return torch.cat([model(x).float().cpu() for x in batches.in_order()])


def _autocast(device: torch.device, precision: str):
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16")


def fit(model: nn.Module, loss: Loss, batches: FeatureBatches, recipe: Recipe, seed: int, *, precision: str = "float32",
        validate: Callable[[], dict] | None = None, drw_epoch: int | None = None, drw_weights=None,
        say: Callable[[str], None] = lambda line: None) -> tuple[list[dict], dict | None]:
    """Train in place; return the curve, one dict per epoch, and the state of the epoch that validation picks.

    ``validate`` gives val_acc and val_loss after an epoch; the picked epoch has the highest val_acc (the earliest of
    equals), and its state is {"epoch", "model"}; None without ``validate``. From ``drw_epoch`` on the loss uses
    ``drw_weights``. Raises Diverged, naming the epoch, as soon as an epoch's loss is not finite.
    """
    device = batches.labels.device
    loss = loss.to(device)
    name = {"sgd": "momentum"}.get(recipe.optimizer, recipe.optimizer)  # timm's "sgd" is Nesterov's, the literature's is not
    optimizer = create_optimizer_v2(model, opt=name, lr=recipe.lr, weight_decay=recipe.weight_decay, momentum=recipe.momentum)
    scheduler = LambdaLR(optimizer, lambda step: schedule_factor(recipe, step / len(batches)))
    curve, picked, said = [], None, time.monotonic()
    for epoch in range(recipe.epochs):
        if epoch == drw_epoch:
            loss.set_weights(drw_weights)
        generator = stream(seed, epoch, "loss") if device.type == "cpu" else torch.Generator(device).manual_seed(
            stream(seed, epoch, "loss").initial_seed())
        model.train()
        loss.train()
        total = torch.zeros((), device=device)
        learning_rate = optimizer.param_groups[0]["lr"]
        for x, labels in batches.epoch(seed, epoch):
            with _autocast(device, precision):
                logits = model(x)
            value = loss(logits, labels, generator=generator)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
            scheduler.step()
            total += value.detach()
        mean = float(total) / len(batches)
        if not math.isfinite(mean):
            raise Diverged(f"the training loss of epoch {epoch + 1} of {recipe.epochs} is {mean}")
        entry = {"epoch": epoch + 1, "lr": learning_rate, "train_loss": mean}
        if validate is not None:
            entry |= validate()
            if not math.isfinite(entry["val_loss"]):
                raise Diverged(f"the validation loss of epoch {epoch + 1} of {recipe.epochs} is {entry['val_loss']}")
            if picked is None or entry["val_acc"] > curve[picked["epoch"] - 1]["val_acc"]:
                picked = {"epoch": epoch + 1, "model": copy.deepcopy(model.state_dict())}
        curve.append(entry)
        if time.monotonic() - said > 20 and epoch + 1 < recipe.epochs:
            said = time.monotonic()
            say(f"epoch {epoch + 1}/{recipe.epochs}, loss {mean:.3f}")
    return curve, picked


# --------------------------------------------------------------------------- pretrained weights, features


def prepare(profile: Profile, device: torch.device, say: Callable[[str], None] = print) -> None:
    """Everything that the runs of a profile share: data, weights (all of them, before anything is computed).

    Raises MissingWeights, DataError or ConfigError; RecordError if finished runs were made from other data or weights.
    """
    for config in profile.configs():
        check_name(config.backbone)
        counts = train_counts(config.protocol, config.train_set, DATASETS[config.dataset].num_classes)
        build_loss(config.loss, counts, **dict(config.loss_options))
        _require_pretraining(config)
    weights = require_weights([b for b in profile.backbones if not is_small(b)])
    data = load_dataset(profile.dataset)
    say(f"data: {data.name}, {len(data.train_images)} training and {len(data.test_images)} test images ({data.checksums['origin']})")
    for name, found in weights.items():
        say(f"weights: {name} from {found.origin}")
    for config in map(computed_as, profile.configs()):
        if record := load_record(config):
            found = weights.get(config.backbone)
            check_origin(record, config, data.checksums, found.checksum if found else None)


def weights_for(config: RunConfig, device: torch.device, say: Callable[[str], None] = lambda line: None) -> Weights:
    """Pretrained weights of a run's backbone: found for timm's names, made on the spot for the small variants."""
    if not is_small(config.backbone):
        return find_weights(config.backbone)
    _require_pretraining(config)
    return _pretrained_small(config.backbone, config.pretraining, device, say)


def _require_pretraining(config: RunConfig) -> None:
    if is_small(config.backbone) and config.pretraining is None:
        raise ConfigError(f"{config.backbone}: expected a [pretraining] table in the profile; it has no published weights")


def _pretrained_small(name: str, pretraining, device: torch.device, say) -> Weights:
    """Pretrain a small backbone on clean digit pairs, or load it from the cache."""
    from safetensors.torch import save_file

    recipe = pretraining.recipe
    key = json.dumps({"backbone": name, "pretraining": asdict(pretraining), "device": device.type}, sort_keys=True)
    path = cache_dir() / "pretrained" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}.safetensors"
    if not path.exists():
        images, labels = digit_pairs_for_pretraining(pretraining.images, pretraining.seed)
        start = time.monotonic()
        with reproducible(pretraining.seed):
            backbone = build_backbone(name, None)
            model = Classifier(backbone, build_head("linear", backbone.num_features, 100)).to(device, memory_format=torch.channels_last)
            batches = ImageBatches(images, labels, batch_size=recipe.batch_size, resolution=recipe.resolution, mean=(0.5,) * 3,
                                   std=(0.5,) * 3, crop_padding=recipe.crop_padding, flip=recipe.flip, device=device)
            curve, _ = fit(model, build_loss("softmax", np.ones(100)), batches, recipe, pretraining.seed, precision=recipe.precision,
                           say=lambda line: say(f"pretraining {name}: {line}"))
        with atomic_path(path) as partial:
            save_file({key: value.cpu().contiguous() for key, value in backbone.state_dict().items()}, partial)
        took = time.monotonic() - start
        say(f"pretrained {name} on {len(labels)} clean digit pairs: training loss {curve[-1]['train_loss']:.3f}, {took:.0f} s")
    return Weights(path, f"pretrained on {pretraining.images} clean digit pairs", (0.5,) * 3, (0.5,) * 3, "bicubic", 100)


@contextlib.contextmanager
def reproducible(seed: int):
    """One CPU thread and the global random state from ``seed`` (dropout, stochastic depth, fresh layers); both put back."""
    with torch.random.fork_rng(), _threads(1):
        torch.manual_seed(seed)
        yield


FEATURE_CHUNK = 4096
FEATURE_BATCH = 64


def features(config: RunConfig, device: torch.device, say: Callable[[str], None] = lambda line: None) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features of all training and test images by the frozen backbone: two float32 arrays (N, D).

    Computed once per backbone, data, resolution, dtype, batch size and weights; kept in chunks, so that a killed
    computation goes on where it was.
    """
    data, weights, recipe = load_dataset(config.dataset), weights_for(config, device, say), config.recipe
    key = {
        "backbone": config.backbone, "weights": weights.checksum, "normalisation": [weights.mean, weights.std],
        "interpolation": weights.interpolation, "data": {k: v for k, v in data.checksums.items() if k != "origin"},
        "resolution": recipe.resolution, "dtype": recipe.precision, "batch_size": FEATURE_BATCH, "device": device.type,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    folder = cache_dir() / "features" / f"{config.backbone}-{digest}"
    if not (folder / "key.json").exists():
        with atomic_path(folder / "key.json") as partial:
            partial.write_text(json.dumps(key, indent=1))
    extract = functools.cache(lambda: build_backbone(config.backbone, weights).to(device, memory_format=torch.channels_last))
    return tuple(_split_features(folder, split, images, extract, weights, recipe, device, say, config.backbone)
                 for split, images in (("train", data.train_images), ("test", data.test_images)))


def _split_features(folder: Path, split, images, extract, weights, recipe, device, say, name) -> np.ndarray:
    parts, start, computed = [], time.monotonic(), 0
    for first in range(0, len(images), FEATURE_CHUNK):
        path, chunk = folder / f"{split}-{first:06d}.npy", images[first : first + FEATURE_CHUNK]
        if not path.exists():
            batches = ImageBatches(chunk, np.zeros(len(chunk), np.int64), batch_size=FEATURE_BATCH, resolution=recipe.resolution,
                                   mean=weights.mean, std=weights.std, interpolation=weights.interpolation, device=device)
            with _threads(cpu_count()):
                part = predict(extract(), batches, recipe.precision).numpy()
            with atomic_path(path) as partial:
                np.save(partial, part)
            computed += len(chunk)
            rate = computed / (time.monotonic() - start)
            left = len(images) - first - len(chunk)
            say(f"features of {name}, {split}: {first + len(chunk)}/{len(images)} images, {rate:.0f} images/s, {left / rate:.0f} s left")
        parts.append(np.load(path, allow_pickle=False))
    return np.concatenate(parts)


# ------------------------------------------------------------------------------------------------ a run


def run_or_load(config: RunConfig, device: str | None = None, say: Callable[[str], None] = lambda line: None) -> Record:
    """The stored record of this run; trains it first where there is none.

    A run that equals softmax by mathematics is answered by the softmax run (``ltlib.records.computed_as``).
    Raises MissingWeights, DataError, ConfigError or RecordError; a run that diverges is a record that says so.
    """
    config = computed_as(config)
    record = load_record(config)
    if record is None:
        record = _train(config, pick_device(device), say)
        save_record(config, record)
    return record


def _train(config: RunConfig, device: torch.device, say) -> Record:
    started = time.monotonic()
    data, weights = load_dataset(config.dataset), weights_for(config, device, say)
    splits = make_splits(data, config.protocol, config.train_set)
    counts = train_counts(config.protocol, config.train_set, data.num_classes)
    note, results = "", {}
    try:
        results, logits = _fit_and_evaluate(config, data, splits, counts, weights, device, say)
    except Diverged as error:
        note = f"{error}; a smaller learning rate (recipe lr = {config.recipe.lr}) is the usual mend"
    else:
        _save_logits(config, logits, data.test_labels[splits.tests["balanced"]])
    provenance = environment(device) | {
        "data": data.checksums,
        "weights": {"origin": weights.origin, "sha256": weights.checksum},
        "wall_seconds": round(time.monotonic() - started, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    return Record(config.id, "diverged" if note else "done", config.to_dict(), results, provenance, note)


def _fit_and_evaluate(config, data: ImageData, splits, counts, weights, device, say) -> tuple[dict, Tensor]:
    recipe = config.recipe
    loss = build_loss(config.loss, counts, **dict(config.loss_options))
    drw_weights = None if config.drw is None else class_balanced_weights(counts, DRW_BETA)
    with reproducible(config.seed):
        build = _finetune_parts if config.mode == "finetune" else _probe_parts
        model, train, val, test = build(config, data, splits, weights, device, say)
        precision = recipe.precision if config.mode == "finetune" else "float32"

        def validate():
            logits, labels = predict(model, val, precision), val.labels.cpu()
            val_loss = F.cross_entropy(criterion.prediction_logits(logits.double()), labels)
            return {"val_acc": balanced_accuracy(logits, labels), "val_loss": float(val_loss)}

        criterion = build_loss(config.loss, counts, **dict(config.loss_options)).eval()  # without DRW's weights, on the CPU
        curve, picked = fit(model, loss, train, recipe, config.seed, precision=precision, validate=validate if val else None,
                            drw_epoch=config.drw_epoch, drw_weights=drw_weights, say=lambda line: say(f"{config.describe()}: {line}"))
        last_logits = predict(model, test, precision)
        if picked is not None and picked["epoch"] < recipe.epochs:
            model.load_state_dict(picked["model"])
        choices = {"last": (recipe.epochs, last_logits)}
        if picked is not None:
            choices["picked"] = (picked["epoch"], predict(model, test, precision))
    evaluations = {choice: {"epoch": epoch} | _evaluations(logits, data, splits, criterion) for choice, (epoch, logits) in choices.items()}
    return {"curve": curve, "train_images": len(splits.train), "val_images": len(splits.val), "evaluations": evaluations}, last_logits


def _finetune_parts(config, data, splits, weights, device, say):
    recipe = config.recipe
    backbone = build_backbone(config.backbone, weights)
    model = Classifier(backbone, build_head(config.head, backbone.num_features, data.num_classes))
    model = model.to(device, memory_format=torch.channels_last)

    def batches(images, labels, index, **augmentation):
        return ImageBatches(images[index], labels[index], batch_size=recipe.batch_size, resolution=recipe.resolution, mean=weights.mean,
                            std=weights.std, interpolation=weights.interpolation, device=device, **augmentation)

    train = batches(data.train_images, data.train_labels, splits.train, crop_padding=recipe.crop_padding, flip=recipe.flip)
    val = batches(data.train_images, data.train_labels, splits.val) if len(splits.val) else None
    return model, train, val, batches(data.test_images, data.test_labels, splits.tests["balanced"])


def _probe_parts(config, data, splits, weights, device, say):
    train_x, test_x = features(config, device, say)
    # standardised with the training set of this very run: nothing of the validation or test images goes in
    mean, std = train_x[splits.train].mean(0), train_x[splits.train].std(0) + 1e-6

    def batches(x, labels, index):
        x = torch.as_tensor((x[index] - mean) / std, device=device)
        return FeatureBatches(x, torch.as_tensor(labels[index], device=device), config.recipe.batch_size)

    model = build_head(config.head, train_x.shape[1], data.num_classes).to(device)
    val = batches(train_x, data.train_labels, splits.val) if len(splits.val) else None
    return model, batches(train_x, data.train_labels, splits.train), val, batches(test_x, data.test_labels, splits.tests["balanced"])


def _evaluations(logits: Tensor, data: ImageData, splits, criterion: Loss) -> dict:
    """Metrics of every evaluation set, all of them parts of "balanced", whose logits these are."""
    if not bool(logits.isfinite().all()):
        raise Diverged("the logits of the test set are not finite")
    base = splits.tests["balanced"]
    labels = torch.as_tensor(data.test_labels[base])
    sets, per_class = {}, {}
    for name, index in splits.tests.items():
        rows = torch.as_tensor(np.searchsorted(base, index))
        sets[name] = evaluate(logits[rows], labels[rows], criterion)
        if name in ("balanced", "longtailed"):
            images, hits = class_hits(logits[rows], labels[rows])
            per_class[name] = {"images": images, "hits": hits}
    return {"sets": sets, "per_class": per_class}


def _save_logits(config: RunConfig, logits: Tensor, labels: np.ndarray) -> None:
    from safetensors.torch import save_file

    with atomic_path(logits_path(config)) as partial:
        save_file({"balanced": logits.contiguous(), "labels": torch.as_tensor(labels)}, partial)
