"""Where pretrained weights come from: a folder of files, or the Hugging Face hub."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from ltlib.errors import ConfigError
from ltlib.models.names import check_name


@dataclass(frozen=True)
class Weights:
    """A file of pretrained weights (None: fresh ones) and how to feed the model.

    mean, std  normalisation of images in [0, 1]; interpolation  "bicubic" or "bilinear"
    prefix     of the backbone's keys in the file; "backbone." in that of a run of ours, whose
               backbone already has the size of the run's images
    """

    path: Path | None
    origin: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    num_classes: int
    hub: bool = False
    prefix: str = ""

    @functools.cached_property
    def checksum(self) -> str | None:
        """sha256 of the file; None for fresh weights."""
        if self.path is None:
            return None
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def fresh_weights(dataset: str, pixels: str = "normalised") -> Weights:
    """No weights: a model trained from scratch, on images normalised with the data set's own mean
    and standard deviation, or as they are, 0 to 255 (``pixels`` "raw")."""
    mean, std = NORMALISATION.get(dataset.split("_class")[0], ((0.5,) * 3, (0.5,) * 3))
    if pixels == "raw":
        mean, std = (0.0,) * 3, (1 / 255,) * 3
    return Weights(None, "fresh", mean, std, "bicubic", 0)


NORMALISATION = {
    "cifar100": (
        (0.4914, 0.4822, 0.4465),
        (0.2023, 0.1994, 0.2010),
    ),  # as LDAM-DRW has them, for CIFAR-10 too
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "fashion_mnist": ((0.2860,) * 3, (0.3530,) * 3),  # of the training images
    "mnist": ((0.1307,) * 3, (0.3081,) * 3),
    "svhn": ((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
}


class MissingWeights(RuntimeError):
    """Pretrained weights that a profile needs are not to be had."""


def _weights_dir() -> Path | None:
    if not os.environ.get("LTLIB_WEIGHTS"):
        return None
    folder = Path(os.environ["LTLIB_WEIGHTS"])
    if not folder.is_dir():
        raise ConfigError(
            f"LTLIB_WEIGHTS = {str(folder)!r}: expected a folder with <timm name>.safetensors"
            " files; unset it to use the hub"
        )
    return folder


@functools.cache
def find_weights(name: str) -> Weights:
    """Find the weights of a timm backbone: in ``LTLIB_WEIGHTS``, then in the Hugging Face cache or
    on the hub.

    Raises MissingWeights with the reason if they are in neither place, ConfigError for a damaged
    description.
    """
    check_name(name)
    folder = _weights_dir()
    if folder and (folder / f"{name}.safetensors").exists():
        return _local_weights(name, folder)
    return _hub_weights(name)


def _local_weights(name: str, folder: Path) -> Weights:
    description = folder / f"{name}.json"
    try:
        meta = json.loads(description.read_text())
        mean, std = (tuple(map(float, meta[key])) for key in ("mean", "std"))
        if not (len(mean) == len(std) == 3 and all(s > 0 for s in std)) or isinstance(
            meta["mean"], str
        ):
            raise ValueError("mean and std need three numbers each, std above 0")
        if not all(-10 < m < 10 for m in mean) or not all(0.001 < s < 10 for s in std):
            raise ValueError(f"mean {mean} and std {std} are not those of images in [0, 1]")
        interpolation = meta.get("interpolation", "bicubic")
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation is {interpolation!r}, expected bicubic or bilinear")
        return Weights(
            folder / f"{name}.safetensors",
            str(meta.get("origin", folder.name)),
            mean,
            std,
            interpolation,
            int(meta.get("num_classes", 1000)),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{description}: expected a JSON file with mean and std beside {name}.safetensors"
            f" ({error})"
        ) from None


def _hub_weights(name: str) -> Weights:
    import timm
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise MissingWeights(f"timm lists no pretrained weights on the hub for {name}")
    path = try_to_load_from_cache(config.hf_hub_id, "model.safetensors")
    if not isinstance(path, str):
        _require_hub()
        try:
            path = hf_hub_download(config.hf_hub_id, "model.safetensors")
        except (
            Exception
        ) as error:  # requests, httpx and hub errors alike: the caller names the ways out
            raise MissingWeights(f"{config.hf_hub_id}: {type(error).__name__}: {error}") from error
    return Weights(
        Path(path),
        f"Hugging Face hub, {config.hf_hub_id}",
        tuple(config.mean),
        tuple(config.std),
        config.interpolation if config.interpolation in ("bicubic", "bilinear") else "bicubic",
        config.num_classes,
        hub=True,
    )


@functools.cache
def hub_fault() -> str:
    """Why the hub is out of reach, or "". Asked once: its own client would try for 23 s for every
    file."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and the file is not in the cache"
    try:
        urllib.request.urlopen(
            urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5
        ).close()
    except urllib.error.HTTPError:
        return ""  # it answers
    except OSError as error:
        return f"{constants.ENDPOINT} is out of reach: {getattr(error, 'reason', error)}"
    return ""


def _require_hub() -> None:
    if fault := hub_fault():
        raise MissingWeights(fault)


def require_weights(names) -> dict[str, Weights]:
    """Find the weights of all these timm backbones, or raise one MissingWeights that names every
    missing one."""
    found, missing = {}, {}
    for name in names:
        try:
            found[name] = find_weights(name)
        except MissingWeights as error:
            missing[name] = str(error)
    if missing:
        folder = _weights_dir()
        lines = [f"  {name}  ({reason})" for name, reason in missing.items()]
        example = next(iter(missing))
        raise MissingWeights(
            f"no pretrained weights for {len(missing)} backbone(s):\n"
            + "\n".join(lines)
            + "\nTwo ways to get them:\n  1. with a network: they come from the Hugging Face hub"
            " by themselves (or copy its cache and set HF_HOME);\n  2. without: set"
            " LTLIB_WEIGHTS to a folder with <name>.safetensors (timm's key names) and"
            f" <name>.json (mean, std), such as {example}.safetensors and {example}.json"
            f" (LTLIB_WEIGHTS is {folder or 'not set'}).\n"
            + (
                f'Or leave them out: BACKBONES="{" ".join(found)}"'
                if found
                else 'Or leave them out: BACKBONES="..." with names of backbones that you have'
            )
        )
    return found
