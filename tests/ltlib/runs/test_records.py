import dataclasses
import json

import numpy as np
import pytest
import torch
from small_configs import smoke_config
from stored import config_of, results, store

from ltlib.runs import records as records_module
from ltlib.runs.records import (
    COLUMNS,
    Record,
    RecordError,
    check_origin,
    code_version,
    computed_as,
    load_predictions,
    load_record,
    load_records,
    predictions_path,
    record_path,
    save_predictions,
    save_record,
)
from ltlib.runs.run import run_or_load


def test_a_record_comes_back_as_it_was(out, smoke):
    config = config_of(smoke)
    assert load_record(config) is None
    assert store(config) == load_record(config)
    assert record_path(config).parent == out / "results" / "smoke"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 1}', "null"])
def test_a_damaged_record_is_an_error_that_names_the_file(out, smoke, text):
    config = config_of(smoke)
    store(config)
    record_path(config).write_text(text)
    with pytest.raises(RecordError, match=config.id):
        load_record(config)


@pytest.mark.parametrize("change", [{"schema": 99}, {"status": "half"}, {"config": {}}])
def test_a_record_of_something_else_is_refused(out, smoke, change):
    config = config_of(smoke)
    store(config)
    path = record_path(config)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(RecordError, match="Remove the file"):
        load_record(config)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The record of a run, as JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LTLIB_OUT", str(tmp_path_factory.mktemp("finished")))
        run_or_load(smoke_config(), "cpu")
        return record_path(smoke_config()).read_text()


def nested(table, *place):
    for key in place:
        table = table[key]
    return table


LAST = ("results", "evaluations", "last")


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        *(((*LAST, "sets", "balanced"), "acc1", v) for v in (float("nan"), float("inf"), 37, None)),
        ((*LAST, "sets", "balanced"), "acc1", "0.5"),
        ((*LAST, "sets", "balanced"), "hits", 10**9),
        ((*LAST, "sets", "balanced"), "n", 0),
        ((*LAST, "sets", "balanced"), "gmean", -0.1),
        ((*LAST, "per_class", "balanced"), "hits", [1]),
        ((*LAST, "per_class", "balanced"), "images", None),
        (LAST, "epoch", 0),
        (LAST, "sets", None),
        (LAST, "per_class", []),
        (("results", "evaluations"), "last", None),
        (("results",), "curve", None),
        (("results",), "curve", [{"epoch": 1}]),
        (("results",), "evaluations", {}),
        ((), "results", []),
    ],
)
def test_a_record_that_says_what_no_run_says_is_named(out, finished, place, key, value):
    run, table = smoke_config(), json.loads(finished)
    path = record_path(run)
    path.parent.mkdir(parents=True)
    nested(table, *place)[key] = value
    path.write_text(json.dumps(table))
    message = f"{run.id}.json: cannot be what a run wrote .*{key}.*Remove the file"
    with pytest.raises(RecordError, match=f"(?s){message}" if key != "results" else "Remove the"):
        load_record(run)


def test_predictions_of_other_hits_than_the_records_are_refused(out):
    run = smoke_config()
    run_or_load(run, "cpu")
    labels = torch.as_tensor(load_predictions(run).labels)
    save_predictions(run, torch.eye(100)[labels], labels)  # all of them right
    with pytest.raises(RecordError, match="npz: expected the predictions of the record beside it"):
        load_predictions(run)


def test_a_record_cannot_hold_nan(out, smoke):
    config = config_of(smoke)
    with pytest.raises(ValueError, match="JSON"):
        save_record(config, Record(config.id, "done", config.to_dict(), {"x": float("nan")}, {}))
    assert not record_path(config).exists()


@pytest.mark.parametrize(
    "loss", ["weighted_softmax", "class_balanced", "balanced_softmax", "equalization"]
)
def test_reweighting_equal_counts_is_computed_as_softmax(smoke, loss):
    assert computed_as(config_of(smoke, loss, "balanced")) == config_of(
        smoke, "softmax", "balanced"
    )
    assert computed_as(config_of(smoke, loss, "longtailed")) == config_of(smoke, loss, "longtailed")


@pytest.mark.parametrize(
    ("variant", "stands_for"),
    [
        ("weighted_softmax_drw", "softmax"),
        ("class_balanced_drw", "softmax"),
        ("focal_drw", "focal"),
        ("ldam_drw", "ldam"),
        ("logit_adjusted", "softmax"),
    ],
)
def test_deferred_weights_and_adjustment_change_nothing_on_equal_counts(smoke, variant, stands_for):
    longer = dataclasses.replace(smoke, recipe=dataclasses.replace(smoke.recipe, epochs=10))
    for train_set in ("balanced", "longtailed"):
        found = computed_as(longer.config("resnetv2_small32", variant, train_set, 0, "thesis"))
        assert found.variant == (stands_for if train_set == "balanced" else variant)


@pytest.mark.parametrize("loss", ["focal", "ldam", "softmax"])
def test_other_losses_stand_for_themselves(smoke, loss):
    assert computed_as(config_of(smoke, loss, "balanced")) == config_of(smoke, loss, "balanced")


def test_equalization_with_a_high_threshold_is_not_softmax(smoke):
    profile = dataclasses.replace(smoke, loss_options={"equalization": {"threshold": 0.5}})
    config = config_of(profile, "equalization", "balanced")
    assert computed_as(config) == config


def test_table_has_a_row_per_run_set_and_metric_and_marks_identities(out, smoke):
    store(config_of(smoke, "softmax", "balanced"), 0.7)
    store(config_of(smoke, "ldam", "longtailed"), 0.3)
    table = load_records(smoke)
    assert list(table.columns) == COLUMNS
    acc = table[table["metric"] == "acc1"].set_index(["train_set", "loss"])
    assert len(acc) == 6  # five losses that are softmax on equal counts, and ldam
    assert (acc.loc["balanced", "value"] == 0.7).all()
    assert acc.loc[("balanced", "class_balanced"), "same_as_softmax"]
    assert not acc.loc[("balanced", "softmax"), "same_as_softmax"]
    assert not acc.loc[("longtailed", "ldam"), "same_as_softmax"]


def test_a_diverged_run_never_reaches_the_table(out, smoke):
    store(config_of(smoke, "ldam"), status="diverged")
    assert load_records("smoke", losses=["ldam"]).empty


def test_code_version_outside_git(monkeypatch, tmp_path):
    code_version.cache_clear()
    monkeypatch.setattr(records_module, "ROOT", tmp_path)
    assert code_version() == {"commit": "unknown", "dirty": True}
    code_version.cache_clear()


def test_records_from_other_data_or_weights_do_not_mix(smoke):
    config = config_of(smoke)
    record = Record(
        config.id,
        "done",
        config.to_dict(),
        results(),
        {"data": {"origin": "a", "x": "1"}, "weights": {"sha256": "2"}},
    )
    check_origin(record, config, {"origin": "elsewhere", "x": "1"}, "2")
    check_origin(record, config, {"x": "1"}, None)
    with pytest.raises(RecordError, match="other data"):
        check_origin(record, config, {"x": "9"}, "2")
    with pytest.raises(RecordError, match="other weights"):
        check_origin(record, config, {"x": "1"}, "9")


def test_predictions_come_back_as_they_were(out, smoke):
    config = config_of(smoke)
    assert load_predictions(config) is None
    logits, labels = torch.tensor([[0.0, np.log(3), 0.0], [5.0, 0.0, 5.0]]), torch.tensor([0, 2])
    save_predictions(config, logits, labels)
    found = load_predictions(config)
    assert found.labels.tolist() == [0, 2]
    assert found.predicted.tolist() == logits.argmax(1).tolist()
    np.testing.assert_allclose(found.confidence, logits.softmax(1).max(1).values, atol=5e-4)
    np.testing.assert_allclose(
        found.label_probability, logits.softmax(1)[[0, 1], [0, 2]], atol=5e-4
    )
    before = predictions_path(config).read_bytes()
    save_predictions(config, logits, labels)
    assert predictions_path(config).read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"PK", b"[]", None])
def test_damaged_predictions_are_an_error_that_names_the_file(out, smoke, damage):
    config = config_of(smoke)
    save_predictions(config, torch.eye(3), torch.arange(3))
    path = predictions_path(config)
    if damage is None:
        np.savez(path, labels=np.arange(3))
    else:
        path.write_bytes(damage)
    with pytest.raises(RecordError, match=f"{config.id}.npz: not the predictions of a run"):
        load_predictions(config)
