"""PF-loss: properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_models import examples, seeds
from systems import value_and_gradients
from torch.nn import functional as F

from ltlib.methods import (
    PF,
)


@st.composite
def pf_problems(draw, size=2.0, dtype=torch.float64):
    """(C, logits (B, C), labels (B,)), classes absent as chance has it, one image or more."""
    c, batch = draw(st.integers(2, 6)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(seeds))
    logits = size * (2 * torch.rand(batch, c, generator=generator, dtype=torch.float64) - 1)
    held = draw(st.integers(1, c))  # classes that the batch can hold
    return (
        c,
        logits.to(dtype),
        torch.randperm(c, generator=generator)[torch.randint(held, (batch,), generator=generator)],
    )


@given(problem=pf_problems())
@examples
def test_the_gradient_of_pf_loss_is_its_closed_form_and_the_divisor_stays_c(problem):
    c, logits, labels = problem
    value, gradient = value_and_gradients(lambda z: PF(np.ones(c))(z, labels), logits)
    p = logits.softmax(1)
    own, y = p.gather(1, labels[:, None]), F.one_hot(labels, c).double()
    by_class = y.T @ own[:, 0]
    torch.testing.assert_close(gradient, -(own / by_class[labels, None]) * (y - p) / c)
    present = y.any(0)
    torch.testing.assert_close(value, -(by_class[present] / y.sum(0)[present]).log().sum() / c)


@given(
    problem=pf_problems(),
    seed=seeds,
    form=st.sampled_from(["logsumexp", "eps"]),
    hard=st.booleans(),
)
@examples
def test_pf_loss_knows_no_order_and_no_size_of_the_batch(problem, seed, form, hard):
    c, logits, labels = problem
    loss = PF(np.ones(c), form=form, hard=hard)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    value = loss(logits, labels)
    torch.testing.assert_close(loss(logits[order], labels[order]), value)
    tolerance = 1e-12 if form == "logsumexp" else 1e-4  # eps counts for less beside more images
    torch.testing.assert_close(
        loss(logits.repeat(3, 1), labels.repeat(3)), value, rtol=tolerance, atol=tolerance
    )


@given(problem=pf_problems(), hard=st.booleans())
@examples
def test_the_printed_form_of_pf_loss_is_close_where_no_probability_is_tiny(problem, hard):
    c, logits, labels = problem
    exact, printed = (
        value_and_gradients(
            lambda z, form=form: PF(np.ones(c), form=form, hard=hard)(z, labels), logits
        )
        for form in ("logsumexp", "eps")
    )
    torch.testing.assert_close(printed, exact, rtol=1e-4, atol=1e-4)
    if not hard:  # every q of the printed form is a little larger
        assert printed[0] < exact[0]


def test_the_printed_form_loses_the_gradient_of_tiny_probabilities_and_the_default_does_not():
    logits, labels = torch.tensor([[0.0, 60.0]], dtype=torch.float64), torch.tensor([0])
    exact, printed = (
        value_and_gradients(lambda z, form=form: PF([1, 1], form=form)(z, labels), logits)[1]
        for form in ("logsumexp", "eps")
    )
    assert printed.abs().max() < 1e-15
    torch.testing.assert_close(exact, torch.tensor([[-0.5, 0.5]], dtype=torch.float64))


@given(
    problem=pf_problems(size=200.0, dtype=torch.float32),
    form=st.sampled_from(["logsumexp", "eps"]),
    hard=st.booleans(),
)
@examples
def test_pf_loss_is_finite_whatever_the_batch_holds(problem, form, hard):
    c, logits, labels = problem
    value, gradient = value_and_gradients(
        lambda z: PF(np.ones(c), form=form, hard=hard)(z, labels), logits
    )
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert value >= -1e-6


@given(problem=pf_problems())
@examples
def test_images_that_are_right_teach_pfh_loss_nothing(problem):
    c, logits, labels = problem
    _, gradient = value_and_gradients(lambda z: PF(np.ones(c), hard=True)(z, labels), logits)
    right = logits.softmax(1).gather(1, labels[:, None])[:, 0] > 0.5
    assert (gradient[right] == 0).all()
    assert (gradient[~right].abs().sum(1) > 0).all()


def test_pf_loss_has_no_losses_of_single_images():
    with pytest.raises(ValueError, match="reduction = 'none': expected 'mean'"):
        PF([1, 1])(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), reduction="none")
