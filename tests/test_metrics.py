import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ltlib.losses import build_loss
from ltlib.metrics import balanced_accuracy, class_hits, evaluate, mean_interval, proportion_interval

COUNTS = [50, 10, 2]
# labels 0 0 0 1 1, predicted 0 0 1 1 2: class 2 does not occur
LABELS = torch.tensor([0, 0, 0, 1, 1])
LOGITS = torch.tensor([[2.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 3, 1], [0, 0, 1]])
examples = settings(deadline=None, max_examples=50)


def evaluated(name="softmax", logits=LOGITS, labels=LABELS, **options):
    return evaluate(logits, labels, build_loss(name, COUNTS, **options).eval())


def mean_cross_entropy(logits):
    return sum(math.log(sum(math.exp(v) for v in z)) - z[y] for z, y in zip(logits.tolist(), LABELS.tolist(), strict=True)) / 5


# ---------------------------------------------------------------------------------------------- evaluate


def test_accuracy_and_hits_by_hand():
    result = evaluated()
    assert (result["n"], result["hits"], result["acc1"]) == (5, 3, 0.6)


def test_weighted_f1_by_hand():
    # class 0: precision 1, recall 2/3, F1 0.8; class 1: precision 1/2, recall 1/2, F1 0.5; supports 3 and 2
    assert evaluated()["f1"] == pytest.approx((3 * 0.8 + 2 * 0.5) / 5)


def test_macro_f1_by_hand_is_over_the_classes_that_occur():
    assert evaluated()["f1_macro"] == pytest.approx((0.8 + 0.5) / 2)


def test_loss_by_hand():
    assert evaluated()["loss"] == pytest.approx(mean_cross_entropy(LOGITS), rel=1e-12)


@pytest.mark.parametrize("name", ["weighted_softmax", "focal", "class_balanced", "balanced_softmax", "equalization"])
def test_loss_is_plain_cross_entropy_whatever_the_criterion(name):
    assert evaluated(name)["loss"] == pytest.approx(mean_cross_entropy(LOGITS), rel=1e-12)


def test_loss_of_ldam_is_that_of_its_scaled_logits():
    result = evaluated("ldam", scale=10.0)
    assert result["loss"] == pytest.approx(mean_cross_entropy(10 * LOGITS), rel=1e-12)
    assert result["criterion"] > result["loss"]  # the margins only ever add


@pytest.mark.parametrize("name", ["weighted_softmax", "focal", "class_balanced", "balanced_softmax", "ldam"])
def test_criterion_is_the_training_loss(name):
    result = evaluated(name)
    assert result["criterion"] == pytest.approx(build_loss(name, COUNTS)(LOGITS.double(), LABELS).item(), rel=1e-12)
    assert result["criterion"] != pytest.approx(result["loss"], rel=1e-3)


def test_float32_logits_are_judged_in_float64():
    torch.manual_seed(0)
    logits, labels = torch.randn(2000, 3), torch.randint(3, (2000,))
    expected = torch.nn.functional.cross_entropy(logits.double(), labels).item()
    assert evaluated(logits=logits, labels=labels)["loss"] == pytest.approx(expected, rel=1e-13)


def test_everything_right_and_everything_wrong():
    right, wrong = torch.eye(3)[LABELS], torch.eye(3)[(LABELS + 1) % 3]
    assert [evaluated(logits=right)[key] for key in ("acc1", "f1", "f1_macro")] == [1, 1, 1]
    assert [evaluated(logits=wrong)[key] for key in ("acc1", "f1", "f1_macro")] == [0, 0, 0]


# --------------------------------------------------------------------------------------------- per class


def test_class_hits_by_hand():
    assert class_hits(LOGITS, LABELS) == ([3, 2, 0], [2, 1, 0])


@given(seed=st.integers(0, 10**6), n=st.integers(1, 30))
@examples
def test_class_hits_add_up_to_those_of_the_whole_set(seed, n):
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(n, 3, generator=generator), torch.randint(3, (n,), generator=generator)
    images, hits = class_hits(logits, labels)
    assert sum(images) == n
    assert sum(hits) == evaluated(logits=logits, labels=labels)["hits"]


def test_balanced_accuracy_leaves_absent_classes_out():
    assert balanced_accuracy(LOGITS, LABELS) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_class_accuracy_is_over_the_classes_that_occur_and_is_accuracy_on_a_balanced_set():
    assert evaluated()["class_acc"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    result = evaluated(logits=torch.eye(3)[[0, 1, 1, 1, 0, 2]], labels=labels)
    assert result["class_acc"] == pytest.approx(result["acc1"])


def test_balanced_accuracy_counts_a_class_of_one_image_as_much_as_any():
    labels = torch.tensor([0] * 9 + [1])
    assert balanced_accuracy(torch.eye(2)[labels * 0], labels) == 0.5


# --------------------------------------------------------------------------------------------- intervals


def wilson(hits, n, z=1.959963984540054):
    p = hits / n
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (p + z * z / (2 * n) - half) / (1 + z * z / n), (p + z * z / (2 * n) + half) / (1 + z * z / n)


@pytest.mark.parametrize(
    ("hits", "n", "expected"),
    [(81, 263, (0.2553, 0.3662)), (15, 148, (0.0624, 0.1605)), (0, 20, (0.0, 0.1611)), (1, 29, (0.0061, 0.1718))],
)
def test_wilson_interval_is_newcombes(hits, n, expected):
    """Newcombe 1998, Two-sided confidence intervals for the single proportion, Table I, method 3."""
    assert proportion_interval(hits, n) == pytest.approx(expected, abs=5e-5)


@given(n=st.integers(1, 10_000), data=st.data())
@examples
def test_wilson_interval_is_its_formula_and_holds_the_share(n, data):
    hits = data.draw(st.integers(0, n))
    low, high = proportion_interval(hits, n)
    assert (low, high) == pytest.approx(wilson(hits, n), rel=1e-9, abs=1e-12)
    assert 0 <= low <= hits / n <= high <= 1


def test_wilson_interval_of_the_38_images_of_the_tail_is_wide():
    low, high = proportion_interval(19, 38)
    assert high - low == pytest.approx(0.303, abs=1e-3)


def test_a_higher_level_is_a_wider_interval():
    low, high = proportion_interval(19, 38)
    wider_low, wider_high = proportion_interval(19, 38, level=0.99)
    assert wider_low < low < high < wider_high


@pytest.mark.parametrize(("hits", "n"), [(5, 4), (-1, 4), (0, 0)])
def test_impossible_shares_are_refused(hits, n):
    with pytest.raises(ValueError, match="must"):
        proportion_interval(hits, n)


def test_t_interval_of_three_seeds():
    # s = 1, t_2(0.975) = 4.302653
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / math.sqrt(3)), rel=1e-6)


def test_t_interval_of_two_seeds():
    # s = sqrt(2) / 2 * 0.2, t_1(0.975) = 12.706205
    assert mean_interval([0.5, 0.7]) == pytest.approx((0.6, 12.706205 * 0.1), rel=1e-6)


def test_t_interval_of_ninety_percent():
    assert mean_interval([1.0, 2.0, 3.0], level=0.9) == pytest.approx((2.0, 2.919986 / math.sqrt(3)), rel=1e-6)


def test_t_interval_of_equal_values_is_a_point():
    assert mean_interval([0.25, 0.25, 0.25]) == (0.25, 0.0)


def test_one_seed_has_a_mean_and_no_interval():
    mean, half = mean_interval([0.75])
    assert mean == 0.75
    assert np.isnan(half)
