"""From a config to its record: ``run_or_load``, the one function that notebooks and make call.

Three modes: "finetune" trains backbone and head from pretrained weights, "scratch" from fresh ones; "probe" computes the
features of a frozen backbone once (cached) and trains heads on them. All go through the same ``fit``. On a CPU every run
uses one thread, whatever the machine and however many runs go on beside it, so that the same config gives the same
record, digit for digit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from ltlib import backbones
from ltlib.backbones import Classifier, Weights, build_backbone, build_head, find_weights, is_small, require_weights
from ltlib.batches import FeatureBatches, ImageBatches
from ltlib.config import ConfigError, Profile, Protocol, Recipe, RunConfig, atomic_path, build_dir, cache_dir, dataset_size, exclusive
from ltlib.datasets import DataError, ImageData, digit_pairs_for_pretraining, load_dataset
from ltlib.engine import Checkpoints, Diverged, fit, predict, reproducible, threads
from ltlib.imagefolder import image_files, read_images
from ltlib.longtail import base_set, groups, longtailed_counts, make_splits, train_counts
from ltlib.losses import Loss, build_loss, class_balanced_weights
from ltlib.metrics import balanced_accuracy, class_hits, evaluate, geometric_mean
from ltlib.records import (
    Record,
    RecordError,
    check_origin,
    computed_as,
    content,
    environment,
    load_record,
    logits_path,
    look_again,
    save_predictions,
    save_record,
)

DRW_BETA = 0.9999


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


def checkpoint_minutes() -> float:
    """Longest time between two checkpoints of a run: ``CHECKPOINT_MINUTES``, 10 by default; 0 writes one after each step."""
    text = os.environ.get("CHECKPOINT_MINUTES") or "10"
    try:
        minutes = float(text)
        if minutes >= 0:
            return minutes
    except ValueError:
        pass
    raise ConfigError(f"CHECKPOINT_MINUTES = {text!r}: expected a number of minutes, 0 or more")


def cpu_count() -> int:
    """Cores that this process may use: affinity and the limits of its container counted in."""
    return joblib.cpu_count()


# --------------------------------------------------------------------------- pretrained weights, features


def prepare(profile: Profile, say: Callable[[str], None] = print, runs: list[RunConfig] | None = None) -> None:
    """Everything that the runs of a profile (or these) share: data, weights (all of them, before anything is computed).

    Raises MissingWeights, DataError or ConfigError; RecordError if finished runs were made from other data or weights.
    """
    runs = profile.configs() if runs is None else runs
    for config in runs:
        backbones.check_name(config.backbone)
        counts = train_counts(config.protocol, config.train_set, dataset_size(config.dataset).num_classes)
        build_loss(config.loss, counts, **dict(config.loss_options))
        _require_pretraining(config)
    checkpoint_minutes()
    pretrained = () if profile.mode == "scratch" else profile.backbones
    weights = require_weights([b for b in pretrained if not is_small(b)])
    loaded = {name: load_dataset(name) for name in dict.fromkeys(config.dataset for config in runs)}
    for data in loaded.values():
        say(f"data: {data.name}, {len(data.train_images)} training and {len(data.test_images)} test images ({data.checksums['origin']})")
    for name, found in weights.items():
        say(f"weights: {name} from {found.origin}")
    for config in map(computed_as, runs):
        if record := load_record(config):
            found = weights.get(config.backbone)
            check_origin(record, config, loaded[config.dataset].checksums, found.checksum if found else None)


def weights_for(config: RunConfig, device: torch.device, say: Callable[[str], None] = lambda line: None) -> Weights:
    """The weights that a run starts from: found for timm's names, pretrained on the spot for the small variants, or fresh."""
    if config.mode == "scratch":
        return backbones.fresh_weights(config.dataset, config.recipe.pixels)
    if not is_small(config.backbone):
        return find_weights(config.backbone)
    _require_pretraining(config)
    return _pretrained_small(config.backbone, config.pretraining, device, say)


def _require_pretraining(config: RunConfig) -> None:
    if is_small(config.backbone) and config.pretraining is None and config.mode != "scratch":
        raise ConfigError(f"{config.backbone}: expected a [pretraining] table in the profile; it has no published weights")


def _small_path(name: str, pretraining, device: torch.device) -> tuple[Path, str]:
    """Where a small backbone's pretrained weights lie, and what they depend on."""
    key = json.dumps({"backbone": name, "pretraining": asdict(pretraining), "device": device.type}, sort_keys=True)
    return cache_dir() / "pretrained" / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:10]}.safetensors", key


def _pretrained_small(name: str, pretraining, device: torch.device, say) -> Weights:
    """Pretrain a small backbone on clean digit pairs, or load it from the cache."""
    path, key = _small_path(name, pretraining, device)
    with exclusive(path, f"{name} is being pretrained by another process", say):
        if not path.exists():
            _pretrain(name, pretraining, path, key, device, say)
    return Weights(path, f"pretrained on {pretraining.images} clean digit pairs", (0.5,) * 3, (0.5,) * 3, "bicubic", 100)


def _pretrain(name: str, pretraining, path: Path, key: str, device, say) -> None:
    from safetensors.torch import save_file

    recipe = pretraining.recipe
    checkpoints = Checkpoints(path.with_suffix(".pt"), {"pretraining": key} | _libraries(), checkpoint_minutes(), say)
    images, labels = digit_pairs_for_pretraining(pretraining.images, pretraining.seed)
    with reproducible(pretraining.seed):
        backbone = build_backbone(name, None)
        model = Classifier(backbone, build_head("linear", backbone.num_features, 100)).to(device, memory_format=torch.channels_last)
        batches = ImageBatches(images, labels, batch_size=recipe.batch_size, resolution=recipe.resolution, mean=(0.5,) * 3,
                               std=(0.5,) * 3, crop_padding=recipe.crop_padding, flip=recipe.flip, device=device)
        curve, _ = fit(model, build_loss("softmax", np.ones(100)), batches, recipe, pretraining.seed, precision=recipe.precision,
                       checkpoints=checkpoints, progress=Progress(recipe.epochs, lambda line: say(f"pretraining {name}: {line}")))
    with atomic_path(path) as partial:
        save_file({key: value.cpu().contiguous() for key, value in backbone.state_dict().items()}, partial)
    checkpoints.remove()
    took = checkpoints.seconds
    say(f"pretrained {name} on {len(labels)} clean digit pairs: training loss {curve[-1]['train_loss']:.3f}, {took:.0f} s")


FEATURE_CHUNK = 4096
FEATURE_BATCH = 64


def features(config: RunConfig, device: torch.device, say: Callable[[str], None] = lambda line: None) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features of all training and test images by the frozen backbone: two float32 arrays (N, D).

    Computed once per backbone, data, resolution, dtype, batch size and weights; kept in chunks, so that a killed
    computation goes on where it was.
    """
    data, weights, recipe = load_dataset(config.dataset), weights_for(config, device, say), config.recipe
    folder, key = _features_folder(config, data, weights, device)

    @functools.cache
    def extract():
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # a model draws its weights before it loads others
            return build_backbone(config.backbone, weights, recipe.resolution).to(device, memory_format=torch.channels_last)

    with exclusive(folder / "key.json", f"features of {config.backbone} are being computed by another process", say):
        if not (folder / "key.json").exists():
            with atomic_path(folder / "key.json") as partial:
                partial.write_text(json.dumps(key, indent=1))
        return tuple(_split_features(folder, split, images, extract, weights, recipe, device, say, config.backbone)
                     for split, images in (("train", data.train_images), ("test", data.test_images)))


def _features_folder(config: RunConfig, data: ImageData, weights: Weights, device: torch.device) -> tuple[Path, dict]:
    """Where the features of a frozen backbone lie, and all that they depend on."""
    recipe = config.recipe
    key = {
        "backbone": config.backbone, "weights": weights.checksum, "normalisation": [weights.mean, weights.std],
        "interpolation": weights.interpolation, "data": {k: v for k, v in data.checksums.items() if k != "origin"},
        "resolution": recipe.resolution, "dtype": recipe.precision, "batch_size": FEATURE_BATCH, "device": device.type,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    return cache_dir() / "features" / f"{config.backbone}-{digest}", key


def _unlabelled(images: np.ndarray, weights: Weights, recipe: Recipe, batch_size: int, device: torch.device) -> ImageBatches:
    """Batches of images whose labels nobody asks for, without augmentation."""
    return ImageBatches(images, np.zeros(len(images), np.int64), batch_size=batch_size, resolution=recipe.resolution, mean=weights.mean,
                        std=weights.std, interpolation=weights.interpolation, device=device)


def _split_features(folder: Path, split, images, extract, weights, recipe, device, say, name) -> np.ndarray:
    parts, start, computed = [], time.monotonic(), 0
    for first in range(0, len(images), FEATURE_CHUNK):
        path, chunk = folder / f"{split}-{first:06d}.npy", images[first : first + FEATURE_CHUNK]
        if not path.exists():
            batches = _unlabelled(chunk, weights, recipe, FEATURE_BATCH, device)
            with threads(cpu_count()):
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


def live_path(config: RunConfig, suffix: str) -> Path:
    """Files of a run under way: its checkpoint (".pt") and where it is (".json"); both are gone when it is done."""
    return build_dir(config.profile) / "runs" / f"{config.id}{suffix}"


def model_path(config: RunConfig) -> Path:
    """Weights of a run after its last epoch (safetensors; the head alone in mode "probe")."""
    return build_dir(config.profile) / "models" / f"{config.id}.safetensors"


PROGRESS = {"epoch": int, "epochs": int, "done": float, "loss": float, "seconds_left": float, "updated": float}


class Progress:
    """Where a run is: said every 20 s, and written to a file (JSON) about every second, for whoever follows it.

    The file holds epoch (the one under way), epochs, done (share of the run), loss (mean of this epoch so far), seconds_left,
    updated (seconds since 1970). Where it cannot be written, the run goes on without it.
    """

    def __init__(self, epochs: int, say: Callable[[str], None], path: Path | None = None):
        self.epochs, self.say, self.path = epochs, say, path
        self.first: tuple[float, int] | None = None
        self.written = self.said = time.monotonic()

    def __call__(self, done: int, total: int, loss) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now, done
        if now - self.written < 1 or done == self.first[1]:
            return
        self.written = now
        left = (now - self.first[0]) / (done - self.first[1]) * (total - done)
        epoch = (done - 1) * self.epochs // total + 1
        state = {"epoch": epoch, "epochs": self.epochs, "done": done / total, "loss": float(loss), "seconds_left": left,
                 "updated": time.time()}
        if self.path:
            with contextlib.suppress(OSError), atomic_path(self.path, durable=False) as partial:
                partial.write_text(json.dumps(state))
        if now - self.said > 20:
            self.said = now
            self.say(progress_line(state))


def progress_line(state: dict) -> str:
    return f"epoch {state['epoch']}/{state['epochs']}, loss {state['loss']:.3f}, {duration(state['seconds_left'])} left"


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def run_or_load(config: RunConfig, device: str | None = None, say: Callable[[str], None] = lambda line: None, wait: bool = True,
                say_progress: bool = True) -> Record:
    """The stored record of this run; trains it first where there is none, from its checkpoint where there is one.

    A run that equals softmax by mathematics is answered by the softmax run (``ltlib.records.computed_as``). One that another
    process is computing is waited for, or, without ``wait``, raises Busy. ``say_progress``: a line about every 20 s.
    Raises MissingWeights, DataError, ConfigError, RecordError, CheckpointError or OSError, and Stopped after ``request_stop``; a run
    that diverges is a record that says so.
    """
    config = computed_as(config)
    record = load_record(config)
    if record is None:
        with exclusive(live_path(config, ""), f"{config.describe()} is being computed by another process", say, wait):
            look_again(config.profile)
            record = load_record(config)
            if record is None:
                device = pick_device(device)
                if config.tau is None:
                    record = _train(config, device, say, say_progress)
                else:
                    record = _adjust(config, device, say, wait, say_progress)
                save_record(config, record)
    with contextlib.suppress(OSError):  # a record may lie where nothing can be written
        Checkpoints(live_path(config, ".pt"), {}).remove()
        live_path(config, ".json").unlink(missing_ok=True)
    return record


def _libraries() -> dict:
    """Versions on which the bits of a training step, and the names in a checkpoint, depend."""
    import timm

    return {"torch": str(torch.__version__), "timm": timm.__version__}


def _train(config: RunConfig, device: torch.device, say, say_progress: bool = True) -> Record:
    data, weights = load_dataset(config.dataset), weights_for(config, device, say)
    splits = make_splits(data, config.protocol, config.train_set)
    counts = train_counts(config.protocol, config.train_set, data.num_classes)
    origin = environment(device) | {"data": data.checksums, "weights": {"origin": weights.origin, "sha256": weights.checksum}}
    key = {"config": config.to_dict(), "data": content(data.checksums), "weights": weights.checksum, "device": device.type} | _libraries()
    start = {name: origin[name] for name in ("code", "device_name")}
    checkpoints = Checkpoints(live_path(config, ".pt"), key, checkpoint_minutes(), lambda line: say(f"{config.describe()}: {line}"), start)
    note, results = "", {}
    try:
        results, logits, state = _fit_and_evaluate(config, data, splits, counts, weights, device, say, checkpoints, say_progress)
    except Diverged as error:
        note = f"{error}; a smaller learning rate (recipe lr = {config.recipe.lr}) is the usual mend"
    else:
        _save_tensors(model_path(config), state)
        base = base_set(splits.tests)
        _save_outputs(config, base, logits, torch.as_tensor(data.test_labels[splits.tests[base]]), counts)
    provenance = origin | {
        "wall_seconds": round(checkpoints.seconds, 2),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if len(checkpoints.starts) > 1:
        provenance["starts"] = checkpoints.starts
    return Record(config.id, "diverged" if note else "done", config.to_dict(), results, provenance, note)


def _fit_and_evaluate(config, data: ImageData, splits, counts, weights, device, say, checkpoints, say_progress):
    """The results of a run, its test logits after the last epoch, and its weights then."""
    recipe = config.recipe
    loss = build_loss(config.loss, counts, **dict(config.loss_options))
    drw_weights = None
    if config.drw is not None:
        drw_weights = loss.weights if loss.weights is not None else class_balanced_weights(counts, DRW_BETA)
    with reproducible(config.seed):
        build = _probe_parts if config.mode == "probe" else _image_parts
        model, train, val, test = build(config, data, splits, weights, device, say)
        precision = "float32" if config.mode == "probe" else recipe.precision

        def validate(model):
            logits, labels = predict(model, val, precision), val.labels.cpu()
            val_loss = F.cross_entropy(criterion.prediction_logits(logits.double()), labels)
            found = {"val_acc": balanced_accuracy(logits, labels), "val_loss": float(val_loss), "val_gmean": geometric_mean(logits, labels)}
            return found | {f"val_{name}": balanced_accuracy(logits[rows], labels[rows]) for name, rows in val_groups.items()}

        criterion = build_loss(config.loss, counts, **dict(config.loss_options)).eval()  # without DRW's weights, on the CPU
        val_groups = _groups_of(val.labels.cpu(), config.protocol, data.num_classes) if val else {}
        said = (lambda line: say(f"{config.describe()}: {line}")) if say_progress else lambda line: None
        progress = Progress(recipe.epochs, said, live_path(config, ".json"))
        curve, picked = fit(model, loss, train, recipe, config.seed, precision=precision, validate=validate if val else None,
                            drw_epoch=config.drw_epoch, drw_weights=drw_weights, checkpoints=checkpoints, progress=progress)
        last_logits = predict(model, test, precision)
        last_state = {name: value.cpu().clone() for name, value in model.state_dict().items()}
        if picked is not None and picked["epoch"] < recipe.epochs:
            model.load_state_dict(picked["model"])
        choices = {"last": (recipe.epochs, last_logits)}
        if picked is not None:
            choices["picked"] = (picked["epoch"], predict(model, test, precision))
    evaluations = {choice: {"epoch": epoch} | _evaluations(logits, data, splits, criterion) for choice, (epoch, logits) in choices.items()}
    results = {"curve": curve, "train_images": len(splits.train), "val_images": len(splits.val), "evaluations": evaluations}
    return results, last_logits, last_state


def _groups_of(labels: Tensor, protocol: Protocol, num_classes: int) -> dict[str, Tensor]:
    """Rows of the images of each group that occurs: labels (N,) -> by name, (N,) bool."""
    ids = groups(protocol.groups, longtailed_counts(protocol, num_classes))
    member = {name: torch.isin(labels, torch.as_tensor(classes)) for name, classes in ids.items()}
    return {name: rows for name, rows in member.items() if bool(rows.any())}


def _adjust(config: RunConfig, device: torch.device, say, wait: bool, say_progress: bool) -> Record:
    """The record of post-hoc logit adjustment, from the softmax run and its stored logits; trains that run where there is none."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    base = dataclasses.replace(config, tau=None)
    record = run_or_load(base, str(device), say, wait, say_progress)
    if record.status != "done":
        return dataclasses.replace(record, id=config.id, config=config.to_dict(), note=f"the softmax run diverged: {record.note}")
    data = load_dataset(config.dataset)
    splits = make_splits(data, config.protocol, config.train_set)
    whole = base_set(splits.tests)
    labels = torch.as_tensor(data.test_labels[splits.tests[whole]])
    path = logits_path(base)
    try:
        stored = load_file(path)
        logits = stored[whole] if torch.equal(stored["labels"], labels) else None
    except (OSError, KeyError, SafetensorError):
        logits = None
    if logits is None:
        raise RecordError(f"logit adjustment needs the test logits of {base.id}, and {path} does not hold them. Bring them from where the "
                          f"run was computed, or remove results/{base.profile}/{base.id}.json to train it again.")
    counts = train_counts(config.protocol, config.train_set, data.num_classes)
    criterion = build_loss("softmax", counts).eval()
    adjusted = _adjusted(logits, counts, config.tau)
    evaluations = {"last": {"epoch": config.recipe.epochs} | _evaluations(adjusted, data, splits, criterion)}
    _save_outputs(config, whole, adjusted, labels, counts)
    return dataclasses.replace(record, id=config.id, config=config.to_dict(), results=record.results | {"evaluations": evaluations},
                               provenance=record.provenance | {"adjusted": base.id})


def _adjusted(logits: Tensor, counts: np.ndarray, tau: float) -> Tensor:
    """z_c - tau ln f_c, f_c = n_c / sum n. Source: Menon et al. 2021, Long-Tail Learning via Logit Adjustment."""
    return logits - tau * torch.as_tensor(np.log(counts / counts.sum()), dtype=logits.dtype)


def _image_parts(config, data, splits, weights, device, say):
    recipe = config.recipe
    backbone = build_backbone(config.backbone, weights, recipe.resolution)
    model = Classifier(backbone, build_head(config.head, backbone.num_features, data.num_classes))
    model = model.to(device, memory_format=torch.channels_last)

    def batches(images, labels, index, **augmentation):
        return ImageBatches(images[index], labels[index], batch_size=recipe.batch_size, resolution=recipe.resolution, mean=weights.mean,
                            std=weights.std, interpolation=weights.interpolation, device=device, **augmentation)

    train = batches(data.train_images, data.train_labels, splits.train, crop_padding=recipe.crop_padding, flip=recipe.flip,
                    rand_augment=recipe.rand_augment, cutout=recipe.cutout, views=recipe.views)
    val = batches(data.train_images, data.train_labels, splits.val) if len(splits.val) else None
    return model, train, val, batches(data.test_images, data.test_labels, splits.tests[base_set(splits.tests)])


def _probe_parts(config, data, splits, weights, device, say):
    train_x, test_x = features(config, device, say)
    # standardised with the training set of this very run: nothing of the validation or test images goes in
    mean, std = train_x[splits.train].mean(0), train_x[splits.train].std(0) + 1e-6

    def batches(x, labels, index):
        x = torch.as_tensor((x[index] - mean) / std, device=device)
        return FeatureBatches(x, torch.as_tensor(labels[index], device=device), config.recipe.batch_size)

    model = build_head(config.head, train_x.shape[1], data.num_classes).to(device)
    val = batches(train_x, data.train_labels, splits.val) if len(splits.val) else None
    test = batches(test_x, data.test_labels, splits.tests[base_set(splits.tests)])
    return model, batches(train_x, data.train_labels, splits.train), val, test


def _evaluations(logits: Tensor, data: ImageData, splits, criterion: Loss) -> dict:
    """Metrics of every evaluation set, all of them parts of the base set, whose logits these are."""
    if not bool(logits.isfinite().all()):
        raise Diverged("the logits of the test set are not finite")
    base = splits.tests[base_set(splits.tests)]
    labels = torch.as_tensor(data.test_labels[base])
    sets, per_class = {}, {}
    for name, index in splits.tests.items():
        rows = torch.as_tensor(np.searchsorted(base, index))
        sets[name] = evaluate(logits[rows], labels[rows], criterion)
        if name in ("balanced", "longtailed"):
            images, hits = class_hits(logits[rows], labels[rows])
            per_class[name] = {"images": images, "hits": hits}
    return {"sets": sets, "per_class": per_class}


def stored_features(config: RunConfig, train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Pooled features of some training and test images by the backbone of a finished run: indices (n,), (m,) -> (n, D), (m, D) float32.

    None where something would have to be trained for them, or extracted for hours: no stored weights of the run; no cached features of
    the frozen backbone.
    """
    device, data = pick_device(), load_dataset(config.dataset)
    try:
        if config.mode == "probe":
            weights = weights_for(config, device)
            folder, _ = _features_folder(config, data, weights, device)
            if len(list(folder.glob("*.npy"))) < sum(-(-len(x) // FEATURE_CHUNK) for x in (data.train_images, data.test_images)):
                return None
            return tuple(x[index] for x, index in zip(features(config, device), (train, test), strict=True))
        small = is_small(config.backbone) and not _small_path(config.backbone, config.pretraining, device)[0].exists()
        if small or not model_path(config).exists():
            return None
        backbone, weights = load_model(config).backbone.to(device, memory_format=torch.channels_last), weights_for(config, device)
    except backbones.MissingWeights:
        return None
    parts = (data.train_images[train], data.test_images[test])
    return tuple(predict(backbone, _unlabelled(images, weights, config.recipe, FEATURE_BATCH, device), config.recipe.precision).numpy()
                 for images in parts)


def _save_outputs(config: RunConfig, base: str, logits: Tensor, labels: Tensor, counts: np.ndarray) -> None:
    """The logits of the largest test set, ``base``, and beside the record what they predict."""
    _save_tensors(logits_path(config), {base: logits, "labels": labels})
    save_predictions(config, build_loss(config.loss, counts, **dict(config.loss_options)).eval().prediction_logits(logits), labels)


def _save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    with atomic_path(path) as partial:
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial)


# ------------------------------------------------------------------------------------------ a trained model


def load_model(config: RunConfig) -> Classifier:
    """The trained model of a finished run, after its last epoch, in eval mode on the CPU. Of post-hoc logit adjustment: the softmax model.

    Raises ConfigError in mode "probe", which keeps a head and no model; RecordError where the run is not finished, or its weights
    (:func:`model_path`) are not here or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = dataclasses.replace(computed_as(config), tau=None)
    if config.mode == "probe":
        raise ConfigError(f"{config.describe()}: expected mode finetune or scratch, got 'probe': it trains a head on stored features, and "
                          "there is no whole model to load")
    record, path = load_record(config), model_path(config)
    if record is None or record.status != "done":
        raise RecordError(f"{config.describe()}: expected a finished run, and it is {record.status if record else 'not computed yet'}; "
                          "`make runs` computes it")
    try:
        state = load_file(path)
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # a model draws its weights before it loads others
            backbone = build_backbone(config.backbone, None, config.recipe.resolution)
            model = Classifier(backbone, build_head(config.head, backbone.num_features, dataset_size(config.dataset).num_classes))
        model.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError) as error:
        fault = " ".join(str(error).split())[:200]
        raise RecordError(f"{path}: expected the trained weights of {config.id} ({fault}). Bring the file from where the run was "
                          f"computed, or remove results/{config.profile}/{config.id}.json to train it again.") from None
    return model.eval()


def classify(config: RunConfig, images, k: int = 5, device: str | None = None) -> pd.DataFrame:
    """What the trained model of a run says of photographs: the ``k`` most probable classes of each, the best first.

    images  a folder, or paths of files; each is read, cut and scaled as the run's test images were
            (:func:`ltlib.imagefolder.read_image`)
    -> one row for each image and rank: file, rank (1 to k), class, probability. The probabilities are the softmax of
    ``loss.prediction_logits`` over all classes (for logit adjustment, of the adjusted logits). They are those of a world with the
    proportions of the training set, or, where the loss takes these out, of one in which all classes are equally frequent.
    Raises DataError for no images, and for files that are no images: it names them all; otherwise as :func:`load_model`.
    """
    paths = [Path(path).expanduser() for path in ([images] if isinstance(images, str | Path) else images)]
    if len(paths) == 1 and paths[0].is_dir():
        paths = image_files(paths[0])
    if not paths:
        raise DataError(f"images = {images!r}: expected a folder with photographs, or their paths; there is not one")
    if k < 1:
        raise ConfigError(f"k = {k!r}: expected at least 1")
    model, device, data = load_model(config), pick_device(device), load_dataset(config.dataset)
    pixels, faults = read_images(paths, data.train_images.shape[1])
    if wrong := [f"{path}: {fault}" for path, fault in zip(paths, faults, strict=True) if fault]:
        raise DataError(f"{len(wrong)} of {len(paths)} files are no whole images; take them out:\n  " + "\n  ".join(wrong))
    weights, recipe = weights_for(config, device), config.recipe
    batches = _unlabelled(pixels, weights, recipe, recipe.batch_size, device)
    counts = train_counts(config.protocol, config.train_set, data.num_classes)
    with threads(cpu_count()):
        logits = predict(model.to(device, memory_format=torch.channels_last), batches, recipe.precision).double()
    if config.tau is not None:
        logits = _adjusted(logits, counts, config.tau)
    criterion = build_loss(config.loss, counts, **dict(config.loss_options)).eval()
    probability, best = criterion.prediction_logits(logits).softmax(1).topk(min(k, data.num_classes))
    return pd.DataFrame([{"file": str(path), "rank": rank, "class": data.class_names[c], "probability": p}
                         for path, row, column in zip(paths, probability.tolist(), best.tolist(), strict=True)
                         for rank, (p, c) in enumerate(zip(row, column, strict=True), 1)])
