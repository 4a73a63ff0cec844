"""Affinity's term of the centres."""

import pytest
import torch
from systems import distance_head, distances

from ltlib.losses import build_loss
from ltlib.methods.distance import squared_distances


def test_affinity_of_equidistant_centres_costs_the_centres_nothing():
    labels = torch.tensor([0, 1])
    for centres, spread in ((torch.eye(3), 0.0), (torch.diag(torch.tensor([1.0, 1.0, 2.0])), 2.0)):
        logits = distances(torch.zeros(2, 3), centres)
        loss, head = build_loss("affinity", [1, 1, 1]), distance_head(centres)
        found = loss(logits, labels, head=head) - loss.eval()(logits, labels)
        assert found.item() == pytest.approx(
            spread, abs=1e-6
        )  # squared distances 2, 2, 2 and 2, 5, 5: their variance


def test_small_distances_of_long_vectors_are_exact():
    torch.manual_seed(0)
    a = 100 * torch.randn(20, 64)
    b = a[:7] + 1e-3 * torch.randn(7, 64)
    exact = (a.double()[:, None] - b.double()).square().sum(2)
    torch.testing.assert_close(squared_distances(a, b).double(), exact, rtol=1e-5, atol=0)


def test_equal_rows_have_distance_and_gradient_0():
    a = torch.randn(5, 8, requires_grad=True)
    found = squared_distances(a, a.detach().clone()).diagonal()
    assert bool((found < 1e-12).all())
    found.sum().backward()
    assert float(a.grad.abs().max()) < 1e-6
