"""The balanced contrastive loss."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import examples, seeds
from systems import value_and_gradients
from torch.nn import functional as F

from ltlib.methods import (
    balanced_contrastive,
)


def slow_balanced_contrastive(views, labels, centres, temperature):
    """Row by row, class by class, as its formula stands."""
    labels = labels.tolist() * (len(views) // len(labels))
    total = 0.0
    for i, (v, y) in enumerate(zip(views, labels, strict=True)):
        denominator = 0.0
        for c in range(len(centres)):
            others = [views[k] for k in range(len(views)) if k != i and labels[k] == c] + [
                centres[c]
            ]
            denominator += sum(math.exp(float(v @ b) / temperature) for b in others) / len(others)
        same = [views[k] for k in range(len(views)) if k != i and labels[k] == y] + [centres[y]]
        total -= sum(float(v @ a) / temperature - math.log(denominator) for a in same) / len(same)
    return total / len(views)


@given(
    classes=st.integers(1, 5),
    images=st.integers(1, 6),
    views=st.integers(1, 3),
    seed=seeds,
    temperature=st.sampled_from([0.1, 1.0]),
)
@examples
def test_balanced_contrastive_is_its_formula(classes, images, views, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    v, c = (
        F.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=1)
        for n in (views * images, classes)
    )
    labels = torch.randint(classes, (images,), generator=generator)
    value, *gradients = value_and_gradients(
        lambda v, c: balanced_contrastive(v, labels, c, temperature), v, c
    )
    assert value.item() == pytest.approx(
        slow_balanced_contrastive(v, labels, c, temperature), rel=1e-9, abs=1e-9
    )
    assert all(g.isfinite().all() for g in gradients)


def test_balanced_contrastive_falls_as_views_come_to_their_centres():
    centres, labels = torch.eye(3), torch.tensor([0, 1, 2])
    near, far = centres.repeat(2, 1), centres.roll(1, 0).repeat(2, 1)
    assert (
        balanced_contrastive(near, labels, centres)
        < 0.01
        < 3
        < balanced_contrastive(far, labels, centres)
    )
