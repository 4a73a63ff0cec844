import dataclasses
import itertools
import re

import numpy as np
import pytest
import torch
from made_up import of, records
from stored import store
from test_notebooks import run

from ltlib.report.comparison import (
    advice,
    answers,
    compare,
    first_protocols,
    gain,
    gain_of_runs,
    gains_table,
)
from ltlib.runs.profiles import load_profile
from ltlib.runs.records import save_predictions
from workbook.notebooks import NOTEBOOKS

BLOCK = ("thesis", "resnetv2_small32")


def profile_of(**changes):
    return load_profile("smoke", **({"losses": ["softmax", "focal", "ldam"]} | changes))


TWO = {"seeds": [0, 1]}


def gain_of(profile, *parts, loss="focal", group="all"):
    return gain(profile, records(*parts), BLOCK, loss, group)


def test_one_seed_without_predictions_has_the_noise_of_two_tests(out):
    found = gain_of(profile_of(), of("softmax", 0.5), of("focal", 0.6))
    assert found.mean == pytest.approx(10)
    assert found.half == pytest.approx(9.7, abs=0.1)  # 1.96 sqrt(0.5 0.5 / 202 + 0.6 0.4 / 202)


def test_one_seed_decides_nothing_and_two_that_agree_do(out):
    one = gain_of(profile_of(), of("softmax", 0.5), of("focal", 0.6))
    assert one.mean > one.half
    assert (one.word(), one.starred()[-1]) == ("undecided", "7")
    two = gain_of(profile_of(seeds=[0, 1]), of("softmax", 0.5, 0.5), of("focal", 0.6, 0.6))
    assert two.half == pytest.approx(one.half)
    assert (two.word(), two.starred()[-1]) == ("better", "*")


def test_seeds_widen_the_interval(out):
    one = gain_of(profile_of(), of("softmax", 0.5), of("focal", 0.6))
    several = of("softmax", 0.5, 0.5), of("focal", 0.55, 0.65)
    two = gain_of(profile_of(seeds=[0, 1]), *several)
    assert two.mean == pytest.approx(one.mean)
    assert two.half == pytest.approx(np.hypot(one.half, 12.706 * 5), rel=0.01)
    assert two.word() == "undecided"


def test_predictions_of_the_same_images_sharpen_it(out):
    """Of 200 images focal gets 10 right that softmax does not: change has mean 0.05 and a spread of
    0.22 an image."""
    profile = profile_of()
    labels = torch.arange(100).repeat(2)
    for loss, wrong in (("softmax", 30), ("focal", 20)):
        predicted = labels.clone()
        predicted[:wrong] = (predicted[:wrong] + 1) % 100
        config = profile.config("resnetv2_small32", loss, "longtailed", 0, "thesis")
        save_predictions(config, torch.nn.functional.one_hot(predicted, 100).double() * 9, labels)
    found = gain_of(profile, of("softmax", 0.85), of("focal", 0.9))
    assert found.mean == pytest.approx(5)
    change = np.array([1] * 11 + [-1] + [0] * 190)
    assert found.half == pytest.approx(196 * change.std() / np.sqrt(202), rel=1e-3)
    same = (of(loss, 1.0, eval_set="balanced_tail", n=68) for loss in ("softmax", "focal"))
    tail = gain_of(profile, *same, group="tail")
    assert (tail.mean, tail.word()) == (0, "undecided")
    assert tail.half > 0


def test_runs_of_two_modes_are_compared_seed_by_seed(out):
    profile, pairs = profile_of(seeds=[0, 1, 2]), []
    for seed, accuracies in enumerate(((0.6, 0.5), (0.62, 0.5), ())):
        run = profile.config(BLOCK[1], "softmax", "longtailed", seed, "thesis")
        pair = dataclasses.replace(run, mode="light"), run
        for config, accuracy in zip(pair, accuracies, strict=False):
            store(config, accuracy)
        pairs.append(pair)
    found = gain_of_runs(pairs, "all")
    assert found.mean == pytest.approx(11)  # of the two pairs that are finished
    images = 196 * np.sqrt((0.61 * 0.39 + 0.5 * 0.5) / 102)  # test images, and one for each side
    assert found.half == pytest.approx(np.hypot(12.706 * 1, images), rel=0.01)
    assert not gain_of_runs(pairs[2:], "all").known


def test_what_is_missing_has_no_gain(out):
    assert not gain_of(profile_of(), of("softmax", 0.5)).known
    assert answers(compare(profile_of(), records())).startswith("No block has softmax")
    assert gains_table(compare(profile_of(), records())).empty


def both(loss, value, backbone=BLOCK[1], **other):
    """The accuracy of all classes, of the head and of the tail, the same with both seeds."""
    sets = ("balanced", "balanced_tail", "balanced_head")
    other |= {"backbone": backbone, "n": 10_000}
    return [of(loss, value, value, eval_set=name, **other) for name in sets]


def text_of(profile, *parts, agreement=""):
    return answers(compare(profile, records(*itertools.chain(*parts))), agreement)


def test_a_loss_that_is_not_run_everywhere_is_not_called_a_failure(out):
    a, b = "resnetv2_small32", "convnext_small32"
    parts = [
        both(loss, value, x) for loss, value in (("softmax", 0.5), ("focal", 0.6)) for x in (a, b)
    ]
    text = text_of(profile_of(**TWO), *parts, both("ldam", 0.7, a), agreement="They agree.")
    assert "In all 2 blocks a better tail, and an overall" in text
    assert "accuracy that is not lower by 1 point or more: Focal." in text
    assert "A lower tail or overall accuracy in some block: none." in text
    assert "Not run in every block, and left out here: LDAM." in text
    assert "- They agree." in text


def test_noise_is_undecided_and_one_architecture_is_said_to_be_one(out):
    parts = both("softmax", 0.5), both("focal", 0.501), both("ldam", 0.4)
    text = text_of(profile_of(**TWO), *parts)
    assert "some block: LDAM. Not decided: Focal. One architecture only" in text
    assert (
        "- ResNetV2 (small): all classes Softmax, Focal; head Softmax, Focal; tail Softmax, Focal."
        in text
    )


def test_of_one_seed_the_answers_say_that_nothing_is_decided(out):
    parts = [of(loss, value, n=10_000) for loss, value in (("softmax", 0.5), ("focal", 0.7))]
    text = answers(compare(profile_of(), records(*parts)))
    assert "In the one block a better tail, and an overall" in text
    assert "accuracy that is not lower by 1 point or more: none." in text
    assert "With one seed nothing is decided" in text


def test_the_spread_over_architectures_compares_one_loss_at_one_factor(out):
    a, b = "resnetv2_small32", "convnext_small32"
    values = {"softmax": (0.5, 0.5), "focal": (0.6, 0.8), "ldam": (0.5, 0.55)}
    parts = [
        both(loss, v, x) for loss, pair in values.items() for v, x in zip(pair, (a, b), strict=True)
    ]
    line = re.search(r"- The gain of one loss.*", text_of(profile_of(**TWO), *parts))[0]
    assert "for Focal: +10.0 ± 1.4 with ResNetV2 (small), +30.0 ± 1.3 with ConvNeXt (small)" in line
    assert "+20.0 ± 1.9, is more than noise" in line


def test_several_imbalance_factors(out):
    profile = profile_of(protocols=["thesis", "thesis_if2"], **TWO)
    assert list(first_protocols(profile).values()) == ["thesis", "thesis_if2"]
    other = [both(*part, protocol="thesis_if2") for part in (("softmax", 0.5), ("focal", 0.55))]
    text = text_of(profile, both("softmax", 0.5), both("focal", 0.6), *other)
    assert (
        "Mean gain in the tail of every backbone and loss (1 in all) that every factor has: +10.0"
        f" at IF {profile.protocols[0].imbalance_factor:g}, +5.0 at IF 2 points." in text
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"losses": ["softmax"]},
        {"losses": ["focal", "ldam"]},
        {"train_sets": ["balanced"]},
        {"backbones": ["resnetv2_small32"]},
    ],
)
@pytest.mark.parametrize("name", ["13_comparison_of_losses", "14_per_class", "15_thesis_tables"])
def test_notebooks_of_half_finished_grids_run_through(name, changes, out, monkeypatch):
    monkeypatch.setattr("IPython.display.display", lambda *shown, **told: None)
    run(NOTEBOOKS / f"{name}.ipynb", changes, None)


def test_not_lower_means_that_the_whole_interval_is_above_a_point_below(out):
    """Focal raises the tail; the rest is 0.5 points lower, with an interval of 0.4 or of 1.0."""
    for images, held in ((120_000, "Focal"), (20_000, "none")):
        parts = [of("softmax", 0.5, 0.5, n=images), of("focal", 0.495, 0.495, n=images)]
        for name in ("balanced_tail", "balanced_head"):
            parts += [of("softmax", 0.5, 0.5, eval_set=name, n=images)]
            parts += [of("focal", 0.6, 0.6, eval_set=name, n=images)]
        text = answers(compare(profile_of(**TWO), records(*parts)))
        assert f"not lower by 1 point or more: {held}. A lower" in text


def test_advice_says_what_to_take_for_what(out):
    """LDAM is best; focal raises the tail without lowering the head; adjusting is a bit worse."""
    values = {  # all, head, tail
        "softmax": (0.5, 0.8, 0.2),
        "focal": (0.52, 0.8, 0.3),
        "ldam": (0.6, 0.7, 0.5),
        "logit_adjusted": (0.6, 0.6, 0.5),
    }
    sets = ("balanced", "balanced_head", "balanced_tail")
    parts = [
        of(loss, value, value, eval_set=name, n=1_000_000)
        for loss, of_loss in values.items()
        for name, value in zip(sets, of_loss, strict=True)
    ]
    profile = profile_of(losses=list(values), **TWO)
    assert advice(compare(profile, records(*parts))) == (
        "- **ResNetV2 (small)**: every class counts the same: LDAM (+10.0 ± 0.1 points, all"
        " classes), not told apart from it: Logit adjustment; the head must not fall: Focal"
        " (+10.0 ± 0.1 points, tail); nothing can be trained again: Logit adjustment (+10.0 ± 0.1"
        " points, all classes)."
    )
    assert advice(compare(profile, records())).startswith("No block")
