import dataclasses

import pandas as pd
import pytest

from ltlib.errors import ConfigError
from ltlib.files import results_dir
from ltlib.runs.profiles import load_profile
from ltlib.runs.progress import unique_runs
from ltlib.runs.records import load_record
from workbook.tune import trials, tune


def profile(**lists):
    base = load_profile(
        "smoke", backbones=["resnetv2_small32"], losses=["softmax", "balanced_softmax"]
    )
    return dataclasses.replace(base, tune=lists, mode="scratch")


def test_every_combination_is_tried_on_the_long_tail_with_one_seed():
    found = trials(profile(lr=[0.1, 0.2], layer_decay=[0.5, 1.0]))
    assert [change for change, _ in found] == [
        {"lr": a, "layer_decay": b} for a in (0.1, 0.2) for b in (0.5, 1.0)
    ]
    runs = unique_runs(found[1][1])
    assert {
        (run.recipe.lr, run.recipe.layer_decay, run.train_set, run.seed, run.profile)
        for run in runs
    } == {(0.1, 1.0, "longtailed", 0, "smoke/tune")}


def test_several_seeds_are_tried_where_the_profile_asks_for_them():
    base = dataclasses.replace(profile(lr=[0.1]), seeds=(0, 1, 2), tune_seeds=(1, 2))
    ((_, trial),) = trials(base)
    assert trial.seeds == (1, 2)
    ((_, trial),) = trials(dataclasses.replace(base, tune_seeds=()))
    assert trial.seeds == (0,)


@pytest.mark.slow
def test_the_choice_is_the_mean_over_losses_and_seeds(out):
    base = dataclasses.replace(profile(lr=[1.0e-12, 1.0e-2], epochs=[1]), tune_seeds=(0, 1))
    said = []
    table = tune(base, 1, said.append)
    assert sorted(set(table["seed"])) == [0, 1]
    means = table.groupby("lr")["val_acc"].mean()
    assert set(table.loc[table["chosen"], "lr"]) == {means.idxmax()}
    assert table["chosen"].sum() == 4  # two losses, two seeds
    assert any(f"{100 * means.max():.1f} %" in line for line in said)


def test_logit_adjustment_is_not_tried_it_trains_nothing():
    base = load_profile("smoke", losses=["softmax", "logit_adjusted"])
    ((_, trial),) = trials(dataclasses.replace(base, tune={"lr": [0.1]}))
    assert trial.losses == ("softmax",)


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({}, "smoke: expected a table \\[tune\\]"),
        ({"lr": [0.1, -1.0]}, "smoke: tune: {'lr': -1.0}: lr = -1.0"),
        ({"lr": ["fast"]}, "smoke: tune: {'lr': 'fast'}"),
    ],
)
def test_impossible_trials_are_refused_before_anything_is_computed(out, lists, message):
    with pytest.raises(ConfigError, match=message):
        tune(profile(**lists), 1)
    assert not results_dir("smoke").exists()


@pytest.mark.slow
def test_the_choice_is_the_best_validation_accuracy_and_what_was_tried_is_written_down(
    out, monkeypatch
):
    said = []
    table = tune(profile(lr=[1.0e-12, 1.0e-2, 1.0e30], epochs=[6]), 1, said.append)
    assert len(table) == 6
    pd.testing.assert_frame_equal(
        pd.read_csv(results_dir("smoke") / "tune.csv"), table, check_dtype=False
    )
    means = table.groupby("lr")["val_acc"].mean()
    assert set(table.loc[table["chosen"], "lr"]) == {means.idxmax()}
    assert (table.loc[table["lr"] == 1.0e30, "val_acc"] == 0).all()
    for _, row in table[table["lr"] < 1].iterrows():
        run = next(
            r
            for _, trial in trials(profile(lr=[row["lr"]], epochs=[6]))
            for r in unique_runs(trial)
            if r.id == row["run_id"]
        )
        assert load_record(run).results["curve"][-1]["val_acc"] == row["val_acc"]
    line = next(line for line in said if line.startswith("resnetv2_small32: "))
    assert (
        f"lr = {means.idxmax()}, epochs = 6: mean validation accuracy {100 * means.max():.1f} %"
        in line
    )
    assert ("at the edge of what was tried: lr" in line) == (means.idxmax() != 1.0e-2)


@pytest.mark.parametrize(
    "change", [{"val_per_class": 0}, {"balanced_count": 110, "max_count": 110}]
)
def test_without_validation_images_nothing_is_tried(out, change):
    base = dataclasses.replace(profile(lr=[0.1]), train_sets=("balanced",))
    protocol = dataclasses.replace(base.protocols[0], **change)
    with pytest.raises(
        ConfigError, match="thesis balanced: expected validation images to choose by"
    ):
        tune(dataclasses.replace(base, protocols=(protocol,)), 1, lambda line: None)
    assert not results_dir("smoke").exists()


def test_there_must_be_a_loss_that_is_trained():
    base = load_profile("smoke", losses=["logit_adjusted"])
    with pytest.raises(ConfigError, match="expected one that is trained"):
        trials(dataclasses.replace(base, tune={"lr": [0.1]}))


def test_the_long_tailed_set_is_chosen_by_name():
    base = dataclasses.replace(profile(lr=[0.1]), train_sets=("longtailed", "balanced"))
    assert trials(base)[0][1].train_sets == ("longtailed",)
    assert trials(dataclasses.replace(base, train_sets=("balanced",)))[0][1].train_sets == (
        "balanced",
    )


def test_all_trials_are_one_set_of_runs_on_the_launcher_that_was_asked_for(out, monkeypatch):
    asked = []

    def compute(profile, jobs, say, launcher, runs):
        asked.append((profile.name, launcher, [(run.recipe.lr, run.loss) for run in runs]))
        raise KeyboardInterrupt

    monkeypatch.setattr("workbook.tune.compute_runs", compute)
    with pytest.raises(KeyboardInterrupt):
        tune(profile(lr=[0.1, 0.2]), 1, lambda line: None, "slurm")
    assert asked == [
        (
            "smoke/tune",
            "slurm",
            [(lr, loss) for lr in (0.1, 0.2) for loss in ("softmax", "balanced_softmax")],
        )
    ]


@pytest.mark.slow
def test_a_rate_can_be_chosen_for_each_loss(out):
    said = []
    of_loss = dataclasses.replace(profile(lr=[1.0e-12, 1.0e-2], epochs=[6]), tune_by="loss")
    table = tune(of_loss, 1, said.append)
    for loss, rows in table.groupby("loss"):
        best = rows["val_acc"].max()
        assert rows.loc[rows["chosen"], "val_acc"].tolist() == [best]
        assert any(f"resnetv2_small32, {loss}: lr = " in line for line in said)
