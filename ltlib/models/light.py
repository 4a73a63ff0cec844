"""Light fine-tuning: a pretrained backbone of which only a few weights train."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ltlib.errors import ConfigError

KINDS = ("adaptformer", "lora", "bias_norm")


class Adapter(nn.Module):
    """s U ReLU(D LayerNorm(x)), a bottleneck of r features: tokens (..., d) -> (..., d).

    U starts at zero, so that at first it gives 0 whatever x is; the scale s starts at 1 and is
    learned. D comes from Kaiming's uniform distribution, the biases start at zero.
    Source: Chen et al. 2022, AdaptFormer; LayerNorm and s as in LIFT (Shi et al. 2024).
    """

    def __init__(self, features: int, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(features)
        self.down, self.up = nn.Linear(features, width), nn.Linear(width, features)
        self.scale = nn.Parameter(torch.ones(1))
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        for start in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(start)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(self.norm(x)).relu()) * self.scale


class AdaptedMLP(nn.Module):
    """mlp(norm(x)) + adapter(x): the MLP of a transformer's block with an adapter beside it.

    The adapter sees what the block's normalisation sees, which therefore moves in here.
    """

    def __init__(self, norm: nn.Module, mlp: nn.Module, width: int):
        super().__init__()
        self.norm, self.mlp = norm, mlp
        self.adapter = Adapter(norm.weight.numel(), width)

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.norm(x)) + self.adapter(x)


class LoRA(nn.Module):
    """W x + b + U D x: a linear layer and a correction of rank r, (..., d) -> (..., e).

    U starts at zero. Here it corrects the layer that makes queries, keys and values.
    Source: Hu et al. 2022, LoRA, with alpha = r.
    """

    def __init__(self, linear: nn.Linear, width: int):
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, width, bias=False)
        self.up = nn.Linear(width, linear.out_features, bias=False)
        nn.init.kaiming_uniform_(self.down.weight, a=math.sqrt(5))
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.up(self.down(x))


def lighten(backbone: nn.Module, kind: str, width: int) -> nn.Module:
    """Freeze a backbone but for what ``kind`` says; what that adds draws from the random state.

    kind   "adaptformer": an :class:`Adapter` beside the MLP of every block of a transformer;
           "lora": a :class:`LoRA` in every attention; "bias_norm": all biases, and the scales of
           all normalisations, whose running statistics, where there are any, follow the images
           (BitFit, Ben Zaken et al. 2022; for convolutional networks as in LIFT)
    width  r, features of the bottleneck
    At first the backbone gives what it gave before. Raises ConfigError for one that has nowhere to
    put ``kind``.
    """
    backbone.requires_grad_(False)
    places = [module for module in backbone.modules() if _fits(module, kind)]
    if not places:
        raise ConfigError(
            f"light = {kind!r}: expected a transformer of timm's kind, with blocks of norm2 and mlp"
            f" or an attention with qkv, and {type(backbone).__name__} has none; 'bias_norm' suits"
            " every backbone"
        )
    for module in places:
        if kind == "adaptformer":
            module.mlp = AdaptedMLP(module.norm2, module.mlp, width)
            module.norm2 = nn.Identity()
            module.mlp.adapter.requires_grad_(True)
        elif kind == "lora":
            module.qkv = LoRA(module.qkv, width)
            for part in (module.qkv.down, module.qkv.up):
                part.requires_grad_(True)
        else:
            for name, parameter in module.named_parameters(recurse=False):
                parameter.requires_grad_(name == "bias" or _normalises(module))
    return backbone


def _fits(module: nn.Module, kind: str) -> bool:
    if kind == "adaptformer":
        return hasattr(module, "mlp") and hasattr(module, "norm2")
    if kind == "lora":
        return isinstance(getattr(module, "qkv", None), nn.Linear)
    return getattr(module, "bias", None) is not None


def _normalises(module: nn.Module) -> bool:
    """Whether the module scales and shifts what it has normalised: a vector beside its bias."""
    return isinstance(module.weight, Tensor) and module.weight.ndim == 1


def trained_share(model: nn.Module) -> tuple[int, int]:
    """How many of a model's weights train, and how many it has."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, trains in sizes if trains), sum(size for size, _ in sizes)
