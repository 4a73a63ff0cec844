import dataclasses

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from ltlib import report
from ltlib.config import load_profile
from ltlib.metrics import mean_interval
from ltlib.records import COLUMNS


def rows(loss, values, eval_set="balanced", train_set="longtailed", metric="acc1", same=False):
    return [["id", "digits", "thesis", train_set, "resnetv2_small32", loss, seed, "last", eval_set, metric, value, 200, same]
            for seed, value in enumerate(values)]


@pytest.fixture
def profile():
    return load_profile("smoke", backbones=["resnetv2_small32"], losses=["softmax", "focal", "ldam"], seeds=[0, 1])


def frame(*parts):
    return pd.DataFrame([row for part in parts for row in part], columns=COLUMNS)


def test_summary_over_seeds_and_of_one_seed():
    table = report.summarise(frame(rows("softmax", [0.5, 0.6]), rows("focal", [0.7])))
    key = ("thesis", "longtailed", "resnetv2_small32")
    two, one = table.loc[(*key, "softmax", "balanced")], table.loc[(*key, "focal", "balanced")]
    assert (two["mean"], two["half"]) == pytest.approx(mean_interval([0.5, 0.6]))
    assert two["seeds"] == 2
    assert np.isnan(one["half"])
    assert one["low"] < 0.7 < one["high"]


def test_summary_of_nothing_is_empty():
    assert report.summarise(frame()).empty


def test_numbers():
    assert report.number(0.8431) == "84.3"
    assert report.number(-0.012) == "−1.2"
    assert report.number(0.8431, 0.006) == "84.3 ± 0.6"
    assert report.number(1.2345, scale=1, digits=2) == "1.23"
    assert report.number(float("nan")) == "–"


def grid(profile, *parts):
    result = report.Grid(profile)
    result.add_summary(report.summarise(frame(*parts)), "thesis", "longtailed", "balanced", ("Balanced", "ours"))
    return result


def test_latex_is_a_bare_booktabs_tabular_with_bold_best_dashes_and_daggers(profile):
    latex = grid(profile, rows("softmax", [0.5, 0.52], same=True), rows("focal", [0.7, 0.71])).latex(["50 % & more_"])
    assert latex.startswith("\\begin{tabular}{lr}\n\\toprule")
    assert latex.rstrip().endswith("\\end{tabular}")
    assert "Focal & \\textbf{70.5\\,$\\pm$\\,6.4} \\\\" in latex
    assert "Softmax$^\\dagger$ & \\underline{51.0\\,$\\pm$\\,12.7}" in latex
    assert "LDAM & -- \\\\" in latex
    assert "50 \\% \\& more\\_" in latex
    assert "computed" in latex
    assert latex.count("\\textbf") == 1


def test_ties_are_all_bold_and_the_lowest_loss_is_best(profile):
    result = report.Grid(profile)
    result.add(("CE", ""), {("resnetv2_small32", "softmax"): 1.0, ("resnetv2_small32", "focal"): 1.0}, {}, best="min")
    assert list(result.best[0].values()) == [report.BEST] * 2


def test_blocks_for_several_backbones():
    profile = load_profile("smoke")
    result = report.Grid(profile)
    values = {(b, loss): i / 100 for i, (b, loss) in enumerate(result.index)}
    result.add(("A", "x"), values, {k: f"{v:.2f}" for k, v in values.items()})
    latex = result.latex()
    assert latex.count("\\midrule") == 2
    assert latex.count("\\textbf") == 2
    assert latex.index("ResNetV2") < latex.index("0.06") < latex.index("ConvNeXt") < latex.index("0.13")


def test_thesis_columns_show_the_printed_numbers_of_the_family(profile):
    shown = report.accuracy_grid(profile, frame(rows("softmax", [0.5, 0.5])), "longtailed").frame()
    row = shown.loc[("ResNetV2 (small)", "Softmax")]
    assert row[("Balanced", "ours")] == "50.0 ± 0.0"
    assert [row[(s, "thesis")] for s in ("Balanced", "Long-tailed", "Head", "Middle", "Tail")] == ["55.2", "79.5", "85.3", "63.9", "21.1"]


def test_the_thesis_s_repeated_vit_row_counts_as_missing():
    table = report.thesis_results()
    vit = table[(table["backbone"] == "vit_b16") & (table["loss"] == "ldam") & (table["train_set"] == "longtailed")]
    assert len(table) == 825
    assert vit.empty


@pytest.mark.parametrize(("name", "thesis"), [("mobilenetv2_100", "mobilenetv2"), ("vit_tiny_patch16_224", "vit_b16"), ("resnet18", None)])
def test_families(name, thesis):
    assert report.thesis_backbone(name) == thesis


def test_appendix_has_fifteen_columns_grouped_by_set(profile):
    parts = [rows("softmax", [0.5], s, metric=m) for s in report.SET_TITLES for m in ("loss", "acc1", "f1")]
    shown = report.appendix_grid(dataclasses.replace(profile, seeds=(0,)), frame(*parts), "longtailed")
    assert shown.columns[:3] == [("Balanced", "CE"), ("Balanced", "Acc"), ("Balanced", "F1")]
    assert len(shown.columns) == 15
    assert list(shown.frame().iloc[0][:3]) == ["0.50", "50.0", "50.0"]


def test_groups_show_wilson_intervals_for_one_seed(profile):
    one = dataclasses.replace(profile, seeds=(0,))
    shown = report.groups_grid(one, frame(rows("softmax", [0.5])), "thesis", "longtailed").frame()
    assert shown.iloc[0, 0] == "50.0 [43.1, 56.9]"
    assert shown.columns[-1] == ("Long-tailed test", "Tail")


def test_missing_runs_are_listed_with_their_state(out, profile, monkeypatch):
    assert report.missing_runs(profile) == ["resnetv2_small32, all 12 runs: missing"]
    monkeypatch.setattr(report, "run_state", lambda run: "done" if run.loss == "softmax" else "missing")
    listed = report.missing_runs(profile)
    assert len(listed) == 8
    assert listed[0] == "resnetv2_small32, thesis balanced, focal, seed 0: missing"


def test_figures_are_the_same_bytes_when_made_again(out, profile):
    output = report.Output(profile)
    made = []
    for _ in range(2):
        fig, ax = plt.subplots()
        ax.plot([1, 2])
        output.figure(fig, "line")
        made.append((out / "figures" / "smoke" / "line.pdf").read_bytes())
        plt.close(fig)
    assert made[0] == made[1]
    assert made[0].startswith(b"%PDF")


def test_tables_go_to_the_given_folder(tmp_path, profile, monkeypatch):
    monkeypatch.setenv("LTLIB_FIGURES", str(tmp_path))
    output = report.Output(profile)
    output.table(grid(profile, rows("softmax", [0.5, 0.6])), "one")
    output.frame(pd.DataFrame({"a %": ["1–2"]}, index=["x_1"]), "two")
    assert "Seeds: 0, 1." in (tmp_path / "tables" / "one.tex").read_text()
    assert "x\\_1 & 1--2" in (tmp_path / "tables" / "two.tex").read_text()


def test_thesis_columns_beside_another_backbone_say_whose_they_are(profile):
    assert report.thesis_notes(profile) == ["In the thesis columns, CIFAR-100 with ResNet50V2 beside ResNetV2 (small)."]
    own = dataclasses.replace(profile, backbones=("convnext_base", "resnet18"))
    assert report.thesis_notes(own) == []


# ---------------------------------------------------------------------------------------- published figures


def published(profile, **changes):
    records = pd.DataFrame(columns=COLUMNS)
    return report.published_grid(profile, records, changes.get("protocol", profile.protocols[0]), changes.get("train_set", "longtailed"))


def test_published_figures_of_the_same_backbone_and_imbalance_factor_stand_beside_ours():
    profile = load_profile("scratch", losses=["softmax", "balanced_softmax", "ldam", "ldam_drw"])
    grid, notes = published(profile)
    column = grid.frame()["Published", "All"]
    assert column.tolist() == ["38.3, 39.1, 41.4", "–", "–", "42"]
    assert any("Softmax 39.1: github frank-xwang/RIDE" in note for note in notes)
    assert any("Balanced softmax 46.7 at IF 200" in note and "AutoAugment" in note for note in notes)
    assert any("38.3" in note and "not verified" in note for note in notes)


def test_published_figures_at_another_imbalance_factor():
    profile = load_profile("scratch", losses=["softmax", "balanced_softmax"], protocols=["standard_if200"])
    assert published(profile)[0].frame()["Published", "All"].tolist() == ["41.2", "46.7"]


def test_published_figures_on_the_balanced_set_stand_beside_softmax_alone():
    profile = load_profile("finetune", backbones=["mobilenetv2_100", "vit_base_patch16_224"], losses=["softmax", "focal"])
    grid, notes = published(profile, train_set="balanced")
    column = grid.frame()["Published", "All"]
    assert column.iloc[0] == "80–83"
    assert "92.89" in column.iloc[2]
    assert "22.23" not in column.iloc[2]
    assert column.iloc[1] == column.iloc[3] == "–"
    assert all("Published, " in note for note in notes)


def test_published_figures_of_pretrained_models_on_the_long_tail_are_a_note():
    """They are of other ways to fine-tune: beside ours, but not in our rows."""
    profile = load_profile("finetune", backbones=["vit_base_patch16_224"], losses=["softmax", "balanced_softmax"])
    grid, notes = published(profile)
    assert grid.frame()["Published", "All"].tolist() == ["–", "–"]
    note, = notes
    assert note.startswith("Published with pretrained models at IF 100: LIFT, ViT-B/16, 89.1: ImageNet-21k; hyper.ai page of arXiv")
    assert published(load_profile("finetune", protocols=["standard_if200"]))[1] == []


def test_only_whole_models_on_the_standard_sets_are_comparable():
    finetune, probe = load_profile("finetune"), load_profile("probe")
    assert [report.is_comparable(finetune, p) for p in finetune.protocols] == [True, False]
    assert not any(report.is_comparable(probe, p) for p in probe.protocols)
    fewer = dataclasses.replace(finetune.protocols[0], balanced_count=108)
    assert not report.is_comparable(finetune, fewer)
    assert not report.is_comparable(load_profile("demo"), load_profile("demo").protocols[0])


def test_the_stand_in_for_a_backbone_of_the_thesis_has_runs():
    profile = load_profile("probe")
    assert report.thesis_stand_in(profile, frame(), "vit_b16") == "vit_base_patch16_224"
    ti = [[*row[:4], "vit_tiny_patch16_224", *row[5:]] for row in rows("softmax", [0.5])]
    assert report.thesis_stand_in(profile, frame(ti), "vit_b16") == "vit_tiny_patch16_224"
    own = [[*row[:4], "vit_base_patch16_224", *row[5:]] for row in rows("softmax", [0.5])]
    assert report.thesis_stand_in(profile, frame(ti, own), "vit_b16") == "vit_base_patch16_224"
    assert report.thesis_stand_in(load_profile("scratch"), frame(), "vit_b16") is None


def test_the_appendix_sets_ours_beside_the_thesis_and_colours_what_exceeds_noise(profile):
    parts = [[["id", "digits", "thesis", "balanced", "resnetv2_small32", "softmax", seed, "last", "balanced", metric, value, 5000, False]
              for seed in (0, 1)] for metric, value in (("acc1", 0.8324), ("f1", 0.5), ("criterion", 2.0))]
    text, css = report.thesis_appendix(profile, frame(*parts), "resnet50v2", "balanced", True)
    assert text.loc[("Softmax", "thesis"), ("Balanced", "Acc")] == text.loc[("Softmax", "ours"), ("Balanced", "Acc")] == "83.2"
    assert css.loc[("Softmax", "ours"), ("Balanced", "Acc")] == f"color: {report.NOISE_COLORS['within noise']}"
    assert css.loc[("Softmax", "ours"), ("Balanced", "F1")] == f"color: {report.NOISE_COLORS['ours lower']}"
    assert css.loc[("Softmax", "ours"), ("Balanced", "Loss")] == ""
    assert text.loc[("Softmax", "ours"), ("Balanced", "Loss")] == "2.00"
    assert text.loc[("Focal", "ours"), ("Balanced", "Acc")] == "–"


def test_coloured_tables_take_the_colour_for_paper_in_latex(profile, tmp_path, monkeypatch):
    monkeypatch.setenv("LTLIB_FIGURES", str(tmp_path))
    table = pd.DataFrame({"a": ["1", "2"]}, index=["x", "y"])
    css = pd.DataFrame({"a": ["color: light-dark(#1b5fa8, #8ab8ee)", ""]}, index=["x", "y"])
    report.Output(profile).frame(table, "t", css, ["a note"])
    latex = (tmp_path / "tables" / "t.tex").read_text()
    assert "x & \\color[HTML]{1B5FA8} 1" in latex
    assert "y & 2" in latex
    assert "\\multicolumn{2}{l}{\\scriptsize a" in latex


def test_what_is_printed_alike_is_marked_alike(profile):
    result = report.Grid(profile)
    values = {("resnetv2_small32", loss): value for loss, value in (("softmax", 0.7019), ("focal", 0.7024), ("ldam", 0.6))}
    result.add(("", ""), values, {key: report.number(value) for key, value in values.items()})
    assert list(result.best[0].values()) == [report.BEST, report.BEST, report.SECOND]


@pytest.mark.parametrize(("text", "latex"), [("a_b & c", "a\\_b \\& c"), ("50 % #1", "50 \\% \\#1"), ("a\\b", "a\\textbackslash{}b"),
                                             ("x^2~{y}", "x\\textasciicircum{}2\\textasciitilde{}\\{y\\}")])
def test_latex_escapes(text, latex):
    assert report.latex_escape(text) == latex
