import numpy as np
import pandas as pd
import pytest

from ltlib import __main__, book, papers
from ltlib.config import load_profile, profile_names, results_dir
from ltlib.records import COLUMNS

TOML = """
title = "A paper in miniature"
dataset = "digits"
mode = "scratch"
backbones = ["resnet32"]
losses = ["plain", "pf"]
train_sets = ["longtailed"]
seeds = [0]
notebooks = ["17_pf_loss"]

[methods.plain]
loss = "softmax"

[protocols.few]
max_count = 2
balanced_count = 2
val_per_class = 0
test_per_class = 1
longtailed_test = false
groups = "step"
imbalance = "step"
imbalance_factor = 2.0

[recipe]
epochs = 1
batch_size = 100
optimizer = "sgd"
lr = 0.1
resolution = 8
"""


@pytest.mark.parametrize("name", ["pf_loss", "pf_loss_examples", "arconvl", "arconvl_tests", "gbg"])
def test_what_the_papers_print_is_there(name):
    assert len(papers.printed(name)) >= 9


def test_every_profile_that_names_notebooks_names_some_that_exist_and_they_find_it_again():
    named = [load_profile(name) for name in profile_names()]
    stems = {path.stem for path in book.NOTEBOOKS.glob("*.ipynb")}
    for profile in named:
        assert set(profile.notebooks) <= stems
        for notebook in profile.notebooks:
            assert profile.name in [found.name for found in papers.profiles_of(notebook)]
            assert profile.title in papers.deviations(notebook)
    assert papers.profiles_of("02_softmax") == []


def test_a_paper_profile_executes_its_notebook_alone_and_the_demo_all():
    assert [page.name for page in book.pages(load_profile("arconvl"))] == ["18_arconvl"]
    assert {"17_pf_loss", "18_arconvl", "19_gbg"} <= {page.name for page in book.pages(load_profile("demo"))}


def test_a_notebook_of_a_paper_depends_on_the_records_of_its_profiles(tmp_path, monkeypatch):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    pages = {page.name: page for page in book.pages(load_profile("smoke"))}
    before = {name: pages[name].key() for name in ("17_pf_loss", "18_arconvl")}
    run = load_profile("pf_loss").configs()[0]
    results_dir("pf_loss").mkdir(parents=True)
    (results_dir("pf_loss") / f"{run.id}.json").write_text("{}")
    assert pages["17_pf_loss"].key() != before["17_pf_loss"]
    assert pages["18_arconvl"].key() == before["18_arconvl"]


def records(values):
    """A table of records from {(method, seed): gmean}."""
    rows = [dict.fromkeys(COLUMNS) | {"profile": "pf_loss", "protocol": "p", "train_set": "longtailed", "loss": loss, "seed": seed,
            "epoch_choice": "last", "eval_set": "balanced", "metric": "gmean", "value": value} for (loss, seed), value in values.items()]
    return pd.DataFrame(rows)


def test_results_by_seed():
    table = papers.by_seed(records({("pf", 0): 0.8, ("pf", 1): 0.9, ("wce", 0): 0.7}), "pf_loss", "p", "balanced", "gmean")
    assert table.loc[0].to_dict() == {"pf": 0.8, "wce": 0.7}
    assert table.loc[1, "pf"] == 0.9
    assert np.isnan(table.loc[1, "wce"])
    assert papers.by_seed(records({("pf", 0): 0.8}), "pf_loss", "p", "balanced", "auc").empty


def test_a_cell_says_mean_and_interval_or_a_dash():
    assert papers.cell(pd.Series([0.8, 0.82])) == "81.0 ± 12.7"
    assert papers.cell(pd.Series([0.8, np.nan])) == "80.0"
    assert papers.cell(pd.Series([], dtype=float)) == papers.cell(None) == "–"


@pytest.mark.parametrize(("rival", "claim", "finding"), [
    ((0.70, 0.701, 0.702), 75.0, "as claimed"), ((0.90, 0.901, 0.902), 75.0, "against the claim"),
    ((0.70, 0.901, 0.802), 75.0, "undecided"), ((0.90, 0.901, 0.902), 95.0, "as claimed"), ((0.70, 0.701, 0.702), np.nan, "no claim"),
])
def test_a_claim_stands_beside_what_our_runs_show(rival, claim, finding):
    ours = pd.DataFrame({"pf": [0.8, 0.801, 0.802], "wce": rival})
    row = papers.compare(ours, pd.Series({"pf": 80.0, "wce": claim}), "pf").loc["WCE"]
    assert row["finding"] == finding
    assert row["gain printed"] == {75.0: "+5.0", 95.0: "−15.0"}.get(claim, "–")


def test_one_seed_decides_nothing_and_a_method_without_runs_is_a_dash():
    theirs = pd.Series({"pf": 80.0, "wce": 75.0})
    one = papers.compare(pd.DataFrame({"pf": [0.8], "wce": [0.7]}), theirs, "pf").loc["WCE"]
    assert (one["gain ours"], one["finding"]) == ("+10.0", "undecided")
    none = papers.compare(pd.DataFrame({"wce": [0.7, 0.71]}), theirs, "pf").loc["WCE"]
    assert (none["gain ours"], none["finding"]) == ("–", "–")


def test_the_command_computes_the_runs_of_all_and_then_makes_their_pages(tmp_path, monkeypatch):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "out"))
    made, path = [], tmp_path / "paper.toml"
    path.write_text(TOML)
    monkeypatch.setattr(__main__, "notebooks", lambda profile, jobs: made.append(("notebooks", profile.name)))
    monkeypatch.setattr(__main__, "write_html", lambda profile, say: made.append(("html", profile.name)) or tmp_path)
    assert __main__.main(["papers", "--papers", str(path), "--jobs", "1"]) == 0
    assert len(list((tmp_path / "out" / "results" / "paper").glob("*.json"))) == 2
    assert made == [("notebooks", "paper"), ("html", "paper")]


def test_data_that_cannot_be_had_stop_the_papers_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("LTLIB_DATA", str(tmp_path))
    from torchvision import datasets

    def refuse(*_, **__):
        raise OSError("no network")

    from ltlib.datasets import load_dataset

    load_dataset.cache_clear()
    monkeypatch.setattr(datasets, "FashionMNIST", type("FashionMNIST", (), {"__new__": refuse}))
    path = tmp_path / "paper.toml"
    path.write_text(TOML)
    assert __main__.main(["papers", "--papers", f"{path} gbg"]) == 1
    said = capsys.readouterr().err
    assert "FashionMNIST is not in" in said
    assert "LTLIB_DATA" in said
    assert not (tmp_path / "out" / "results").exists()
