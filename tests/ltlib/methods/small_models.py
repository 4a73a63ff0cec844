"""A small model, its batches, and the strategies of the methods' tests."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import nn

from ltlib.batches import FeatureBatches
from ltlib.models import Classifier, CosineHead

examples = settings(deadline=None, max_examples=50)

seeds = st.integers(0, 10**6)


class Backbone(nn.Sequential):
    """Dropout and batch normalisation, which behave otherwise in training."""

    num_features = 4

    def __init__(self):
        super().__init__(
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 4)
        )


def cosine_model(classes=6, seed=0):
    torch.manual_seed(seed)
    return Classifier(Backbone(), CosineHead(4, classes))


def feature_batches(classes=6, n=40, batch_size=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, generator=generator) ** 2 * classes).long()
    labels[:classes] = torch.arange(classes)
    return FeatureBatches(
        torch.randn(n, 5, generator=generator) + 2 * labels[:, None] % 3, labels, batch_size
    )


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


X, Y = feature_batches(n=20).x, feature_batches(n=20).labels
