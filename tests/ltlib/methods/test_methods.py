"""What all methods have in common: evaluation, refusals."""

import math

import pytest
import torch
from torch.nn import functional as F

from ltlib.errors import ConfigError
from ltlib.losses import build_loss
from ltlib.models import CosineHead, DistanceHead
from ltlib.registry import METHOD_NAMES


@pytest.mark.parametrize("name", ["arconvl", "affinity", "gcpl", "gbg"])
def test_in_eval_mode_a_method_is_a_function_of_logits_and_labels(name):
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 1, 1])
    loss = build_loss(name, [3, 2, 1], **({"groups": 2} if name == "gbg" else {})).eval()
    assert torch.equal(
        loss(logits, labels),
        loss(logits, labels, features=torch.zeros(5, 2), head=DistanceHead(2, 3)),
    )
    if name == "arconvl":
        torch.testing.assert_close(loss(logits, labels), F.cross_entropy(logits, labels))
    if name == "gbg":
        torch.testing.assert_close(loss(logits, labels), F.cross_entropy(30 * logits, labels))
    torch.testing.assert_close(loss(logits, labels, reduction="none").mean(), loss(logits, labels))


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
        (
            "gbg",
            {"groups": 2, "grouping": "size"},
            "grouping = 'size': expected one of gradient, random, count",
        ),
        (
            "gbg",
            {"groups": 2, "weights": "mean"},
            "weights = 'mean': expected one of min_norm, equal",
        ),
        ("gbg", {"groups": 2, "alpha": 0.0}, "alpha = 0.0: expected a number"),
        ("gbg", {"groups": 2, "beta": -1.0}, "beta = -1.0: expected a number"),
        ("gbg", {"groups": 2, "scale": 0.0}, "scale = 0.0: expected a number"),
        ("gbg", {"groups": 2, "temperature": 0.0}, "temperature = 0.0: expected a number"),
        (
            "gbg",
            {"groups": 2, "projection": 0},
            "projection = 0: expected a whole number, at least 1",
        ),
        ("gbg", {"groups": 2, "warmup": 1.5}, "warmup = 1.5: expected a whole number, at least 0"),
        (
            "gbg",
            {"groups": 2, "refresh_every": -1},
            "refresh_every = -1: expected a whole number, at least 0",
        ),
        ("gbg", {"groups": 2, "seed": True}, "seed = True: expected a whole number"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name_and_value(name, options, message):
    with pytest.raises(ConfigError, match=message):
        build_loss(name, [3, 2, 1], **options)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_counts_below_one_are_refused(name):
    with pytest.raises(ConfigError, match="fewer than 1 image"):
        build_loss(name, [3, 0, 1, 1])


@pytest.mark.parametrize("label", [3, -1])
@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_label_out_of_range_is_refused_in_training_too(name, label):
    head = CosineHead(2, 3) if name == "gbg" else DistanceHead(2, 3)
    with pytest.raises(
        ValueError, match=f"labels: expected 0 to 2, got {min(label, 0)} to {max(label, 0)}"
    ):
        build_loss(name, [3, 2, 1], **({"groups": 2} if name == "gbg" else {}))(
            head(torch.zeros(2, 2)), torch.tensor([0, label]), features=torch.zeros(2, 2), head=head
        )


@pytest.mark.parametrize("name", ["arconvl", "gbg"])
def test_a_loss_of_the_batch_has_no_losses_of_single_images_in_training(name):
    with pytest.raises(ValueError, match="reduction = 'none': expected 'mean'"):
        build_loss(name, [3, 2, 1, 1])(
            torch.zeros(2, 4), torch.tensor([0, 1]), "none", head=CosineHead(2, 4)
        )
