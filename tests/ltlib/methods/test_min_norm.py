"""Min-norm weights: golden values and optimality."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import examples, seeds

from ltlib.methods import (
    gbg_weights,
    min_norm_weights,
)

KINDS = (
    "random",
    "parallel",
    "opposite",
    "duplicate",
    "zero",
    "scaled",
    "shifted",
    "nearly parallel",
    "everything",
)


@st.composite
def gradient_sets(draw):
    """Gradients (K, P), 2 to 20 of them, of a kind that could be hard."""
    rng, kind = np.random.default_rng(draw(seeds)), draw(st.sampled_from(KINDS))
    k = draw(st.integers(2, 20))
    g = rng.normal(size=(k, draw(st.sampled_from([1, 2, 3, 5, 20, 200]))))
    if kind == "parallel":
        g = np.outer(rng.uniform(0.1, 5, k), g[0])
    if kind == "opposite":
        g = np.outer(rng.normal(size=k), g[0])
    if kind in ("duplicate", "everything"):
        g = g[rng.integers(0, max(1, k // 2), k)]
    if kind in ("zero", "everything"):
        g[rng.random(k) < 0.3] = 0
    if kind in ("scaled", "everything"):
        g = g * rng.choice([-1, 1], (k, 1)) * 10.0 ** rng.uniform(-12, 12, (k, 1))
    if kind == "shifted":
        g = g + rng.uniform(0, 10)
    if kind == "nearly parallel":
        g = g[0] + 1e-8 * g
    return g


@given(gradients=gradient_sets())
@settings(deadline=None, max_examples=500)
def test_min_norm_weights_are_best_on_the_simplex(gradients):
    gram = gradients @ gradients.T
    w = min_norm_weights(gram)
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1, abs=1e-12)
    assert w @ gram @ w - (gram @ w).min() <= 1e-10 * np.abs(gram).max()


@pytest.mark.parametrize("seed", [424, 1544, 5259])
def test_gradients_for_which_the_solvers_own_limit_is_too_low(seed):
    """Of lengths from 1e-12 to 1e12: SciPy gives up after 3 K iterations on one in 2000."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(10, 20)) * 10.0 ** rng.uniform(-12, 12, (10, 1))
    gram = g @ g.T
    w = min_norm_weights(gram)
    assert w @ gram @ w - (gram @ w).min() <= 1e-10 * np.abs(gram).max()


@given(gradients=gradient_sets(), seed=seeds)
@examples
def test_a_step_along_the_min_norm_gradient_lowers_every_scaled_loss(gradients, seed):
    """Unless it is zero: then there is no direction that does."""
    losses = np.random.default_rng(seed).uniform(0.1, 3, len(gradients))
    gradients = gradients[
        (scale := np.linalg.norm(gradients, axis=1) * losses[: len(gradients)]) > 1e-9
    ]
    if len(gradients) < 2:
        return
    losses = losses[scale > 1e-9]
    w = gbg_weights(torch.as_tensor(gradients), torch.as_tensor(losses))
    v = gradients / (losses * np.linalg.norm(gradients, axis=1))[:, None]
    step = w @ v
    assert (v @ step >= step @ step - 1e-9 * (v @ v.T).max()).all()


def test_gradients_in_float32_are_weighed_in_float64():
    """The error of a Gram matrix of float32 products is larger than the gap that is allowed."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(400_000, generator=generator)
    gradients = common + 1e-2 * torch.randn(6, 400_000, generator=generator)
    losses = (
        gradients.double().norm(dim=1).reciprocal()
    )  # so that the weights are those of the gradients as they are
    w, gram = gbg_weights(gradients, losses), (gradients.double() @ gradients.double().T).numpy()
    assert w @ gram @ w - (gram @ w).min() <= 1e-10 * gram.max()


@pytest.mark.parametrize(
    "gram",
    [np.zeros((0, 0)), np.zeros((2, 3)), np.zeros(3), [[1, np.nan], [np.nan, 1]], [[1, 2], [0, 1]]],
)
def test_what_is_no_matrix_of_scalar_products_is_refused(gram):
    with pytest.raises(ValueError, match="gram: expected"):
        min_norm_weights(gram)


def test_gradients_that_are_all_zero_weigh_the_same():
    assert min_norm_weights(np.zeros((4, 4))).tolist() == [0.25] * 4


@pytest.mark.parametrize("gradient", [0.0, 1e-30, 1e-13])
def test_a_group_that_is_solved_has_hardly_any_weight(gradient):
    gradients = torch.eye(3, 5)
    gradients[2] *= gradient
    weights = gbg_weights(gradients, torch.tensor([0.5, 0.5, 1e-13]))
    assert weights == pytest.approx([0.5, 0.5, 0], abs=1e-6)
    assert gbg_weights(torch.zeros(2, 5), torch.zeros(2)) == pytest.approx([0.5, 0.5])
