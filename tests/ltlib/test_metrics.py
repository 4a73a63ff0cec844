import io
import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from sklearn.metrics import roc_auc_score
from statsmodels.stats.power import TTestPower
from statsmodels.stats.proportion import confint_proportions_2indep

from ltlib.losses import build_loss
from ltlib.metrics import (
    balanced_accuracy,
    calibration,
    class_hits,
    control_test,
    evaluate,
    exceeds_noise,
    expected_calibration_error,
    geometric_mean,
    hard_auc,
    mean_interval,
    pareto_front,
    participation_ratio,
    proportion_interval,
    rank_auc,
    rank_test,
    seeds_for_power,
    share_difference,
    signed_rank_test,
)

COUNTS = [50, 10, 2]
# labels 0 0 0 1 1, predicted 0 0 1 1 2: class 2 does not occur
LABELS = torch.tensor([0, 0, 0, 1, 1])
LOGITS = torch.tensor([[2.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 3, 1], [0, 0, 1]])
examples = settings(deadline=None, max_examples=50)


def evaluated(name="softmax", logits=LOGITS, labels=LABELS, **options):
    return evaluate(logits, labels, build_loss(name, COUNTS, **options).eval())


def mean_cross_entropy(logits):
    pairs = zip(logits.tolist(), LABELS.tolist(), strict=True)
    return sum(math.log(sum(math.exp(v) for v in z)) - z[y] for z, y in pairs) / 5


# evaluate


def test_metrics_by_hand():
    result = evaluated()
    assert (result["n"], result["hits"], result["acc1"]) == (5, 3, 0.6)
    # class 0: precision 1, recall 2/3, F1 0.8; class 1: precision 1/2, recall 1/2, F1 0.5; supports
    # 3 and 2; class 2 does not occur
    assert result["f1"] == pytest.approx((3 * 0.8 + 2 * 0.5) / 5)
    assert result["f1_macro"] == pytest.approx((0.8 + 0.5) / 2)
    assert result["class_acc"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert result["loss"] == pytest.approx(mean_cross_entropy(LOGITS), rel=1e-12)


@pytest.mark.parametrize(
    "name", ["weighted_softmax", "focal", "class_balanced", "balanced_softmax", "equalization"]
)
def test_loss_is_plain_cross_entropy_whatever_the_criterion(name):
    assert evaluated(name)["loss"] == pytest.approx(mean_cross_entropy(LOGITS), rel=1e-12)


def test_loss_of_ldam_is_that_of_its_scaled_logits():
    result = evaluated("ldam", scale=10.0)
    assert result["loss"] == pytest.approx(mean_cross_entropy(10 * LOGITS), rel=1e-12)
    assert result["criterion"] > result["loss"]  # the margins only ever add


@pytest.mark.parametrize(
    "name", ["weighted_softmax", "focal", "class_balanced", "balanced_softmax", "ldam"]
)
def test_criterion_is_the_training_loss(name):
    result = evaluated(name)
    assert result["criterion"] == pytest.approx(
        build_loss(name, COUNTS)(LOGITS.double(), LABELS).item(), rel=1e-12
    )
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


# per class


def test_class_hits_by_hand():
    assert class_hits(LOGITS, LABELS) == ([3, 2, 0], [2, 1, 0])


@given(seed=st.integers(0, 10**6), n=st.integers(1, 30))
@examples
def test_class_hits_add_up_to_those_of_the_whole_set(seed, n):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, 3, generator=generator)
    labels = torch.randint(3, (n,), generator=generator)
    images, hits = class_hits(logits, labels)
    assert sum(images) == n
    assert sum(hits) == evaluated(logits=logits, labels=labels)["hits"]


def test_class_accuracy_is_accuracy_on_a_balanced_set():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    result = evaluated(logits=torch.eye(3)[[0, 1, 1, 1, 0, 2]], labels=labels)
    assert result["class_acc"] == pytest.approx(result["acc1"])


def test_balanced_accuracy_counts_a_class_of_one_image_as_much_as_any():
    labels = torch.tensor([0] * 9 + [1])
    assert balanced_accuracy(torch.eye(2)[labels * 0], labels) == 0.5


# G-mean and AUCs


def test_g_mean_by_hand_leaves_absent_classes_out():
    assert geometric_mean(LOGITS, LABELS) == pytest.approx(math.sqrt(2 / 3 * 1 / 2))
    assert evaluated()["gmean"] == geometric_mean(LOGITS, LABELS)


def test_g_mean_is_zero_where_a_class_has_none_right_and_says_nothing_of_it(recwarn):
    assert geometric_mean(torch.eye(3)[[0, 0]], torch.tensor([0, 1])) == 0
    assert not recwarn.list


def test_hard_auc_by_hand():
    # class 0: TPR 2/3, FPR 0; class 1: TPR 1/2, FPR 1/3
    assert hard_auc(LOGITS, LABELS) == pytest.approx(
        ((1 + 2 / 3) / 2 + (1 + 1 / 2 - 1 / 3) / 2) / 2
    )
    assert evaluated()["auc_hard"] == hard_auc(LOGITS, LABELS)


def test_rank_auc_of_many_classes_takes_little_memory():
    rng = np.random.default_rng(0)
    scores = torch.as_tensor(rng.normal(size=(300, 2000)))
    labels = torch.as_tensor(rng.integers(0, 2000, 300))
    tracemalloc.start()
    found = rank_auc(scores, labels)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    ranks = stats.rankdata(scores.numpy(), axis=0)[np.arange(300), labels.numpy()]
    images = np.bincount(labels.numpy(), minlength=2000)
    above = np.bincount(labels.numpy(), ranks, 2000) - images * (images + 1) / 2
    occurs = images > 0
    expected = (above / (images * (300 - images)).clip(1))[occurs].mean()
    assert found == pytest.approx(expected)
    assert peak < scores.nbytes


def test_rank_auc_by_hand():
    # class 0: of 3 x 2 pairs (score of its own, of another) 2, 1, 0 against 0, 0: 2 + 2 + 2 halves;
    # class 1: 3, 0 against 0, 0, 1
    assert rank_auc(LOGITS, LABELS) == pytest.approx((5 / 6 + (3 + 2 * 0.5) / 6) / 2)
    assert evaluated()["auc"] == pytest.approx(rank_auc(LOGITS.double().softmax(1), LABELS))


@st.composite
def predictions(draw):
    """(logits (N, C) with ties, labels (N,)) with classes that do not occur."""
    n, c = draw(st.integers(1, 40)), draw(st.integers(2, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    logits = torch.randint(4, (n, c), generator=generator).double()
    return logits, torch.randint(draw(st.integers(1, c)), (n,), generator=generator)


@given(problem=predictions())
@examples
def test_the_aucs_are_scikit_learns(problem):
    logits, labels = problem
    occurs = [c for c in range(logits.shape[1]) if bool((labels == c).any())]
    if len(occurs) < 2:
        assert hard_auc(logits, labels) == rank_auc(logits, labels) == 0.5
        return
    hard = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
    for found, scores in ((hard_auc(logits, labels), hard), (rank_auc(logits, labels), logits)):
        theirs = [roc_auc_score(labels == c, scores[:, c]) for c in occurs]
        assert found == pytest.approx(np.mean(theirs))
        assert 0 <= found <= 1


@given(problem=predictions(), seed=st.integers(0, 10**6))
@examples
def test_g_mean_and_aucs_know_no_order_of_images_or_classes(problem, seed):
    logits, labels = problem
    # no ties, which argmax breaks by place
    logits = logits + 1e-6 * torch.arange(logits.shape[1]).double()
    generator = torch.Generator().manual_seed(seed)
    order, classes = (torch.randperm(n, generator=generator) for n in logits.shape)
    for metric in (geometric_mean, hard_auc, rank_auc):
        value = metric(logits, labels)
        assert metric(logits[order], labels[order]) == pytest.approx(value)
        assert metric(logits[:, classes], classes.argsort()[labels]) == pytest.approx(value)
        assert 0 <= value <= 1
    assert geometric_mean(logits, labels) <= balanced_accuracy(logits, labels) + 1e-12
    assert rank_auc(5 * logits - 3, labels) == pytest.approx(rank_auc(logits, labels))


def test_right_everywhere_is_one_and_a_constant_answer_is_a_half():
    labels, constant = torch.tensor([0, 0, 0, 1, 2]), torch.eye(3)[[0] * 5]
    metrics = geometric_mean, hard_auc, rank_auc
    assert [metric(torch.eye(3)[labels], labels) for metric in metrics] == [1, 1, 1]
    assert [metric(constant, labels) for metric in metrics] == [0, 0.5, 0.5]


def test_the_auc_of_ldam_is_that_of_its_probabilities_which_its_scale_orders_otherwise():
    torch.manual_seed(0)
    logits, labels = torch.randn(200, 3), torch.randint(3, (200,))
    found = evaluated("ldam", logits=logits, labels=labels)["auc"]
    assert found == pytest.approx(rank_auc((30 * logits.double()).softmax(1), labels))
    assert found != evaluated("softmax", logits=logits, labels=labels)["auc"]


# intervals


def wilson(hits, n, z=1.959963984540054):
    p = hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return tuple((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))


@pytest.mark.parametrize(
    ("hits", "n", "expected"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_interval_is_newcombes(hits, n, expected):
    """Newcombe 1998, Two-sided confidence intervals for the single proportion, Table I, method
    3."""
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


@pytest.mark.parametrize(
    ("values", "level", "mean", "half"),
    [
        ([1.0, 2.0, 3.0], 0.95, 2.0, 4.302653 / math.sqrt(3)),  # s = 1, t_2(0.975)
        ([0.5, 0.7], 0.95, 0.6, 12.706205 * 0.1),  # s = sqrt(2) / 2 * 0.2, t_1(0.975)
        ([1.0, 2.0, 3.0], 0.9, 2.0, 2.919986 / math.sqrt(3)),
        ([0.25, 0.25, 0.25], 0.95, 0.25, 0.0),
    ],
)
def test_t_interval_over_seeds(values, level, mean, half):
    assert mean_interval(values, level=level) == pytest.approx((mean, half), rel=1e-6)


def test_one_seed_has_a_mean_and_no_interval():
    mean, half = mean_interval([0.75])
    assert mean == 0.75
    assert np.isnan(half)


# calibration


def test_calibration_by_hand():
    table = calibration([0.05, 0.95, 0.9, 1.0], [False, True, False, True], bins=10)
    assert table["images"].tolist() == [1, 1, 2]  # (0, 0.1], (0.8, 0.9], (0.9, 1]
    assert table["accuracy"].tolist() == [0, 0, 1]
    assert expected_calibration_error(table) == pytest.approx((0.05 + 0.9 + 2 * 0.025) / 4)


@examples
@given(arrays(float, st.integers(1, 50), elements=st.floats(0, 1)), st.integers(1, 30))
def test_ece_is_between_0_and_1_and_counts_every_image(confidence, bins):
    table = calibration(confidence, np.zeros(len(confidence), bool), bins)
    assert table["images"].sum() == len(confidence)
    assert expected_calibration_error(table) == pytest.approx(confidence.mean())


@pytest.mark.parametrize(
    ("confidence", "right"), [([0.5], [True, False]), ([1.5], [True]), ([float("nan")], [True])]
)
def test_impossible_confidences_are_refused(confidence, right):
    with pytest.raises(ValueError, match="confidences between 0 and 1"):
        calibration(confidence, right)


# ranks


# the example of Demsar 2006: AUC of C4.5 and three variants on 14 data sets (one 0.975 ranks before
# the other)
DEMSAR = """
C4.5      C4.5+m    C4.5+cf   C4.5+m+cf
0.763     0.768     0.771     0.798
0.599     0.591     0.590     0.569
0.954     0.971     0.968     0.967
0.628     0.661     0.654     0.657
0.882     0.888     0.886     0.898
0.936     0.931     0.916     0.931
0.661     0.668     0.609     0.685
0.583     0.583     0.563     0.625
0.775     0.838     0.866     0.875
1.000     1.000     1.000     1.000
0.940     0.962     0.965     0.962
0.619     0.666     0.614     0.669
0.972     0.981     0.9751    0.975
0.957     0.978     0.946     0.970
"""


def demsar():
    return pd.read_csv(io.StringIO(DEMSAR), sep=r"\s+")


def test_rank_test_on_the_example_of_demsar():
    test = rank_test(demsar())
    assert test.ranks.round(3).tolist() == [3.143, 2.0, 2.893, 1.964]
    # printed without the correction for ties
    assert test.statistic == pytest.approx(9.28 / (1 - 78 / 840), abs=0.02)
    z = (3.143 - 1.964) / np.sqrt(4 * 5 / (6 * 14))
    assert test.pairs.loc["C4.5", "C4.5+m+cf"] == pytest.approx(6 * 2 * stats.norm.sf(z), rel=0.01)
    assert 0 <= test.concordance <= 1
    # 14 blocks are enough for the approximation
    assert test.p == pytest.approx(stats.chi2.sf(test.statistic, 3), abs=0.01)


def test_two_blocks_that_agree_by_permutation():
    """All 7! orders of the second block are equally likely: one of them agrees with the first in
    everything."""
    test = rank_test(pd.DataFrame([np.arange(7.0), np.arange(7.0)]))
    assert test.p < 0.002
    assert test.concordance == 1
    assert test.pairs.to_numpy().min() == pytest.approx(test.smallest)
    assert test.smallest > 0.05


@pytest.mark.slow
@settings(examples, max_examples=15)  # of thousands of permutations each
@given(arrays(float, st.tuples(st.integers(2, 8), st.integers(3, 6)), elements=st.floats(0, 1)))
def test_ranks_of_any_scores(scores):
    test = rank_test(pd.DataFrame(scores))
    k = scores.shape[1]
    assert test.ranks.sum() == pytest.approx(k * (k + 1) / 2)
    assert 0 <= test.p <= 1
    assert ((test.pairs >= 0) & (test.pairs <= 1)).all(axis=None)
    assert np.allclose(test.pairs, test.pairs.T)


def test_methods_that_never_differ_are_not_told_apart():
    test = rank_test(pd.DataFrame(np.ones((5, 3))))
    assert (test.statistic, test.p) == (0, 1)


@pytest.mark.parametrize(
    "scores", [np.ones((1, 3)), np.ones((5, 2)), np.array([[1, 2, np.nan]] * 3)]
)
def test_too_few_or_incomplete_scores_are_refused(scores):
    with pytest.raises(ValueError, match="expected at least 3 methods on at least 2 blocks"):
        rank_test(pd.DataFrame(scores))


@examples
@given(arrays(float, st.tuples(st.integers(1, 12), st.just(2)), elements=st.integers(0, 5)))
def test_the_pareto_front_by_definition(points):
    front = pareto_front(points)
    for i, (x, y) in enumerate(points):
        dominated = any(a >= x and b >= y and (a > x or b > y) for a, b in points)
        assert front[i] == (not dominated)


def test_what_exceeds_the_noise():
    assert not exceeds_noise(0.50, 100, 0.60, 100)  # z = 1.42
    assert exceeds_noise(0.50, 1000, 0.60, 1000)
    assert not exceeds_noise(0.50, 1000, 0.60, 1000, sem=0.06)
    assert not exceeds_noise(0.0, 38, 0.0, 38)
    assert exceeds_noise(0.0, 38, 0.3, 38)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_the_difference_of_shares_is_that_of_statsmodels(n1, n2, data):
    x1, x2 = data.draw(st.integers(0, n1)), data.draw(st.integers(0, n2))
    difference, error = share_difference(x1 / n1, n1, x2 / n2, n2)
    low, high = confint_proportions_2indep(x1, n1, x2, n2, method="agresti-caffo", compare="diff")
    ours = difference - 1.959964 * error, difference + 1.959964 * error
    assert ours == pytest.approx((low, high), abs=1e-6)


# against a control, and two methods


def holm(p):
    """The j-th smallest of m p-values times m - j, and no smaller than those before it; equal ones
    as the first of them."""
    return [min(1, max((p >= q).sum() * q for q in p if q <= own)) for own in p]


def test_the_control_test_on_the_example_of_demsar():
    """Section 3.2.2: C4.5 is the control; z, p and the step-down as printed there."""
    table = control_test(demsar(), "C4.5")
    assert table["z"].abs().round(2).tolist() == [2.34, 0.51, 2.42]
    assert table["p"].round(3).tolist() == [0.019, 0.608, 0.016]
    assert (table["z"] < 0).all(), "the control ranks worse"
    np.testing.assert_allclose(table["p_holm"], holm(table["p"]))
    assert table["p_holm"].round(3).tolist() == [0.047, 0.608, 0.047]


@examples
@given(
    arrays(float, st.tuples(st.integers(1, 8), st.integers(2, 7)), elements=st.integers(0, 4)),
    st.integers(0, 6),
)
def test_the_control_test_is_its_formula_with_holms_step_down(scores, control):
    blocks, methods = scores.shape
    table = pd.DataFrame(scores).rename(columns=str)
    name = str(control % methods)
    found = control_test(table, name)
    assert found.index.tolist() == [column for column in table.columns if column != name]
    ranks = np.mean([stats.rankdata(-row) for row in scores], axis=0)
    spread = math.sqrt(methods * (methods + 1) / (6 * blocks))
    z = (np.delete(ranks, int(name)) - ranks[int(name)]) / spread
    np.testing.assert_allclose(found["z"], z, atol=1e-12)
    np.testing.assert_allclose(found["p"], [math.erfc(abs(v) / math.sqrt(2)) for v in z])
    np.testing.assert_allclose(found["p_holm"], holm(found["p"]))


@pytest.mark.parametrize(
    ("scores", "control", "message"),
    [
        (np.ones((3, 2)), "c", "control = 'c': expected one of a, b"),
        (
            np.ones((3, 1)),
            "a",
            "1 methods on 3 blocks: expected at least 2 methods on at least 1 block",
        ),
        (np.ones((0, 2)), "a", "2 methods on 0 blocks"),
        (np.array([[1, np.nan]]), "a", "without gaps"),
    ],
)
def test_an_impossible_control_test_is_refused(scores, control, message):
    with pytest.raises(ValueError, match=message):
        control_test(pd.DataFrame(scores, columns=list("ab")[: scores.shape[1]]), control)


def test_the_signed_rank_test_by_hand():
    """Differences 1, -2, 3, 4, 5 and one of 0: W = 2, mean 7.5, variance 5 6 11 / 24."""
    statistic, p = signed_rank_test([1, 0, 3, 4, 5, 7], [0, 2, 0, 0, 0, 7])
    assert statistic == 2
    assert p == pytest.approx(2 * stats.norm.cdf((2 - 7.5) / math.sqrt(5 * 6 * 11 / 24)))


def test_the_signed_rank_test_on_the_example_of_demsar():
    """Section 3.1.3: C4.5 and C4.5+m, T = 12, z = -2.54. There the two equal pairs have the ranks
    1.5, half of them on each side, and the two of C4.5 ranks higher by 2: T = 6.5 + 1.5 + 2 + 2."""
    statistic, p = signed_rank_test(demsar()["C4.5+m"], demsar()["C4.5"])
    assert statistic == 6.5
    assert stats.norm.ppf(p / 2) == pytest.approx(-2.54, abs=0.02)
    assert (statistic, p) == signed_rank_test(demsar()["C4.5"], demsar()["C4.5+m"])


def test_two_methods_that_never_differ_are_not_told_apart_by_signed_ranks():
    assert signed_rank_test([1, 2, 3], [1, 2, 3]) == (0, 1)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1, 2], [1]),
        ([], []),
        ([1, np.nan], [1, 2]),
        ([[1, 2]], [[1, 2]]),
        ([np.inf, 1], [np.inf, 2]),
    ],
)
def test_pairs_with_gaps_are_refused(a, b):
    with pytest.raises(ValueError, match="expected two lists of as many finite numbers"):
        signed_rank_test(a, b)


@given(effect=st.floats(0.2, 5.0), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_seeds_for_power_are_those_of_statsmodels(effect, seed):
    d = np.random.default_rng(seed).normal(size=4)
    d = (d - d.mean()) / d.std(ddof=1) + effect
    exact = TTestPower().solve_power(effect_size=effect, alpha=0.05, power=0.8)
    assert seeds_for_power(d) == max(2, math.ceil(exact))


def test_seeds_for_power_at_the_edges():
    assert seeds_for_power([1.0, 1.0]) == 2
    assert seeds_for_power([0.0, 0.0]) == seeds_for_power([1.0, -1.0]) == 1000
    with pytest.raises(ValueError, match="expected at least two"):
        seeds_for_power([1.0])


def test_the_participation_ratio_counts_the_directions_of_a_spread():
    square = torch.tensor([[1.0, 1, 5], [1, -1, 5], [-1, 1, 5], [-1, -1, 5]])
    assert participation_ratio(square) == pytest.approx(2)
    assert participation_ratio(square[:2]) == pytest.approx(1)
    assert participation_ratio(square[:1].expand(4, 3)) == 0
    stretched = square * torch.tensor([3.0, 1, 0])  # eigenvalues in the ratio 9 to 1
    assert participation_ratio(stretched) == pytest.approx(100 / 82)


@examples
@given(st.integers(0, 10_000), st.integers(2, 30), st.integers(1, 8))
def test_the_participation_ratio_is_between_1_and_the_features_and_knows_no_axes(seed, n, size):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(n, size, dtype=torch.float64, generator=draw)
    turn = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=draw))[0]
    ratio = participation_ratio(x)
    assert 1 - 1e-9 <= ratio <= min(size, n - 1) + 1e-9
    assert participation_ratio(7 * x @ turn + 3) == pytest.approx(ratio)
