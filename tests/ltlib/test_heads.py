"""Heads that start at the class means, against NumPy."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from ltlib.models import build_head, start_at_class_means

rng = np.random.default_rng(0)
LABELS = np.array([0, 0, 0, 0, 1, 1, 2])
FEATURES = rng.normal(size=(7, 5)) + 3 * np.eye(5)[LABELS]
NEW = rng.normal(size=(4, 5))


def started(kind):
    head = build_head(kind, 5, 3).double()
    start_at_class_means(head, torch.tensor(FEATURES), torch.tensor(LABELS))
    return head


def means(x):
    return np.stack([x[c == LABELS].mean(0) for c in range(3)])


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_a_linear_head_is_the_nearest_class_mean():
    squared = ((NEW[:, None] - means(FEATURES)) ** 2).sum(2)
    spread = ((FEATURES - means(FEATURES)[LABELS]) ** 2).sum(1).mean()
    logits = started("linear")(torch.tensor(NEW)).detach().numpy()
    np.testing.assert_allclose(
        log_softmax(logits, 1), log_softmax(-squared / (2 * spread), 1), rtol=1e-10
    )


def test_a_distance_head_has_its_centres_there():
    squared = ((NEW[:, None] - means(FEATURES)) ** 2).sum(2)
    logits = started("distance")(torch.tensor(NEW)).detach().numpy()
    np.testing.assert_allclose(logits, -squared, rtol=1e-10)


@pytest.mark.parametrize(("kind", "scale"), [("cosine", 1), ("scaled_cosine", 25)])
def test_a_cosine_head_points_to_the_mean_directions(kind, scale):
    head, directions = started(kind), unit(means(unit(FEATURES)))
    np.testing.assert_allclose(head.weight.detach().numpy(), directions, rtol=1e-10)
    logits = head(torch.tensor(NEW)).detach().numpy()
    np.testing.assert_allclose(logits, scale * unit(NEW) @ directions.T, rtol=1e-10)


def test_a_class_without_images_is_refused():
    head = build_head("linear", 5, 4).double()
    with pytest.raises(ValueError, match="labels of 3 classes: expected all 4"):
        start_at_class_means(head, torch.tensor(FEATURES), torch.tensor(LABELS))
