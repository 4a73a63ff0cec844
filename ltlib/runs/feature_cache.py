"""Features of a frozen backbone, computed once and kept."""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ltlib.data import ImageData
from ltlib.files import atomic_path, cache_dir, exclusive
from ltlib.models import Weights, build_backbone
from ltlib.recipe import Recipe
from ltlib.runs.devices import cpu_count, tune_process
from ltlib.runs.records import content
from ltlib.runs.sets import image_batches
from ltlib.training import predict, threads

CHUNK = 4096  # images in a file
BATCH = 64


@dataclass
class FrozenBackbone:
    """A backbone that is not trained, and the pooled features that it gives.

    They depend on backbone, weights, data, resolution, precision, batch size and kind of device;
    they lie in chunks, so that a killed computation goes on where it was.
    """

    name: str
    weights: Weights
    recipe: Recipe  # its resolution and precision
    device: torch.device

    def features(
        self, data: ImageData, say: Callable[[str], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Those of all training and all test images: two float32 arrays (N, D)."""
        folder = self._folder(data)
        busy = f"features of {self.name} are being computed by another process"
        with exclusive(folder / "key.json", busy, say):
            if not (folder / "key.json").exists():
                with atomic_path(folder / "key.json") as partial:
                    partial.write_text(json.dumps(self._key(data), indent=1))
            train = self._of_split(folder, "train", data.train_images, say)
            return train, self._of_split(folder, "test", data.test_images, say)

    def are_stored(self, data: ImageData) -> bool:
        """Whether ``features`` computes nothing."""
        images = (data.train_images, data.test_images)
        chunks = sum(len(range(0, len(x), CHUNK)) for x in images)
        return len(list(self._folder(data).glob("*.npy"))) >= chunks

    def _key(self, data: ImageData) -> dict:
        return {
            "backbone": self.name,
            "weights": self.weights.checksum,
            "normalisation": [self.weights.mean, self.weights.std],
            "interpolation": self.weights.interpolation,
            "data": content(data.checksums),
            "resolution": self.recipe.resolution,
            "dtype": self.recipe.precision,
            "batch_size": BATCH,
            "device": self.device.type,
        }

    def _folder(self, data: ImageData) -> Path:
        key = json.dumps(self._key(data), sort_keys=True)
        digest = hashlib.sha256(key.encode()).hexdigest()[:10]
        return cache_dir() / "features" / f"{self.name}-{digest}"

    @functools.cached_property
    def _model(self) -> nn.Module:
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            # a model draws its weights before it loads others
            model = build_backbone(self.name, self.weights, self.recipe.resolution)
        return model.to(self.device, memory_format=torch.channels_last)

    def _of_split(self, folder: Path, split: str, images: np.ndarray, say) -> np.ndarray:
        """(N, D), chunk by chunk; those that are not there are computed."""
        parts, start, computed = [], time.monotonic(), 0
        for first in range(0, len(images), CHUNK):
            path, chunk = folder / f"{split}-{first:06d}.npy", images[first : first + CHUNK]
            if not path.exists():
                self._store(path, chunk)
                computed += len(chunk)
                rate = computed / (time.monotonic() - start)
                done = first + len(chunk)
                say(
                    f"features of {self.name}, {split}: {done}/{len(images)} images,"
                    f" {rate:.0f} images/s, {(len(images) - done) / rate:.0f} s left"
                )
            parts.append(np.load(path, allow_pickle=False))
        return np.concatenate(parts)

    def _store(self, path: Path, images: np.ndarray) -> None:
        tune_process(self.device)
        batches = image_batches(images, None, self.weights, self.recipe, BATCH, self.device)
        with threads(cpu_count()):
            features = predict(self._model, batches, self.recipe.precision).numpy()
        with atomic_path(path) as partial:
            np.save(partial, features)
