"""What others published beside ours: the literature, and the papers of notebooks 17 to 19."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from made_up import of, records

from ltlib.files import ROOT
from ltlib.report import published
from ltlib.report.thesis import printed
from ltlib.runs.profiles import load_profile, profile_names, profiles_of


@pytest.mark.parametrize("name", ["pf_loss", "pf_loss_examples", "arconvl", "arconvl_tests", "gbg"])
def test_what_the_papers_print_is_there(name):
    assert len(printed(name)) >= 9


@pytest.mark.slow
def test_every_profile_that_names_notebooks_names_some_that_exist_and_they_find_it_again():
    named = [load_profile(name) for name in profile_names()]
    stems = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    for profile in named:
        assert set(profile.notebooks) <= stems
        for notebook in profile.notebooks:
            assert profile.name in [found.name for found in profiles_of(notebook)]
            assert profile.title in published.deviations(notebook)
    assert profiles_of("02_softmax") == []


def test_results_by_seed():
    usual = {"protocol": "p", "metric": "gmean"}
    table = records(of("pf", 0.8, 0.9, **usual), of("wce", 0.7, **usual)).assign(profile="pf_loss")
    found = published.by_seed(table, "pf_loss", "p", "balanced", "gmean")
    assert found.loc[0].to_dict() == {"pf": 0.8, "wce": 0.7}
    assert found.loc[1, "pf"] == 0.9
    assert np.isnan(found.loc[1, "wce"])
    for other in (("arconvl", "p", "balanced", "gmean"), ("pf_loss", "p", "balanced", "auc")):
        assert published.by_seed(table, *other).empty


def test_a_cell_says_mean_and_interval_or_a_dash():
    assert published.cell(pd.Series([0.8, 0.82])) == "81.0 ± 12.7"
    assert published.cell(pd.Series([0.8, np.nan])) == "80.0"
    assert published.cell(pd.Series([], dtype=float)) == published.cell(None) == "–"


@pytest.mark.parametrize(
    ("rival", "claim", "finding"),
    [
        ((0.70, 0.701, 0.702), 75.0, "as claimed"),
        ((0.90, 0.901, 0.902), 75.0, "against the claim"),
        ((0.70, 0.901, 0.802), 75.0, "undecided"),
        ((0.90, 0.901, 0.902), 95.0, "as claimed"),
        ((0.70, 0.701, 0.702), np.nan, "no claim"),
    ],
)
def test_a_claim_stands_beside_what_our_runs_show(rival, claim, finding):
    ours = pd.DataFrame({"pf": [0.8, 0.801, 0.802], "wce": rival})
    row = published.compare(ours, pd.Series({"pf": 80.0, "wce": claim}), "pf", str.upper).loc["WCE"]
    assert row["finding"] == finding
    assert row["gain printed"] == {75.0: "+5.0", 95.0: "−15.0"}.get(claim, "–")


def test_one_seed_decides_nothing_and_a_method_without_runs_is_a_dash():
    theirs = pd.Series({"pf": 80.0, "wce": 75.0})
    one = published.compare(pd.DataFrame({"pf": [0.8], "wce": [0.7]}), theirs, "pf", str.upper).loc[
        "WCE"
    ]
    assert (one["gain ours"], one["finding"]) == ("+10.0", "undecided")
    none = published.compare(pd.DataFrame({"wce": [0.7, 0.71]}), theirs, "pf", str.upper).loc["WCE"]
    assert (none["gain ours"], none["finding"]) == ("–", "–")


def beside_published(profile, train_set="longtailed"):
    return published.published_grid(profile, records(), profile.protocols[0], train_set)


def test_published_figures_of_the_same_backbone_and_imbalance_factor_stand_beside_ours():
    profile = load_profile("scratch", losses=["softmax", "balanced_softmax", "ldam", "ldam_drw"])
    grid, notes = beside_published(profile)
    column = grid.frame()["Published", "All"]
    assert column.tolist() == ["38.3, 39.1, 41.4", "–", "–", "42"]
    assert any("Softmax 39.1: github frank-xwang/RIDE" in note for note in notes)
    assert any(
        "Balanced softmax 46.7 at IF 200" in note and "AutoAugment" in note for note in notes
    )
    assert any("38.3" in note and "not verified" in note for note in notes)


def test_published_figures_at_another_imbalance_factor():
    profile = load_profile(
        "scratch", losses=["softmax", "balanced_softmax"], protocols=["standard_if200"]
    )
    assert beside_published(profile)[0].frame()["Published", "All"].tolist() == ["41.2", "46.7"]


def test_published_figures_on_the_balanced_set_stand_beside_softmax_alone():
    profile = load_profile(
        "finetune",
        backbones=["mobilenetv2_100", "vit_base_patch16_224"],
        losses=["softmax", "focal"],
    )
    grid, notes = beside_published(profile, train_set="balanced")
    column = grid.frame()["Published", "All"]
    assert column.iloc[0] == "80–83"
    assert "92.89" in column.iloc[2]
    assert "22.23" not in column.iloc[2]
    assert column.iloc[1] == column.iloc[3] == "–"
    assert all("Published, " in note for note in notes)


def test_published_figures_of_pretrained_models_on_the_long_tail_are_a_note():
    """They are of other ways to fine-tune: beside ours, but not in our rows."""
    profile = load_profile(
        "finetune", backbones=["vit_base_patch16_224"], losses=["softmax", "balanced_softmax"]
    )
    grid, notes = beside_published(profile)
    assert grid.frame()["Published", "All"].tolist() == ["–", "–"]
    (note,) = notes
    assert note.startswith(
        "Published with pretrained models at IF 100: LIFT, ViT-B/16, 89.1: ImageNet-21k; hyper.ai"
    )
    assert beside_published(load_profile("finetune", protocols=["standard_if200"]))[1] == []


def test_only_whole_models_on_the_standard_sets_are_comparable():
    finetune, probe = load_profile("finetune"), load_profile("probe")
    assert [published.is_comparable(finetune, p) for p in finetune.protocols] == [True, False]
    assert not any(published.is_comparable(probe, p) for p in probe.protocols)
    fewer = dataclasses.replace(finetune.protocols[0], balanced_count=108)
    assert not published.is_comparable(finetune, fewer)
    assert not published.is_comparable(load_profile("demo"), load_profile("demo").protocols[0])


@pytest.mark.parametrize("paper", ["pf_loss", "arconvl", "gbg"])
def test_the_coverage_of_a_paper_says_where_or_why_not(paper):
    table = published.coverage(paper)
    state, where, missing = table["State"], table["Where"], table["Missing, or why not"]
    assert set(state) == {"complete", "partly", "left out"}
    assert ((where == "") == (state == "left out")).all()
    assert ((missing == "") == (state == "complete")).all()
    assert table["Item"].is_unique
    named = set(re.findall(r"`(\d\d_\w+)`", " ".join(where)))
    assert named <= {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
