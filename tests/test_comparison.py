import re

import numpy as np
import pandas as pd
import pytest
import torch
from test_notebooks import run

from ltlib.book import NOTEBOOKS
from ltlib.comparison import Gain, answers, compare, first_protocols, gain, gains_table
from ltlib.config import load_profile
from ltlib.records import COLUMNS, save_predictions

BLOCK = ("thesis", "resnetv2_small32")


def profile_of(**changes):
    return load_profile("smoke", **({"losses": ["softmax", "focal", "ldam"]} | changes))


def rows(loss, values, group="balanced", backbone="resnetv2_small32", n=200, protocol="thesis"):
    return [["id", "digits", protocol, "longtailed", backbone, loss, seed, "last", group, "acc1", value, n, False]
            for seed, value in enumerate(values)]


def records(*parts):
    return pd.DataFrame([row for part in parts for row in part], columns=COLUMNS)


def test_one_seed_without_predictions_has_the_noise_of_two_tests(out):
    found = gain(profile_of(), records(rows("softmax", [0.5]), rows("focal", [0.6])), BLOCK, "focal", "all")
    assert found.points == pytest.approx(10)
    assert found.half == pytest.approx(9.7, abs=0.1)  # 1.96 sqrt(0.5 0.5 / 202 + 0.6 0.4 / 202)
    assert found.outcome == "gains"


def test_seeds_widen_the_interval(out):
    one = gain(profile_of(), records(rows("softmax", [0.5]), rows("focal", [0.6])), BLOCK, "focal", "all")
    two = gain(profile_of(seeds=[0, 1]), records(rows("softmax", [0.5, 0.5]), rows("focal", [0.55, 0.65])), BLOCK, "focal", "all")
    assert two.points == pytest.approx(one.points)
    assert two.half == pytest.approx(np.hypot(one.half, 12.706 * 5), rel=0.01)
    assert two.outcome == "undecided"


def test_predictions_of_the_same_images_sharpen_it(out):
    """Of 200 images focal gets 10 right that softmax does not: change has mean 0.05 and a spread of 0.22 an image."""
    profile = profile_of()
    labels = torch.arange(100).repeat(2)
    for loss, wrong in (("softmax", 30), ("focal", 20)):
        predicted = labels.clone()
        predicted[:wrong] = (predicted[:wrong] + 1) % 100
        config = profile.config("resnetv2_small32", loss, "longtailed", 0, "thesis")
        save_predictions(config, torch.nn.functional.one_hot(predicted, 100).double() * 9, labels)
    found = gain(profile, records(rows("softmax", [0.85]), rows("focal", [0.9])), BLOCK, "focal", "all")
    assert found.points == pytest.approx(5)
    change = np.array([1] * 11 + [-1] + [0] * 190)
    assert found.half == pytest.approx(196 * change.std() / np.sqrt(202), rel=1e-3)
    same = records(*(rows(loss, [1.0], "balanced_tail", n=68) for loss in ("softmax", "focal")))
    tail = gain(profile, same, BLOCK, "focal", "tail")
    assert (tail.points, tail.outcome) == (0, "undecided")
    assert tail.half > 0


def test_what_is_missing_has_no_gain(out):
    assert gain(profile_of(), records(rows("softmax", [0.5])), BLOCK, "focal", "all") is None
    assert answers(compare(profile_of(), records())).startswith("No block has softmax")
    assert gains_table(compare(profile_of(), records())).empty


@pytest.mark.parametrize(("points", "half", "outcome"), [(1.0, 0.5, "gains"), (-1.0, 0.5, "loses"), (0.5, 0.5, "undecided"),
                                                         (0.0, 0.0, "undecided"), (1.0, float("nan"), "undecided")])
def test_outcomes(points, half, outcome):
    assert Gain(points, half).outcome == outcome


def both(loss, value, backbone, tail=None, n=10_000):
    return [*rows(loss, [value], "balanced", backbone, n), *rows(loss, [value if tail is None else tail], "balanced_tail", backbone, n),
            *rows(loss, [value], "balanced_head", backbone, n)]


def test_a_loss_that_is_not_run_everywhere_is_not_called_a_failure(out):
    a, b = "resnetv2_small32", "convnext_small32"
    table = records(both("softmax", 0.5, a), both("softmax", 0.5, b), both("focal", 0.6, a), both("focal", 0.6, b), both("ldam", 0.7, a))
    text = answers(compare(profile_of(), table), "They agree.")
    assert "In all 2 blocks a better tail and no lower overall accuracy: Focal." in text
    assert "A lower tail or overall accuracy in some block: none." in text
    assert "Not run in every block, and left out here: LDAM." in text
    assert "- They agree." in text


def test_noise_is_undecided_and_one_architecture_is_said_to_be_one(out):
    a = "resnetv2_small32"
    table = records(both("softmax", 0.5, a), both("focal", 0.501, a), both("ldam", 0.4, a))
    text = answers(compare(profile_of(), table))
    assert "some block: LDAM. Not decided: Focal. One architecture only" in text
    assert "- ResNetV2 (small): all classes Softmax, Focal; head Softmax, Focal; tail Softmax, Focal." in text


def test_the_spread_over_architectures_compares_one_loss_at_one_factor(out):
    a, b = "resnetv2_small32", "convnext_small32"
    table = records(both("softmax", 0.5, a), both("softmax", 0.5, b), both("focal", 0.6, a), both("focal", 0.8, b), both("ldam", 0.5, a),
                    both("ldam", 0.55, b))
    line = re.search(r"- The gain of one loss.*", answers(compare(profile_of(), table)))[0]
    assert "for Focal: +10.0 ± 1.4 with ResNetV2 (small), +30.0 ± 1.3 with ConvNeXt (small)" in line
    assert "+20.0 ± 1.9, is more than noise" in line


def test_several_imbalance_factors(out):
    profile = profile_of(protocols=["thesis", "thesis_if2"])
    assert list(first_protocols(profile).values()) == ["thesis", "thesis_if2"]
    other = [[*row[:2], "thesis_if2", *row[3:]] for row in [*both("softmax", 0.5, BLOCK[1]), *both("focal", 0.55, BLOCK[1])]]
    table = records(both("softmax", 0.5, BLOCK[1]), both("focal", 0.6, BLOCK[1]), other)
    text = answers(compare(profile, table))
    assert "Mean gain in the tail over the 1 pairs of backbone and loss that every factor has: +10.0 at IF 4, +5.0 at IF 2 points." in text


@pytest.mark.parametrize("changes", [{}, {"losses": ["softmax"]}, {"losses": ["focal", "ldam"]}, {"train_sets": ["balanced"]},
                                     {"backbones": ["resnetv2_small32"]}])
@pytest.mark.parametrize("name", ["13_comparison_of_losses", "14_per_class", "15_thesis_tables"])
def test_notebooks_of_half_finished_grids_run_through(name, changes, out, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda *shown: None)
    run(NOTEBOOKS / f"{name}.ipynb", changes, None)


