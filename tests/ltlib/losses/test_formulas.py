"""The seven losses against their closed forms, and their invariants."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from gradients import value_and_gradient
from hypothesis import given
from hypothesis import strategies as st
from problems import (
    SMALL,
    Problem,
    assert_same,
    cosines,
    count_lists,
    each_variant,
    examples,
    fixed_draw,
    not_ldam,
    problems,
    uniform_problems,
)

from ltlib.losses import build_loss, class_balanced_weights, equals_softmax


def closed_form_gradient(name, p):
    """Each image's d loss / d z in NumPy, at the options of the test below."""
    z, y, n = p.logits.numpy(), p.labels.numpy(), p.counts.astype(float)
    one_hot = np.eye(len(n))[y]

    def softmax(z):
        e = np.exp(z - z.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    q = softmax(z)
    p_y = q[np.arange(len(y)), y][:, None]
    inverse_effective = (1 - 0.99) / (1 - 0.99**n)
    margins = 0.4 * n**-0.25 / (n**-0.25).max()
    kept = ~((n / n.sum() < 0.2)[None] & (p.uniform.numpy() < 0.6)) | (one_hot == 1)
    with np.errstate(divide="ignore"):
        masked = z + np.log(kept)
    return {
        "softmax": lambda: q - one_hot,
        "weighted_softmax": lambda: (1 - np.log(n / n.max()))[y][:, None] * (q - one_hot),
        "focal": lambda: ((1 - p_y) ** 3 - 3 * p_y * (1 - p_y) ** 2 * np.log(p_y)) * (q - one_hot),
        "class_balanced": lambda: (
            (inverse_effective * len(n) / inverse_effective.sum())[y][:, None] * (q - one_hot)
        ),
        "balanced_softmax": lambda: softmax(z + np.log(n)) - one_hot,
        "ldam": lambda: 20 * (softmax(20 * (z - margins[y][:, None] * one_hot)) - one_hot),
        "equalization": lambda: kept * (softmax(masked) - one_hot),
    }[name]()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("softmax", {}),
        ("weighted_softmax", {}),
        ("focal", {"gamma": 3.0}),
        ("class_balanced", {"beta": 0.99}),
        ("balanced_softmax", {}),
        ("ldam", {"max_margin": 0.4, "scale": 20.0}),
        ("equalization", {"threshold": 0.2, "gamma": 0.6}),
    ],
)
@given(p=problems())
@examples
def test_gradient_is_the_closed_form(name, options, p):
    fixed = fixed_draw(name, p.uniform)
    _, gradient = value_and_gradient(
        build_loss(name, p.counts, **options), p.logits, p.labels, reduction="none", **fixed
    )
    np.testing.assert_allclose(gradient, closed_form_gradient(name, p), rtol=1e-8, atol=1e-10)


@each_variant
def test_gradcheck(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    fixed = fixed_draw(name, SMALL.uniform)
    logits = cosines(name, SMALL.logits).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: loss(z, SMALL.labels, reduction="none", **fixed), (logits,)
    )
    assert torch.autograd.gradgradcheck(lambda z: loss(z, SMALL.labels, **fixed), (logits,))


@each_variant
def test_compiles_without_a_graph_break(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    fixed = fixed_draw(name, SMALL.uniform)
    torch.compiler.reset()  # compilations of all variants would reach the limit of one function
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits = cosines(name, SMALL.logits)
    assert torch.allclose(
        compiled(logits, SMALL.labels, **fixed), loss(logits, SMALL.labels, **fixed), rtol=1e-12
    )


@each_variant
def test_torch_func_gradient_is_autograds(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    fixed = fixed_draw(name, SMALL.uniform)
    logits = cosines(name, SMALL.logits).requires_grad_()
    (expected,) = torch.autograd.grad(loss(logits, SMALL.labels, **fixed), logits)
    found = torch.func.grad(lambda z: loss(z, SMALL.labels, **fixed))(logits.detach())
    assert torch.allclose(found, expected)


@each_variant
def test_gradients_of_single_samples_by_vmap(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    logits = cosines(name, SMALL.logits)
    uniform = SMALL.uniform

    def of_one(z, y, u):
        return loss(
            z[None],
            y[None],
            reduction="none",
            **fixed_draw(name, u[None]),
        ).sum()

    found = torch.func.vmap(torch.func.grad(of_one))(logits, SMALL.labels, uniform)
    fixed = fixed_draw(name, uniform)
    _, expected = value_and_gradient(loss, logits, SMALL.labels, reduction="none", **fixed)
    assert torch.allclose(found, expected)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("weighted_softmax", {"weighting": "log"}),
        ("weighted_softmax", {"weighting": "inverse", "normalize": "batch"}),
        ("class_balanced", {}),
        ("class_balanced", {"beta": 0.5, "normalize": "batch"}),
        ("balanced_softmax", {}),
        ("equalization", {"threshold": 0.12}),  # 1 / C is at least 1 / 8
    ],
)
@given(p=uniform_problems)
@examples
def test_equals_softmax_on_uniform_counts(name, options, p):
    assert_same(p.run(name, options), p.run("softmax", {}))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("focal", {"gamma": 0.0}),
        ("equalization", {"threshold": 0.5, "gamma": 0.0}),
        ("class_balanced", {"beta": 0.0}),
        ("class_balanced", {"beta": 0.0, "normalize": "batch"}),
    ],
)
@given(p=problems())
@examples
def test_option_at_zero_is_softmax_on_any_counts(name, options, p):
    assert_same(p.run(name, options), p.run("softmax", {}))


@given(p=problems(), scale=st.floats(0.1, 50))
@examples
def test_ldam_without_margin_is_softmax_of_the_scaled_logits(p, scale):
    value, gradient = p.run("ldam", {"max_margin": 0.0, "scale": scale})
    plain, plain_gradient = p.run("softmax", {}, logits=scale * p.logits)
    assert_same((value, gradient), (plain, scale * plain_gradient))


@given(counts=count_lists)
@examples
def test_class_balanced_tends_to_inverse_frequency(counts):
    inverse = build_loss("weighted_softmax", counts, weighting="inverse").weights
    np.testing.assert_allclose(class_balanced_weights(counts, 1 - 1e-12), inverse, rtol=1e-6)


def test_effective_numbers_do_not_cancel_at_beta_near_one():
    beta, counts = 1 - 1e-8, [1, 7, 20]
    exact = [1 / (1 - Fraction(beta) ** n) for n in counts]
    exact = [float(3 * w / sum(exact)) for w in exact]
    np.testing.assert_allclose(class_balanced_weights(counts, beta), exact, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"), [("weighted_softmax", {"weighting": "inverse"}), ("class_balanced", {})]
)
@given(counts=count_lists)
@examples
def test_weights_sum_to_the_number_of_classes(name, options, counts):
    assert build_loss(name, counts, **options).weights.sum().item() == pytest.approx(
        len(counts), rel=1e-12
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("weighted_softmax", {"weighting": "log"}),
        ("weighted_softmax", {"weighting": "inverse"}),
        ("class_balanced", {}),
    ],
)
@given(counts=count_lists)
@examples
def test_weights_rise_as_counts_fall_and_never_faster_than_the_counts(name, options, counts):
    weights = build_loss(name, counts, **options).weights.numpy()
    assert (np.diff(weights[np.argsort(counts)]) <= 1e-12 * weights.max()).all()
    assert weights.max() / weights.min() <= max(counts) / min(counts) * (1 + 1e-9)


@given(counts=count_lists, max_margin=st.floats(0.01, 1.99))
@examples
def test_margin_of_the_rarest_class_is_the_largest_and_the_rest_follow_the_fourth_root(
    counts, max_margin
):
    margins = build_loss("ldam", counts, max_margin=max_margin).margins.numpy()
    np.testing.assert_allclose(
        margins, max_margin * (min(counts) / np.array(counts)) ** 0.25, rtol=1e-12
    )


@each_variant
@given(p=problems())
@examples
def test_gradient_rows_sum_to_zero(name, options, p):
    _, gradient = p.run(name, options)
    assert gradient.sum(1).abs().max() <= 1e-12 * max(1.0, gradient.abs().max())


@not_ldam
@given(p=problems(), shift=st.floats(-100, 100))
@examples
def test_shifted_logits_change_nothing(name, options, p, shift):
    assert_same(
        p.run(name, options, logits=p.logits + shift), p.run(name, options), rtol=1e-9, atol=1e-11
    )


@each_variant
@given(p=problems(), data=st.data())
@examples
def test_permuted_classes_permute_everything(name, options, p, data):
    order = torch.tensor(data.draw(st.permutations(range(len(p.counts)))))
    value, gradient = p.run(name, options)
    permuted = p.run(
        name,
        options,
        counts=p.counts[order.numpy()],
        logits=p.logits[:, order],
        labels=order.argsort()[p.labels],
        uniform=p.uniform[:, order],
    )
    assert_same(permuted, (value, gradient[:, order]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@each_variant
def test_finite_at_extreme_logits(name, options, dtype):
    size = 1.0 if name == "ldam" else 1e4  # ldam is for cosines
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 4).to(dtype)
    for label in range(4):
        labels = torch.full((len(signs),), label)
        generator = torch.Generator().manual_seed(0)
        fixed = fixed_draw(name, torch.rand(signs.shape, generator=generator))
        value, gradient = value_and_gradient(
            build_loss(name, [100, 20, 5, 1], **options), size * signs, labels, **fixed
        )
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(gamma=st.floats(0.001, 0.999), distance=st.floats(0, 1e4))
@examples
def test_focal_is_finite_and_its_gradient_vanishes_towards_certainty(dtype, gamma, distance):
    logits = torch.tensor([[distance, 0.0], [1e4, 0.0]], dtype=dtype)
    value, gradient = value_and_gradient(
        build_loss("focal", [1, 1], gamma=gamma), logits, torch.tensor([0, 0])
    )
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient[1].abs().max() < 1e-6


@pytest.mark.parametrize(
    ("name", "options", "counts", "expected"),
    [
        ("softmax", {}, [9, 1], True),
        ("weighted_softmax", {}, [5, 5], True),
        ("weighted_softmax", {}, [9, 1], False),
        ("focal", {}, [5, 5], False),
        ("class_balanced", {}, [5, 5], True),
        ("class_balanced", {}, [9, 1], False),
        ("balanced_softmax", {}, [5, 5], True),
        ("balanced_softmax", {}, [9, 1], False),
        ("ldam", {}, [5, 5], False),
        ("equalization", {}, [5, 5], True),
        ("equalization", {"threshold": 0.5}, [5, 5], True),
        ("equalization", {"threshold": 0.51}, [5, 5], False),
        ("equalization", {"threshold": 0.2}, [9, 1], False),
    ],
)
def test_equals_softmax_says_what_values_and_gradients_say(name, options, counts, expected):
    p = Problem(counts, batch=40, seed=4)
    assert equals_softmax(name, counts, **options) is expected
    (value, gradient), (plain, plain_gradient) = p.run(name, options), p.run("softmax", {})
    assert torch.allclose(value, plain, rtol=1e-10) is expected
    assert torch.allclose(gradient, plain_gradient, rtol=1e-8, atol=1e-12) is expected


@each_variant
@given(p=st.one_of(problems(), uniform_problems))
@examples
def test_a_loss_that_equals_softmax_gives_its_values_and_gradients(name, options, p):
    if equals_softmax(name, p.counts, **options):
        assert_same(p.run(name, options), p.run("softmax", {}))
