import math

import numpy as np
import pandas as pd
import pytest
from made_up import of, records
from stored import results

from ltlib.metrics import mean_interval
from ltlib.report.tables import (
    BEST,
    SECOND,
    Grid,
    class_accuracy,
    error_arms,
    late_fall,
    missing_runs,
    number,
    plain_cells,
    signed,
    summarise,
    unfinished,
)
from ltlib.runs.profiles import load_profile
from ltlib.runs.records import Record, save_record
from ltlib.runs.run import run_or_load


def test_summary_over_seeds_and_of_one_seed():
    table = summarise(records(of("softmax", 0.5, 0.6), of("focal", 0.7)))
    key = ("thesis", "longtailed", "resnetv2_small32")
    two, one = table.loc[(*key, "softmax", "balanced")], table.loc[(*key, "focal", "balanced")]
    assert (two["mean"], two["half"]) == pytest.approx(mean_interval([0.5, 0.6]))
    assert (two["seeds"], one["seeds"]) == (2, 1)
    assert np.isnan(one["half"])
    assert one["low"] < 0.7 < one["high"]
    assert error_arms(two).tolist() == [[two["half"]], [two["half"]]]
    assert error_arms(one).ravel() == pytest.approx([0.7 - one["low"], one["high"] - 0.7])


def test_summary_of_nothing_is_empty_and_has_every_column():
    table = summarise(records())
    assert table.empty
    assert ("thesis", "longtailed", "b", "softmax", "balanced") not in table.index
    assert "mean" in table


@pytest.mark.parametrize(
    ("given", "options", "text"),
    [
        ((0.8431,), {}, "84.3"),
        ((-0.012,), {}, "−1.2"),
        ((0.8431, 0.006), {}, "84.3 ± 0.6"),
        ((1.2345,), {"scale": 1, "digits": 2}, "1.23"),
        ((float("nan"),), {}, "–"),
    ],
)
def test_numbers(given, options, text):
    assert number(*given, **options) == text


def test_signs():
    assert [signed(1.23), signed(-0.5)] == ["+1.2", "−0.5"]


def grid(profile, *parts):
    made = Grid(profile)
    summary = summarise(records(*parts))
    made.add_summary(summary, "thesis", "longtailed", "balanced", ("Balanced", "ours"))
    return made


def test_latex_is_a_bare_booktabs_tabular_with_bold_best_dashes_and_daggers(profile):
    made = grid(profile, of("softmax", 0.5, 0.52, same_as_softmax=True), of("focal", 0.7, 0.71))
    assert made.latex(["50 % & more_"]) == (
        "\\begin{tabular}{lr}\n\\toprule\n & Balanced \\\\\n & ours \\\\\n"
        "\\midrule\n\\multicolumn{2}{l}{\\emph{ResNetV2 (small)}} \\\\\n"
        "Softmax$^\\dagger$ & \\underline{51.0\\,$\\pm$\\,12.7} \\\\\n"
        "Focal & \\textbf{70.5\\,$\\pm$\\,6.4} \\\\\n"
        "LDAM & -- \\\\\n\\bottomrule\n"
        "\\multicolumn{2}{l}{\\scriptsize Bold: the best of a} \\\\\n"
        "\\multicolumn{2}{l}{\\scriptsize backbone in its} \\\\\n"
        "\\multicolumn{2}{l}{\\scriptsize column; underlined:} \\\\\n"
        "\\multicolumn{2}{l}{\\scriptsize the second.} \\\\\n"
        "\\multicolumn{2}{l}{\\scriptsize $^\\dagger$ Equal to softmax on} \\\\\n"
        "\\multicolumn{2}{l}{\\scriptsize equal class counts by} \\\\\n"
        "\\multicolumn{2}{l}{\\scriptsize mathematics: computed} \\\\\n"
        "\\multicolumn{2}{l}{\\scriptsize once.} \\\\\n"
        "\\multicolumn{2}{l}{\\scriptsize 50 \\% \\& more\\_} \\\\\n\\end{tabular}\n"
    )


def test_a_missing_seed_is_said(profile):
    made = grid(profile, of("focal", 0.7))
    assert made.frame().iloc[1, 0] == "70.0 (1 of 2)"
    assert made.explained()[1] == "(1 of 2): how many of the seeds are there."


def of_losses(*texts):
    losses = ("softmax", "focal", "ldam")
    return {("resnetv2_small32", loss): text for loss, text in zip(losses, texts, strict=True)}


@pytest.mark.parametrize(
    ("texts", "best", "ranks"),
    [
        (("70.2", "70.2 ± 3.0", "60.0"), "max", [1, 1, 2]),  # printed alike, marked alike
        (("1.5", "0.5", "–"), "min", [2, 1, None]),
        (("−1.0", "+0.2", "−0.3"), "max", [3, 1, 2]),
        (("1.0", "2.0", "3.0"), None, [None] * 3),
        (("–", "41.2, 46.7", "–"), None, [None] * 3),
    ],
)
def test_ranks(profile, texts, best, ranks):
    made = Grid(profile)
    made.add(("", ""), of_losses(*texts), best)
    found = made.ranks().iloc[:, 0]
    assert [None if np.isnan(rank) else rank for rank in found] == ranks


def test_best_and_second_are_marked_in_a_notebook_and_best_in_markdown(profile):
    made = Grid(profile)
    made.add(("A", "x"), of_losses("1.0", "3.0", "2.0"))
    html = made.styler().to_html()
    assert (html.count(BEST), html.count(SECOND)) == (1, 1)
    assert made.markdown().splitlines() == [
        "|  |  | A: x |",
        "| --- | --- | ---: |",
        "| ResNetV2 (small) | Softmax | 1.0 |",
        "| ResNetV2 (small) | Focal | **3.0** |",
        "| ResNetV2 (small) | LDAM | 2.0 |",
    ]


def test_blocks_for_several_backbones_and_one_without_a_run():
    made = Grid(load_profile("smoke"))
    first, second = made.profile.backbones
    made.add(("A", "x"), {(first, loss): f"0.{i}" for i, (_, loss) in enumerate(made.index)})
    latex = made.latex()
    assert latex.count("\\midrule") == 2
    assert latex.count("\\textbf") == latex.count("\\underline") == 1
    assert latex.index("ResNetV2") < latex.index("0.1") < latex.index("ConvNeXt")
    assert "ConvNeXt (small)}: --, no run yet} \\\\" in latex
    made.add(("A", "y"), {(second, "softmax"): "1"})
    assert "no run yet" not in made.latex()


def test_missing_runs_are_listed_with_their_state(out, smoke):
    narrow = load_profile(
        "smoke",
        backbones=["resnetv2_small32"],
        losses=["softmax", "focal"],
        seeds=[0],
        train_sets=["longtailed"],
    )
    assert missing_runs(narrow) == ["resnetv2_small32, all 2 runs: missing"]
    record = run_or_load(next(run for run in narrow.configs() if run.loss == "softmax"))
    assert missing_runs(narrow) == ["resnetv2_small32, thesis longtailed, focal, seed 0: missing"]
    sets = record.results["evaluations"]["last"]["sets"]
    # as many test images in each class
    assert class_accuracy(record).mean() == pytest.approx(sets["balanced"]["acc1"])


# training that is not at its end


def curve(*losses):
    return [{"train_loss": loss} for loss in losses]


def test_the_late_fall_is_the_last_quarters_part_of_the_whole():
    assert late_fall(curve(5.0, 3.0, 2.0, 2.0, 1.0)) == pytest.approx(1 / 4)
    assert late_fall(curve(*range(8, 0, -1))) == pytest.approx(2 / 7)
    assert late_fall(curve(4.0, 1.0, 1.0, 1.0)) == 0
    for short_or_risen in (curve(3.0, 2.0, 1.0), curve(1.0, 2.0, 3.0, 4.0)):
        assert math.isnan(late_fall(short_or_risen))


def test_a_table_names_what_was_not_trained_to_its_end(out):
    profile = load_profile("smoke", ["resnetv2_small32"], ["softmax", "ldam"], protocols=["thesis"])
    assert unfinished(profile) == []
    for loss, last in (("softmax", 2.0), ("ldam", 1.0)):
        for run in profile.configs():
            if run.loss == loss:
                found = results() | {"curve": curve(5.0, 3.0, 2.0, last)}
                record = Record(run.id, "done", run.to_dict(), found, {})
                save_record(run, record)
    (note,) = unfinished(profile)
    assert note.endswith("epochs): ResNetV2 (small) with LDAM.")


def test_what_a_spreadsheet_would_compute_is_text():
    names = ["=cmd|' /C calc'!A0", "+1", "-x", "@y", "luna", ""]
    found = plain_cells(pd.DataFrame({"class": names, "n": range(6)}))
    assert found["class"].tolist() == [*(f"'{name}" for name in names[:4]), "luna", ""]
    assert found["n"].tolist() == list(range(6))
