"""Golden values of the methods, golden/systems.npz, and what their tests share."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ltlib.methods import (
    ARConvL,
)
from ltlib.models import DistanceHead

GOLDEN_FILE = Path(__file__).resolve().parents[2] / "golden" / "systems.npz"

GOLDEN = np.load(GOLDEN_FILE)

CASES = json.loads(GOLDEN_FILE.with_suffix(".json").read_text())["cases"]


def golden(case, field):
    """A tensor of the golden values; a number for a scalar."""
    value = torch.as_tensor(GOLDEN[f"{case}/{field}"])
    return value if value.ndim else value.item()


def assert_golden(found, case, field, tol=1e-10):
    found = np.asarray(found)
    assert found.shape == GOLDEN[f"{case}/{field}"].shape
    np.testing.assert_allclose(found, GOLDEN[f"{case}/{field}"], rtol=tol, atol=tol)


def value_and_gradients(function, *tensors):
    """A scalar function's value and its gradient by each tensor; zeros where it knows none."""
    tensors = [t.clone().requires_grad_() for t in tensors]
    value = function(*tensors)
    return value.detach(), *torch.autograd.grad(
        value, tensors, allow_unused=True, materialize_grads=True
    )


def distance_head(centres):
    head = DistanceHead(centres.shape[1], len(centres)).to(centres)
    head.weight = nn.Parameter(centres.detach().clone())
    return head


def distances(features, centres):
    return -(features[:, None] - centres).square().sum(2)


def arconvl(counts, radii=None, **options):
    loss = ARConvL(counts, **options)
    if radii is not None:
        loss.a = nn.Parameter(torch.as_tensor(radii).clone())
    return loss
