"""What a finished run gives: its model, what that says of other photographs, and its features."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ltlib.data import load_dataset
from ltlib.data.photographs import image_files, read_images
from ltlib.errors import ConfigError, DataError
from ltlib.files import atomic_path, silent
from ltlib.models import Classifier, MissingWeights, is_small
from ltlib.runs.config import RunConfig
from ltlib.runs.devices import cpu_count, pick_device
from ltlib.runs.feature_cache import BATCH, FrozenBackbone
from ltlib.runs.pretraining import small_path
from ltlib.runs.records import (
    RecordError,
    computed_as,
    load_record,
    logits_path,
    record_path,
)
from ltlib.runs.run import adjusted, build_model, loss_of, model_path, weights_for
from ltlib.runs.sets import image_batches
from ltlib.training import predict, threads


def load_model(config: RunConfig) -> Classifier:
    """The trained model of a finished run, after its last epoch, in eval mode on the CPU. Of
    post-hoc logit adjustment: the softmax model.

    Raises ConfigError in mode "probe", which keeps a head and no model; RecordError where the run
    is not finished, or its weights (:func:`ltlib.runs.run.model_path`) are not here or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = dataclasses.replace(computed_as(config), tau=None)
    if config.mode == "probe":
        raise ConfigError(
            f"{config.describe()}: expected mode finetune, light or scratch, got 'probe': it trains"
            " a head on stored features, and there is no whole model to load"
        )
    record, path = load_record(config), model_path(config)
    state = record.status if record else "not computed yet"
    if state != "done":
        raise RecordError(
            f"{config.describe()}: expected a finished run, and it is {state}; `make runs`"
            " computes it"
        )
    try:
        weights = load_file(path)
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            # a model draws its weights before it loads others
            model = build_model(config, None)
        model.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        fault = " ".join(str(error).split())[:200]
        raise RecordError(
            f"{path}: expected the trained weights of {config.id} ({fault}). Bring the file from"
            f" where the run was computed, or remove results/{config.profile}/{config.id}.json to"
            " train it again."
        ) from None
    return model.eval()


def kept_logits_path(config: RunConfig) -> Path:
    """Test logits that are kept beside the record: `make logits` writes them."""
    return record_path(config).with_name(f"{config.id}-logits.npz")


def load_logits(config: RunConfig) -> np.ndarray | None:
    """What a finished run says of its largest test set: z (N, C) float32 as its loss means them for
    prediction, so that softmax(z) are its probabilities; None where they are not here.

    Kept beside the record they are rounded to float16. Raises RecordError for a damaged file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    config = computed_as(config)
    kept, stored = kept_logits_path(config), logits_path(config)
    try:
        if kept.exists():
            with np.load(kept, allow_pickle=False) as file:
                return file["logits"].astype(np.float32)
        if not stored.exists():
            return None
        (logits,) = (z for name, z in load_file(stored).items() if name != "labels")
    except (OSError, ValueError, KeyError, SafetensorError, zipfile.BadZipFile) as error:
        path = kept if kept.exists() else stored
        raise RecordError(
            f"{path}: expected the test logits of a run ({error}). Remove it."
        ) from None
    return loss_of(config).eval().prediction_logits(logits).float().numpy()


def keep_logits(config: RunConfig) -> Path:
    """Write :func:`load_logits` as float16 beside the record. Raises RecordError without them."""
    config = computed_as(config)
    if (logits := load_logits(config)) is None:
        raise RecordError(
            f"{config.describe()}: expected its test logits in {logits_path(config)}. Bring them"
            " from where the run was computed, or remove its record to compute it again."
        )
    path = kept_logits_path(config)
    with atomic_path(path) as partial:
        np.savez_compressed(partial, logits=logits.astype(np.float16))
    return path


def classify(config: RunConfig, images, k: int = 5, device: str | None = None) -> pd.DataFrame:
    """What the trained model of a run says of photographs: the ``k`` most probable classes of each,
    the best first.

    images  a folder, or paths of files; each is read, cut and scaled as the run's test images were
            (:func:`ltlib.data.photographs.read_image`)
    -> one row for each image and rank: file, rank (1 to k), class, probability. The probabilities
    are the softmax of ``loss.prediction_logits`` over all classes (for logit adjustment, of the
    adjusted logits). They are those of a world with the proportions of the training set, or, where
    the loss takes these out, of one in which all classes are equally frequent. Raises DataError for
    no images, and for files that are no images: it names them all; otherwise as :func:`load_model`.
    """
    paths = _paths(images)
    if k < 1:
        raise ConfigError(f"k = {k!r}: expected at least 1")
    model, data = load_model(config), load_dataset(config.dataset)
    pixels = _read(paths, data.train_images.shape[1])
    p = _probabilities(config, model, pixels, pick_device(device))  # (N, C)
    probability, best = p.topk(min(k, data.num_classes))
    n, ranks = best.shape
    return pd.DataFrame(
        {
            "file": np.repeat([str(path) for path in paths], ranks),
            "rank": np.tile(np.arange(1, ranks + 1), n),
            "class": np.array(data.class_names)[best.flatten()],
            "probability": probability.flatten().numpy(),
        }
    )


def _paths(images) -> list[Path]:
    """Those of a folder's image files, or these. Raises DataError for none."""
    several = [images] if isinstance(images, str | Path) else images
    paths = [Path(path).expanduser() for path in several]
    if len(paths) == 1 and paths[0].is_dir():
        paths = image_files(paths[0])
    if not paths:
        expected = "a folder with photographs, or their paths; there is not one"
        raise DataError(f"images = {images!r}: expected {expected}")
    return paths


def _read(paths: list[Path], size: int) -> np.ndarray:
    """(N, size, size, 3) uint8. Raises DataError."""
    pixels, faults = read_images(paths, size)
    if wrong := [f"{path}: {fault}" for path, fault in zip(paths, faults, strict=True) if fault]:
        raise DataError(
            f"{len(wrong)} of {len(paths)} files are no whole images; take them out:\n  "
            + "\n  ".join(wrong)
        )
    return pixels


def _probabilities(
    config: RunConfig, model: Classifier, pixels: np.ndarray, device: torch.device
) -> torch.Tensor:
    """(N, C) of images (N, H, W, 3)."""
    weights, recipe = weights_for(config, device), config.recipe
    batches = image_batches(pixels, None, weights, recipe, recipe.batch_size, device)
    with threads(cpu_count()):
        model = model.to(device, memory_format=torch.channels_last)
        logits = predict(model, batches, recipe.precision).double()
    if config.tau is not None:
        logits = adjusted(logits, config)
    return loss_of(config).eval().prediction_logits(logits).softmax(1)


def stored_features(
    config: RunConfig, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Pooled features of some training and test images by the backbone of a finished run: indices
    (n,), (m,) -> (n, D), (m, D) float32.

    None where something would have to be trained for them, or extracted for hours: no stored
    weights of the run; no cached features of the frozen backbone.
    """
    device, data, recipe = pick_device(), load_dataset(config.dataset), config.recipe
    try:
        if config.mode == "probe":
            weights = weights_for(config, device)
            frozen = FrozenBackbone(config.backbone, weights, recipe, device)
            if not frozen.are_stored(data):
                return None
            train_x, test_x = frozen.features(data, silent)
            return train_x[train], test_x[test]
        pretrained = config.mode != "scratch" and is_small(config.backbone)
        if pretrained and not small_path(config.backbone, config.pretraining, device)[0].exists():
            return None
        if not model_path(config).exists():
            return None
        weights = weights_for(config, device)
    except MissingWeights:
        return None
    backbone = load_model(config).backbone.to(device, memory_format=torch.channels_last)

    def features(images):
        batches = image_batches(images, None, weights, recipe, BATCH, device)
        return predict(backbone, batches, recipe.precision).numpy()

    return features(data.train_images[train]), features(data.test_images[test])
