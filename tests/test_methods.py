import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torch.nn import functional as F

from ltlib import config, methods, metrics
from ltlib.backbones import Classifier, CosineHead, DistanceHead
from ltlib.batches import FeatureBatches
from ltlib.config import ConfigError
from ltlib.losses import build_loss
from ltlib.methods import (
    GBG,
    METHODS,
    PF,
    ARConvL,
    balanced_contrastive,
    class_gradients,
    cosine_matrix,
    gbg_weights,
    group_by_gradient,
    min_norm_weights,
)

GOLDEN_FILE = Path(__file__).parent / "golden" / "systems.npz"
GOLDEN = np.load(GOLDEN_FILE)
CASES = json.loads(GOLDEN_FILE.with_suffix(".json").read_text())["cases"]
examples = settings(deadline=None, max_examples=50)
seeds = st.integers(0, 10**6)


def golden(case, field):
    """A tensor of the golden values; a number for a scalar."""
    value = torch.as_tensor(GOLDEN[f"{case}/{field}"])
    return value if value.ndim else value.item()


def assert_golden(found, case, field, tol=1e-10):
    found = np.asarray(found)
    assert found.shape == GOLDEN[f"{case}/{field}"].shape
    np.testing.assert_allclose(found, GOLDEN[f"{case}/{field}"], rtol=tol, atol=tol)


def value_and_gradients(function, *tensors):
    """Of a scalar function: its value and its gradient by each tensor; zeros where it does not depend on one."""
    tensors = [t.clone().requires_grad_() for t in tensors]
    value = function(*tensors)
    return value.detach(), *torch.autograd.grad(value, tensors, allow_unused=True, materialize_grads=True)


def test_every_golden_case_is_tested_here():
    source = Path(__file__).read_text().partition("import torch")[2]
    assert [case for case in CASES if f'"{case}"' not in source] == []


def test_the_names_of_the_methods_are_those_of_the_registry():
    assert tuple(METHODS) == config.METHODS
    assert set(config.HEADS_OF) - {"ldam"} == set(METHODS) - {"pf"}


# ---------------------------------------------------------------------------------------------- PF, golden


def paper_logits(probabilities, labels):
    """Logits of two classes that give each label its probability."""
    p = torch.as_tensor(probabilities)[:, None]
    own = F.one_hot(labels, 2)
    return (own * p + (1 - own) * (1 - p)).log()


INVERSE = {"weighting": "inverse", "normalize": "batch"}
# the paper sums over the four images, weighs by 1 / n_c and takes logarithms to the base 10; ours is a mean, and weights sum to C
PAPER = {"CE": ("softmax", {}, 4, 1e-2 / 2), "WCE": ("weighted_softmax", INVERSE, 4 * 2 / 3, 1e-3), "FL": ("focal", {}, 4, 1e-3 / 2),
         "FLalpha": ("focal", INVERSE, 4 * 2 / 3, 1e-3 / 2), "PF": ("pf", {}, 1, 1e-3 / 2)}


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize(("number", "state"), [(0, "k"), (1, "ma"), (2, "mi")])
def test_the_worked_examples_of_pf_loss_are_the_papers(name, number, state):
    case = "pf_paper_examples_log10"
    loss, options, scale, printed = PAPER[name]
    labels = golden(case, "labels")
    value = scale * build_loss(loss, [1, 3], **options)(paper_logits(golden(case, f"{state}_probs"), labels), labels) / math.log(10)
    assert_golden(value, case, f"{state}_{name}")
    assert value.item() == pytest.approx(golden(case, f"printed_{name}")[number].item(), abs=printed)


@pytest.mark.parametrize(("form", "suffix"), [("logsumexp", ""), ("eps", "_eps1e7")])
@pytest.mark.parametrize("case", ["pf_basic", "pf_absent_class"])
def test_pf_loss_and_its_gradient_are_the_golden_ones(case, form, suffix):
    counts = np.ones(golden(case, "num_classes"))
    value, gradient = value_and_gradients(lambda z: build_loss("pf", counts, form=form)(z, golden(case, "labels")), golden(case, "logits"))
    assert_golden(value, case, f"loss{suffix}")
    assert_golden(gradient, case, f"grad_logits{suffix}")
    if not suffix:
        assert_golden(value / math.log(10), case, "loss_log10")


def test_pfh_loss_and_its_gradient_are_the_golden_ones():
    case = "pfh_basic"
    counts = np.ones(golden(case, "num_classes"))
    value, gradient = value_and_gradients(lambda z: PF(counts, hard=True)(z, golden(case, "labels")), golden(case, "logits"))
    assert_golden(value, case, "loss")
    assert_golden(gradient, case, "grad_logits")


def test_pf_loss_of_two_classes_is_equations_13_and_14():
    """Which leave the divisor, the two classes, out; the score is the difference of the logits."""
    case = "pf_binary_eq13_14"
    labels = golden(case, "t").long()
    value, gradient = value_and_gradients(lambda s: 2 * PF([1, 1])(torch.stack([0 * s, s], 1), labels), golden(case, "score"))
    assert_golden(value, case, "loss")
    assert_golden(gradient, case, "grad_score")


# ------------------------------------------------------------------------------------------- PF, properties


@st.composite
def pf_problems(draw, size=2.0, dtype=torch.float64):
    """(C, logits (B, C), labels (B,)), with classes absent as chance has it, down to a batch of one."""
    c, batch = draw(st.integers(2, 6)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(seeds))
    logits = size * (2 * torch.rand(batch, c, generator=generator, dtype=torch.float64) - 1)
    held = draw(st.integers(1, c))  # classes that the batch can hold
    return c, logits.to(dtype), torch.randperm(c, generator=generator)[torch.randint(held, (batch,), generator=generator)]


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


@given(problem=pf_problems(), seed=seeds, form=st.sampled_from(["logsumexp", "eps"]), hard=st.booleans())
@examples
def test_pf_loss_knows_no_order_and_no_size_of_the_batch(problem, seed, form, hard):
    c, logits, labels = problem
    loss = PF(np.ones(c), form=form, hard=hard)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    value = loss(logits, labels)
    torch.testing.assert_close(loss(logits[order], labels[order]), value)
    tolerance = 1e-12 if form == "logsumexp" else 1e-4  # eps counts for less beside more images
    torch.testing.assert_close(loss(logits.repeat(3, 1), labels.repeat(3)), value, rtol=tolerance, atol=tolerance)


@given(problem=pf_problems(), hard=st.booleans())
@examples
def test_the_printed_form_of_pf_loss_is_close_where_no_probability_is_tiny(problem, hard):
    c, logits, labels = problem
    exact, printed = (value_and_gradients(lambda z, form=form: PF(np.ones(c), form=form, hard=hard)(z, labels), logits)
                      for form in ("logsumexp", "eps"))
    torch.testing.assert_close(printed, exact, rtol=1e-4, atol=1e-4)
    if not hard:  # every q of the printed form is a little larger
        assert printed[0] < exact[0]


def test_the_printed_form_loses_the_gradient_of_tiny_probabilities_and_the_default_does_not():
    logits, labels = torch.tensor([[0.0, 60.0]], dtype=torch.float64), torch.tensor([0])
    exact, printed = (value_and_gradients(lambda z, form=form: PF([1, 1], form=form)(z, labels), logits)[1]
                      for form in ("logsumexp", "eps"))
    assert printed.abs().max() < 1e-15
    torch.testing.assert_close(exact, torch.tensor([[-0.5, 0.5]], dtype=torch.float64))


@given(problem=pf_problems(size=200.0, dtype=torch.float32), form=st.sampled_from(["logsumexp", "eps"]), hard=st.booleans())
@examples
def test_pf_loss_is_finite_whatever_the_batch_holds(problem, form, hard):
    c, logits, labels = problem
    value, gradient = value_and_gradients(lambda z: PF(np.ones(c), form=form, hard=hard)(z, labels), logits)
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


# ----------------------------------------------------------------------------------------- ARConvL, golden


def distance_head(centres):
    head = DistanceHead(centres.shape[1], len(centres)).to(centres)
    head.weight = nn.Parameter(centres.detach().clone())
    return head


def distances(features, centres):
    return -(features[:, None] - centres).square().sum(2)


def arconvl(counts, radii=None, **options):
    loss = ARConvL(counts, **options)
    if radii is not None:
        loss.a = nn.Parameter(torch.as_tensor(radii).clone())
    return loss


TERMS = {"region": (), "distribution": ("features", "centres"), "points": ("features", "centres"), "centres": ("centres",)}
TERM_FIELDS = {"region": "L_R", "distribution": "L_D", "points": "L_M_points", "centres": "L_M_centres"}


@pytest.fixture(params=["arconvl_main", "arconvl_beta0"])
def regions_case(request):
    return request.param


def golden_arconvl(case, ld_weight):
    return arconvl(GOLDEN[f"{case}/class_counts"], golden(case, "radii"), gamma=golden(case, "gamma"), ld_weight=ld_weight)


@pytest.mark.parametrize("term", TERMS)
def test_each_term_of_arconvl_and_its_gradient_are_the_golden_ones(regions_case, term):
    case, loss = regions_case, golden_arconvl(regions_case, "paper")

    def function(features, centres, a):
        loss.a = nn.Parameter(a.detach())
        del loss.a
        loss.a = a
        return loss.terms(distances(features, centres), golden(case, "labels"), centres)[term]

    value, features, centres, radii = value_and_gradients(function, *(golden(case, name) for name in ("features", "centres", "radii")))
    assert_golden(value, case, TERM_FIELDS[term])
    expected = {"region": {"radii": "grad_radii"}, "distribution": {"features": "grad_features_LD", "centres": "grad_centres_LD"},
                "points": {"features": "grad_features_LM", "centres": "grad_centres_LM_points"},
                "centres": {"centres": "grad_centres_LM_centres"}}[term]
    for name, gradient in (("features", features), ("centres", centres), ("radii", radii)):
        if name in expected:
            assert_golden(gradient, case, expected[name])
        else:
            assert gradient.abs().max() == 0, f"{term} is not to move the {name}"


@pytest.mark.parametrize(("ld_weight", "prefix"), [("paper", ""), ("mean1", "code_")])
def test_arconvl_and_its_gradients_are_the_golden_ones(regions_case, ld_weight, prefix):
    case, loss = regions_case, golden_arconvl(regions_case, ld_weight)
    head, features = distance_head(golden(case, "centres")), golden(case, "features").requires_grad_()
    logits, labels = head(features), golden(case, "labels")
    value = loss(logits, labels, head=head)
    value.backward()
    assert_golden(value.detach(), case, f"{prefix}loss")
    assert_golden(loss.terms(logits, labels, head.weight)["distribution"].detach(), case, f"{prefix}L_D")
    for gradient, field in ((features.grad, f"{prefix}grad_features"), (head.weight.grad, f"{prefix}grad_centres"),
                            (loss.a.grad, "grad_radii")):
        assert_golden(gradient, case, field)
    assert logits.argmax(1).tolist() == golden(case, "pred").tolist()


def test_the_regions_of_arconvl_are_the_golden_ones(regions_case):
    case, loss = regions_case, golden_arconvl(regions_case, "paper")
    found = loss.regions(golden(case, "centres"))
    for value, field in ((found["ben2"].sqrt(), "R_ben"), (found["upp2"].sqrt(), "R_upp"), (found["beta"], "beta"),
                         (found["sigma2"], "sigma2"), (loss.alpha, "alpha"), (loss.log_eta.exp(), "eta")):
        assert_golden(value, case, field)
    points, centres = (golden(case, f"L_M_{name}") for name in ("points", "centres"))
    assert golden(case, "L_M") == pytest.approx(points + centres)


RIVALS = {"cpl": ("softmax", {}), "la": ("balanced_softmax", {}), "focal": ("focal", {"gamma": 2.0}),
          "cb": ("class_balanced", {"beta": 0.9999, "normalize": "batch"}), "gcpl": ("gcpl", {"weight": 0.1}),
          "affinity_0.75": ("affinity", {"margin": 0.75, "sigma": 10.0})}


@pytest.mark.parametrize("case", RIVALS)
def test_the_rivals_of_arconvl_on_a_distance_head_are_the_golden_ones(case):
    name, options = RIVALS[case]
    counts = GOLDEN[f"{case}/class_counts"] if f"{case}/class_counts" in GOLDEN else np.ones(len(golden(case, "centres")))
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


# ------------------------------------------------------------------------------------- ARConvL, properties


class Regions:
    """A batch for a distance head: features (B, D), centres (C, D), radii (C,), labels (B,), counts (C,)."""

    def __init__(self, classes, batch, held, seed, same, size=2.0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return size * torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.features, self.centres, self.radii = draw(batch, 3), draw(classes, 3), draw(classes)
        if same:
            self.centres[1] = self.centres[0]
        self.labels = torch.randperm(classes, generator=generator)[torch.randint(held, (batch,), generator=generator)]
        self.counts = np.asarray(torch.randint(1, 500, (classes,), generator=generator))

    def terms(self, **options):
        """Each term with its gradients by features, centres and a."""
        result = {}
        for name in ("region", "distribution", "points", "centres"):
            tensors = [t.clone().requires_grad_() for t in (self.features, self.centres)]
            loss = arconvl(self.counts, self.radii, **options)
            term = loss.terms(distances(*tensors), self.labels, tensors[1]).get(name)
            if term is not None:
                result[name] = term.detach(), *torch.autograd.grad(term, [*tensors, loss.a], allow_unused=True, materialize_grads=True)
        return result


@st.composite
def region_problems(draw):
    classes = draw(st.integers(2, 6))
    return Regions(classes, draw(st.integers(1, 8)), draw(st.integers(1, classes)), draw(seeds), draw(st.booleans()),
                   draw(st.sampled_from([1e-3, 1.0, 30.0])))


@given(p=region_problems(), ld_weight=st.sampled_from(["mean1", "paper"]))
@examples
def test_arconvl_is_finite_whatever_the_batch_holds_and_each_term_moves_its_own(p, ld_weight):
    terms = p.terms(ld_weight=ld_weight)
    assert all(tensor.isfinite().all() for values in terms.values() for tensor in values)
    assert all(values[0] >= 0 for values in terms.values())
    for name, values in terms.items():
        features, centres, radii = (gradient.abs().max() > 0 for gradient in values[1:])
        assert not radii or name == "region", f"{name} is not to move the radii"
        assert not (features or centres) or name != "region", "the region loss is not to move features or centres"
        assert not features or name != "centres"
    absent = np.setdiff1d(np.arange(len(p.counts)), p.labels.numpy())
    assert (terms["region"][3][absent] == 0).all()
    assert (terms["region"][3][p.labels] != 0).all()


@given(p=region_problems())
@examples
def test_beta_is_in_0_to_1_and_the_margin_at_least_0(p):
    found = arconvl(p.counts, p.radii).regions(p.centres)
    smallest = torch.pdist(p.centres).min() / 2
    torch.testing.assert_close(found["ben2"], smallest**2)
    assert found["upp2"] >= torch.maximum(found["ben2"], p.radii.square().max())
    assert 0 <= found["beta"] <= 1
    assert 0 <= found["sigma2"] <= found["ben2"]
    assert found["beta"] == pytest.approx(min(1, (found["upp2"] / max(found["ben2"].item(), 1e-12) - 1).item()))


@given(p=region_problems())
@examples
def test_two_centres_at_one_place_ask_for_all_of_the_distribution_loss_and_no_margin(p):
    p.centres[-1] = p.centres[0]
    found = arconvl(p.counts, p.radii + 1.0 * (p.radii.abs() < 1)).regions(p.centres)
    assert (found["ben2"], found["beta"], found["sigma2"]) == (0, 1, 0)


def test_regions_that_touch_nowhere_ask_for_neither():
    found = arconvl([5, 5, 5], torch.tensor([0.1, 0.2, 0.3])).regions(2 * torch.eye(3))
    assert (found["beta"], found["sigma2"]) == (0, 0)
    assert found["ben2"] == found["upp2"] == pytest.approx(2)


@given(p=region_problems())
@examples
def test_the_sign_of_a_radius_is_no_matter(p):
    one, other = p.terms(), Regions.terms(type("", (), vars(p) | {"radii": -p.radii})())
    for name in one:
        torch.testing.assert_close(one[name][:3], other[name][:3])
    torch.testing.assert_close(one["region"][3], -other["region"][3])


def test_the_ablations_of_arconvl_take_out_what_they_say():
    p = Regions(4, 8, 4, seed=3, same=False)
    whole, beta0, sigma0, alone = (p.terms(**options) for options in ({}, {"beta": 0.0}, {"sigma2": 0.0}, {"centre_loss": False}))
    assert whole["distribution"][0] > 0
    assert beta0["distribution"][0] == 0
    assert all(beta0[name][0] == whole[name][0] for name in ("region", "points", "centres"))
    prior = torch.as_tensor(np.log(p.counts / p.counts.sum()))
    torch.testing.assert_close(sigma0["points"][0], F.cross_entropy(distances(p.features, p.centres) + prior, p.labels))
    assert sigma0["points"][0] < whole["points"][0]
    assert sigma0["distribution"][0] == whole["distribution"][0]
    assert "centres" not in alone
    torch.testing.assert_close(p.terms(beta=0.5)["distribution"][0] * 2, p.terms(beta=1.0)["distribution"][0])
    torch.testing.assert_close(p.terms(gamma=0.0)["region"][0], p.terms(gamma=1e-12)["region"][0])


@pytest.mark.parametrize("ld_weight", ["mean1", "paper"])
def test_the_weights_of_the_distribution_loss(ld_weight):
    loss = ARConvL([100, 10, 1], ld_weight=ld_weight)
    alpha = torch.tensor([1.0, 10.0, 100.0], dtype=torch.float64)
    torch.testing.assert_close(loss.ld_alpha, alpha / 37 if ld_weight == "mean1" else alpha)
    torch.testing.assert_close(loss.alpha, alpha)


def test_radii_start_at_a_tenth_and_have_a_rate_of_their_own():
    loss = ARConvL([3, 2, 1])
    group, = loss.param_groups(lr=5.0)
    assert torch.equal(loss.radii, torch.full((3,), 0.1))
    assert (group["lr"], group["weight_decay"]) == (0.01, 0)
    assert group["params"][0] is loss.a
    assert [group["factor"](epoch) for epoch in (0, 2.99, 3, 40)] == [0.1, 0.1, 1.0, 1.0]


@pytest.mark.parametrize("name", ["arconvl", "affinity", "gcpl", "gbg"])
def test_in_eval_mode_a_method_is_a_function_of_logits_and_labels(name):
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 1])
    loss = build_loss(name, [3, 2, 1], **({"groups": 2} if name == "gbg" else {})).eval()
    assert torch.equal(loss(logits, labels), loss(logits, labels, features=torch.zeros(5, 2), head=DistanceHead(2, 3)))
    if name == "arconvl":
        torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels))
    if name == "gbg":
        torch.testing.assert_close(loss(logits, labels), F.cross_entropy(30 * logits, labels))
    torch.testing.assert_close(loss(logits, labels, reduction="none").mean(), loss(logits, labels))


def test_arconvl_tells_of_its_regions():
    loss, p = ARConvL([3, 2, 1]), Regions(3, 4, 3, seed=0, same=False)
    told, expected = loss.report(distance_head(p.centres))["regions"], loss.regions(p.centres)
    assert told == {name: pytest.approx(value.item()) for name, value in expected.items()} | {"radii": [0.1, 0.1, 0.1]}
    assert json.loads(json.dumps(told)) == told


def test_affinity_of_equidistant_centres_costs_the_centres_nothing():
    labels = torch.tensor([0, 1])
    for centres, spread in ((torch.eye(3), 0.0), (torch.diag(torch.tensor([1.0, 1.0, 2.0])), 2.0)):
        logits = distances(torch.zeros(2, 3), centres)
        loss, head = build_loss("affinity", [1, 1, 1]), distance_head(centres)
        found = loss(logits, labels, head=head) - loss.eval()(logits, labels)
        assert found.item() == pytest.approx(spread, abs=1e-6)  # squared distances 2, 2, 2 and 2, 5, 5: their variance


# ------------------------------------------------------------------------------------------ min-norm weights


@pytest.mark.parametrize("case", ["minnorm_K2", "minnorm_K3", "minnorm_K4", "minnorm_K5", "minnorm_opposite", "minnorm_single"])
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


KINDS = ("random", "parallel", "opposite", "duplicate", "zero", "scaled", "shifted", "nearly parallel", "everything")


@st.composite
def gradient_sets(draw):
    """Gradients (K, P), 2 to 20 of them, of a kind that could be hard."""
    rng, kind = np.random.default_rng(draw(seeds)), draw(st.sampled_from(KINDS))
    k = draw(st.integers(2, 20))
    g = rng.normal(size=(k, draw(st.sampled_from([1, 2, 3, 5, 20, 200]))))
    if kind == "parallel":
        g = np.outer(rng.uniform(0.1, 5, k), g[0])
    if kind == "opposite":
        g = np.outer(rng.normal(size=k), g[0])
    if kind in ("duplicate", "everything"):
        g = g[rng.integers(0, max(1, k // 2), k)]
    if kind in ("zero", "everything"):
        g[rng.random(k) < 0.3] = 0
    if kind in ("scaled", "everything"):
        g = g * rng.choice([-1, 1], (k, 1)) * 10.0 ** rng.uniform(-12, 12, (k, 1))
    if kind == "shifted":
        g = g + rng.uniform(0, 10)
    if kind == "nearly parallel":
        g = g[0] + 1e-8 * g
    return g


@given(gradients=gradient_sets())
@settings(deadline=None, max_examples=500)
def test_min_norm_weights_are_best_on_the_simplex(gradients):
    gram = gradients @ gradients.T
    w = min_norm_weights(gram)
    assert (w >= 0).all()
    assert w.sum() == pytest.approx(1, abs=1e-12)
    assert w @ gram @ w - (gram @ w).min() <= 1e-10 * np.abs(gram).max()


@pytest.mark.parametrize("seed", [424, 1544, 5259])
def test_gradients_for_which_the_solvers_own_limit_is_too_low(seed):
    """SciPy gives up after 3 K iterations on one in 2000 of such problems: lengths from 1e-12 to 1e12."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=(10, 20)) * 10.0 ** rng.uniform(-12, 12, (10, 1))
    gram = g @ g.T
    w = min_norm_weights(gram)
    assert w @ gram @ w - (gram @ w).min() <= 1e-10 * np.abs(gram).max()


@given(gradients=gradient_sets(), seed=seeds)
@examples
def test_a_step_along_the_min_norm_gradient_lowers_every_scaled_loss(gradients, seed):
    """Unless it is zero: then there is no direction that does."""
    losses = np.random.default_rng(seed).uniform(0.1, 3, len(gradients))
    gradients = gradients[(scale := np.linalg.norm(gradients, axis=1) * losses[: len(gradients)]) > 1e-9]
    if len(gradients) < 2:
        return
    losses = losses[scale > 1e-9]
    w = gbg_weights(torch.as_tensor(gradients), torch.as_tensor(losses))
    v = gradients / (losses * np.linalg.norm(gradients, axis=1))[:, None]
    step = w @ v
    assert (v @ step >= step @ step - 1e-9 * (v @ v.T).max()).all()


def test_gradients_in_float32_are_weighed_in_float64():
    """A Gram matrix of float32 products is no Gram matrix: its error is larger than the gap that is allowed."""
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(400_000, generator=generator)
    gradients = common + 1e-2 * torch.randn(6, 400_000, generator=generator)
    losses = gradients.double().norm(dim=1).reciprocal()  # so that the weights are those of the gradients as they are
    w, gram = gbg_weights(gradients, losses), (gradients.double() @ gradients.double().T).numpy()
    assert w @ gram @ w - (gram @ w).min() <= 1e-10 * gram.max()


@pytest.mark.parametrize("gram", [np.zeros((0, 0)), np.zeros((2, 3)), np.zeros(3), [[1, np.nan], [np.nan, 1]], [[1, 2], [0, 1]]])
def test_what_is_no_matrix_of_scalar_products_is_refused(gram):
    with pytest.raises(ValueError, match="gram: expected"):
        min_norm_weights(gram)


def test_gradients_that_are_all_zero_weigh_the_same():
    assert min_norm_weights(np.zeros((4, 4))).tolist() == [0.25] * 4


# ---------------------------------------------------------------------------------------------- grouping


def partition(groups):
    """The index of the first member of each one's group."""
    groups = list(groups)
    return [groups.index(g) for g in groups]


def test_grouping_by_gradient_is_the_golden_partition():
    case = "gbg_spectral"
    cosines = cosine_matrix(golden(case, "vectors"))
    assert_golden(cosines + 1, case, "affinity")
    found = group_by_gradient(cosines, golden(case, "n_groups"))
    assert partition(found) == golden(case, "partition_canonical").tolist()
    weights = cosines + 1 - np.diag(np.diag(cosines + 1))
    root = np.sqrt(np.outer(weights.sum(0), weights.sum(0)))
    assert_golden(np.sort(np.linalg.eigvalsh(np.eye(12) - weights / root)), case, "laplacian_eigenvalues")


@given(sizes=st.lists(st.integers(2, 5), min_size=2, max_size=4), seed=seeds)
@settings(deadline=None, max_examples=20)
def test_classes_whose_gradients_point_the_same_way_are_one_group(sizes, seed):
    rng = np.random.default_rng(seed)
    member = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    vectors = np.eye(8)[member] + 0.05 * rng.normal(size=(len(member), 8))
    assert partition(group_by_gradient(cosine_matrix(torch.as_tensor(vectors)), len(sizes))) == partition(member)


@pytest.mark.parametrize("groups", [1, 2, 5])
def test_any_number_of_groups_up_to_that_of_the_classes(groups):
    found = group_by_gradient(cosine_matrix(torch.randn(5, 9, generator=torch.Generator().manual_seed(0))), groups)
    assert found.dtype == np.int64
    assert set(found.tolist()) == set(range(groups))


def test_a_class_without_a_gradient_is_unlike_all_others_and_grouped_all_the_same():
    vectors = torch.eye(6)
    vectors[2] = 0
    cosines = cosine_matrix(vectors)
    assert (cosines[2] == 0).all()
    assert len(group_by_gradient(cosines, 3)) == 6


class Backbone(nn.Sequential):
    """Dropout and batch normalisation, which behave otherwise in training."""

    num_features = 4

    def __init__(self):
        super().__init__(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 4))


def cosine_model(classes=6, seed=0):
    torch.manual_seed(seed)
    return Classifier(Backbone(), CosineHead(4, classes))


def feature_batches(classes=6, n=40, batch_size=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, generator=generator) ** 2 * classes).long()
    labels[:classes] = torch.arange(classes)
    return FeatureBatches(torch.randn(n, 5, generator=generator) + 2 * labels[:, None] % 3, labels, batch_size)


def flat(tensors):
    return torch.cat([t.flatten() for t in tensors])


def test_class_gradients_are_those_of_each_class_alone_in_eval_mode():
    model, batches, loss = cosine_model(), feature_batches(), GBG([1] * 6, groups=2, scale=5.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = class_gradients(model, batches, loss)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    model.eval()
    for c in range(6):
        of_class = batches.labels == c
        ce = F.cross_entropy(5.0 * model(batches.x[of_class]), batches.labels[of_class])
        expected = flat(torch.autograd.grad(ce, list(model.backbone.parameters())))
        torch.testing.assert_close(found[c], expected, rtol=1e-4, atol=1e-6)
    assert (found.norm(dim=1) > 0).all()


def test_a_class_without_images_has_no_gradient():
    batches = feature_batches()
    batches.labels[batches.labels == 3] = 2
    found = class_gradients(cosine_model(), batches, GBG([1] * 6))
    assert (found[3] == 0).all()
    assert found.isfinite().all()


def test_groups_are_made_after_the_warm_up_and_again_as_often_as_is_asked(monkeypatch):
    calls = []
    monkeypatch.setattr(methods, "class_gradients", lambda *_: calls.append(epoch) or torch.eye(6))
    for options, expected in (({}, [0]), ({"warmup": 2}, [2]), ({"refresh_every": 4}, [0, 4, 8]),
                              ({"warmup": 2, "refresh_every": 3}, [2, 5, 8]), ({"groups": 1}, [])):
        calls.clear()
        loss = GBG([1] * 6, **{"groups": 3, **options})
        for epoch in range(10):
            if epoch < options.get("warmup", 0):
                assert (loss.group_of == 0).all(), "one group until then"
            loss.start_epoch(epoch, None, None)
        assert calls == expected
        assert len(loss.group_of.unique()) == (1 if options.get("groups") == 1 else 3)


def test_groups_by_gradient_are_those_of_the_spectral_clustering_of_the_class_gradients():
    model, batches, loss = cosine_model(), feature_batches(), GBG([1] * 6, groups=3)
    loss.start_epoch(0, model, batches)
    assert loss.group_of.tolist() == group_by_gradient(cosine_matrix(class_gradients(model, batches, loss)), 3).tolist()
    assert loss.group_of.unique().numel() == 3


def test_the_controls_of_the_grouping():
    counts = [5, 100, 1, 30, 60, 2]
    by_count = GBG(counts, groups=3, grouping="count")
    by_count.start_epoch(0, None, None)
    assert by_count.group_of.tolist() == [1, 0, 2, 1, 0, 2]
    found = []
    for seed in range(4):
        loss = GBG(counts, groups=3, grouping="random", seed=seed)
        loss.start_epoch(0, None, None)
        assert loss.group_of.bincount().tolist() == [2, 2, 2]
        found.append(tuple(loss.group_of.tolist()))
    assert len(set(found)) > 1
    uneven = GBG([1] * 7, groups=3, grouping="random")
    uneven.start_epoch(0, None, None)
    assert sorted(uneven.group_of.bincount().tolist()) == [2, 2, 3]


# --------------------------------------------------------------------------------------------------- GBG


def gbg_step(loss, model, x, labels):
    """One backward pass as the engine makes it: what it returns, gradients of backbone and head."""
    model.zero_grad()
    torch.manual_seed(0)  # the dropout
    logits, features = model.train()(x, return_features=True)
    value = loss.backward(loss(logits, labels, features=features, head=model.head), model)
    return value, [p.grad.clone() for p in model.backbone.parameters()], [p.grad.clone() for p in model.head.parameters()]


def forward(model, x):
    torch.manual_seed(0)
    return model.train()(x, return_features=True)


def grouped(groups=3, labels=None, **options):
    loss = GBG([9, 8, 7, 3, 2, 1], groups=groups, **options)
    loss.group_of.copy_(torch.arange(6) % groups)
    return loss


X, Y = feature_batches(n=20).x, feature_batches(n=20).labels


def test_one_group_is_softmax_with_a_cosine_head_times_alpha():
    model, loss = cosine_model(), grouped(1, alpha=2.0, scale=30.0)
    value, backbone, head = gbg_step(loss, model, X, Y)
    ce = F.cross_entropy(30 * forward(model, X)[0], Y)
    torch.testing.assert_close(value, 2 * ce.detach())
    expected = torch.autograd.grad(2 * ce, list(model.parameters()))
    torch.testing.assert_close([*backbone, *head], list(expected))
    assert loss.report(model.head)["group_weights"] == [1.0]


@pytest.mark.parametrize("absent", [False, True])
def test_the_step_is_alpha_times_the_weighted_sum_of_the_groups_losses_in_backbone_and_head(absent):
    model, loss = cosine_model(), grouped(3, alpha=1.7, scale=6.0)
    rows = loss.group_of[Y] != 1 if absent else torch.ones(len(Y), dtype=bool)
    x, labels = X[rows], Y[rows]
    value, backbone, head = gbg_step(loss, model, x, labels)
    told = loss.report(model.head)["group_weights"]
    present = [0, 2] if absent else [0, 1, 2]
    assert [w > 0 for w in told] == [g in present for g in range(3)]

    ce = F.cross_entropy(6.0 * forward(model, x)[0], labels, reduction="none")
    losses = torch.stack([ce[loss.group_of[labels] == g].mean() for g in present])
    shared = list(model.backbone.parameters())
    gradients = torch.stack([flat(torch.autograd.grad(one, shared, retain_graph=True)) for one in losses]).double()
    v = gradients / (losses.detach().double() * gradients.norm(dim=1))[:, None]
    weights = torch.as_tensor(min_norm_weights(v @ v.T))
    torch.testing.assert_close(torch.tensor(told, dtype=torch.float64)[present], weights, rtol=0, atol=2e-5)
    total = 1.7 * (weights.float() * losses).sum()
    torch.testing.assert_close(value, total.detach(), rtol=1e-4, atol=1e-5)
    expected = torch.autograd.grad(total, [*shared, *model.head.parameters()])
    torch.testing.assert_close([*backbone, *head], list(expected), rtol=1e-3, atol=1e-4)


def test_equal_weights_are_the_mean_of_the_groups_losses():
    model, loss = cosine_model(), grouped(3, weights="equal", alpha=1.0, scale=6.0)
    value, backbone, head = gbg_step(loss, model, X, Y)
    ce = F.cross_entropy(6.0 * forward(model, X)[0], Y, reduction="none")
    total = sum(ce[loss.group_of[Y] == g].mean() for g in range(3)) / 3
    torch.testing.assert_close(value, total.detach())
    torch.testing.assert_close([*backbone, *head], list(torch.autograd.grad(total, list(model.parameters()))), rtol=1e-4, atol=1e-5)
    assert loss.report(model.head)["group_weights"] == pytest.approx([1 / 3] * 3, abs=1e-6)


@pytest.mark.parametrize("labels", [[4], [2, 2, 2], [0, 3]])
def test_a_batch_of_one_image_or_one_group_is_finite_and_its_group_has_all_the_weight(labels):
    model, loss = cosine_model(), grouped(3)
    model.backbone[1].eval()
    model.backbone[1].train = lambda mode=True: model.backbone[1]  # a batch of one has no variance
    value, backbone, head = gbg_step(loss, model, X[: len(labels)], torch.tensor(labels))
    assert value.isfinite()
    assert all(g.isfinite().all() for g in [*backbone, *head])
    assert sorted(loss.report(model.head)["group_weights"]) == [0, 0, 1]


def test_a_report_is_the_mean_over_the_steps_of_the_epoch_that_held_the_group():
    model, loss = cosine_model(), grouped(3)
    steps = []
    for rows in (slice(0, 20), slice(0, 10), loss.group_of[Y] != 2):
        gbg_step(loss, model, X[rows], Y[rows])
        steps.append((loss.weight_sum / loss.weight_steps.clamp_min(1)).tolist())
    weights, held = loss.weight_sum.clone(), loss.weight_steps.clone()
    assert held.tolist() == [3, 3, 2]
    told = loss.report(model.head)
    assert told["group_weights"] == pytest.approx((weights / held).tolist(), abs=1e-6)
    assert told["group_of"] == [0, 1, 2, 0, 1, 2]
    assert loss.report(model.head) == told, "it can be asked again, as a run that was stopped while it validated does"
    loss.start_epoch(7, model, None)
    gbg_step(loss, model, X, Y)
    assert loss.report(model.head)["group_weights"] == pytest.approx(steps[0], abs=1e-6)


def test_a_gradient_that_is_no_number_makes_the_loss_none():
    """So that the engine says that the run diverged, and the solver does not fall over it."""
    model, loss = cosine_model(), grouped(3)
    logits, features = forward(model, X)
    value = loss(logits, Y, features=features, head=model.head)
    assert loss.backward(value + (0 * model.backbone[0].bias).sqrt().sum(), model).isnan()  # 0 in value, without a derivative
    logits, features = forward(model, X)
    value = loss(logits, Y, features=features, head=model.head)
    assert loss.backward(value + torch.tensor([0, math.nan, 0]), model).isnan()


def contrastive_model_and_batch():
    """Two more views of each image: rows of other images, so that they differ."""
    return cosine_model(), torch.cat([X, X.roll(1, 0) + 0.3, X.roll(2, 0) - 0.3])


def test_the_contrastive_term_adds_its_own_gradient_everywhere():
    model, views = contrastive_model_and_batch()
    steps = []
    for beta in (0.0, 1.6):
        loss = grouped(3, beta=beta, alpha=2.0, projection=3, temperature=0.2)
        torch.manual_seed(5)
        loss.attach(model)
        assert bool(list(loss.parameters())) == bool(beta)
        steps.append(gbg_step(loss, model, views, Y))
    _, features = forward(model, views)
    a, b = loss.project(features[20:]), loss.project_centres(model.head.weight)
    term = 1.6 * balanced_contrastive(F.normalize(a, dim=1), Y, F.normalize(b, dim=1), 0.2)
    gradients = torch.autograd.grad(term, [*model.parameters(), *loss.parameters()])
    without, together = steps
    torch.testing.assert_close(together[0], without[0] + term.detach())
    expected = [g + more for g, more in zip([*without[1], *without[2]], gradients, strict=False)]
    torch.testing.assert_close([*together[1], *together[2]], expected, rtol=1e-3, atol=1e-5)
    own = [p.grad for p in loss.parameters()]
    torch.testing.assert_close(own, list(gradients[len(expected) :]), rtol=1e-4, atol=1e-6)
    assert len(loss.param_groups(0.3)) == 1
    assert loss.param_groups(0.3)[0]["lr"] == 0.3


def test_cross_entropy_looks_at_the_first_view_alone():
    model, views = contrastive_model_and_batch()
    logits, features = forward(model, views)
    loss = grouped(3)
    others = logits.clone()
    others[20:] = 7.0
    assert torch.equal(loss(logits, Y, features=features, head=model.head), loss(others, Y, features=features, head=model.head))


def test_a_contrastive_term_without_views_is_refused():
    model, loss = cosine_model(), grouped(3, beta=1.0)
    loss.attach(model)
    with pytest.raises(ValueError, match='beta > 0: expected more than one view of each image; set views = "contrastive"'):
        gbg_step(loss, model, X, Y)


# --------------------------------------------------------------------------------- balanced contrastive loss


def slow_balanced_contrastive(views, labels, centres, temperature):
    """Row by row, class by class, as its formula stands."""
    labels = labels.tolist() * (len(views) // len(labels))
    total = 0.0
    for i, (v, y) in enumerate(zip(views, labels, strict=True)):
        denominator = 0.0
        for c in range(len(centres)):
            others = [views[k] for k in range(len(views)) if k != i and labels[k] == c] + [centres[c]]
            denominator += sum(math.exp(float(v @ b) / temperature) for b in others) / len(others)
        same = [views[k] for k in range(len(views)) if k != i and labels[k] == y] + [centres[y]]
        total -= sum(float(v @ a) / temperature - math.log(denominator) for a in same) / len(same)
    return total / len(views)


@given(classes=st.integers(1, 5), images=st.integers(1, 6), views=st.integers(1, 3), seed=seeds, temperature=st.sampled_from([0.1, 1.0]))
@examples
def test_balanced_contrastive_is_its_formula(classes, images, views, seed, temperature):
    generator = torch.Generator().manual_seed(seed)
    v, c = (F.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=1) for n in (views * images, classes))
    labels = torch.randint(classes, (images,), generator=generator)
    value, *gradients = value_and_gradients(lambda v, c: balanced_contrastive(v, labels, c, temperature), v, c)
    assert value.item() == pytest.approx(slow_balanced_contrastive(v, labels, c, temperature), rel=1e-9, abs=1e-9)
    assert all(g.isfinite().all() for g in gradients)


def test_balanced_contrastive_falls_as_views_come_to_their_centres():
    centres, labels = torch.eye(3), torch.tensor([0, 1, 2])
    near, far = centres.repeat(2, 1), centres.roll(1, 0).repeat(2, 1)
    assert balanced_contrastive(near, labels, centres) < 0.01 < 3 < balanced_contrastive(far, labels, centres)


# ----------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("pf", {"form": "log"}, "form = 'log': expected one of logsumexp, eps"),
        ("pf", {"hard": "yes"}, "hard = 'yes': expected true or false"),
        ("pf", {"gamma": 1}, "pf has no option 'gamma': expected form, hard"),
        ("gcpl", {"weight": -1.0}, r"weight = -1.0: expected a number in \[0"),
        ("affinity", {"margin": 1.5}, r"margin = 1.5: expected a number in \[0, 1\]"),
        ("affinity", {"sigma": 0.0}, r"sigma = 0.0: expected a number in \(0"),
        ("arconvl", {"gamma": math.nan}, "gamma = nan: expected a number"),
        ("arconvl", {"ld_weight": "mean"}, "ld_weight = 'mean': expected one of mean1, paper"),
        ("arconvl", {"beta": -0.1}, "beta = -0.1: expected a number"),
        ("arconvl", {"sigma2": "0"}, "sigma2 = '0': expected a number"),
        ("arconvl", {"centre_loss": 0}, "centre_loss = 0: expected true or false"),
        ("gbg", {"groups": 0}, "groups = 0: expected a whole number, 1 to 3"),
        ("gbg", {"groups": 4}, "groups = 4: expected a whole number, 1 to 3"),
        ("gbg", {"groups": 2.5}, "groups = 2.5: expected a whole number"),
        ("gbg", {"groups": 2, "grouping": "size"}, "grouping = 'size': expected one of gradient, random, count"),
        ("gbg", {"groups": 2, "weights": "mean"}, "weights = 'mean': expected one of min_norm, equal"),
        ("gbg", {"groups": 2, "alpha": 0.0}, "alpha = 0.0: expected a number"),
        ("gbg", {"groups": 2, "beta": -1.0}, "beta = -1.0: expected a number"),
        ("gbg", {"groups": 2, "scale": 0.0}, "scale = 0.0: expected a number"),
        ("gbg", {"groups": 2, "temperature": 0.0}, "temperature = 0.0: expected a number"),
        ("gbg", {"groups": 2, "projection": 0}, "projection = 0: expected a whole number, at least 1"),
        ("gbg", {"groups": 2, "warmup": 1.5}, "warmup = 1.5: expected a whole number, at least 0"),
        ("gbg", {"groups": 2, "refresh_every": -1}, "refresh_every = -1: expected a whole number, at least 0"),
        ("gbg", {"groups": 2, "seed": True}, "seed = True: expected a whole number"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name_and_value(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_loss(name, [3, 2, 1], **options)


def test_arconvl_of_one_class_is_refused():
    with pytest.raises(ConfigError, match="class_counts: expected at least two classes: ARConvL measures the distance"):
        build_loss("arconvl", [7])


@pytest.mark.parametrize("name", METHODS)
def test_counts_below_one_are_refused(name):
    with pytest.raises(ConfigError, match="fewer than 1 image"):
        build_loss(name, [3, 0, 1, 1])


@pytest.mark.parametrize("label", [3, -1])
@pytest.mark.parametrize("name", METHODS)
def test_a_label_out_of_range_is_refused_in_training_too(name, label):
    head = CosineHead(2, 3) if name == "gbg" else DistanceHead(2, 3)
    with pytest.raises(ValueError, match=f"labels: expected 0 to 2, got {min(label, 0)} to {max(label, 0)}"):
        build_loss(name, [3, 2, 1], **({"groups": 2} if name == "gbg" else {}))(
            head(torch.zeros(2, 2)), torch.tensor([0, label]), features=torch.zeros(2, 2), head=head)


@pytest.mark.parametrize("name", ["arconvl", "gbg"])
def test_a_loss_of_the_batch_has_no_losses_of_single_images_in_training(name):
    with pytest.raises(ValueError, match="reduction = 'none': expected 'mean'"):
        build_loss(name, [3, 2, 1, 1])(torch.zeros(2, 4), torch.tensor([0, 1]), "none", head=CosineHead(2, 4))


# -------------------------------------------------------------------------------------- metrics and statistics


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


TABLE = pd.DataFrame(GOLDEN["stats_arconvl_table1/gmeans"], columns=["CPL", "GCPL", "Focal", "CB", "CBFocal", "Affinity", "LA", "ARConvL"])


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
    assert found == pytest.approx((golden(case, "wilcoxon_beta0_stat"), golden(case, "wilcoxon_beta0_p")), rel=1e-10)


@pytest.mark.parametrize("gradient", [0.0, 1e-30, 1e-13])
def test_a_group_that_is_solved_has_hardly_any_weight(gradient):
    gradients = torch.eye(3, 5)
    gradients[2] *= gradient
    weights = gbg_weights(gradients, torch.tensor([0.5, 0.5, 1e-13]))
    assert weights == pytest.approx([0.5, 0.5, 0], abs=1e-6)
    assert gbg_weights(torch.zeros(2, 5), torch.zeros(2)) == pytest.approx([0.5, 0.5])
