"""The methods against golden values, from papers and official code: golden/systems.npz."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from systems import (
    CASES,
    GOLDEN,
    arconvl,
    assert_golden,
    distance_head,
    distances,
    golden,
    value_and_gradients,
)
from torch import nn
from torch.nn import functional as F

from ltlib.losses import build_loss
from ltlib.methods import (
    PF,
    cosine_matrix,
    gbg_weights,
    group_by_gradient,
    min_norm_weights,
)


def test_every_golden_case_is_tested():
    files = (Path(__file__), Path(__file__).parents[1] / "test_official_metrics.py")
    source = "".join(path.read_text() for path in files)
    assert [case for case in CASES if f'"{case}"' not in source] == []


def paper_logits(probabilities, labels):
    """Logits of two classes that give each label its probability."""
    p = torch.as_tensor(probabilities)[:, None]
    own = F.one_hot(labels, 2)
    return (own * p + (1 - own) * (1 - p)).log()


INVERSE = {"weighting": "inverse", "normalize": "batch"}

# the paper sums over the four images, weighs by 1 / n_c and takes logarithms to the base 10;
# ours is a mean, and weights sum to C
PAPER = {
    "CE": ("softmax", {}, 4, 1e-2 / 2),
    "WCE": ("weighted_softmax", INVERSE, 4 * 2 / 3, 1e-3),
    "FL": ("focal", {}, 4, 1e-3 / 2),
    "FLalpha": ("focal", INVERSE, 4 * 2 / 3, 1e-3 / 2),
    "PF": ("pf", {}, 1, 1e-3 / 2),
}


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize(("number", "state"), [(0, "k"), (1, "ma"), (2, "mi")])
def test_the_worked_examples_of_pf_loss_are_the_papers(name, number, state):
    case = "pf_paper_examples_log10"
    loss, options, scale, printed = PAPER[name]
    labels = golden(case, "labels")
    value = (
        scale
        * build_loss(loss, [1, 3], **options)(
            paper_logits(golden(case, f"{state}_probs"), labels), labels
        )
        / math.log(10)
    )
    assert_golden(value, case, f"{state}_{name}")
    assert value.item() == pytest.approx(
        golden(case, f"printed_{name}")[number].item(), abs=printed
    )


@pytest.mark.parametrize(("form", "suffix"), [("logsumexp", ""), ("eps", "_eps1e7")])
@pytest.mark.parametrize("case", ["pf_basic", "pf_absent_class"])
def test_pf_loss_and_its_gradient_are_the_golden_ones(case, form, suffix):
    counts = np.ones(golden(case, "num_classes"))
    value, gradient = value_and_gradients(
        lambda z: build_loss("pf", counts, form=form)(z, golden(case, "labels")),
        golden(case, "logits"),
    )
    assert_golden(value, case, f"loss{suffix}")
    assert_golden(gradient, case, f"grad_logits{suffix}")
    if not suffix:
        assert_golden(value / math.log(10), case, "loss_log10")


def test_pfh_loss_and_its_gradient_are_the_golden_ones():
    case = "pfh_basic"
    counts = np.ones(golden(case, "num_classes"))
    value, gradient = value_and_gradients(
        lambda z: PF(counts, hard=True)(z, golden(case, "labels")), golden(case, "logits")
    )
    assert_golden(value, case, "loss")
    assert_golden(gradient, case, "grad_logits")


def test_pf_loss_of_two_classes_is_equations_13_and_14():
    """Which leave the divisor, the two classes, out; the score is the difference of the logits."""
    case = "pf_binary_eq13_14"
    labels = golden(case, "t").long()
    value, gradient = value_and_gradients(
        lambda s: 2 * PF([1, 1])(torch.stack([0 * s, s], 1), labels), golden(case, "score")
    )
    assert_golden(value, case, "loss")
    assert_golden(gradient, case, "grad_score")


TERMS = {
    "region": (),
    "distribution": ("features", "centres"),
    "points": ("features", "centres"),
    "centres": ("centres",),
}

TERM_FIELDS = {
    "region": "L_R",
    "distribution": "L_D",
    "points": "L_M_points",
    "centres": "L_M_centres",
}


@pytest.fixture(params=["arconvl_main", "arconvl_beta0"])
def regions_case(request):
    return request.param


def golden_arconvl(case, ld_weight):
    return arconvl(
        GOLDEN[f"{case}/class_counts"],
        golden(case, "radii"),
        gamma=golden(case, "gamma"),
        ld_weight=ld_weight,
    )


@pytest.mark.parametrize("term", TERMS)
def test_each_term_of_arconvl_and_its_gradient_are_the_golden_ones(regions_case, term):
    case, loss = regions_case, golden_arconvl(regions_case, "paper")

    def function(features, centres, a):
        loss.a = nn.Parameter(a.detach())
        del loss.a
        loss.a = a
        return loss.terms(distances(features, centres), golden(case, "labels"), centres)[term]

    value, features, centres, radii = value_and_gradients(
        function, *(golden(case, name) for name in ("features", "centres", "radii"))
    )
    assert_golden(value, case, TERM_FIELDS[term])
    expected = {
        "region": {"radii": "grad_radii"},
        "distribution": {"features": "grad_features_LD", "centres": "grad_centres_LD"},
        "points": {"features": "grad_features_LM", "centres": "grad_centres_LM_points"},
        "centres": {"centres": "grad_centres_LM_centres"},
    }[term]
    for name, gradient in (("features", features), ("centres", centres), ("radii", radii)):
        if name in expected:
            assert_golden(gradient, case, expected[name])
        else:
            assert gradient.abs().max() == 0, f"{term} is not to move the {name}"


@pytest.mark.parametrize(("ld_weight", "prefix"), [("paper", ""), ("mean1", "code_")])
def test_arconvl_and_its_gradients_are_the_golden_ones(regions_case, ld_weight, prefix):
    case, loss = regions_case, golden_arconvl(regions_case, ld_weight)
    head, features = (
        distance_head(golden(case, "centres")),
        golden(case, "features").requires_grad_(),
    )
    logits, labels = head(features), golden(case, "labels")
    value = loss(logits, labels, head=head)
    value.backward()
    assert_golden(value.detach(), case, f"{prefix}loss")
    assert_golden(
        loss.terms(logits, labels, head.weight)["distribution"].detach(), case, f"{prefix}L_D"
    )
    for gradient, field in (
        (features.grad, f"{prefix}grad_features"),
        (head.weight.grad, f"{prefix}grad_centres"),
        (loss.a.grad, "grad_radii"),
    ):
        assert_golden(gradient, case, field)
    assert logits.argmax(1).tolist() == golden(case, "pred").tolist()


def test_the_regions_of_arconvl_are_the_golden_ones(regions_case):
    case, loss = regions_case, golden_arconvl(regions_case, "paper")
    found = loss.regions(golden(case, "centres"))
    for value, field in (
        (found["ben2"].sqrt(), "R_ben"),
        (found["upp2"].sqrt(), "R_upp"),
        (found["beta"], "beta"),
        (found["sigma2"], "sigma2"),
        (loss.alpha, "alpha"),
        (loss.log_eta.exp(), "eta"),
    ):
        assert_golden(value, case, field)
    points, centres = (golden(case, f"L_M_{name}") for name in ("points", "centres"))
    assert golden(case, "L_M") == pytest.approx(points + centres)


RIVALS = {
    "cpl": ("softmax", {}),
    "la": ("balanced_softmax", {}),
    "focal": ("focal", {"gamma": 2.0}),
    "cb": ("class_balanced", {"beta": 0.9999, "normalize": "batch"}),
    "gcpl": ("gcpl", {"weight": 0.1}),
    "affinity_0.75": ("affinity", {"margin": 0.75, "sigma": 10.0}),
}


@pytest.mark.parametrize("case", RIVALS)
def test_the_rivals_of_arconvl_on_a_distance_head_are_the_golden_ones(case):
    name, options = RIVALS[case]
    counts = (
        GOLDEN[f"{case}/class_counts"]
        if f"{case}/class_counts" in GOLDEN
        else np.ones(len(golden(case, "centres")))
    )
    loss, head = build_loss(name, counts, **options), distance_head(golden(case, "centres"))
    features = golden(case, "features").requires_grad_()
    logits = head(features)
    logits.retain_grad()
    value = loss(logits, golden(case, "labels"), features=features, head=head)
    value.backward()
    assert_golden(value.detach(), case, "loss")
    assert_golden(features.grad, case, "grad_features")
    assert_golden(head.weight.grad, case, "grad_centres")
    if f"{case}/grad_logits" in GOLDEN:
        assert_golden(logits.detach(), case, "logits")
        assert_golden(logits.grad, case, "grad_logits")
    if case == "cb":
        assert_golden(loss.weights, case, "weights")
    if case == "affinity_0.75":
        assert_golden(loss.eval()(logits, golden(case, "labels"), head=head).detach(), case, "L_mm")
        assert_golden(value.detach() - golden(case, "L_mm"), case, "R_w")


@pytest.mark.parametrize(
    "case",
    ["minnorm_K2", "minnorm_K3", "minnorm_K4", "minnorm_K5", "minnorm_opposite", "minnorm_single"],
)
def test_min_norm_weights_are_the_golden_ones(case):
    gradients = golden(case, "grads")
    weights = torch.as_tensor(min_norm_weights(gradients @ gradients.T))
    assert_golden(weights, case, "weights")
    assert_golden(weights @ gradients, case, "direction")
    assert_golden((weights @ gradients).square().sum(), case, "sq_norm")


@pytest.mark.parametrize("case", ["minnorm_K2", "minnorm_K3", "minnorm_K4", "minnorm_K5"])
def test_the_weights_of_gbg_are_the_golden_ones(case):
    gradients, losses = golden(case, "grads"), golden(case, "losses")
    weights = torch.as_tensor(gbg_weights(gradients, losses))
    assert_golden(weights, case, "weights_lossplus", tol=1e-8)
    assert_golden(weights @ gradients, case, "combined_gbg", tol=1e-8)
    scaled = gradients / (losses * gradients.norm(dim=1))[:, None]
    assert_golden((weights @ scaled).square().sum(), case, "sq_norm_lossplus", tol=1e-8)
    unit = gradients / gradients.norm(dim=1, keepdim=True)
    plain = torch.as_tensor(min_norm_weights(unit @ unit.T))  # without the losses
    assert_golden(plain, case, "weights_l2", tol=1e-8)
    assert_golden((plain @ unit).square().sum(), case, "sq_norm_l2", tol=1e-8)


def partition(groups):
    """The index of the first member of each one's group."""
    groups = list(groups)
    return [groups.index(g) for g in groups]


def test_grouping_by_gradient_is_the_golden_partition():
    pytest.importorskip("sklearn")
    case = "gbg_spectral"
    cosines = cosine_matrix(golden(case, "vectors"))
    assert_golden(cosines + 1, case, "affinity")
    found = group_by_gradient(cosines, golden(case, "n_groups"))
    assert partition(found) == golden(case, "partition_canonical").tolist()
    weights = cosines + 1 - np.diag(np.diag(cosines + 1))
    root = np.sqrt(np.outer(weights.sum(0), weights.sum(0)))
    assert_golden(
        np.sort(np.linalg.eigvalsh(np.eye(12) - weights / root)), case, "laplacian_eigenvalues"
    )
