"""Equalization: which logits are dropped, and the draw."""

import pytest
import torch
from gradients import value_and_gradient
from problems import (
    SMALL,
    Problem,
    assert_same,
)

from ltlib.losses import build_loss


def dropped(loss, logits, labels, **draw):
    """(B, C) mask of the logits that get no gradient at all."""
    return value_and_gradient(loss, logits, labels, **draw)[1] == 0


def test_equalization_in_eval_mode_is_softmax():
    loss = build_loss("equalization", SMALL.counts, threshold=0.5, gamma=1.0)
    training = loss(SMALL.logits, SMALL.labels)
    assert not torch.isclose(training, SMALL.run("softmax", {})[0])
    assert_same(
        value_and_gradient(loss.eval(), SMALL.logits, SMALL.labels), SMALL.run("softmax", {})
    )


def test_equalization_at_gamma_one_drops_all_rare_negatives_and_no_label():
    p = Problem([100, 90, 5, 1], batch=50, seed=1)
    expected = torch.tensor([[False, False, True, True]]).expand(50, 4).clone()
    expected[torch.arange(50), p.labels] = False
    assert torch.equal(
        dropped(build_loss("equalization", p.counts, threshold=0.2, gamma=1.0), p.logits, p.labels),
        expected,
    )


def test_equalization_drops_a_share_of_gamma_of_the_rare_negatives():
    p = Problem([100, 90, 5, 1], batch=6000, seed=2)
    loss = build_loss("equalization", p.counts, threshold=0.2, gamma=0.7)
    mask = dropped(loss, p.logits, p.labels * 0, generator=torch.Generator().manual_seed(0))
    assert not mask[:, :2].any()
    assert mask[:, 2:].double().mean().item() == pytest.approx(
        0.7, abs=0.02
    )  # 12,000 draws: a standard error of 0.004


@pytest.mark.parametrize("gamma", [0.0, 1e-7, 0.003, 0.25, 0.9, 0.998, 1 - 1e-7, 1.0])
def test_equalizations_draws_have_the_probability_gamma(gamma):
    loss = build_loss("equalization", [1000] + [1] * 199, threshold=0.5, gamma=gamma)
    drawn = loss.draw(torch.zeros(4000, 200), torch.Generator().manual_seed(0))
    error = (gamma * (1 - gamma) / drawn.numel()) ** 0.5
    assert drawn.dtype == torch.bool
    assert drawn.double().mean().item() == pytest.approx(gamma, abs=max(2e-5, 6 * error))


def test_equalizations_draws_of_different_classes_are_independent():
    loss = build_loss("equalization", [1000] + [1] * 9, threshold=0.5, gamma=0.3)
    drawn = loss.draw(torch.zeros(200_000, 9), torch.Generator().manual_seed(0)).double()
    covariance = torch.cov(drawn.T)
    off_diagonal = covariance[~torch.eye(9, dtype=torch.bool)]
    assert off_diagonal.abs().max() < 5 * 0.3 * 0.7 / 200_000**0.5


def test_equalization_draws_afresh_at_each_call_and_the_same_from_the_same_generator():
    p = Problem([100, 90, 5, 1], batch=50, seed=3)
    loss = build_loss("equalization", p.counts, threshold=0.2, gamma=0.5)
    first, again = (torch.Generator().manual_seed(7) for _ in range(2))
    one, two = (dropped(loss, p.logits, p.labels, generator=first) for _ in range(2))
    assert torch.equal(one, dropped(loss, p.logits, p.labels, generator=again))
    assert not torch.equal(one, two)


def test_equalization_with_a_generator_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    build_loss("equalization", SMALL.counts)(
        SMALL.logits, SMALL.labels, generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_equalization_compiles_with_its_own_draw():
    loss = build_loss("equalization", SMALL.counts, threshold=0.5, gamma=1.0)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(SMALL.logits, SMALL.labels), loss(SMALL.logits, SMALL.labels))
    half = build_loss("equalization", SMALL.counts, threshold=0.5, gamma=0.5)
    torch.compiler.reset()
    assert torch.compile(half, fullgraph=True, backend="aot_eager")(
        SMALL.logits, SMALL.labels
    ).isfinite()


def test_uniform_draw_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"uniform: expected shape \(6, 4\)"):
        build_loss("equalization", SMALL.counts)(
            SMALL.logits, SMALL.labels, uniform=SMALL.uniform[:, :1]
        )
