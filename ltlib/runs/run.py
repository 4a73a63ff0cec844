"""From a config to its record: ``run_or_load``, the one function that notebooks and make call.

Three modes: "finetune" trains backbone and head from pretrained weights, "scratch" from fresh ones;
"probe" computes the features of a frozen backbone once (cached) and trains heads on them. All go
through the same ``fit``. On a CPU every run uses one thread, whatever the machine and however many
runs go on beside it, so that the same config gives the same record, digit for digit.

Here a config is taken apart, in ``train`` and ``set_up``: what they call knows arrays, class
counts, a model, a loss and a recipe, and no config.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ltlib import models
from ltlib.checkpoints import Checkpoints, checkpoint_minutes, library_versions, save_tensors
from ltlib.data import ImageData, load_dataset
from ltlib.errors import ConfigError
from ltlib.files import build_dir, exclusive, silent
from ltlib.hooks import Diverged
from ltlib.losses import Loss, build_loss, class_balanced_weights
from ltlib.models import Classifier, MissingWeights, Weights
from ltlib.protocol import Splits, base_set, make_splits
from ltlib.runs import records
from ltlib.runs.config import RunConfig
from ltlib.runs.devices import pick_device, thread_count, tune_process
from ltlib.runs.experiment import Experiment, evaluation
from ltlib.runs.feature_cache import FrozenBackbone
from ltlib.runs.pretraining import small_weights
from ltlib.runs.profiles import Profile
from ltlib.runs.progress import Progress, live_path
from ltlib.runs.sets import feature_sets, image_sets
from ltlib.training import predict, reproducible

DRW_BETA = 0.9999


def run_or_load(
    config: RunConfig,
    device: str | None = None,
    say: Callable[[str], None] = silent,
    wait: bool = True,
    say_progress: bool = True,
) -> records.Record:
    """The stored record of this run; trains it first where there is none, from its checkpoint where
    there is one.

    A run that equals softmax by mathematics is answered by the softmax run
    (``ltlib.runs.records.computed_as``). One that another process is computing is waited for, or,
    without ``wait``, raises Busy. ``say_progress``: a line about every 20 s. Raises MissingWeights,
    DataError, ConfigError, RecordError, CheckpointError or OSError, and Stopped after
    ``request_stop``; a run that diverges is a record that says so.
    """
    config = records.computed_as(config)
    record = records.load_record(config)
    if record is None:
        busy = f"{config.describe()} is being computed by another process"
        with exclusive(live_path(config, ""), busy, say, wait):
            records.look_again(config.profile)
            record = records.load_record(config)
            if record is None:
                device = pick_device(device)
                tune_process(device)
                if config.tau is None:
                    record = train(config, device, say, say_progress)
                else:
                    softmax = dataclasses.replace(config, tau=None)
                    base = run_or_load(softmax, str(device), say, wait, say_progress)
                    record = adjust(config, softmax, base)
                records.save_record(config, record)
    with contextlib.suppress(OSError):  # a record may lie where nothing can be written
        Checkpoints(live_path(config, ".pt"), {}).remove()
        live_path(config, ".json").unlink(missing_ok=True)
    return record


def train(
    config: RunConfig, device: torch.device, say=silent, say_progress: bool = True
) -> records.Record:
    """Train as the config says; weights, logits and predictions lie where they belong then."""

    def tell(line: str) -> None:
        say(f"{config.describe()}: {line}")

    data, weights = load_dataset(config.dataset), weights_for(config, device, say)
    splits = make_splits(data, config.protocol, config.train_set)
    origin = records.environment(device) | {
        "data": data.checksums,
        "weights": {"origin": weights.origin, "sha256": weights.checksum},
    }
    checkpoints = _checkpoints(config, origin, device, tell)
    said = tell if say_progress else silent
    progress = Progress(config.recipe.epochs, said, live_path(config, ".json"))
    note, results = "", {}
    try:
        with reproducible(config.seed, thread_count()):
            experiment = set_up(config, data, splits, weights, device, say)
            curve, found, trained = experiment.fit(checkpoints, progress)
        judged = splits.tests, data.test_labels, experiment.criterion
        results = {
            "curve": curve,
            "train_images": len(splits.train),
            "val_images": len(splits.val),
            "evaluations": {choice: evaluation(*f, *judged) for choice, f in found.items()},
        }
    except Diverged as error:
        lower = f"a smaller learning rate (recipe lr = {config.recipe.lr}) is the usual mend"
        note = f"{error}; {lower}"
    else:
        save_tensors(model_path(config), trained)
        _save_logits(config, found["last"][1], data, splits, experiment.criterion)
    finished = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    provenance = origin | {"wall_seconds": round(checkpoints.seconds, 2), "finished": finished}
    if len(checkpoints.starts) > 1:
        provenance["starts"] = checkpoints.starts
    status = "diverged" if note else "done"
    return records.Record(config.id, status, config.to_dict(), results, provenance, note)


def set_up(
    config: RunConfig, data: ImageData, splits: Splits, weights: Weights, device: torch.device, say
) -> Experiment:
    """Model, loss and batches of a run; the model draws from the global random state."""
    recipe, classes = config.recipe, data.num_classes
    loss = loss_of(config)
    if config.mode == "probe":
        features = FrozenBackbone(config.backbone, weights, recipe, device).features(data, say)
        model = models.build_head(config.head, features[0].shape[1], classes).to(device)
        sets = feature_sets(*features, data, splits, recipe.batch_size, device)
    else:
        model = build_model(config, weights, say)
        model = model.to(device, memory_format=torch.channels_last)
        sets = image_sets(data, splits, weights, recipe, device)
    if recipe.head_init == "class_means":
        x, head = sets.train.x, model
        if config.mode != "probe":
            x, head = predict(model.backbone, sets.train, recipe.precision).to(device), model.head
        models.start_at_class_means(head, x, sets.train.labels)
    drw_weights = loss.weights
    if drw_weights is None:
        drw_weights = class_balanced_weights(config.counts, DRW_BETA)
    return Experiment(
        model,
        loss,
        loss_of(config).eval(),
        sets,
        recipe,
        config.seed,
        "float32" if config.mode == "probe" else recipe.precision,
        config.drw_epoch,
        drw_weights,
        config.groups,
    )


def loss_of(config: RunConfig) -> Loss:
    """The loss of a run, new."""
    return build_loss(config.loss, config.counts, **dict(config.loss_options))


def build_model(config: RunConfig, weights: Weights | None, say=silent) -> Classifier:
    """The model of a run that trains on images; what is new in it draws from the random state."""
    recipe, classes = config.recipe, len(config.counts)
    backbone = models.build_backbone(config.backbone, weights, recipe.resolution)
    if config.mode != "light":
        return models.build_classifier(backbone, config.head, classes)
    models.lighten(backbone, recipe.light, recipe.width)
    model = models.build_classifier(backbone, config.head, classes)
    trained, every = models.trained_share(model)
    share = f"{trained:,} of {every:,} weights train, {100 * trained / every:.1f} %"
    say(f"{config.describe()}: {recipe.light}: {share}")
    return model


def adjust(config: RunConfig, softmax: RunConfig, base: records.Record) -> records.Record:
    """The record of post-hoc logit adjustment, from that of the softmax run and its stored logits.

    Raises RecordError where these are not here.
    """
    made = dataclasses.replace(base, id=config.id, config=config.to_dict())
    if base.status != "done":
        return dataclasses.replace(made, note=f"the softmax run diverged: {base.note}")
    data = load_dataset(config.dataset)
    splits = make_splits(data, config.protocol, config.train_set)
    criterion = loss_of(config).eval()
    logits = adjusted(_stored_logits(softmax, data, splits), config)
    last = evaluation(config.recipe.epochs, logits, splits.tests, data.test_labels, criterion)
    _save_logits(config, logits, data, splits, criterion)
    return dataclasses.replace(
        made,
        results=base.results | {"evaluations": {"last": last}},
        provenance=base.provenance | {"adjusted": base.id},
    )


def adjusted(logits: Tensor, config: RunConfig) -> Tensor:
    """z_c - tau ln f_c, f_c the class's share of the run's training images: (N, C) -> (N, C).

    Source: Menon et al. 2021, Long-Tail Learning via Logit Adjustment.
    """
    shares = config.counts / config.counts.sum()
    return logits - config.tau * torch.as_tensor(np.log(shares), dtype=logits.dtype)


def prepare(
    profile: Profile, say: Callable[[str], None] = print, runs: list[RunConfig] | None = None
) -> None:
    """Everything that the runs of a profile (or these) share: data, weights (all of them, before
    anything is computed).

    Raises MissingWeights, DataError or ConfigError; RecordError if finished runs were made from
    other data or weights.
    """
    runs = profile.configs() if runs is None else runs
    for config in runs:
        models.check_name(config.backbone)
        loss_of(config)
        _require_pretraining(config)
        if config.backbone_of and not records.load_record(records.computed_as(config)):
            _trained_path(config)
    checkpoint_minutes()
    pretrained = () if profile.mode == "scratch" else profile.backbones
    weights = models.require_weights([b for b in pretrained if not models.is_small(b)])
    loaded = {name: load_dataset(name) for name in dict.fromkeys(config.dataset for config in runs)}
    for data in loaded.values():
        sizes = f"{len(data.train_images)} training and {len(data.test_images)} test images"
        say(f"data: {data.name}, {sizes} ({data.checksums['origin']})")
    for name, found in weights.items():
        say(f"weights: {name} from {found.origin}")
    for config in map(records.computed_as, runs):
        if record := records.load_record(config):
            found = None if config.backbone_of else weights.get(config.backbone)
            sha256 = found.checksum if found else None
            records.check_origin(record, config, loaded[config.dataset].checksums, sha256)


def weights_for(
    config: RunConfig, device: torch.device, say: Callable[[str], None] = silent
) -> Weights:
    """The weights that a run starts from: found for timm's names, pretrained on the spot for the
    small variants, fresh, or those of another run.
    """
    if config.backbone_of:
        path = _trained_path(config)
        start = weights_for(dataclasses.replace(config, backbone_of=""), device, say)
        origin = f"run {config.backbone_of}"
        return dataclasses.replace(
            start, path=path, origin=origin, num_classes=0, hub=False, prefix="backbone."
        )
    if config.mode == "scratch":
        return models.fresh_weights(config.dataset, config.recipe.pixels)
    if not models.is_small(config.backbone):
        return models.find_weights(config.backbone)
    _require_pretraining(config)
    return small_weights(config.backbone, config.pretraining, device, say)


def features(
    config: RunConfig, device: torch.device, say: Callable[[str], None] = silent
) -> tuple[np.ndarray, np.ndarray]:
    """Pooled features of all training and test images by a run's backbone, frozen: two float32
    arrays (N, D), from the cache where they are there.
    """
    weights = weights_for(config, device, say)
    backbone = FrozenBackbone(config.backbone, weights, config.recipe, device)
    return backbone.features(load_dataset(config.dataset), say)


def model_path(config: RunConfig) -> Path:
    """Weights of a run after its last epoch (safetensors; the head alone in mode "probe")."""
    return build_dir(config.profile) / "models" / f"{config.id}.safetensors"


def _trained_path(config: RunConfig) -> Path:
    """The weights of the run whose backbone this one starts from. Raises MissingWeights."""
    name = f"{config.backbone_of}.safetensors"
    folders = ("*/models", "*/*/models")  # a part of a profile has a folder of its own in it
    found = [path for of in folders for path in build_dir("").glob(f"{of}/{name}")]
    if not found:
        raise MissingWeights(
            f"{config.describe()}: expected the weights of the run that it starts from,"
            f" {build_dir('')}/<profile>/models/{name}. Compute that run first, or bring the file"
            " from where it was computed."
        )
    return found[0]


def _require_pretraining(config: RunConfig) -> None:
    if models.is_small(config.backbone) and config.pretraining is None and config.mode != "scratch":
        raise ConfigError(
            f"{config.backbone}: expected a [pretraining] table in the profile; it has no published"
            " weights"
        )


def _checkpoints(config: RunConfig, origin: dict, device: torch.device, tell) -> Checkpoints:
    """The run's checkpoint, good for the same config, data, weights, kind of device, libraries."""
    key = {
        "config": config.to_dict(),
        "data": records.content(origin["data"]),
        "weights": origin["weights"]["sha256"],
        "device": device.type,
    }
    start = {name: origin[name] for name in ("code", "device_name")}
    path = live_path(config, ".pt")
    return Checkpoints(path, key | library_versions(), checkpoint_minutes(), tell, start)


def _save_logits(
    config: RunConfig, logits: Tensor, data: ImageData, splits: Splits, criterion: Loss
) -> None:
    """The logits of the largest test set, and beside the record what they predict."""
    base = base_set(splits.tests)
    labels = torch.as_tensor(data.test_labels[splits.tests[base]])
    save_tensors(records.logits_path(config), {base: logits, "labels": labels})
    records.save_predictions(config, criterion.prediction_logits(logits), labels)


def _stored_logits(config: RunConfig, data: ImageData, splits: Splits) -> Tensor:
    """(N, C), as ``_save_logits`` wrote them. Raises RecordError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    base, path = base_set(splits.tests), records.logits_path(config)
    labels = torch.as_tensor(data.test_labels[splits.tests[base]])
    with contextlib.suppress(OSError, KeyError, SafetensorError):
        stored = load_file(path)
        if torch.equal(stored["labels"], labels):
            return stored[base]
    raise records.RecordError(
        f"logit adjustment needs the test logits of {config.id}, and {path} does not hold them."
        " Bring them from where the run was computed, or remove"
        f" results/{config.profile}/{config.id}.json to train it again."
    )
