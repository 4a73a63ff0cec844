"""What a model is judged by: accuracy, G-mean, AUC, F1, cross-entropy and calibration on an
evaluation set, intervals, tests of ranks."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy  # loads its parts when they are asked for
import torch
from torch import Tensor
from torch.nn import functional as F

from ltlib.losses import Loss


def evaluate(logits: Tensor, labels: Tensor, loss: Loss) -> dict[str, float]:
    """Metrics of one evaluation set.

    logits (N, C) as the model gives them, labels (N,), loss in eval mode ->
      n          images
      acc1       share with argmax z = y, 0 to 1
      hits       n * acc1, a whole number
      loss       plain cross-entropy of ``loss.prediction_logits``, mean over images: comparable
                 between losses
      criterion  the training loss itself, mean as it defines it: not comparable between losses
      f1         F1 per class, averaged with the classes' support as weight (the thesis's F1)
      f1_macro   F1 per class, averaged over the classes that occur
      class_acc  accuracy of each class that occurs, averaged: acc1 where they have equal numbers of
                 images
      gmean      their geometric mean
      auc_hard   AUC of the hard predictions, one class against the rest (:func:`hard_auc`)
      auc        AUC of the scores, one class against the rest (:func:`rank_auc`)
    Records from before the last four were measured do not have them.
    """
    from sklearn.metrics import f1_score

    logits = logits.double()
    meant = loss.prediction_logits(logits)
    predicted = logits.argmax(1)
    hits = int((predicted == labels).sum())
    y, y_hat = labels.numpy(), predicted.numpy()
    f1_of = functools.partial(f1_score, y, y_hat, labels=np.unique(y), zero_division=0)
    return {
        "n": len(labels),
        "acc1": hits / len(labels),
        "hits": hits,
        "loss": float(F.cross_entropy(meant, labels)),
        "criterion": float(loss(logits, labels)),
        "f1": float(f1_of(average="weighted")),
        "f1_macro": float(f1_of(average="macro")),
        "class_acc": balanced_accuracy(logits, labels),
        "gmean": geometric_mean(logits, labels),
        "auc_hard": hard_auc(logits, labels),
        "auc": rank_auc(meant.softmax(1), labels),
    }


def class_hits(logits: Tensor, labels: Tensor) -> tuple[list[int], list[int]]:
    """Images and hits of each class: logits (N, C), labels (N,) -> two lists of C whole numbers."""
    right = labels[logits.argmax(1) == labels]
    images, hits = (torch.bincount(y, minlength=logits.shape[1]) for y in (labels, right))
    return images.tolist(), hits.tolist()


def of_hits(images: np.ndarray, hits: np.ndarray) -> dict[str, float]:
    """Metrics that follow from the images and the hits of each class, (C,) whole numbers each.

    class_acc  accuracy of each class that occurs, averaged, 0 to 1
    gmean      G-mean: their geometric mean, 0 to 1; 0 if a class has none right
    """
    recalls = hits[images > 0] / images[images > 0]
    return {"class_acc": float(recalls.mean()), "gmean": float(scipy.stats.gmean(recalls))}


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Accuracy of each class that occurs, averaged, 0 to 1: what the validation set is judged by,
    too."""
    return of_hits(*map(np.array, class_hits(logits, labels)))["class_acc"]


def geometric_mean(logits: Tensor, labels: Tensor) -> float:
    """G-mean of the classes that occur (:func:`of_hits`): logits (N, C), labels (N,) -> 0 to 1."""
    return of_hits(*map(np.array, class_hits(logits, labels)))["gmean"]


def participation_ratio(features: Tensor) -> float:
    """In how many directions features (N, D) spread: (sum l)^2 / sum l^2, 1 to D, for the
    eigenvalues l of their covariance; 0 where all are the same.

    k for the same spread in k directions, near 1 where the features have collapsed to a line.
    """
    x = features.double() - features.double().mean(0)
    gram = x.T @ x
    squares = gram.square().sum()  # the sum of the squares of its eigenvalues
    return float(gram.trace().square() / squares) if squares else 0.0


def hard_auc(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of (1 + TPR - FPR) / 2, the area under the one point that
    hard predictions give, 0 to 1.

    TPR: share of the class's images that are called so; FPR: share of the others. It is what
    PF-loss's tables call AUC; 0.5 where only one class occurs, as nothing is known of its FPR.
    logits (N, C), labels (N,).
    """
    from sklearn.metrics import confusion_matrix  # here, because it takes a second to import

    confusion = confusion_matrix(labels, logits.argmax(1), labels=range(logits.shape[1]))
    images, called, right = confusion.sum(1), confusion.sum(0), confusion.diagonal()
    occurs = images > 0
    if occurs.sum() < 2:
        return 0.5
    false_positives = (called - right)[occurs] / (images.sum() - images[occurs])
    return float(((1 + right[occurs] / images[occurs] - false_positives) / 2).mean())


def rank_auc(scores: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the area under the ROC curve of their scores against all
    other images, ties as 1/2, 0 to 1.

    From the ranks r of each class's scores: (sum of r over its images - n (n + 1) / 2) / (n (N -
    n)). scores (N, C), higher for the class, labels (N,); 0.5 where only one class occurs. Source:
    Mann and Whitney 1947.
    """
    y, classes = labels.numpy(), scores.shape[1]
    images = np.bincount(y, minlength=classes)
    occurs = images > 0
    if occurs.sum() < 2:
        return 0.5
    own, s = np.empty(len(y)), scores.numpy()
    for first in range(0, classes, 100):  # the ranks of all classes at once take much memory
        rows = np.flatnonzero((y >= first) & (y < first + 100))
        ranks = scipy.stats.rankdata(s[:, first : first + 100], axis=0)
        own[rows] = ranks[rows, y[rows] - first]
    above = (np.bincount(y, own, classes) - images * (images + 1) / 2)[occurs]
    return float((above / (images * (len(y) - images))[occurs]).mean())


def proportion_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share of n images: what the finite test set leaves open, for one
    trained model.

    0 <= hits <= n, n >= 1 -> (low, high) within [0, 1]. Raises ValueError otherwise. Source: Wilson
    1927.
    """
    if not 0 <= hits <= n or n < 1:
        expected = "hits must lie between 0 and n, and n must be at least 1"
        raise ValueError(f"hits = {hits} of n = {n}: {expected}")
    low, high = scipy.stats.binomtest(hits, n).proportion_ci(
        confidence_level=level, method="wilson"
    )
    return float(low), float(high)


def share_difference(p1: float, n1: int, p2: float, n2: int) -> tuple[float, float]:
    """Difference of two shares of independent images and its standard error, with one hit and one
    miss added to each sample.

    d = q1 - q2, se^2 = q1 (1 - q1) / (n1 + 2) + q2 (1 - q2) / (n2 + 2), q = (n p + 1) / (n + 2):
    shares of 0 and 1 have a spread too.
    Source: Agresti and Caffo 2000.
    """
    q1, q2 = ((n * p + 1) / (n + 2) for p, n in ((p1, n1), (p2, n2)))
    return q1 - q2, float(np.sqrt(q1 * (1 - q1) / (n1 + 2) + q2 * (1 - q2) / (n2 + 2)))


def exceeds_noise(p1: float, n1: int, p2: float, n2: int, sem: float = 0.0) -> bool:
    """Whether two shares differ by more than chance: |d| > z sqrt(se^2 + sem^2), d and se of
    :func:`share_difference`.

    sem: standard error over seeds of one of them, if it is a mean.
    """
    difference, error = share_difference(p1, n1, p2, n2)
    return abs(difference) > scipy.stats.norm.ppf(0.975) * np.hypot(error, sem)


def mean_interval(values, level: float = 0.95) -> tuple[float, float]:
    """Mean over seeds and the half width of Student's t interval: mean +- t_(k-1) s / sqrt(k).

    values: k numbers, one per seed. k = 1 gives a half width of nan: one seed says nothing about
    the spread.
    """
    values = np.asarray(values, float)
    if len(values) < 2:
        return float(values.mean()), float("nan")
    return float(values.mean()), float(student(len(values), level) * scipy.stats.sem(values))


def seeds_for_power(differences, power: float = 0.8, level: float = 0.95, most: int = 1000) -> int:
    """The smallest number of seeds with which a two-sided paired t test would tell the mean of
    these differences (S,) from 0 with this power, were their mean and standard deviation the true
    ones.

    ``most`` where it would take more, or where the mean is 0. Raises ValueError for fewer than two.
    Source: Cohen 1988; the test statistic is noncentral t with n - 1 degrees of freedom and
    noncentrality sqrt(n) |mean| / sd. That it falls on the wrong side for sure is passed over.
    """
    d = np.asarray(differences, float)
    if len(d) < 2:
        raise ValueError(f"differences = {d.tolist()}: expected at least two")
    mean, sd = abs(d.mean()), d.std(ddof=1)
    if sd == 0:
        return 2 if mean else most
    n = np.arange(2, most)
    critical = scipy.stats.t.ppf(0.5 + level / 2, n - 1)
    enough = np.flatnonzero(scipy.stats.nct.sf(critical, n - 1, np.sqrt(n) * mean / sd) >= power)
    return int(n[enough[0]]) if len(enough) else most


def student(k: int, level: float = 0.95) -> float:
    """Student's t of the two-sided interval of a mean over k >= 2 seeds: 12.7 for 2, 4.3 for 3."""
    return float(scipy.stats.t.ppf(0.5 + level / 2, k - 1))


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = 15) -> pd.DataFrame:
    """The reliability table of N images: one row per bin of equal width of the confidence that
    holds images.

    confidence (N,) in [0, 1], the probability of the predicted class; right (N,) bool -> columns
    confidence (mean), accuracy, images. Raises ValueError for arrays of different lengths or
    confidences outside [0, 1]. Source: Guo et al. 2017.
    """
    confidence, right = np.asarray(confidence, float), np.asarray(right, float)
    if confidence.shape != right.shape or not np.all((confidence >= 0) & (confidence <= 1)):
        raise ValueError(
            "expected as many confidences between 0 and 1 as outcomes: got shapes"
            f" {confidence.shape} and {right.shape}"
        )
    above = np.ceil(confidence * bins).astype(int) - 1  # (0, 1/bins], ..., as in the paper
    table = pd.DataFrame({"confidence": confidence, "accuracy": right, "images": 1})
    how = {"confidence": "mean", "accuracy": "mean", "images": "sum"}
    return table.groupby(np.clip(above, 0, bins - 1)).agg(how)


def expected_calibration_error(table: pd.DataFrame) -> float:
    """ECE = sum_b (n_b / N) |accuracy_b - confidence_b|, 0 to 1, of a :func:`calibration` table.
    Source: Guo et al. 2017."""
    gaps = (table["accuracy"] - table["confidence"]).abs()
    return float(np.average(gaps, weights=table["images"]))


@dataclass(frozen=True)
class RankTest:
    """ranks: mean rank of each method over the blocks, 1 is best; statistic and p: Friedman's test
    of equal ranks; pairs: (k, k) p-values of all pairs, Holm-corrected; smallest: the smallest that
    so few blocks can give; concordance: Kendall's W, 0 to 1."""

    ranks: pd.Series
    statistic: float
    p: float
    pairs: pd.DataFrame
    smallest: float
    concordance: float


DRAWS = 19_999


def rank_test(scores: pd.DataFrame) -> RankTest:
    """Friedman's test of k methods on N blocks, and the pairwise tests after it.

    scores (N, k): a row per block (data set, backbone), a column per method, higher is better. p is
    a permutation p-value, (1 + hits) / (1 + ``DRAWS``) with a fixed seed: the chi-square
    approximation is far off for a handful of blocks. Pairs: z = |R_i - R_j| / sqrt(k (k + 1) / 6N),
    two-sided, Holm-corrected. Raises ValueError for fewer than 3 methods or 2 blocks, or gaps.
    Source: Demsar 2006, Statistical Comparisons of Classifiers over Multiple Data Sets;
    scikit-posthocs.
    """
    blocks, methods = scores.shape
    if methods < 3 or blocks < 2 or scores.isna().any(axis=None):
        raise ValueError(
            f"{methods} methods on {blocks} blocks: expected at least 3 methods on at least 2"
            " blocks, without gaps"
        )
    import scikit_posthocs

    statistic = scipy.stats.friedmanchisquare(*scores.to_numpy().T).statistic
    statistic = float(np.nan_to_num(statistic))  # nan: all equal in every block
    ranks = scores.rank(axis=1, ascending=False).to_numpy()
    pairs = scikit_posthocs.posthoc_siegel_friedman(scores.to_numpy(), p_adjust="holm")
    pairs = pd.DataFrame(pairs.to_numpy(), scores.columns, scores.columns)
    z = (methods - 1) / np.sqrt(methods * (methods + 1) / (6 * blocks))
    smallest = min(1.0, methods * (methods - 1) * float(scipy.stats.norm.sf(z)))
    mean_ranks = pd.Series(ranks.mean(0), scores.columns)
    concordance = statistic / (blocks * (methods - 1))
    return RankTest(mean_ranks, statistic, _friedman_p(ranks), pairs, smallest, concordance)


def _friedman_p(ranks: np.ndarray) -> float:
    """Permutation p-value of equal mean ranks; ranks (N, k)."""
    middle = (ranks.shape[1] + 1) / 2
    shuffled = np.broadcast_to(ranks, (DRAWS, *ranks.shape))
    draws = np.random.default_rng(0).permuted(shuffled, axis=2).mean(1)
    # the spread rises with the statistic, whose tie correction no permutation changes
    spread = ((draws - middle) ** 2).sum(1)
    hits = int((spread >= ((ranks.mean(0) - middle) ** 2).sum() - 1e-9).sum())
    return (1 + hits) / (1 + DRAWS)


def control_test(scores: pd.DataFrame, control: str) -> pd.DataFrame:
    """Each method's mean rank against that of one of them, the control, over N blocks.

    z = (R_i - R_0) / sqrt(k (k + 1) / 6N), above 0 where the control ranks better; p two-sided,
    normal; p_holm: Holm's step-down over the k - 1 comparisons. scores (N, k): a row per block, a
    column per method, higher is better -> a row per method but the control, columns z, p, p_holm.
    Raises ValueError for a control that is no column, fewer than 2 methods or 1 block, or gaps.
    Source: Demsar 2006, Statistical Comparisons of Classifiers over Multiple Data Sets.
    """
    blocks, methods = scores.shape
    if control not in scores.columns:
        names = ", ".join(map(str, scores.columns))
        raise ValueError(f"control = {control!r}: expected one of {names}")
    if methods < 2 or blocks < 1 or scores.isna().any(axis=None):
        raise ValueError(
            f"{methods} methods on {blocks} blocks: expected at least 2 methods on at least 1"
            " block, without gaps"
        )
    ranks = scores.rank(axis=1, ascending=False).mean()
    z = (ranks.drop(control) - ranks[control]) / np.sqrt(methods * (methods + 1) / (6 * blocks))
    table = pd.DataFrame({"z": z, "p": 2 * scipy.stats.norm.sf(z.abs())})
    by_p = table["p"].sort_values(kind="stable")
    steps = (by_p * np.arange(methods - 1, 0, -1)).cummax().clip(upper=1)
    return table.assign(p_holm=steps)  # which goes by the methods' names


def signed_rank_test(a, b) -> tuple[float, float]:
    """Wilcoxon's signed-rank test of two methods on N blocks: (W, p).

    W: the smaller of the two sums of ranks of |a - b|, pairs without a difference left out; p
    two-sided, by the normal approximation with its correction for ties, for N above about 10; (0,
    1) where no pair differs. a, b: N numbers each, in the same order. Raises ValueError for other
    shapes or gaps. Source: Demsar 2006; SciPy's ``wilcoxon(zero_method="wilcox")``.
    """
    a, b = np.asarray(a, float), np.asarray(b, float)
    lists = a.shape == b.shape and a.ndim == 1 and len(a) > 0
    if not lists or not np.isfinite([a, b]).all():
        raise ValueError(
            "expected two lists of as many finite numbers, one of each for a block: got shapes"
            f" {a.shape} and {b.shape}"
        )
    if np.array_equal(a, b):
        return 0.0, 1.0
    result = scipy.stats.wilcoxon(a, b, zero_method="wilcox", correction=False, method="approx")
    return float(result.statistic), float(result.pvalue)


def pareto_front(points: np.ndarray) -> np.ndarray:
    """(N, 2) points, higher is better in both -> (N,) bool: no other point is as good in both and
    better in one."""
    points = np.asarray(points, float)
    as_good = (points[None] >= points[:, None]).all(2)
    better = (points[None] > points[:, None]).any(2)
    return ~np.any(as_good & better, axis=1)
