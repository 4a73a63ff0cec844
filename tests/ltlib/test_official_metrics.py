"""Metrics and statistics against golden values: golden/systems.npz."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from ltlib import metrics

GOLDEN_FILE = Path(__file__).resolve().parents[1] / "golden" / "systems.npz"

GOLDEN = np.load(GOLDEN_FILE)


def golden(case, field):
    """A tensor of the golden values; a number for a scalar."""
    value = torch.as_tensor(GOLDEN[f"{case}/{field}"])
    return value if value.ndim else value.item()


def assert_golden(found, case, field, tol=1e-10):
    found = np.asarray(found)
    assert found.shape == GOLDEN[f"{case}/{field}"].shape
    np.testing.assert_allclose(found, GOLDEN[f"{case}/{field}"], rtol=tol, atol=tol)


def test_the_metrics_are_the_golden_ones():
    case = "metrics"
    labels, predicted = golden(case, "y_true"), F.one_hot(golden(case, "y_pred"), 4).double()
    images, hits = map(np.array, metrics.class_hits(predicted, labels))
    assert_golden(hits / images, case, "recall")
    assert_golden(metrics.geometric_mean(predicted, labels), case, "gmean")
    assert_golden(metrics.balanced_accuracy(predicted, labels), case, "class_wise_accuracy")
    assert_golden(metrics.hard_auc(predicted, labels), case, "auc_hard_ovr")
    assert_golden(metrics.rank_auc(golden(case, "scores"), labels), case, "auc_score_ovr")
    assert_golden(hits.sum() / images.sum(), case, "accuracy")


TABLE = pd.DataFrame(
    GOLDEN["stats_arconvl_table1/gmeans"],
    columns=["CPL", "GCPL", "Focal", "CB", "CBFocal", "Affinity", "LA", "ARConvL"],
)


def test_the_tests_of_ranks_of_arconvls_table_are_the_golden_ones():
    case = "stats_arconvl_table1"
    test = metrics.rank_test(TABLE)
    assert_golden(test.ranks.to_numpy(), case, "avg_rank")
    assert_golden(TABLE.rank(axis=1, ascending=False).to_numpy(), case, "ranks")
    assert np.abs(test.ranks - GOLDEN[f"{case}/printed_avg_rank"]).max() < 0.13
    assert_golden(test.statistic, case, "friedman_chi2")
    assert stats.chi2.sf(test.statistic, 7) == pytest.approx(golden(case, "friedman_p"), rel=1e-6)


def test_the_control_tests_of_arconvls_table_are_the_golden_ones():
    case = "stats_arconvl_table1"
    table = metrics.control_test(TABLE, "ARConvL")
    assert table.index.tolist() == TABLE.columns[:-1].tolist()
    for column, field in (("z", "z_vs_control"), ("p", "p_vs_control"), ("p_holm", "p_holm")):
        np.testing.assert_allclose(table[column], GOLDEN[f"{case}/{field}"], rtol=1e-8)


def test_the_signed_rank_test_of_arconvls_ablation_is_the_golden_one():
    case = "stats_arconvl_table1"
    found = metrics.signed_rank_test(TABLE["ARConvL"], GOLDEN[f"{case}/beta0_column"])
    assert found == pytest.approx(
        (golden(case, "wilcoxon_beta0_stat"), golden(case, "wilcoxon_beta0_p")), rel=1e-10
    )
