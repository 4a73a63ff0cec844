"""Light fine-tuning: what it adds changes nothing at first, and nothing else trains."""

import numpy as np
import pytest
import torch

from ltlib.errors import ConfigError
from ltlib.models import build_backbone, build_classifier, lighten, trained_share
from ltlib.models.light import KINDS, Adapter

PLACES = [
    ("vit_small32", "adaptformer"),
    ("vit_small32", "lora"),
    *((name, "bias_norm") for name in ("vit_small32", "convnext_small32", "mobilenetv2_small32")),
]


def backbone(name, seed=0):
    torch.manual_seed(seed)
    return build_backbone(name, None)


@pytest.mark.parametrize(("name", "kind"), PLACES)
def test_at_first_the_backbone_gives_what_it_gave_before(name, kind):
    x = torch.randn(3, 3, 32, 32)
    before, model = backbone(name).eval(), lighten(backbone(name), kind, 4).eval()
    with torch.no_grad():
        assert torch.equal(model(x), before(x))


@pytest.mark.parametrize(("name", "kind"), PLACES)
def test_only_what_should_train_has_gradients_and_moves(name, kind):
    model = build_classifier(lighten(backbone(name), kind, 4), "linear", 5).train()
    before = {key: value.clone() for key, value in model.named_parameters()}
    trained = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    for _ in range(2):  # a zero up-projection lets no gradient through to what lies before it
        optimizer.zero_grad()
        labels = torch.tensor([0, 1, 2, 3])
        torch.nn.functional.cross_entropy(model(torch.randn(4, 3, 32, 32)), labels).backward()
        optimizer.step()
    parts = {"adaptformer": (".adapter.",), "lora": (".qkv.down", ".qkv.up")}
    norms = tuple(
        f"backbone.{key}.weight"
        for key, module in model.backbone.named_modules()
        if isinstance(module, torch.nn.LayerNorm | torch.nn.modules.batchnorm._BatchNorm)
    )
    for key, value in model.named_parameters():
        if kind == "bias_norm":
            moves = key.endswith("bias") or key in norms
        else:
            moves = any(part in key for part in parts[kind])
        moves |= key.startswith("head.")
        assert (value.grad is not None) == moves, key
        if not moves:
            assert torch.equal(value, before[key]), key
    own = sum(value.numel() for value in trained)
    assert trained_share(model) == (own, sum(value.numel() for value in model.parameters()))


def test_an_adapter_is_its_formula():
    torch.manual_seed(0)
    adapter, x = Adapter(6, 3).double(), torch.randn(2, 5, 6).double()
    assert torch.equal(adapter(x), torch.zeros(2, 5, 6).double())
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    p = {name: value.detach().numpy() for name, value in adapter.named_parameters()}
    rows = x.numpy()
    mean, var = rows.mean(-1, keepdims=True), rows.var(-1, keepdims=True)
    normed = (rows - mean) / np.sqrt(var + 1e-5) * p["norm.weight"] + p["norm.bias"]
    hidden = np.maximum(normed @ p["down.weight"].T + p["down.bias"], 0)
    expected = p["scale"] * (hidden @ p["up.weight"].T + p["up.bias"])
    np.testing.assert_allclose(adapter(x).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("kind", ["adaptformer", "lora"])
def test_a_backbone_without_a_place_for_it_is_refused(kind):
    with pytest.raises(ConfigError, match=f"light = '{kind}': expected a transformer"):
        lighten(backbone("mobilenetv2_small32"), kind, 4)


def test_the_kinds_are_those_of_the_recipe():
    import typing

    from ltlib.recipe import Recipe

    assert typing.get_args(typing.get_type_hints(Recipe)["light"]) == KINDS
