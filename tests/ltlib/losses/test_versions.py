"""A formula that changes is another loss: golden/versions.json keeps the values of each version.

``python tests/ltlib/losses/test_versions.py`` adds the values of versions that have none, and
changes none that are there.
"""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ltlib import registry
from ltlib.losses import build_loss
from ltlib.methods import squared_distances

KEPT = Path(__file__).resolve().parents[2] / "golden" / "versions.json"
COUNTS = (50, 20, 9, 4, 1)
OPTIONS = {  # beside the defaults: what changes a formula
    "weighted_softmax": [{"weighting": "inverse", "normalize": "batch"}],
    "focal": [{"gamma": 0.5, "weighting": "inverse"}, {"weighting": "class_balanced"}],
    "class_balanced": [{"beta": 0.9, "normalize": "batch"}],
    "ldam": [{"weighting": "inverse"}, {"max_margin": 0.9, "scale": 10.0}],
    "equalization": [{"threshold": 0.2, "gamma": 0.6}],
    "pf": [{"form": "eps"}, {"hard": True}],
    "gcpl": [{"weight": 0.5}],
    "affinity": [{"margin": 0.43, "sigma": 2.0}],
    "arconvl": [{"ld_weight": "paper"}, {"beta": 0.3, "sigma2": 0.2}, {"centre_loss": False}],
    "gbg": [
        {"weights": "equal"},
        {"grouping": "random", "groups": 2},
        {"beta": 1.6},
        {"ce": "balanced"},
        {"within": "classes"},
    ],
}


def waves(*shape: int) -> torch.Tensor:
    """Numbers between -1 and 1 that owe nothing to a random generator."""
    n = torch.arange(1, 1 + torch.Size(shape).numel(), dtype=torch.float64)
    return torch.sin(n * n * 0.37 + n).view(shape)


class Model(nn.Module):
    """A linear backbone of three features and a head of the loss's kind, in float64."""

    def __init__(self, kind: str):
        super().__init__()
        self.kind = kind
        self.backbone, self.head = (nn.Linear(n, m, bias=False) for n, m in ((4, 3), (3, 5)))
        self.backbone.num_features = 3
        self.to(torch.float64)

    def forward(self, x):
        f, w = self.backbone(x), self.head.weight
        if self.kind == "cosine":
            return F.linear(F.normalize(f), F.normalize(w)), f
        return (F.linear(f, w) if self.kind == "linear" else -squared_distances(f, w)), f


def values(name: str, options: dict) -> list[float]:
    """In training the loss and its gradient along a fixed direction; in eval mode the loss."""
    options = {"grouping": "count"} | options if name == "gbg" else options  # without scikit-learn
    loss, model = build_loss(name, COUNTS, **options), Model(registry.heads_of(name)[0])
    loss.attach(model)
    parts = [model, *loss.children()]
    own = [p for part in parts for p in part.to(torch.float64).parameters()]
    with torch.no_grad():
        for size, parameter in enumerate(own, 1):
            parameter.copy_((1 + 0.1 * size) * waves(*parameter.shape))
    loss.start_epoch(0, model, None)
    x, labels = waves(3 * 8, 4), torch.tensor([0, 0, 0, 1, 1, 2, 3, 4])
    x = x if options.get("beta") and name == "gbg" else x[:8]  # three views of each image, or one
    logits, features = model(x)
    generator = torch.Generator().manual_seed(0)
    value = loss(logits, labels, features=features, head=model.head, generator=generator)
    value = loss.backward(value, model)
    learned = [p for p in (*model.parameters(), *loss.parameters()) if p.grad is not None]
    slope = sum((p.grad * waves(*p.shape)).sum() for p in learned)
    evaluated = loss.eval()(model(x[:8])[0], labels)
    return [v.item() for v in (value, slope, evaluated)]


def cases(name: str) -> dict[str, list[float]]:
    listed = [{}, *OPTIONS.get(name, [])]
    return {json.dumps(options): values(name, options) for options in listed}


@pytest.mark.parametrize("name", registry.ENTRIES)
def test_a_loss_gives_the_golden_values_of_its_version(name):
    version = registry.version(name)
    golden = json.loads(KEPT.read_text()).get(name, {}).get(str(version))
    assert golden, (
        f"no golden values of {name}, version {version}: if its formula is as you want it, "
        "`python tests/ltlib/losses/test_versions.py` adds them"
    )
    for options, expected in golden.items():
        assert values(name, json.loads(options)) == pytest.approx(expected, rel=1e-9, abs=1e-12), (
            f"{name} with {options} gives other values than its version {version} gave: a changed "
            f"formula is another run. In ltlib/registry.py, give registry entry {name!r} "
            f"version = {version + 1}"
        )


def test_a_changed_formula_under_the_same_version_is_refused(monkeypatch):
    class Wider(registry.loss_class("ldam")):
        def adjusted(self, logits, labels, generator=None):
            return super().adjusted(logits, labels) + 1e-6 * logits

    monkeypatch.setattr("ltlib.losses.ldam.LDAM", Wider)
    following = registry.version("ldam") + 1
    wanted = f"give registry entry 'ldam' version = {following}"
    with pytest.raises(AssertionError, match=wanted):
        test_a_loss_gives_the_golden_values_of_its_version("ldam")
    changed = dataclasses.replace(registry.entry("ldam"), version=following)
    monkeypatch.setitem(registry.ENTRIES, "ldam", changed)
    with pytest.raises(AssertionError, match=f"no golden values of ldam, version {following}"):
        test_a_loss_gives_the_golden_values_of_its_version("ldam")


if __name__ == "__main__":
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    for name in registry.ENTRIES:
        of_name = kept.setdefault(name, {})
        if str(registry.version(name)) not in of_name:
            of_name[str(registry.version(name))] = cases(name)
            print(f"added: {name}, version {registry.version(name)}")
    KEPT.write_text(json.dumps(kept, indent=1) + "\n")
