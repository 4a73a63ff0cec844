import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltlib.config import LOSS_NAMES, ConfigError
from ltlib.losses import LOSSES, build_loss, class_balanced_weights, equals_softmax

GOLDEN_FILE = Path(__file__).parent / "golden" / "losses.npz"
GOLDEN = np.load(GOLDEN_FILE)
CASES = json.loads(GOLDEN_FILE.with_suffix(".json").read_text())["cases"]
COUNTS = sorted(key for key in GOLDEN.files if key.startswith("class_counts/"))

# every loss, with the options that change its formula; the thresholds make classes of a few-class problem rare
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
    ("name", "options"), [v for v in VARIANTS.values() if v[0] != "ldam"], ids=[k for k in VARIANTS if k != "ldam"]
)
examples = settings(deadline=None, max_examples=50)
count_lists = st.lists(st.integers(1, 5000), min_size=2, max_size=8)


class Problem:
    """A batch: counts (C,), logits (B, C) in [-1, 1] times ``size``, labels (B,), a uniform draw (B, C)."""

    def __init__(self, counts, batch, seed, size=1.0, dtype=torch.float64):
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, len(counts))
        self.counts = np.array(counts)
        self.logits = (size * (2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1)).to(dtype)
        self.labels = torch.randint(len(counts), (batch,), generator=generator)
        self.uniform = torch.rand(shape, generator=generator, dtype=torch.float64)

    def run(self, name, options, **changes):
        """Value and gradient; ``changes`` replaces attributes for this run."""
        p = {**vars(self), **changes}
        fixed = {"uniform": p["uniform"]} if name == "equalization" else {}
        return value_and_gradient(build_loss(name, p["counts"], **options), p["logits"], p["labels"], **fixed)


@st.composite
def problems(draw, counts=count_lists, size=5.0):
    return Problem(draw(counts), draw(st.integers(1, 6)), draw(st.integers(0, 10**6)), size)


uniform_problems = problems(counts=st.builds(lambda n, c: [n] * c, st.integers(1, 5000), st.integers(2, 8)))
SMALL = Problem([100, 20, 5, 1], batch=6, seed=0, size=3.0)


def value_and_gradient(loss, logits, labels, **fixed):
    logits = logits.clone().requires_grad_()
    value = loss(logits, labels, **fixed)
    (gradient,) = torch.autograd.grad(value.sum(), logits)
    return value.detach(), gradient


def assert_same(a, b, rtol=1e-10, atol=1e-12):
    for left, right in zip(a, b, strict=True):
        torch.testing.assert_close(left, right, rtol=rtol, atol=atol)


# --------------------------------------------------------------------------------- official implementations


def golden_loss(case):
    """(loss, keyword arguments of its call) for a golden case."""
    options, counts = case["hyperparameters"], GOLDEN[case["class_counts"]]
    match case["loss"]:
        case "softmax_ce":
            return build_loss("softmax", counts), {}
        case "weighted_ce":
            weighting = "log" if "ln" in options["weights"] else "inverse"
            normalize = "batch" if case["entry"].startswith("mean(") else "weights"
            return build_loss("weighted_softmax", counts, weighting=weighting, normalize=normalize), {}
        case "focal":
            return build_loss("focal", counts, gamma=options["gamma"]), {}
        case "class_balanced":
            return build_loss("class_balanced", counts, beta=options["beta"]), {}
        case "balanced_softmax":
            return build_loss("balanced_softmax", counts), {}
        case "ldam":
            return build_loss("ldam", counts, max_margin=options["max_m"], scale=options["s"]), {}
        case "ldam_drw":
            return build_loss("ldam", counts, class_weights=class_balanced_weights(counts)), {}
        case "equalization":
            loss = build_loss("equalization", counts, threshold=options["lambda"], gamma=options["gamma"])
            return loss, {"uniform": torch.as_tensor(GOLDEN[options["uniform"]])}
    raise AssertionError(case["loss"])


def golden_result(case, dtype):
    loss, fixed = golden_loss(case)
    logits, labels = GOLDEN[f"{case['input']}/logits"], GOLDEN[f"{case['input']}/labels"]
    value, gradient = value_and_gradient(loss, torch.as_tensor(logits).to(dtype), torch.as_tensor(labels).long(), **fixed)
    assert value.dtype == gradient.dtype == dtype
    return value.item(), gradient.numpy()


each_case = pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])


@each_case
def test_float64_value_and_gradient_are_the_official_ones(case):
    value, gradient = golden_result(case, torch.float64)
    expected = GOLDEN[case["gradient"]]
    assert value == pytest.approx(case["value"], rel=1e-9)
    np.testing.assert_allclose(gradient, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())


@each_case
def test_float32_value_and_gradient_are_near_the_official_ones(case):
    value, gradient = golden_result(case, torch.float32)
    expected = GOLDEN[case["gradient"]]
    assert value == pytest.approx(case["value"], rel=2e-5)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-4 * np.abs(expected).max())


def test_the_golden_cases_cover_the_seven_losses_and_say_where_they_come_from():
    assert len(CASES) == 120
    built = {type(golden_loss(case)[0]) for case in CASES}
    assert built == set(LOSSES.values())
    assert all(case["repo"] and case["path"] and case["commit"] for case in CASES)


@pytest.mark.parametrize("key", [key for key in GOLDEN.files if key.startswith("weights/cb_beta")])
def test_class_balanced_weights_are_the_official_ones(key):
    _, beta, counts = key.split("/")
    weights = class_balanced_weights(GOLDEN[f"class_counts/{counts}"], float(beta.removeprefix("cb_beta")))
    np.testing.assert_allclose(weights, GOLDEN[key], rtol=1e-9)


@pytest.mark.parametrize("key", [key for key in GOLDEN.files if key.startswith("weights/drw_epoch")])
def test_deferred_reweighting_is_beta_0_before_and_0_9999_after_the_switch(key):
    _, epoch, counts = key.split("/")
    beta = 0.9999 if int(epoch.removeprefix("drw_epoch")) >= 160 else 0
    np.testing.assert_allclose(class_balanced_weights(GOLDEN[f"class_counts/{counts}"], beta), GOLDEN[key], rtol=1e-9)


def test_log_weights_are_the_surveys():
    official = {tuple(np.round(GOLDEN[key], 4)) for key in GOLDEN.files if key.startswith("weights/survey_wce")}
    ours = {tuple(np.round(build_loss("weighted_softmax", GOLDEN[key]).weights.float().numpy(), 4)) for key in COUNTS}
    assert ours == official


@pytest.mark.parametrize("key", [key for key in GOLDEN.files if key.startswith("margins/")])
def test_ldam_margins_are_the_official_ones(key):
    loss = build_loss("ldam", GOLDEN[f"class_counts/{key.split('/')[2]}"], max_margin=0.5)
    np.testing.assert_allclose(loss.margins, GOLDEN[key], rtol=1e-9)


# ------------------------------------------------------------------------------------------ closed forms


def closed_form_gradient(name, p):
    """Per-sample d loss / d z of the table in NumPy, at the options of :func:`test_gradient_is_the_closed_form`."""
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
        "class_balanced": lambda: (inverse_effective * len(n) / inverse_effective.sum())[y][:, None] * (q - one_hot),
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
    fixed = {"uniform": p.uniform} if name == "equalization" else {}
    _, gradient = value_and_gradient(build_loss(name, p.counts, **options), p.logits, p.labels, reduction="none", **fixed)
    np.testing.assert_allclose(gradient, closed_form_gradient(name, p), rtol=1e-8, atol=1e-10)


@each_variant
def test_gradcheck(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    fixed = {"uniform": SMALL.uniform} if name == "equalization" else {}
    logits = (SMALL.logits / (30 if name == "ldam" else 1)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: loss(z, SMALL.labels, reduction="none", **fixed), (logits,))
    assert torch.autograd.gradgradcheck(lambda z: loss(z, SMALL.labels, **fixed), (logits,))


@each_variant
def test_compiles_without_a_graph_break(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    fixed = {"uniform": SMALL.uniform} if name == "equalization" else {}
    torch.compiler.reset()  # each variant is a compilation of its own; together they would reach the limit of one function
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    logits = SMALL.logits / (30 if name == "ldam" else 1)
    assert torch.allclose(compiled(logits, SMALL.labels, **fixed), loss(logits, SMALL.labels, **fixed), rtol=1e-12)


@each_variant
def test_torch_func_gradient_is_autograds(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    fixed = {"uniform": SMALL.uniform} if name == "equalization" else {}
    logits = (SMALL.logits / (30 if name == "ldam" else 1)).requires_grad_()
    (expected,) = torch.autograd.grad(loss(logits, SMALL.labels, **fixed), logits)
    found = torch.func.grad(lambda z: loss(z, SMALL.labels, **fixed))(logits.detach())
    assert torch.allclose(found, expected)


@each_variant
def test_gradients_of_single_samples_by_vmap(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    logits = SMALL.logits / (30 if name == "ldam" else 1)
    uniform = SMALL.uniform if name == "equalization" else torch.zeros_like(SMALL.logits)

    def of_one(z, y, u):
        return loss(z[None], y[None], reduction="none", **({"uniform": u[None]} if name == "equalization" else {})).sum()

    found = torch.func.vmap(torch.func.grad(of_one))(logits, SMALL.labels, uniform)
    fixed = {"uniform": uniform} if name == "equalization" else {}
    _, expected = value_and_gradient(loss, logits, SMALL.labels, reduction="none", **fixed)
    assert torch.allclose(found, expected)


def test_equalization_compiles_with_its_own_draw():
    loss = build_loss("equalization", SMALL.counts, threshold=0.5, gamma=1.0)
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(SMALL.logits, SMALL.labels), loss(SMALL.logits, SMALL.labels))
    half = build_loss("equalization", SMALL.counts, threshold=0.5, gamma=0.5)
    torch.compiler.reset()
    assert torch.compile(half, fullgraph=True, backend="aot_eager")(SMALL.logits, SMALL.labels).isfinite()


# -------------------------------------------------------------------------------------------- invariants


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


@pytest.mark.parametrize(("name", "options"), [("weighted_softmax", {"weighting": "inverse"}), ("class_balanced", {})])
@given(counts=count_lists)
@examples
def test_weights_sum_to_the_number_of_classes(name, options, counts):
    assert build_loss(name, counts, **options).weights.sum().item() == pytest.approx(len(counts), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [("weighted_softmax", {"weighting": "log"}), ("weighted_softmax", {"weighting": "inverse"}), ("class_balanced", {})],
)
@given(counts=count_lists)
@examples
def test_weights_rise_as_counts_fall_and_never_faster_than_the_counts(name, options, counts):
    weights = build_loss(name, counts, **options).weights.numpy()
    assert (np.diff(weights[np.argsort(counts)]) <= 1e-12 * weights.max()).all()
    assert weights.max() / weights.min() <= max(counts) / min(counts) * (1 + 1e-9)


@given(counts=count_lists, max_margin=st.floats(0.01, 1.99))
@examples
def test_margin_of_the_rarest_class_is_the_largest_and_the_rest_follow_the_fourth_root(counts, max_margin):
    margins = build_loss("ldam", counts, max_margin=max_margin).margins.numpy()
    np.testing.assert_allclose(margins, max_margin * (min(counts) / np.array(counts)) ** 0.25, rtol=1e-12)


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
    assert_same(p.run(name, options, logits=p.logits + shift), p.run(name, options), rtol=1e-9, atol=1e-11)


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
        fixed = {"uniform": torch.rand(signs.shape, generator=torch.Generator().manual_seed(0))} if name == "equalization" else {}
        value, gradient = value_and_gradient(build_loss(name, [100, 20, 5, 1], **options), size * signs, labels, **fixed)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(gamma=st.floats(0.001, 0.999), distance=st.floats(0, 1e4))
@examples
def test_focal_is_finite_and_its_gradient_vanishes_towards_certainty(dtype, gamma, distance):
    logits = torch.tensor([[distance, 0.0], [1e4, 0.0]], dtype=dtype)
    value, gradient = value_and_gradient(build_loss("focal", [1, 1], gamma=gamma), logits, torch.tensor([0, 0]))
    assert value.isfinite()
    assert gradient.isfinite().all()
    assert gradient[1].abs().max() < 1e-6


# -------------------------------------------------------------------------------- call, dtypes, reduction


def test_the_registry_holds_exactly_the_seven():
    assert tuple(LOSSES) == LOSS_NAMES


@each_variant
def test_nothing_is_learnable_or_stored(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    assert not list(loss.parameters())
    assert not loss.state_dict()


@each_variant
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_moving_a_loss_to_a_narrower_type_leaves_it_exact(name, options, dtype):
    exact, moved = (build_loss(name, SMALL.counts, **options) for _ in range(2))
    moved = moved.to(dtype).to("cpu")
    fixed = {"uniform": SMALL.uniform} if name == "equalization" else {}
    assert_same([exact(SMALL.logits / 30, SMALL.labels, **fixed)], [moved(SMALL.logits / 30, SMALL.labels, **fixed)], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@each_variant
def test_half_precision_logits_are_cast_to_float32_first(name, options, dtype):
    half = SMALL.logits.to(dtype)
    value, gradient = SMALL.run(name, options, logits=half)
    expected, expected_gradient = SMALL.run(name, options, logits=half.float())
    assert value.dtype == torch.float32
    assert_same((value, gradient), (expected, expected_gradient.to(dtype)), rtol=0, atol=0)


@each_variant
def test_unreduced_losses_are_those_that_the_mean_is_made_of(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    fixed = {"uniform": SMALL.uniform} if name == "equalization" else {}
    losses = loss(SMALL.logits, SMALL.labels, reduction="none", **fixed)
    divisor = len(losses) if loss.weights is None or loss.normalize == "batch" else loss.weights[SMALL.labels].sum()
    assert losses.shape == SMALL.labels.shape
    torch.testing.assert_close(losses.sum() / divisor, loss(SMALL.logits, SMALL.labels, **fixed))


@pytest.mark.parametrize("name", ["weighted_softmax", "class_balanced"])
def test_normalize_weights_cancels_the_weight_of_a_single_class_and_batch_keeps_it(name):
    labels = torch.full((6,), 3)
    plain, _ = SMALL.run("softmax", {}, labels=labels)
    weight = build_loss(name, SMALL.counts).weights[3]
    assert weight > 1.1
    torch.testing.assert_close(SMALL.run(name, {"normalize": "weights"}, labels=labels)[0], plain)
    torch.testing.assert_close(SMALL.run(name, {"normalize": "batch"}, labels=labels)[0], weight * plain)


def test_a_reweighted_focal_loss_keeps_its_factor():
    """The factor is (1 - p_y)^gamma of the model's p, whatever the weights: at equal weights nothing changes."""
    focal = build_loss("focal", SMALL.counts)
    plain, losses = focal(SMALL.logits, SMALL.labels), focal(SMALL.logits, SMALL.labels, reduction="none")
    focal.set_weights([7.0] * len(SMALL.counts))
    torch.testing.assert_close(focal(SMALL.logits, SMALL.labels), plain)
    weights = torch.linspace(1, 5, len(SMALL.counts), dtype=torch.float64)
    focal.set_weights(weights)
    w = weights[SMALL.labels].to(losses)
    torch.testing.assert_close(focal(SMALL.logits, SMALL.labels, reduction="none"), w * losses)
    torch.testing.assert_close(focal(SMALL.logits, SMALL.labels), (w * losses).sum() / w.sum())


def test_normalize_weights_is_what_pytorchs_weighted_cross_entropy_does():
    loss = build_loss("weighted_softmax", SMALL.counts)
    expected = torch.nn.functional.cross_entropy(SMALL.logits, SMALL.labels, weight=loss.weights)
    torch.testing.assert_close(loss(SMALL.logits, SMALL.labels), expected)


def test_ldam_class_weights_can_be_set_and_taken_back():
    loss = build_loss("ldam", SMALL.counts)
    uniform = loss(SMALL.logits, SMALL.labels)
    weights = class_balanced_weights(SMALL.counts)
    loss.set_weights(weights)
    weighted = loss(SMALL.logits, SMALL.labels)
    torch.testing.assert_close(weighted, SMALL.run("ldam", {"class_weights": weights})[0])
    assert not torch.isclose(weighted, uniform)
    loss.set_weights(None)
    assert torch.equal(loss(SMALL.logits, SMALL.labels), uniform)


@each_variant
def test_only_ldam_predicts_with_scaled_logits(name, options):
    scale = 30.0 if name == "ldam" else 1.0
    assert torch.equal(build_loss(name, SMALL.counts, **options).prediction_logits(SMALL.logits), scale * SMALL.logits)


# ------------------------------------------------------------------------------------------ equalization


def dropped(loss, logits, labels, **draw):
    """(B, C) mask of the logits that get no gradient at all."""
    return value_and_gradient(loss, logits, labels, **draw)[1] == 0


def test_equalization_in_eval_mode_is_softmax():
    loss = build_loss("equalization", SMALL.counts, threshold=0.5, gamma=1.0)
    training = loss(SMALL.logits, SMALL.labels)
    assert not torch.isclose(training, SMALL.run("softmax", {})[0])
    assert_same(value_and_gradient(loss.eval(), SMALL.logits, SMALL.labels), SMALL.run("softmax", {}))


def test_equalization_at_gamma_one_drops_all_rare_negatives_and_no_label():
    p = Problem([100, 90, 5, 1], batch=50, seed=1)
    expected = torch.tensor([[False, False, True, True]]).expand(50, 4).clone()
    expected[torch.arange(50), p.labels] = False
    assert torch.equal(dropped(build_loss("equalization", p.counts, threshold=0.2, gamma=1.0), p.logits, p.labels), expected)


def test_equalization_drops_a_share_of_gamma_of_the_rare_negatives():
    p = Problem([100, 90, 5, 1], batch=6000, seed=2)
    loss = build_loss("equalization", p.counts, threshold=0.2, gamma=0.7)
    mask = dropped(loss, p.logits, p.labels * 0, generator=torch.Generator().manual_seed(0))
    assert not mask[:, :2].any()
    assert mask[:, 2:].double().mean().item() == pytest.approx(0.7, abs=0.02)  # 12,000 draws: a standard error of 0.004


@pytest.mark.parametrize("gamma", [0.0, 1e-7, 0.003, 0.25, 0.9, 1 - 1e-7, 1.0])
def test_equalizations_draws_have_the_probability_gamma(gamma):
    loss = build_loss("equalization", [1000] + [1] * 199, threshold=0.5, gamma=gamma)
    drawn = loss._draw(torch.zeros(4000, 200), torch.Generator().manual_seed(0))
    assert not drawn[:, 0].any()
    rare = drawn[:, 1:].double()
    assert rare.mean().item() == pytest.approx(gamma, abs=max(2e-5, 6 * (gamma * (1 - gamma) / rare.numel()) ** 0.5))
    assert set(rare.unique().tolist()) <= {0.0, 1.0}


def test_equalizations_draws_of_different_classes_are_independent():
    loss = build_loss("equalization", [1000] + [1] * 9, threshold=0.5, gamma=0.3)
    drawn = loss._draw(torch.zeros(200_000, 10), torch.Generator().manual_seed(0))[:, 1:].double()
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
    build_loss("equalization", SMALL.counts)(SMALL.logits, SMALL.labels, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("threshold", "rare"), [(4.3e-4, 0), (3e-3, 41), (5e-3, 52)])
def test_rare_classes_of_cifar100_lt(threshold, rare):
    assert int(build_loss("equalization", GOLDEN["class_counts/c100"], threshold=threshold).rare.sum()) == rare


# ---------------------------------------------------------------------------------------- equals_softmax


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


# ------------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize("label", [-100, -1, 4])
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_label_out_of_range_is_refused(name, label):
    labels = SMALL.labels.clone()
    labels[2] = label
    with pytest.raises(ValueError, match=rf"labels: expected 0 to 3.*{label}"):
        build_loss(name, SMALL.counts)(SMALL.logits, labels)


@pytest.mark.parametrize(
    "labels", [SMALL.labels.to(torch.uint8), SMALL.labels.int(), SMALL.labels.double(), SMALL.labels[:, None], SMALL.labels[:-1]]
)
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_labels_of_another_dtype_or_shape_are_refused(name, labels):
    with pytest.raises(ValueError, match=r"labels: expected int64 \(6,\)"):
        build_loss(name, SMALL.counts)(SMALL.logits, labels)


@pytest.mark.parametrize("logits", [SMALL.logits.long(), SMALL.logits[:, :3], SMALL.logits[0], SMALL.logits[None]])
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_logits_of_another_dtype_or_shape_than_the_counts_are_refused(name, logits):
    with pytest.raises(ValueError, match=r"logits: expected floating \(B, 4\)"):
        build_loss(name, SMALL.counts)(logits, SMALL.labels)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_empty_batch_is_refused(name):
    with pytest.raises(ValueError, match="empty"):
        build_loss(name, SMALL.counts)(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction = 'sum'"):
        build_loss("softmax", SMALL.counts)(SMALL.logits, SMALL.labels, reduction="sum")


def test_uniform_draw_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"uniform: expected shape \(6, 4\)"):
        build_loss("equalization", SMALL.counts)(SMALL.logits, SMALL.labels, uniform=SMALL.uniform[:, :1])


@pytest.mark.parametrize("counts", [[], [[3, 2]], [[3], [2, 1]], 5, [3, math.nan], [3, math.inf], ["3", "2"], [True, True], None], ids=repr)
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_counts_that_are_no_list_of_numbers_are_refused(name, counts):
    with pytest.raises(ConfigError, match="class_counts"):
        build_loss(name, counts)


@pytest.mark.parametrize("empty", [0, -3, 0.5])
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_counts_below_one_are_refused_with_their_classes(name, empty):
    with pytest.raises(ConfigError, match="classes 1, 3 "):
        build_loss(name, [9, empty, 4, empty])


def test_counts_may_be_a_tensor_or_a_list():
    for counts in (torch.tensor([100, 20, 5, 1]), (100.0, 20.0, 5.0, 1.0)):
        assert_same(SMALL.run("balanced_softmax", {}, counts=counts), SMALL.run("balanced_softmax", {}))


def test_unknown_loss_is_refused():
    with pytest.raises(ConfigError, match=r"loss = 'hinge'.*softmax"):
        build_loss("hinge", SMALL.counts)


@pytest.mark.parametrize("name", LOSS_NAMES)
def test_unknown_option_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} has no option 'alpha'"):
        build_loss(name, SMALL.counts, alpha=1)


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("weighted_softmax", "weighting", "sqrt"),
        ("weighted_softmax", "normalize", "sum"),
        ("focal", "gamma", -0.1),
        ("focal", "gamma", math.nan),
        ("focal", "gamma", math.inf),
        ("focal", "gamma", "2"),
        ("class_balanced", "beta", -0.1),
        ("class_balanced", "beta", 1),
        ("class_balanced", "beta", math.nan),
        ("class_balanced", "normalize", "sum"),
        ("ldam", "max_margin", -0.1),
        ("ldam", "max_margin", 2),
        ("ldam", "scale", 0),
        ("ldam", "scale", math.inf),
        ("equalization", "threshold", -1e-3),
        ("equalization", "gamma", -0.1),
        ("equalization", "gamma", 1.1),
    ],
)
def test_option_out_of_range_is_refused_by_name_and_value(name, option, value):
    with pytest.raises(ConfigError, match=rf"{option} = {value!r}"):
        build_loss(name, SMALL.counts, **{option: value})


@pytest.mark.parametrize(
    "weights", [[1, 1, 1], [1, 1, 1, 0], [1, 1, 1, -1], [1, 1, 1, math.nan], [[1, 1, 1, 1]], "abcd", [1, 1, [1], 1]], ids=repr
)
def test_class_weights_must_be_c_finite_positive_numbers(weights):
    with pytest.raises(ConfigError, match="expected 4 finite numbers above 0"):
        build_loss("ldam", SMALL.counts, class_weights=weights)
