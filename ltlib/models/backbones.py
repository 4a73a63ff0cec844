"""Backbones by their names, with pretrained or fresh weights.

timm is imported where a model is built: it takes seconds, and who only reads records needs none of
it.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from ltlib.errors import ConfigError
from ltlib.models.names import check_name
from ltlib.models.nets import OWN
from ltlib.models.weights import Weights


def build_backbone(name: str, weights: Weights | None, resolution: int | None = None) -> nn.Module:
    """A backbone that maps images (B, 3, R, R) to pooled features (B, D), D = ``num_features`` of
    the head's input.

    ``weights`` None, or without a file, gives fresh weights from the current random state. Keys
    must match to the last one (ConfigError). ``resolution`` R: models that take one size of image
    only (ViT) get their position embeddings resampled.
    """
    check_name(name)
    if name in OWN:
        model = OWN[name]()
        if weights is not None and weights.path is not None:
            load_weights(model, weights.path, weights.prefix)
        return model
    import timm

    if weights is None or weights.path is None:
        model = timm.create_model(name, num_classes=0)
    elif weights.hub:
        model = timm.create_model(
            name, pretrained=True, num_classes=0, pretrained_cfg_overlay={"file": str(weights.path)}
        )
    else:
        model = timm.create_model(name, num_classes=weights.num_classes)
        if weights.prefix:
            _set_size(model, resolution)
        load_weights(model, weights.path, weights.prefix)
        model.reset_classifier(0)
    _set_size(model, resolution)
    return model


def _set_size(model: nn.Module, resolution: int | None) -> None:
    if (
        resolution
        and hasattr(model, "set_input_size")
        and model.patch_embed.img_size != (resolution, resolution)
    ):
        model.set_input_size(resolution)


def _check_values(found: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """ValueError for weights of another type than the model's, and for what is no number."""
    for name, value in found.items():
        if value.is_floating_point() != own[name].is_floating_point():
            raise ValueError(f"{name} has dtype {value.dtype}, expected {own[name].dtype}")
        if not bool(value.isfinite().all()):
            raise ValueError(f"{name} holds numbers that are not finite")
        if name.endswith("running_var") and bool((value < 0).any()):
            raise ValueError(f"{name} holds variances below 0")


def load_weights(model: nn.Module, path: Path, prefix: str = "") -> None:
    """Load a safetensors file whose keys, of those that begin with ``prefix`` and without it, are
    the model's to the last one, or raise ConfigError."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path).items()
        own = {k.removeprefix(prefix): value for k, value in found if k.startswith(prefix)}
        model.load_state_dict(own)
        _check_values(own, model.state_dict())
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected the weights of this very model in timm's key names, whole"
            f" ({str(error)[:300]}). Get the file again; a cached one can be removed."
        ) from None
