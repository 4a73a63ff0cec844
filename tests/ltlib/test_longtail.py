import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ltlib.data import ImageData
from ltlib.errors import ConfigError
from ltlib.longtail import class_counts, groups, select, step_counts
from ltlib.protocol import Protocol, longtailed_test_counts, make_splits, train_counts
from ltlib.runs.profiles import load_profile

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "losses.npz")
PROTOCOLS = ("standard", "thesis")
TRAIN_SETS = ("balanced", "longtailed")
GROUP_NAMES = ("head", "middle", "tail")
examples = settings(deadline=None, max_examples=50)


def image_data(num_classes, train_per_class, test_per_class, seed=0) -> ImageData:
    """Black images of 2 by 2 pixels with shuffled labels."""
    random = np.random.default_rng(seed)
    train, test = (
        random.permutation(np.repeat(np.arange(num_classes), n))
        for n in (train_per_class, test_per_class)
    )
    black_train, black_test = (
        np.zeros((len(labels), 2, 2, 3), np.uint8) for labels in (train, test)
    )
    return ImageData(
        "black", black_train, train, black_test, test, tuple(map(str, range(num_classes))), {}
    )


CIFAR = image_data(100, 500, 100)
FINETUNE = load_profile("finetune")
SPLITS = {
    (p, t): make_splits(CIFAR, FINETUNE.protocol(p), t) for p in PROTOCOLS for t in TRAIN_SETS
}
each_split = pytest.mark.parametrize(("protocol", "train_set"), SPLITS, ids="-".join)


def per_class(labels):
    return np.bincount(labels, minlength=100)


# counts


@pytest.mark.parametrize("key", [key for key in GOLDEN.files if "_exp_if" in key])
def test_counts_are_the_official_ones(key):
    data, _, factor = key.removeprefix("counts/").split("_")
    classes, largest = {"cifar10": (10, 5000), "cifar100": (100, 500)}[data]
    np.testing.assert_array_equal(
        class_counts(classes, largest, float(factor.removeprefix("if"))), GOLDEN[key]
    )


def test_the_thesis_test_counts_are_the_golden_ones():
    counts = longtailed_test_counts(FINETUNE.protocol("thesis"), 100)
    np.testing.assert_array_equal(counts, GOLDEN["counts/thesis_test_lt_max50_if100"])


def test_the_defaults_are_cifar100_lt_of_10847_images():
    counts = class_counts()
    assert (len(counts), counts.sum(), counts[0], counts[-1]) == (100, 10847, 500, 5)


def test_imbalance_factor_one_is_balanced():
    np.testing.assert_array_equal(class_counts(7, 30, 1), np.full(7, 30))


shapes = {
    "classes": st.integers(1, 200),
    "largest": st.integers(1, 2000),
    "factor": st.floats(1, 1000),
}


@given(**shapes)
@examples
def test_counts_fall_from_the_largest_to_the_largest_over_the_factor(classes, largest, factor):
    counts = class_counts(classes, largest, factor, minimum=1)
    assert counts.shape == (classes,)
    assert counts.dtype == np.int64
    assert (np.diff(counts) <= 0).all()
    assert counts[0] == largest
    if classes > 1:
        assert counts[-1] == max(1, int(largest * (1 / factor)))


@given(**shapes)
@examples
def test_counts_lie_within_one_image_of_the_exponential(classes, largest, factor):
    exact = largest * factor ** (-np.arange(classes) / max(classes - 1, 1))
    counts = class_counts(classes, largest, factor, minimum=1)
    assert (counts <= np.maximum(exact, 1) + 1e-9).all()
    assert (counts > exact - 1 - 1e-9).all()
    assert exact.sum() - classes - 1e-6 <= counts.sum() <= np.maximum(exact, 1).sum() + 1e-6


@given(classes=st.integers(2, 200), largest=st.integers(1, 2000), excess=st.floats(1.001, 20))
@examples
def test_a_factor_above_the_largest_count_is_refused_and_mended_by_a_minimum(
    classes, largest, excess
):
    with pytest.raises(ConfigError, match="fewer than 1 image"):
        class_counts(classes, largest, largest * excess)
    assert class_counts(classes, largest, largest * excess, minimum=1)[-1] == 1


@given(classes=st.integers(1, 200), largest=st.integers(1, 2000), share=st.floats(0, 0.999))
@examples
def test_a_factor_below_the_largest_count_needs_no_minimum(classes, largest, share):
    factor = 1 + share * (largest - 1)
    np.testing.assert_array_equal(
        class_counts(classes, largest, factor), class_counts(classes, largest, factor, minimum=1)
    )


def test_the_refusal_names_the_empty_classes():
    with pytest.raises(
        ConfigError,
        match=(
            r"classes 2, 3 would have fewer than 1 image.*Lower imbalance_factor or raise max_count"
        ),
    ):
        class_counts(4, 10, 100)


def test_the_refusal_of_many_classes_names_ten():
    with pytest.raises(
        ConfigError, match=r"classes 50, 51, 52, 53, 54, 55, 56, 57, 58, 59 \.\.\. would"
    ):
        class_counts(100, 10, 100)


@pytest.mark.parametrize("arguments", [(0, 10, 1), (-1, 10, 1), (3, 0, 1)])
def test_no_classes_or_no_images_are_refused(arguments):
    with pytest.raises(ConfigError, match="expected at least 1 of each"):
        class_counts(*arguments)


@pytest.mark.parametrize("factor", [0.5, 0, -1, float("nan"), float("inf")])
def test_imbalance_factor_below_one_or_not_finite_is_refused(factor):
    with pytest.raises(ConfigError, match=f"imbalance_factor = {factor}"):
        class_counts(10, 100, factor)


@pytest.mark.parametrize(
    ("arguments", "few"),
    [
        ((10, 6000, 100), 60),
        ((10, 1000, 200), 5),
        ((10, 6000, 1), 6000),
        ((3, 5, 2), 2),
        ((4, 5, 100), 1),
    ],
)
def test_in_a_step_even_classes_keep_a_share_and_odd_ones_all(arguments, few):
    counts = step_counts(*arguments)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(
        counts, [arguments[1] if c % 2 else few for c in range(arguments[0])]
    )


@given(**shapes)
@examples
def test_a_step_has_its_imbalance_factor_up_to_a_cut_image(classes, largest, factor):
    counts = step_counts(classes, largest, factor)
    assert counts.min() >= 1
    assert max(1, largest / factor - 1) <= counts[0] <= max(1, largest / factor)
    assert (counts[1::2] == largest).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 5, 2), "num_classes = 0"),
        ((3, 0, 2), "max_count = 0"),
        ((3, 5, 0.5), "imbalance_factor = 0.5"),
        ((3, 5, float("nan")), "imbalance_factor = nan"),
    ],
)
def test_an_impossible_step_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        step_counts(*arguments)


# selection


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("targets", ["mod100", "perm"])
def test_selection_is_that_of_ldam_drw(targets, seed):
    labels = np.arange(50000) % 100 if targets == "mod100" else GOLDEN["lt_select/targets_perm"]
    np.testing.assert_array_equal(
        select(labels, class_counts(), seed),
        GOLDEN[f"lt_select/{targets}_seed{seed}_if100_indices"],
    )


def test_selection_of_more_images_than_there_are_names_the_class():
    with pytest.raises(ConfigError, match=r"class 1: 4 images asked for, but there are 3"):
        select(np.array([0, 0, 0, 1, 1, 1]), np.array([2, 4]))


def test_selection_with_counts_for_other_classes_is_refused():
    with pytest.raises(ConfigError, match=r"counts for 3 classes, but the labels hold 2"):
        select(np.array([0, 1]), np.array([1, 1, 1]))


# groups


@pytest.mark.parametrize(("kind", "sizes"), [("survey", (35, 35, 30)), ("thesis", (33, 33, 34))])
def test_group_sizes_of_cifar100_lt(kind, sizes):
    assert tuple(len(ids) for ids in groups(kind, class_counts()).values()) == sizes


def test_survey_groups_part_above_100_and_below_20():
    parts = groups("survey", [101, 100, 20, 19])
    assert {name: ids.tolist() for name, ids in parts.items()} == {
        "head": [0],
        "middle": [1, 2],
        "tail": [3],
    }


def test_thesis_groups_go_by_count_and_not_by_class_number():
    parts = groups("thesis", [1, 50, 9, 400, 8, 30, 2])
    assert {name: ids.tolist() for name, ids in parts.items()} == {
        "head": [1, 3],
        "middle": [2, 5],
        "tail": [0, 4, 6],
    }


def test_the_groups_of_a_step_are_its_majorities_and_all_others():
    parts = groups("step", [5, 60, 5, 60, 60])
    assert {name: ids.tolist() for name, ids in parts.items()} == {
        "head": [1, 3, 4],
        "middle": [],
        "tail": [0, 2],
    }
    assert {name: ids.tolist() for name, ids in groups("step", [7, 7]).items()} == {
        "head": [0, 1],
        "middle": [],
        "tail": [],
    }


@pytest.mark.parametrize("kind", ["thesis", "survey", "step"])
@given(counts=st.lists(st.integers(1, 600), min_size=1, max_size=50))
@examples
def test_groups_hold_every_class_once_and_fall_in_count(kind, counts):
    parts = groups(kind, counts)
    assert tuple(parts) == GROUP_NAMES
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(len(counts)))
    occupied = [np.array(counts)[ids] for ids in parts.values() if len(ids)]
    assert all(upper.min() >= lower.max() for upper, lower in itertools.pairwise(occupied))


def test_unknown_grouping_is_refused():
    with pytest.raises(
        ConfigError, match=r"groups 'quarters': expected 'thesis', 'survey' or 'step'"
    ):
        groups("quarters", [1, 2, 3])


# splits


@each_split
def test_training_counts_are_the_protocols(protocol, train_set):
    counts = per_class(CIFAR.train_labels[SPLITS[protocol, train_set].train])
    largest = {"standard": 500, "thesis": 450}[protocol]
    expected = (
        class_counts(100, largest, 100) if train_set == "longtailed" else np.full(100, largest)
    )
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(
        train_counts(FINETUNE.protocol(protocol), train_set, 100), expected
    )


@each_split
def test_validation_never_overlaps_training_and_no_image_occurs_twice(protocol, train_set):
    splits = SPLITS[protocol, train_set]
    both = np.concatenate([splits.train, splits.val])
    assert len(np.unique(both)) == len(both)


@each_split
def test_validation_has_50_per_class_or_what_training_leaves(protocol, train_set):
    splits = SPLITS[protocol, train_set]
    left = 500 - per_class(CIFAR.train_labels[splits.train])
    np.testing.assert_array_equal(per_class(CIFAR.train_labels[splits.val]), np.minimum(50, left))


def test_the_thesis_validates_both_training_sets_on_the_same_images():
    np.testing.assert_array_equal(
        SPLITS["thesis", "balanced"].val, SPLITS["thesis", "longtailed"].val
    )


@each_split
def test_test_sets_do_not_depend_on_the_training_set(protocol, train_set):
    tests, others = SPLITS[protocol, train_set].tests, SPLITS[protocol, "balanced"].tests
    assert list(tests) == list(others)
    assert all(np.array_equal(tests[name], others[name]) for name in tests)


def test_sizes_of_the_thesis_test_sets():
    sizes = {name: len(index) for name, index in SPLITS["thesis", "longtailed"].tests.items()}
    longtailed = {"longtailed": 1051, "head": 844, "middle": 169, "tail": 38}
    assert sizes == {
        "balanced": 5000,
        **longtailed,
        "balanced_head": 1650,
        "balanced_middle": 1650,
        "balanced_tail": 1700,
    }


def test_sizes_of_the_standard_test_sets():
    sizes = {name: len(index) for name, index in SPLITS["standard", "longtailed"].tests.items()}
    assert sizes == {
        "balanced": 10000,
        "balanced_head": 3500,
        "balanced_middle": 3500,
        "balanced_tail": 3000,
    }


def test_the_longtailed_test_set_is_part_of_the_balanced_one_with_its_own_counts():
    tests = SPLITS["thesis", "longtailed"].tests
    assert set(tests["longtailed"]) < set(tests["balanced"])
    np.testing.assert_array_equal(
        per_class(CIFAR.test_labels[tests["longtailed"]]), class_counts(100, 50, 100, minimum=1)
    )


@pytest.mark.parametrize(
    ("protocol", "whole", "prefix"),
    [
        ("standard", "balanced", "balanced_"),
        ("thesis", "balanced", "balanced_"),
        ("thesis", "longtailed", ""),
    ],
)
def test_head_middle_and_tail_part_a_test_set(protocol, whole, prefix):
    tests = SPLITS[protocol, "longtailed"].tests
    parts = np.concatenate([tests[prefix + name] for name in GROUP_NAMES])
    np.testing.assert_array_equal(np.sort(parts), tests[whole])


def test_group_test_sets_hold_the_classes_of_the_group():
    ids = groups("thesis", class_counts(100, 450, 100))
    for name in GROUP_NAMES:
        index = SPLITS["thesis", "longtailed"].tests[name]
        np.testing.assert_array_equal(np.unique(CIFAR.test_labels[index]), ids[name])


def test_no_test_set_repeats_an_image():
    for index in SPLITS["thesis", "longtailed"].tests.values():
        assert len(np.unique(index)) == len(index)


def small_protocol(**changes):
    values = dict(
        max_count=20,
        balanced_count=5,
        val_per_class=4,
        test_per_class=6,
        longtailed_test=True,
        groups="thesis",
    )
    return Protocol(name="small", **{**values, "imbalance_factor": 10.0, **changes})


def test_the_data_seed_changes_the_selection_and_not_its_sizes():
    data = image_data(6, 24, 6)
    one, other = (
        make_splits(data, small_protocol(data_seed=seed), "longtailed") for seed in (0, 1)
    )
    assert len(one.train) == len(other.train)
    assert not np.array_equal(one.train, other.train)


def test_an_empty_group_has_no_test_set():
    tests = make_splits(image_data(6, 24, 6), small_protocol(groups="survey"), "longtailed").tests
    assert set(tests) == {
        "balanced",
        "longtailed",
        "middle",
        "tail",
        "balanced_middle",
        "balanced_tail",
    }


def test_without_validation_images_the_validation_set_is_empty():
    assert (
        len(make_splits(image_data(6, 24, 6), small_protocol(val_per_class=0), "balanced").val) == 0
    )


def test_a_protocol_that_asks_for_more_images_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"class 0: 25 images asked for, but there are 24"):
        make_splits(image_data(6, 24, 6), small_protocol(max_count=25), "longtailed")


def test_a_step_is_in_the_training_set_and_in_the_test_set():
    protocol = small_protocol(imbalance="step", groups="step", val_per_class=0)
    data = image_data(6, 24, 6)
    splits = make_splits(data, protocol, "longtailed")
    counts = {
        name: np.bincount(data.test_labels[index], minlength=6).tolist()
        for name, index in splits.tests.items()
    }
    assert np.bincount(data.train_labels[splits.train]).tolist() == [2, 20] * 3
    assert counts == {
        "balanced": [6] * 6,
        "longtailed": [1, 6] * 3,
        "head": [0, 6] * 3,
        "tail": [1, 0] * 3,
        "balanced_head": [0, 6] * 3,
        "balanced_tail": [6, 0] * 3,
    }
    assert (
        np.bincount(data.train_labels[make_splits(data, protocol, "balanced").train]).tolist()
        == [5] * 6
    )


@pytest.mark.parametrize("imbalance", ["step", "exponential"])
@pytest.mark.parametrize("train_set", TRAIN_SETS)
@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.99])
def test_a_share_of_the_selected_images_validates_and_is_not_trained_on(
    imbalance, train_set, fraction
):
    data = image_data(6, 24, 6)
    protocol = small_protocol(imbalance=imbalance, val_per_class=0, val_fraction=fraction)
    whole = make_splits(data, small_protocol(imbalance=imbalance, val_per_class=0), train_set)
    splits = make_splits(data, protocol, train_set)
    selected, left, held = (
        np.bincount(data.train_labels[index], minlength=6)
        for index in (whole.train, splits.train, splits.val)
    )
    assert sorted([*splits.train, *splits.val]) == sorted(whole.train), (
        "nothing but the selected images, each once"
    )
    np.testing.assert_array_equal(left, train_counts(protocol, train_set, 6))
    np.testing.assert_array_equal(held, np.minimum(np.rint(fraction * selected), selected - 1))
    assert left.min() >= 1
    for name, index in whole.tests.items():
        np.testing.assert_array_equal(splits.tests[name], index)


def test_the_groups_are_those_of_the_counts_before_a_share_of_them_validates():
    data = image_data(4, 24, 6)
    tests = [
        make_splits(
            data,
            small_protocol(imbalance="step", groups="step", val_per_class=0, val_fraction=f),
            "longtailed",
        ).tests
        for f in (0.0, 0.5)
    ]
    assert all(np.array_equal(tests[0][name], tests[1][name]) for name in tests[0])
    assert len(tests[0]) == len(tests[1]) == 6
