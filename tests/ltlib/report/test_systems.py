"""What notebooks 17 to 19 share: batches, paired gains and findings, GBG's curves."""

import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from made_up import of, records
from torch import nn

from ltlib.losses import build_loss
from ltlib.models import Classifier, build_head
from ltlib.recipe import Recipe
from ltlib.report import systems
from ltlib.report.systems import Gain

COUNTS = np.array([40, 30, 2, 1])


def test_a_class_is_absent_as_often_as_counted_in_batches_of_training():
    seen = systems.batch_counts(COUNTS, 10, epochs=400)
    assert seen.sum() % COUNTS.sum() == 0
    expected = systems.absence(COUNTS, 10)
    assert expected[3] == pytest.approx(1 - 10 / 73)
    assert np.allclose((seen == 0).mean(0), expected, atol=0.03)


def test_a_batch_as_large_as_the_set_holds_every_class():
    assert np.allclose(systems.absence(COUNTS, 500), 0)


def test_a_training_is_the_same_again_and_learns():
    x, labels = systems.scikit_digits()
    recipe = Recipe(epochs=3, batch_size=64, optimizer="adam", lr=3e-3, resolution=8)
    seen = []

    def network():
        return Classifier(nn.Sequential(nn.Linear(64, 16), nn.ReLU()), build_head("linear", 16, 10))

    def look(model):
        seen.append(model)
        return {"val_acc": 0.0, "val_loss": 0.0}

    loss = build_loss("softmax", [100] * 10)
    (first, curve), (again, _) = (
        systems.trained(network, loss, x, labels, recipe, 0, look) for _ in range(2)
    )
    assert torch.equal(first.head.weight, again.head.weight)
    assert curve[-1]["train_loss"] < curve[0]["train_loss"]
    assert len(seen) == 6


def test_a_gain_is_paired_by_seed_in_points():
    ours, theirs = pd.Series([0.5, 0.6, 0.9]), pd.Series([0.4, 0.5, np.nan])
    gain = Gain.of(ours, theirs)
    assert (gain.mean, gain.half) == pytest.approx((10, 0), abs=1e-9)
    assert Gain.of(ours, theirs * np.nan).starred() == "–"


@pytest.mark.parametrize(
    ("mean", "half", "text", "word"),
    [
        (1.24, 0.5, "+1.2 ± 0.5*", "better"),
        (-1.24, 0.5, "−1.2 ± 0.5*", "worse"),
        (1.24, 1.5, "+1.2 ± 1.5", "undecided"),
        (0.5, 0.5, "+0.5 ± 0.5", "undecided"),
        (0.0, 0.0, "+0.0 ± 0.0", "undecided"),
        (1.24, np.nan, "+1.2", "undecided"),
        (np.nan, np.nan, "–", "undecided"),
    ],
)
def test_a_gain_in_words(mean, half, text, word):
    assert (Gain(mean, half).starred(), Gain(mean, half).word()) == (text, word)


def test_findings_are_told_with_the_rivals_of_each():
    findings = pd.Series(["undecided", "as claimed", "–", "undecided"], ["A", "B", "C", "D"])
    assert systems.tally(findings) == "1 as claimed (B); 2 undecided (A, D)"
    assert systems.tally(findings[["C"]]) == ""


def test_results_in_percent_and_as_a_line():
    found = {"a": pd.DataFrame({"G-mean": [0.5, 0.5]}), "b": pd.DataFrame({"G-mean": [0.25]})}
    table = systems.percent_table(found, str.upper)
    assert table["G-mean"].to_dict() == {"A": "50.0 ± 0.0", "B": "25.0"}
    _, ax = plt.subplots()
    systems.error_line(ax, [1, 2], [pd.Series([0.5, 0.5]), pd.Series([0.2, 0.4])])
    assert ax.lines[0].get_ydata() == pytest.approx([50, 30])


def test_a_note_says_which_runs_are_there(profile):
    made = records(of("softmax", 0.5, 0.6)).assign(profile="smoke")
    epochs = profile.recipe.epochs
    runs = len(profile.configs())
    assert (
        systems.runs_note(profile, made) == f"Ours: 1 of {runs} runs, {epochs} epochs, seeds 0, 1."
    )
    assert systems.runs_note(profile, made[:0]) == f"Ours: 0 of {runs} runs, {epochs} epochs."


def test_a_method_beside_the_profiles_other_losses(profile):
    made = records(of("softmax", 0.5, 0.5), of("ldam", 0.6, 0.6))
    sets = {"all": "balanced", "middle": "balanced_middle"}
    told = list(systems.gains_by_group(profile, made, profile.protocol("thesis"), sets, "ldam"))
    assert len(told) == 1
    assert told[0].endswith(", thesis, all: LDAM +10.0 ± 0.0 against Softmax")


def test_a_profile_is_narrowed_to_what_stands_beside(profile, out):
    narrow, found = systems.beside(profile, ("pf", "ldam", "softmax"))
    assert narrow.losses == ("ldam", "softmax")
    assert dataclasses.replace(narrow, losses=profile.losses) == profile
    assert found.empty


def test_within_a_group_the_effective_prior_is_that_of_the_images():
    entry = {"group_of": [0, 1, 0], "group_weights": [0.5, 0.5]}
    assert systems.effective_prior(entry, [30, 7, 10]) == pytest.approx([0.375, 0.5, 0.125])


@pytest.mark.parametrize(
    ("ce", "within", "expected"),
    [
        ("plain", "classes", [1 / 4, 1 / 2, 1 / 4]),
        # 0.375 / 30, 0.5 / 7 and 0.125 / 10 over their sum
        ("balanced", "images", [7 / 54, 40 / 54, 7 / 54]),
        ("balanced", "classes", [7 / 88, 60 / 88, 21 / 88]),
    ],
)
def test_the_effective_prior_of_gbgs_options(ce, within, expected):
    entry = {"group_of": [0, 1, 0], "group_weights": [0.5, 0.5]}
    found = systems.effective_prior(entry, [30, 7, 10], ce, within)
    assert found == pytest.approx(expected)


def test_a_seesaw_is_seen_and_nothing_where_nothing_is_known():
    head = [0.5, 0.6, 0.4, 0.7]
    curve = [{"val_head": a, "val_middle": 0.5, "val_tail": 1 - a} for a in head]
    assert systems.seesaw(curve) == pytest.approx((1, -1))
    assert np.isnan(systems.seesaw([{"train_loss": 1.0}] * 5)).all()
    row = systems.seesaw_row([curve, [{}] * 4])
    assert row == {"Opposite changes (%)": "100", "Correlation": "−1.00"}
    figure = systems.seesaw_figure({"one": curve, "two": curve})
    assert figure.axes[0].lines[2].get_ydata() == pytest.approx([50, 40, 60, 30])
