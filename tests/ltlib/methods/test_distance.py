"""Affinity's term of the centres."""

import pytest
import torch
from systems import distance_head, distances

from ltlib.losses import build_loss


def test_affinity_of_equidistant_centres_costs_the_centres_nothing():
    labels = torch.tensor([0, 1])
    for centres, spread in ((torch.eye(3), 0.0), (torch.diag(torch.tensor([1.0, 1.0, 2.0])), 2.0)):
        logits = distances(torch.zeros(2, 3), centres)
        loss, head = build_loss("affinity", [1, 1, 1]), distance_head(centres)
        found = loss(logits, labels, head=head) - loss.eval()(logits, labels)
        assert found.item() == pytest.approx(
            spread, abs=1e-6
        )  # squared distances 2, 2, 2 and 2, 5, 5: their variance
