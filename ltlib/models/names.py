"""What backbones are called: timm's names and those of :mod:`ltlib.models.nets`, and their
titles."""

from __future__ import annotations

from ltlib.errors import ConfigError
from ltlib.models.nets import OWN, SMALL

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
    """Whether a backbone is one of the demonstration's, which have no published weights."""
    return name in SMALL


def check_name(name: str) -> None:
    """Raise ConfigError, with the nearest names, unless ``name`` is a model of this module or of
    timm."""
    if name in OWN or name in TITLES:  # timm takes seconds to load
        return
    import timm

    if name not in timm.list_models() and name not in timm.list_pretrained():
        near = timm.list_models(f"*{name[:8]}*")[:3]
        raise ConfigError(
            f"backbone {name!r}: expected a timm model name or one of {', '.join(OWN)}"
            + (f" (near: {', '.join(near)})" if near else "")
        )
