"""The small backbones of the embedded data set, pretrained on the spot: they are not published."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from ltlib.checkpoints import Checkpoints, checkpoint_minutes, library_versions, save_tensors
from ltlib.data import digit_pairs_for_pretraining
from ltlib.files import cache_dir, exclusive
from ltlib.losses import build_loss
from ltlib.models import Weights, build_backbone, build_classifier, fresh_weights
from ltlib.runs.config import Pretraining
from ltlib.runs.devices import tune_process
from ltlib.runs.progress import Progress
from ltlib.runs.sets import image_batches
from ltlib.training import fit, reproducible

CLASSES = 100  # pairs of digits


def small_weights(
    name: str, pretraining: Pretraining, device: torch.device, say: Callable[[str], None]
) -> Weights:
    """The weights of a small backbone, from the cache, or pretrained on clean pairs of digits."""
    path, key = small_path(name, pretraining, device)
    with exclusive(path, f"{name} is being pretrained by another process", say):
        if not path.exists():
            _pretrain(name, pretraining, path, key, device, say)
    origin = f"pretrained on {pretraining.images} clean digit pairs"
    fresh = fresh_weights("digits")
    return dataclasses.replace(fresh, path=path, origin=origin, num_classes=CLASSES)


def small_path(name: str, pretraining: Pretraining, device: torch.device) -> tuple[Path, str]:
    """Where a small backbone's pretrained weights lie, and what they depend on, as JSON."""
    what = {"backbone": name, "pretraining": dataclasses.asdict(pretraining), "device": device.type}
    key = json.dumps(what, sort_keys=True)
    digest = hashlib.sha256(key.encode()).hexdigest()[:10]
    return cache_dir() / "pretrained" / f"{name}-{digest}.safetensors", key


def _pretrain(name: str, pretraining: Pretraining, path: Path, key: str, device, say) -> None:
    recipe, seed = pretraining.recipe, pretraining.seed
    images, labels = digit_pairs_for_pretraining(pretraining.images, seed)
    key = {"pretraining": key} | library_versions()
    checkpoints = Checkpoints(path.with_suffix(".pt"), key, checkpoint_minutes(), say)
    progress = Progress(recipe.epochs, lambda line: say(f"pretraining {name}: {line}"))
    tune_process(device)
    with reproducible(seed):
        backbone = build_backbone(name, None)
        model = build_classifier(backbone, "linear", CLASSES)
        augmentation = {"crop_padding": recipe.crop_padding, "flip": recipe.flip}
        how = fresh_weights("digits"), recipe, recipe.batch_size, device
        batches = image_batches(images, labels, *how, **augmentation)
        model = model.to(device, memory_format=torch.channels_last)
        loss = build_loss("softmax", np.ones(CLASSES))
        watched = {"checkpoints": checkpoints, "progress": progress}
        curve, _ = fit(model, loss, batches, recipe, seed, precision=recipe.precision, **watched)
    save_tensors(path, backbone.state_dict())
    checkpoints.remove()
    say(
        f"pretrained {name} on {len(labels)} clean digit pairs: training loss"
        f" {curve[-1]['train_loss']:.3f}, {checkpoints.seconds:.0f} s"
    )
