"""Backbones (timm models and four small ones), heads, and where weights come from.

timm is imported where a model is built or looked for: it takes seconds, and who only reads records needs none of it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ltlib.config import ConfigError

# ------------------------------------------------------------------------------------ the small variants


def _mobilenetv2_small() -> nn.Module:
    import timm

    model = timm.create_model("mobilenetv2_035", num_classes=0)
    model.conv_stem.stride = (1, 1)  # 32 px images: 2 x 2 instead of 1 x 1 at the end
    return model


def _resnetv2_small() -> nn.Module:
    import timm

    model = timm.models.ResNetV2(layers=(1, 1, 1, 1), channels=(32, 64, 128, 256), num_classes=0, stem_chs=32, stem_type="",
                                 conv_layer=timm.layers.create_conv2d, norm_layer=timm.layers.BatchNormAct2d)
    model.stem.pool = nn.Identity()  # 32 px images: stages at 16, 8, 4 and 2 px
    return model


def _vit_small() -> nn.Module:
    import timm

    return timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=128, depth=3, num_heads=4, num_classes=0)


def _convnext_small() -> nn.Module:
    import timm

    return timm.models.ConvNeXt(depths=(1, 1, 2, 1), dims=(32, 64, 128, 256), patch_size=2, num_classes=0)


SMALL = {
    "mobilenetv2_small32": _mobilenetv2_small,
    "resnetv2_small32": _resnetv2_small,
    "vit_small32": _vit_small,
    "convnext_small32": _convnext_small,
}

# ------------------------------------------------------------------------------------------- from scratch


class _BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters (He et al.'s option A: every other pixel, zeros for new channels)."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride, self.new = stride, (out_channels - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new))
        return F.relu(x + y)


class ResNet32(nn.Module):
    """The ResNet-32 of the literature on CIFAR: (B, 3, 32, 32) -> (B, 64), 0.46 M parameters.

    A 3 x 3 stem of 16 channels, three stages of five blocks with 16, 32 and 64 channels, mean over the image; weights from
    Kaiming's normal distribution. Source: He et al. 2016, Deep Residual Learning, section 4.2; as in LDAM-DRW's code.
    """

    num_features = 64

    def __init__(self, blocks: int = 5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        layers, channels = [], 16
        for out_channels in (16, 32, 64):
            for _ in range(blocks):
                layers.append(_BasicBlock(channels, out_channels, 2 if out_channels > channels else 1))
                channels = out_channels
        self.blocks = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3))


class ResNet44(ResNet32):
    """:class:`ResNet32` with seven blocks a stage, as ARConvL has it for 32 px images: (B, 3, 32, 32) -> (B, 64)."""

    def __init__(self):
        super().__init__(blocks=7)


def _resnet18_cifar() -> nn.Module:
    """timm's ResNet-18 with a 3 x 3 stem and no pooling after it, as usual for 32 px images: (B, 3, 32, 32) -> (B, 512)."""
    import timm

    model = timm.create_model("resnet18", num_classes=0)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


class Net(nn.Sequential):
    """Layers in a row that look at the first ``channels`` channels of images (B, 3, R, R) and give (B, ``num_features``).

    Grey images are stored as three equal channels; nets made for one look at the first.
    """

    def __init__(self, channels: int, num_features: int, *layers: nn.Module):
        super().__init__(*layers)
        self.channels, self.num_features = channels, num_features

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, : self.channels])


def _pf_cnn() -> nn.Module:
    """PF-loss's net for Fashion-MNIST, Conv-ReLU-Conv-ReLU-MaxPool-FC-ReLU-Dropout (its last FC is the head): (B, 3, 28, 28) -> (B, 128).

    The paper gives no widths: here 3 x 3 without padding, 32 and 64 channels, 128 features, dropout 0.5.
    """
    return Net(1, 128, nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
               nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5))


def _pf_binary_cnn() -> nn.Module:
    """PF-loss's net for binary tasks, two convolutions and three FC (the last is the head): (B, 3, 32, 32) -> (B, 84).

    The paper gives no widths: here those of LeNet-5 (6 and 16 channels of 5 x 5, 120 and 84 features).
    """
    return Net(3, 84, nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
               nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())


def _arconvl_cnn(num_features: int = 64) -> nn.Module:
    """ARConvL's net for 28 px images: two pairs of 3 x 3 convolutions (32 and 64 channels, padded), each with pooling, FC, batch
    normalisation: (B, 3, 28, 28) -> (B, 64). "arconvl_cnn2" has two features, to be drawn."""
    def pair(channels, out_channels):
        return (nn.Conv2d(channels, out_channels, 3, padding=1), nn.ReLU(), nn.Conv2d(out_channels, out_channels, 3, padding=1),
                nn.ReLU(), nn.MaxPool2d(2))

    return Net(1, num_features, *pair(1, 32), *pair(32, 64), nn.Flatten(), nn.Linear(3136, num_features), nn.BatchNorm1d(num_features))


OWN = SMALL | {
    "resnet32": ResNet32,
    "resnet44": ResNet44,
    "resnet18_cifar": _resnet18_cifar,
    "pf_cnn": _pf_cnn,
    "pf_binary_cnn": _pf_binary_cnn,
    "arconvl_cnn": _arconvl_cnn,
    "arconvl_cnn2": functools.partial(_arconvl_cnn, 2),
}

TITLES = {
    "mobilenetv2_small32": "MobileNetV2 (small)",
    "resnetv2_small32": "ResNetV2 (small)",
    "vit_small32": "ViT (small)",
    "convnext_small32": "ConvNeXt (small)",
    "mobilenetv2_100": "MobileNetV2",
    "resnetv2_50": "ResNet50V2",
    "vit_base_patch16_224": "ViT-B/16",
    "vit_tiny_patch16_224": "ViT-Ti/16",
    "convnext_base": "ConvNeXt Base",
    "resnet32": "ResNet-32",
    "resnet44": "ResNet-44",
    "resnet18_cifar": "ResNet-18",
    "pf_cnn": "PF-loss's CNN",
    "pf_binary_cnn": "PF-loss's binary CNN",
    "arconvl_cnn": "ARConvL's CNN",
    "arconvl_cnn2": "ARConvL's CNN, 2 features",
}


def backbone_title(name: str) -> str:
    """What tables and figures call a backbone; timm's own name where there is no other."""
    return TITLES.get(name, name)


def is_small(name: str) -> bool:
    return name in SMALL


def check_name(name: str) -> None:
    """Raise ConfigError, with the nearest names, unless ``name`` is a model of this module or of timm."""
    if name in OWN:
        return
    import timm

    if name not in timm.list_models() and name not in timm.list_pretrained():
        near = timm.list_models(f"*{name[:8]}*")[:3]
        raise ConfigError(f"backbone {name!r}: expected a timm model name or one of {', '.join(OWN)}"
                          + (f" (near: {', '.join(near)})" if near else ""))


# --------------------------------------------------------------------------------- where weights come from


@dataclass(frozen=True)
class Weights:
    """A file of pretrained weights (None: fresh ones) and how to feed the model.

    mean, std  normalisation of images in [0, 1]; interpolation  "bicubic" or "bilinear"
    """

    path: Path | None
    origin: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    num_classes: int
    hub: bool = False

    @functools.cached_property
    def checksum(self) -> str | None:
        """sha256 of the file; None for fresh weights."""
        if self.path is None:
            return None
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def fresh_weights(dataset: str, pixels: str = "normalised") -> Weights:
    """No weights: a model trained from scratch, on images normalised with the data set's own mean and standard deviation, or as they
    are, 0 to 255 (``pixels`` "raw")."""
    mean, std = NORMALISATION.get(dataset.split("_class")[0], ((0.5,) * 3, (0.5,) * 3))
    if pixels == "raw":
        mean, std = (0.0,) * 3, (1 / 255,) * 3
    return Weights(None, "fresh", mean, std, "bicubic", 0)


NORMALISATION = {
    "cifar100": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),  # as LDAM-DRW has them, for CIFAR-10 too
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
        raise ConfigError(f"LTLIB_WEIGHTS = {str(folder)!r}: expected a folder with <timm name>.safetensors files; unset it to use the hub")
    return folder


@functools.cache
def find_weights(name: str) -> Weights:
    """Find the weights of a timm backbone: in ``LTLIB_WEIGHTS``, then in the Hugging Face cache or on the hub.

    Raises MissingWeights with the reason if they are in neither place, ConfigError for a damaged description.
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
        if not (len(mean) == len(std) == 3 and all(s > 0 for s in std)) or isinstance(meta["mean"], str):
            raise ValueError("mean and std need three numbers each, std above 0")
        interpolation = meta.get("interpolation", "bicubic")
        if interpolation not in ("bicubic", "bilinear"):
            raise ValueError(f"interpolation is {interpolation!r}, expected bicubic or bilinear")
        return Weights(folder / f"{name}.safetensors", str(meta.get("origin", folder.name)), mean, std, interpolation,
                       int(meta.get("num_classes", 1000)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{description}: expected a JSON file with mean and std beside {name}.safetensors ({error})") from None


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
        except Exception as error:  # requests, httpx and hub errors alike: the caller names the ways out
            raise MissingWeights(f"{config.hf_hub_id}: {type(error).__name__}: {error}") from error
    return Weights(Path(path), f"Hugging Face hub, {config.hf_hub_id}", tuple(config.mean), tuple(config.std),
                   config.interpolation if config.interpolation in ("bicubic", "bilinear") else "bicubic", config.num_classes, hub=True)


@functools.cache
def _hub_fault() -> str:
    """Why the hub is out of reach, or "". Asked once: its own client would try for 23 s for every file."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set and the file is not in the cache"
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return ""  # it answers
    except OSError as error:
        return f"{constants.ENDPOINT} is out of reach: {getattr(error, 'reason', error)}"
    return ""


def _require_hub() -> None:
    if fault := _hub_fault():
        raise MissingWeights(fault)


def require_weights(names) -> dict[str, Weights]:
    """Find the weights of all these timm backbones, or raise one MissingWeights that names every missing one."""
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
            f"no pretrained weights for {len(missing)} backbone(s):\n" + "\n".join(lines) + "\nTwo ways to get them:\n"
            "  1. with a network: they come from the Hugging Face hub by themselves (or copy its cache and set HF_HOME);\n"
            f"  2. without: set LTLIB_WEIGHTS to a folder with <name>.safetensors (timm's key names) and <name>.json (mean, std), "
            f"such as {example}.safetensors and {example}.json (LTLIB_WEIGHTS is {folder or 'not set'}).\n"
            + (f'Or leave them out: BACKBONES="{" ".join(found)}"' if found else
               'Or leave them out: BACKBONES="..." with names of backbones that you have')
        )
    return found


def build_backbone(name: str, weights: Weights | None, resolution: int | None = None) -> nn.Module:
    """A backbone that maps images (B, 3, R, R) to pooled features (B, D), D = ``num_features`` of the head's input.

    ``weights`` None, or without a file, gives fresh weights from the current random state. Keys must match to the last one
    (ConfigError). ``resolution`` R: models that take one size of image only (ViT) get their position embeddings resampled.
    """
    check_name(name)
    if name in OWN:
        model = OWN[name]()
        if weights is not None and weights.path is not None:
            _load(model, weights.path)
        return model
    import timm

    if weights is None or weights.path is None:
        model = timm.create_model(name, num_classes=0)
    elif weights.hub:
        model = timm.create_model(name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": str(weights.path)})
    else:
        model = timm.create_model(name, num_classes=weights.num_classes)
        _load(model, weights.path)
        model.reset_classifier(0)
    if resolution and hasattr(model, "set_input_size") and model.patch_embed.img_size != (resolution, resolution):
        model.set_input_size(resolution)
    return model


def _load(model: nn.Module, path: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError) as error:
        raise ConfigError(f"{path}: expected the weights of this very model in timm's key names, whole ({str(error)[:300]}). "
                          "Get the file again; a cached one can be removed.") from None


# ------------------------------------------------------------------------------------------------- heads


class CosineHead(nn.Module):
    """cos(x, w_c) = normalize(x) . normalize(w_c): features (B, D) -> cosines (B, C) in [-1, 1], no bias.

    The scale is the loss's business. Source: Cao et al. 2019 (NormedLinear).
    """

    def __init__(self, features: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, features))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) @ F.normalize(self.weight, dim=1).T


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2 of rows (n, D) and (m, D) -> (n, m), from explicit differences: |a|^2 - 2 a b + |b|^2 would lose small distances to
    cancellation. The gradient of equal rows is 0."""
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").square()


class DistanceHead(nn.Module):
    """z_c = -|x - w_c|^2: features (B, D) -> logits (B, C) <= 0; the rows w_c of ``weight`` are the classes' centres.

    Centres start uniform in +-sqrt(6 / C), He's rule with the classes as fan-in, as ARConvL's code has it.
    Source: Yang et al. 2018, Robust Classification with Convolutional Prototype Learning (one centre per class).
    """

    def __init__(self, features: int, num_classes: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, features).uniform_(-1, 1) * math.sqrt(6 / num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return -squared_distances(x, self.weight)


def build_head(kind: str, features: int, num_classes: int) -> nn.Module:
    """ "linear": (B, D) -> x W + b, (B, C); "cosine": :class:`CosineHead`; "distance": :class:`DistanceHead`."""
    return {"linear": nn.Linear, "cosine": CosineHead, "distance": DistanceHead}[kind](features, num_classes)


class Classifier(nn.Module):
    """A backbone and a head: images (B, 3, R, R) -> logits (B, C), or with ``return_features`` those and the features (B, D)."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, x: Tensor, return_features: bool = False):
        # the head in float32: a bfloat16 cosine moves in steps of 0.004, which LDAM's scale makes 0.12
        features = self.backbone(x).float()
        with torch.autocast(x.device.type, enabled=False):
            logits = self.head(features)
        return (logits, features) if return_features else logits
