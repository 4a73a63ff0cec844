"""What all losses have in common: calls, types, reductions, refusals."""

import math

import pytest
import torch
from problems import (
    SMALL,
    assert_same,
    each_variant,
    fixed_draw,
)

from ltlib.errors import ConfigError
from ltlib.losses import build_loss, class_balanced_weights
from ltlib.registry import LOSS_NAMES


@each_variant
def test_nothing_is_learnable_or_stored(name, options):
    loss = build_loss(name, SMALL.counts, **options)
    assert not list(loss.parameters())
    assert not loss.state_dict()


@each_variant
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_loss_follows_the_model_that_it_is_part_of_to_another_type(name, options, dtype):
    exact, moved = (build_loss(name, SMALL.counts, **options) for _ in range(2))
    fixed = fixed_draw(name, SMALL.uniform)
    expected = exact(SMALL.logits / 30, SMALL.labels, **fixed)
    found = moved.to(dtype)(SMALL.logits / 30, SMALL.labels, **fixed)
    torch.testing.assert_close(found, expected, rtol=10 * torch.finfo(dtype).eps, atol=0)


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
    fixed = fixed_draw(name, SMALL.uniform)
    losses = loss(SMALL.logits, SMALL.labels, reduction="none", **fixed)
    divisor = (
        len(losses)
        if loss.weights is None or loss.normalize == "batch"
        else loss.weights[SMALL.labels].sum()
    )
    assert losses.shape == SMALL.labels.shape
    torch.testing.assert_close(losses.sum() / divisor, loss(SMALL.logits, SMALL.labels, **fixed))


@pytest.mark.parametrize("name", ["weighted_softmax", "class_balanced"])
def test_normalize_weights_cancels_the_weight_of_a_single_class_and_batch_keeps_it(name):
    labels = torch.full((6,), 3)
    plain, _ = SMALL.run("softmax", {}, labels=labels)
    weight = build_loss(name, SMALL.counts).weights[3]
    assert weight > 1.1
    torch.testing.assert_close(SMALL.run(name, {"normalize": "weights"}, labels=labels)[0], plain)
    torch.testing.assert_close(
        SMALL.run(name, {"normalize": "batch"}, labels=labels)[0], weight * plain
    )


def test_a_reweighted_focal_loss_keeps_its_factor():
    """It is (1 - p_y)^gamma of the model's p, whatever the weights; equal ones change nothing."""
    focal = build_loss("focal", SMALL.counts)
    plain, losses = (
        focal(SMALL.logits, SMALL.labels),
        focal(SMALL.logits, SMALL.labels, reduction="none"),
    )
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
    assert torch.equal(
        build_loss(name, SMALL.counts, **options).prediction_logits(SMALL.logits),
        scale * SMALL.logits,
    )


@pytest.mark.parametrize("label", [-(2**63), -100, -1, 4])
@pytest.mark.parametrize("name", LOSS_NAMES)
def test_label_out_of_range_is_refused(name, label):
    labels = SMALL.labels.clone()
    labels[2] = label
    with pytest.raises(ValueError, match=rf"labels: expected 0 to 3.*{label}"):
        build_loss(name, SMALL.counts)(SMALL.logits, labels)


@pytest.mark.parametrize(
    "labels",
    [
        SMALL.labels.to(torch.uint8),
        SMALL.labels.int(),
        SMALL.labels.double(),
        SMALL.labels[:, None],
        SMALL.labels[:-1],
    ],
)
def test_labels_of_another_dtype_or_shape_are_refused(labels):
    with pytest.raises(ValueError, match=r"labels: expected int64 \(6,\)"):
        build_loss("softmax", SMALL.counts)(SMALL.logits, labels)


@pytest.mark.parametrize(
    "logits", [SMALL.logits.long(), SMALL.logits[:, :3], SMALL.logits[0], SMALL.logits[None]]
)
def test_logits_of_another_dtype_or_shape_than_the_counts_are_refused(logits):
    with pytest.raises(ValueError, match=r"logits: expected floating \(B, 4\)"):
        build_loss("softmax", SMALL.counts)(logits, SMALL.labels)


def test_empty_batch_is_refused():
    with pytest.raises(ValueError, match="empty"):
        build_loss("softmax", SMALL.counts)(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def test_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction = 'sum'"):
        build_loss("softmax", SMALL.counts)(SMALL.logits, SMALL.labels, reduction="sum")


@pytest.mark.parametrize(
    "counts",
    [[], [[3, 2]], [[3], [2, 1]], 5, [3, math.nan], [3, math.inf], ["3", "2"], [True, True], None],
    ids=repr,
)
def test_counts_that_are_no_list_of_numbers_are_refused(counts):
    with pytest.raises(ConfigError, match="class_counts"):
        build_loss("softmax", counts)


@pytest.mark.parametrize("empty", [0, -3, 0.5])
def test_counts_below_one_are_refused_with_their_classes(empty):
    with pytest.raises(ConfigError, match="classes 1, 3 "):
        build_loss("softmax", [9, empty, 4, empty])


def test_counts_may_be_a_tensor_or_a_list():
    for counts in (torch.tensor([100, 20, 5, 1]), (100.0, 20.0, 5.0, 1.0)):
        assert_same(
            SMALL.run("balanced_softmax", {}, counts=counts), SMALL.run("balanced_softmax", {})
        )


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
    "weights",
    [
        [1, 1, 1],
        [1, 1, 1, 0],
        [1, 1, 1, -1],
        [1, 1, 1, math.nan],
        [[1, 1, 1, 1]],
        "abcd",
        [1, 1, [1], 1],
    ],
    ids=repr,
)
def test_class_weights_must_be_c_finite_positive_numbers(weights):
    with pytest.raises(ConfigError, match="expected 4 finite numbers above 0"):
        build_loss("ldam", SMALL.counts, class_weights=weights)
