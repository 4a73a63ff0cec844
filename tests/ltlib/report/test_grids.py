import dataclasses

import pytest
from made_up import of, records

from ltlib.report.grids import (
    NOISE_COLORS,
    accuracy_grid,
    appendix_grid,
    group_sets,
    groups_grid,
    thesis_appendix,
    thesis_notes,
    thesis_stand_in,
)
from ltlib.report.thesis import SETS, family, printed, thesis_results
from ltlib.runs.profiles import load_profile


@pytest.fixture
def one_seed(profile):
    return dataclasses.replace(profile, seeds=(0,))


def test_thesis_columns_show_the_printed_numbers_of_the_family(profile):
    shown = accuracy_grid(profile, records(of("softmax", 0.5, 0.5)), "longtailed").frame()
    row = shown.loc[("ResNetV2 (small)", "Softmax")]
    assert row[("Balanced", "ours")] == "50.0 ± 0.0"
    theirs = [row[(title, "thesis")] for title in SETS.values()]
    assert theirs == ["55.2", "79.5", "85.3", "63.9", "21.1"]


def test_the_thesis_s_repeated_vit_row_counts_as_missing():
    table = thesis_results()
    assert len(table) == 825 == len(printed("thesis")) - 15
    assert table.query(
        "backbone == 'vit_b16' and loss == 'ldam' and train_set == 'longtailed'"
    ).empty


@pytest.mark.parametrize(
    ("name", "thesis"),
    [("mobilenetv2_100", "mobilenetv2"), ("vit_tiny_patch16_224", "vit_b16"), ("resnet18", None)],
)
def test_families(name, thesis):
    assert family(name) == thesis


def test_thesis_columns_beside_another_backbone_say_whose_they_are(profile):
    assert thesis_notes(profile) == [
        "In the thesis columns, CIFAR-100 with ResNet50V2 beside ResNetV2 (small)."
    ]
    own = dataclasses.replace(profile, backbones=("convnext_base", "resnet18"))
    assert thesis_notes(own) == []


def test_appendix_has_fifteen_columns_grouped_by_set(one_seed):
    parts = [of("softmax", 0.5, eval_set=s, metric=m) for s in SETS for m in ("loss", "acc1", "f1")]
    parts += [of("focal", 0.4, metric=m) for m in ("loss", "acc1", "f1")]
    grid = appendix_grid(one_seed, records(*parts), "longtailed")
    shown = grid.frame()
    assert [*shown][:3] == [("Balanced", "CE"), ("Balanced", "Acc"), ("Balanced", "F1")]
    assert [top for top, _ in shown][::3] == [*SETS.values()]
    assert list(shown.iloc[0, :3]) == ["0.50", "50.0", "50.0"]
    assert list(grid.ranks().iloc[0, :3]) == [2, 1, 1]  # the lowest loss is best


def test_groups_show_wilson_intervals_for_one_seed(one_seed):
    parts = [of("softmax", 0.5), of("softmax", 0.25, eval_set="balanced_tail")]
    shown = groups_grid(one_seed, records(*parts), "thesis", "longtailed").frame()
    balanced = [("Balanced test", name) for name in ("All", "Head", "Middle", "Tail")]
    assert [*shown] == [*balanced, ("Long-tailed test", "Tail")]
    assert [*shown.iloc[0]] == ["50.0 [43.1, 56.9]", "–", "–", "25.0 [19.5, 31.4]", "–"]


def test_over_seeds_brackets_stand_at_the_tails_alone(profile):
    sets = ("balanced", "balanced_head", "balanced_middle", "balanced_tail", "tail")
    parts = [of("softmax", 0.5, 0.5, eval_set=name) for name in sets]
    shown = groups_grid(profile, records(*parts), "thesis", "longtailed").frame()
    assert ["[" in text for text in shown.iloc[0]] == [False, False, False, True, True]


def test_photographs_with_unequal_tests_are_judged_by_class(profile):
    protocol = dataclasses.replace(profile.protocols[0], counts=(40, 20, 10), imbalance_factor=4.0)
    found = records(of("softmax", 0.5, 0.5, eval_set="longtailed"))
    assert group_sets(protocol, found)["tail"] == "tail"
    assert group_sets(protocol, found)["all"] == "longtailed"
    assert group_sets(profile.protocols[0], found)["tail"] == "balanced_tail"


def test_the_stand_in_for_a_backbone_of_the_thesis_has_runs():
    profile = load_profile("probe")
    tiny, base = "vit_tiny_patch16_224", "vit_base_patch16_224"
    for there, stand_in in (((), base), ((tiny,), tiny), ((tiny, base), base)):
        found = records(*(of("softmax", 0.5, backbone=name) for name in there))
        assert thesis_stand_in(profile, found, "vit_b16") == stand_in
    assert thesis_stand_in(load_profile("scratch"), records(), "vit_b16") is None


def test_the_appendix_sets_ours_beside_the_thesis_and_colours_what_exceeds_noise(profile):
    parts = [
        of("softmax", value, value, train_set="balanced", metric=metric, n=5000)
        for metric, value in (("acc1", 0.8324), ("f1", 0.5), ("criterion", 2.0))
    ]
    text, css = thesis_appendix(profile, records(*parts), "resnet50v2", "balanced", full=True)
    thesis, ours = (text.loc[("Softmax", who), "Balanced"] for who in ("thesis", "ours"))
    assert thesis["Acc"] == ours["Acc"] == "83.2"
    assert ours["Loss"] == "2.00"
    colors = css.loc[("Softmax", "ours"), "Balanced"]
    assert colors["Acc"] == f"color: {NOISE_COLORS['within noise']}"
    assert colors["F1"] == f"color: {NOISE_COLORS['ours lower']}"
    assert colors["Loss"] == ""
    assert text.loc[("Focal", "ours"), ("Balanced", "Acc")] == "–"


def test_what_the_thesis_cannot_have_measured_is_a_dash(profile):
    text, _ = thesis_appendix(profile, records(), "vit_b16", "longtailed", full=False)
    assert (text.loc[("LDAM", "thesis")] == "–").all()
    assert (text.loc[("Softmax", "thesis")] != "–").all()
