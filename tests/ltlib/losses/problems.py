"""Batches of the tests of the losses, and every loss with its options."""

import numpy as np
import pytest
import torch
from gradients import value_and_gradient
from hypothesis import settings
from hypothesis import strategies as st

from ltlib.losses import build_loss

# every loss, with the options that change its formula; the thresholds make some classes rare
VARIANTS = {
    "softmax": ("softmax", {}),
    "weighted-log": ("weighted_softmax", {"weighting": "log"}),
    "weighted-inverse": ("weighted_softmax", {"weighting": "inverse", "normalize": "batch"}),
    "focal": ("focal", {}),
    "focal-0.5": ("focal", {"gamma": 0.5}),
    "class-balanced": ("class_balanced", {"beta": 0.99}),
    "class-balanced-batch": ("class_balanced", {"normalize": "batch"}),
    "balanced-softmax": ("balanced_softmax", {}),
    "ldam": ("ldam", {}),
    "equalization": ("equalization", {"threshold": 0.2, "gamma": 0.6}),
}

each_variant = pytest.mark.parametrize(("name", "options"), VARIANTS.values(), ids=VARIANTS)

not_ldam = pytest.mark.parametrize(
    ("name", "options"),
    [v for v in VARIANTS.values() if v[0] != "ldam"],
    ids=[k for k in VARIANTS if k != "ldam"],
)

examples = settings(deadline=None, max_examples=50)

count_lists = st.lists(st.integers(1, 5000), min_size=2, max_size=8)


def fixed_draw(name, uniform):
    """Arguments of a call that fix what the loss would draw at random."""
    return {"uniform": uniform} if name == "equalization" else {}


def cosines(name, logits):
    """Logits of a size that the loss is made for."""
    return logits / 30 if name == "ldam" else logits


class Problem:
    """Counts (C,), logits (B, C) within +-``size``, labels (B,), a uniform draw (B, C)."""

    def __init__(self, counts, batch, seed, size=1.0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, len(counts))
        self.counts = np.array(counts)
        self.logits = (
            size * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)
        ).to(dtype)
        self.labels = torch.randint(len(counts), (batch,), generator=generator)
        self.uniform = torch.rand(shape, generator=generator, dtype=torch.float64)

    def run(self, name, options, **changes):
        """Value and gradient; ``changes`` replaces attributes for this run."""
        p = {**vars(self), **changes}
        return value_and_gradient(
            build_loss(name, p["counts"], **options),
            p["logits"],
            p["labels"],
            **fixed_draw(name, p["uniform"]),
        )


@st.composite
def problems(draw, counts=count_lists, size=5.0):
    return Problem(draw(counts), draw(st.integers(1, 6)), draw(st.integers(0, 10**6)), size)


uniform_problems = problems(
    counts=st.builds(lambda n, c: [n] * c, st.integers(1, 5000), st.integers(2, 8))
)

SMALL = Problem([100, 20, 5, 1], batch=6, seed=0, size=3.0)


def assert_same(a, b, rtol=1e-10, atol=1e-12):
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)
