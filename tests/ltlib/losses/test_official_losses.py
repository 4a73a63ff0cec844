"""The seven losses against their official implementations: golden/losses.npz."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gradients import value_and_gradient

from ltlib.losses import build_loss, class_balanced_weights
from ltlib.registry import LOSSES, loss_class, version

GOLDEN_FILE = Path(__file__).resolve().parents[2] / "golden" / "losses.npz"
GOLDEN = np.load(GOLDEN_FILE)
CASES = json.loads(GOLDEN_FILE.with_suffix(".json").read_text())["cases"]
COUNTS = sorted(key for key in GOLDEN.files if key.startswith("class_counts/"))


def golden_loss(case):
    """(loss, keyword arguments of its call) for a golden case."""
    options, counts = case["hyperparameters"], GOLDEN[case["class_counts"]]
    match case["loss"]:
        case "softmax_ce":
            return build_loss("softmax", counts), {}
        case "weighted_ce":
            weighting = "log" if "ln" in options["weights"] else "inverse"
            normalize = "batch" if case["entry"].startswith("mean(") else "weights"
            return build_loss(
                "weighted_softmax", counts, weighting=weighting, normalize=normalize
            ), {}
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
            loss = build_loss(
                "equalization", counts, threshold=options["lambda"], gamma=options["gamma"]
            )
            return loss, {"uniform": torch.as_tensor(GOLDEN[options["uniform"]])}
    raise AssertionError(case["loss"])


NAMES = {"softmax_ce": "softmax", "weighted_ce": "weighted_softmax", "ldam_drw": "ldam"}


def golden_result(case, dtype):
    if version(NAMES.get(case["loss"], case["loss"])) > 1:
        pytest.skip("the official values are those of version 1")
    loss, fixed = golden_loss(case)
    logits, labels = GOLDEN[f"{case['input']}/logits"], GOLDEN[f"{case['input']}/labels"]
    value, gradient = value_and_gradient(
        loss, torch.as_tensor(logits).to(dtype), torch.as_tensor(labels).long(), **fixed
    )
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
    assert built == {loss_class(name) for name in list(LOSSES)[:7]}
    assert all(case["repo"] and case["path"] and case["commit"] for case in CASES)


@pytest.mark.parametrize("key", [key for key in GOLDEN.files if key.startswith("weights/cb_beta")])
def test_class_balanced_weights_are_the_official_ones(key):
    _, beta, counts = key.split("/")
    weights = class_balanced_weights(
        GOLDEN[f"class_counts/{counts}"], float(beta.removeprefix("cb_beta"))
    )
    np.testing.assert_allclose(weights, GOLDEN[key], rtol=1e-9)


@pytest.mark.parametrize(
    "key", [key for key in GOLDEN.files if key.startswith("weights/drw_epoch")]
)
def test_deferred_reweighting_is_beta_0_before_and_0_9999_after_the_switch(key):
    _, epoch, counts = key.split("/")
    beta = 0.9999 if int(epoch.removeprefix("drw_epoch")) >= 160 else 0
    np.testing.assert_allclose(
        class_balanced_weights(GOLDEN[f"class_counts/{counts}"], beta), GOLDEN[key], rtol=1e-9
    )


def test_log_weights_are_the_surveys():
    official = {
        tuple(np.round(GOLDEN[key], 4))
        for key in GOLDEN.files
        if key.startswith("weights/survey_wce")
    }
    ours = {
        tuple(np.round(build_loss("weighted_softmax", GOLDEN[key]).weights.float().numpy(), 4))
        for key in COUNTS
    }
    assert ours == official


@pytest.mark.parametrize("key", [key for key in GOLDEN.files if key.startswith("margins/")])
def test_ldam_margins_are_the_official_ones(key):
    loss = build_loss("ldam", GOLDEN[f"class_counts/{key.split('/')[2]}"], max_margin=0.5)
    np.testing.assert_allclose(loss.margins, GOLDEN[key], rtol=1e-9)


@pytest.mark.parametrize(("threshold", "rare"), [(4.3e-4, 0), (3e-3, 41), (5e-3, 52)])
def test_rare_classes_of_cifar100_lt(threshold, rare):
    assert (
        int(build_loss("equalization", GOLDEN["class_counts/c100"], threshold=threshold).rare.sum())
        == rare
    )
