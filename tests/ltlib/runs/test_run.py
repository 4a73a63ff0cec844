"""Runs from their config to their record."""

import dataclasses
import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_configs import scratch_config, smoke_config

from ltlib.batches import ImageBatches
from ltlib.checkpoints import Stopped, request_stop
from ltlib.data import images as images_module
from ltlib.data import load as load_module
from ltlib.data import load_dataset
from ltlib.data.sizes import DATASETS, DatasetSize, dataset_size
from ltlib.errors import ConfigError
from ltlib.models import Classifier, MissingWeights, build_backbone, build_head
from ltlib.protocol import Protocol, make_splits, train_counts
from ltlib.registry import DRW, VARIANTS
from ltlib.runs import (
    classify,
    load_logits,
    load_model,
    load_profile,
    load_records,
    run_or_load,
)
from ltlib.runs import experiment as experiment_module
from ltlib.runs.progress import live_path
from ltlib.runs.records import RecordError, load_predictions, logits_path, record_path
from ltlib.runs.run import features, model_path, train, weights_for
from ltlib.runs.sets import image_batches
from ltlib.runs.trained import keep_logits
from ltlib.training import predict

CPU = torch.device("cpu")


def last_sets(record):
    return record.results["evaluations"]["last"]["sets"]


# once, and the same


def test_a_run_is_never_repeated_and_a_changed_one_is_another(shared):
    config, changed = smoke_config(), smoke_config(lr=2.0e-3)
    first = run_or_load(config, "cpu")
    before = record_path(config).stat().st_mtime_ns
    assert run_or_load(config, "cpu") == first, "its times, too"
    assert record_path(config).stat().st_mtime_ns == before
    other = run_or_load(changed, "cpu")
    assert other.results["curve"] != first.results["curve"]
    assert record_path(changed) != record_path(config)


def test_more_threads_are_asked_for_and_said(out, monkeypatch):
    seen, usual = [], torch.set_num_threads
    monkeypatch.setenv("THREADS", "2")
    monkeypatch.setattr(torch, "set_num_threads", lambda n: seen.append(n) or usual(n))
    record = run_or_load(smoke_config(), "cpu")
    assert 2 in seen
    assert record.provenance["threads"] == 2


def test_the_same_config_gives_the_same_digits_and_leaves_random_state_and_threads_alone(out):
    config = smoke_config("ldam")
    first = run_or_load(config, "cpu")
    record_path(config).unlink()
    torch.manual_seed(123)
    before = torch.random.get_rng_state(), torch.get_num_threads()
    assert run_or_load(config, "cpu").results == first.results
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def test_seed_and_loss_change_the_result(shared):
    configs = smoke_config(), dataclasses.replace(smoke_config(), seed=1), smoke_config("focal")
    curves = [run_or_load(config, "cpu").results["curve"] for config in configs]
    assert curves[0] not in curves[1:]


def test_bfloat16_runs(shared):
    assert run_or_load(smoke_config(precision="bfloat16"), "cpu").status == "done"


def test_a_small_backbone_needs_a_pretraining_table(out):
    with pytest.raises(ConfigError, match="pretraining"):
        run_or_load(dataclasses.replace(smoke_config(), pretraining=None), "cpu")


def test_a_run_from_scratch_needs_no_weights(out, monkeypatch):
    (out / "none").mkdir()
    monkeypatch.setenv("LTLIB_WEIGHTS", str(out / "none"))
    config = dataclasses.replace(scratch_config("softmax"), backbone="mobilenetv2_035")
    record = run_or_load(config, "cpu")
    assert record.provenance["weights"] == {"origin": "fresh", "sha256": None}


# what it leaves


def test_stored_logits_give_the_metrics_of_the_record(shared):
    config = smoke_config("balanced_softmax")
    sets, stored = last_sets(run_or_load(config, "cpu")), load_file(logits_path(config))
    assert (stored["balanced"].argmax(1) == stored["labels"]).sum() == sets["balanced"]["hits"]
    groups = ("head", "middle", "tail")
    for base, prefix in (("balanced", "balanced_"), ("longtailed", "")):
        assert sets[base]["hits"] == sum(sets[prefix + group]["hits"] for group in groups)


def test_a_record_knows_where_it_comes_from(shared):
    provenance = run_or_load(smoke_config(), "cpu").provenance
    assert provenance["data"] == load_dataset("digits").checksums
    assert len(provenance["weights"]["sha256"]) == 64
    made = {"code", "python", "libraries", "device", "device_name", "wall_seconds", "finished"}
    assert made <= set(provenance)


def test_the_weights_after_the_last_epoch_are_kept(shared):
    config = smoke_config(epochs=2)
    run_or_load(config, "cpu")
    model = Classifier(build_backbone(config.backbone, None), build_head("linear", 256, 100))
    model.load_state_dict(load_file(model_path(config)))
    data, half = load_dataset("digits"), (0.5,) * 3
    index = make_splits(data, config.protocol, "longtailed").tests["balanced"]
    images, labels = data.test_images[index], data.test_labels[index]
    batches = ImageBatches(images, labels, batch_size=256, resolution=32, mean=half, std=half)
    stored = load_file(logits_path(config))["balanced"]
    assert torch.allclose(predict(model, batches), stored, atol=1e-4)


def test_a_diverging_run_is_recorded_once_and_stays_out_of_the_tables(out):
    config = smoke_config(lr=1.0e30, epochs=2)
    record = run_or_load(config, "cpu")
    assert record.status == "diverged"
    assert "lr = 1e+30" in record.note
    assert record.results == {}
    assert run_or_load(config, "cpu") == record, "its times, too"
    assert load_records("smoke").empty
    assert not logits_path(config).exists()


def test_what_a_run_under_way_has_is_removed_when_it_is_done_and_when_it_is_asked_for(out):
    config = smoke_config()
    folder = live_path(config, "").parent
    first = run_or_load(config, "cpu")
    assert [p.suffix for p in folder.iterdir()] == [".lock"]
    for suffix in (".pt", ".pt.0123456789.unused", ".pt.damaged", ".json"):
        live_path(config, suffix).write_text("left by a kill after the record")
    assert run_or_load(config, "cpu") == first
    assert [p.suffix for p in folder.iterdir()] == [".lock"]


def test_a_record_is_loaded_where_nothing_can_be_removed(shared, monkeypatch):
    config = smoke_config()
    first = run_or_load(config, "cpu")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert run_or_load(config, "cpu") == first


def test_a_checkpoint_of_other_libraries_is_put_aside_by_name(out, monkeypatch):
    config, said = scratch_config("softmax"), []
    request_stop()
    with pytest.raises(Stopped):
        run_or_load(config, "cpu")
    request_stop(False)
    assert live_path(config, ".pt").exists()
    monkeypatch.setattr("ltlib.checkpoints.metadata.version", lambda name: "0.1")
    assert run_or_load(config, "cpu", said.append).status == "done"
    assert any("was written with another timm" in line and "now 0.1" in line for line in said)
    assert [p.suffix for p in live_path(config, "").parent.iterdir()] == [".lock"]


# variants

EQUAL = ["weighted_softmax", "class_balanced", "balanced_softmax", "equalization"]


@pytest.mark.parametrize("loss", EQUAL)
def test_losses_that_equal_softmax_on_equal_counts_train_to_the_same_network(shared, loss):
    """The identity that lets the tables count one run for five: the same steps, up to the last
    bits."""
    softmax = smoke_config(train_set="balanced", epochs=2)
    other = smoke_config(loss, "balanced", epochs=2)
    records = run_or_load(softmax, "cpu"), train(other, CPU)
    assert records[1].config["loss"] == loss
    a, b = (load_file(logits_path(config))["balanced"] for config in (softmax, other))
    assert torch.allclose(a, b, atol=2e-3 * float(a.abs().max()))
    hits = {last_sets(record)["balanced"]["hits"] for record in records}
    assert len(hits) == 1


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.endswith(DRW)])
def test_deferred_weights_begin_at_their_epoch(shared, name):
    smoke = load_profile("smoke")
    longer = dataclasses.replace(smoke, recipe=dataclasses.replace(smoke.recipe, epochs=4), drw=0.5)
    softmax = ("weighted_softmax_drw", "class_balanced_drw")
    plain = "softmax" if name in softmax else name.removesuffix(DRW)
    configs = [smoke_config(loss, profile=longer) for loss in (plain, name)]
    a, b = ([e["train_loss"] for e in run_or_load(c, "cpu").results["curve"]] for c in configs)
    assert configs[0].id != configs[1].id
    assert a[:2] == b[:2]
    assert a[2] != b[2]


def test_logit_adjustment_is_the_softmax_run_with_the_prior_taken_out(shared):
    config, softmax = smoke_config("logit_adjusted"), run_or_load(smoke_config(), "cpu")
    adjusted = run_or_load(config, "cpu")
    counts = train_counts(config.protocol, "longtailed", 100)
    logits, found = (load_file(logits_path(c)) for c in (smoke_config(), config))
    expected = logits["balanced"].double() - torch.as_tensor(np.log(counts / counts.sum()))
    assert torch.allclose(found["balanced"].double(), expected, atol=1e-6)
    hits = int((expected.argmax(1) == logits["labels"]).sum())
    assert last_sets(adjusted)["balanced"]["hits"] == hits
    assert adjusted.results["curve"] == softmax.results["curve"]
    assert adjusted.provenance["adjusted"] == softmax.id
    assert adjusted.config["tau"] == 1.0
    half = dataclasses.replace(config, tau=0.5)
    assert half.id != config.id
    losses = [last_sets(run_or_load(c, "cpu"))["balanced"]["loss"] for c in (config, half)]
    assert losses[0] != losses[1]


def test_logit_adjustment_without_the_logits_says_where_they_should_be(out):
    run_or_load(smoke_config(), "cpu")
    logits_path(smoke_config()).unlink()
    message = r"needs the test logits of .*softmax.*Bring them.*or remove results/smoke"
    with pytest.raises(RecordError, match=message):
        run_or_load(smoke_config("logit_adjusted"), "cpu")


def test_kept_logits_are_those_of_the_run_rounded(out):
    config = smoke_config("ldam")
    assert load_logits(config) is None
    with pytest.raises(RecordError, match=r"expected its test logits in .*Bring them"):
        keep_logits(config)
    run_or_load(config, "cpu")
    z, path = load_logits(config), keep_logits(config)
    assert z.argmax(1).tolist() == load_predictions(config).predicted.tolist()
    logits_path(config).unlink()
    np.testing.assert_allclose(load_logits(config), z, rtol=1e-3)
    path.write_bytes(b"no zip")
    with pytest.raises(RecordError, match=r"logits\.npz: expected the test logits of a run"):
        load_logits(config)


def test_logit_adjustment_of_a_diverged_run_is_diverged(out):
    record = run_or_load(smoke_config("logit_adjusted", lr=1.0e30, epochs=2), "cpu")
    assert record.status == "diverged"
    assert "the softmax run diverged" in record.note


# from the backbone of another run


def refit_config():
    whole = smoke_config()
    return dataclasses.replace(whole, mode="probe", loss="balanced_softmax", backbone_of=whole.id)


@pytest.mark.slow
def test_a_head_is_fitted_again_on_the_features_of_a_finished_run(shared):
    whole = run_or_load(smoke_config(), "cpu")
    config = refit_config()
    assert config.id != dataclasses.replace(config, backbone_of="").id
    record = run_or_load(config, "cpu")
    assert record.provenance["weights"]["origin"] == f"run {whole.id}"
    given = features(config, CPU)[1][:40]
    data, model = load_dataset(config.dataset), load_model(smoke_config())
    start = weights_for(smoke_config(), CPU)
    batches = image_batches(data.test_images[:40], None, start, config.recipe, 40, CPU)
    np.testing.assert_allclose(given, predict(model.backbone, batches, "float32"), atol=1e-4)


def test_without_the_weights_of_the_run_that_it_starts_from_nothing_is_trained(out):
    with pytest.raises(MissingWeights, match="expected the weights of the run that it starts from"):
        run_or_load(refit_config(), "cpu")


# methods and validation

METHOD_RUNS = {
    "pf": ("pf", {}, {}),
    "arconvl": ("arconvl", {}, {"momentum": 0.0, "pixels": "raw"}),
    "gbg": ("gbg", {"groups": 3}, {"cutout": 8}),
    "gbg, contrastive": (
        "gbg",
        {"groups": 3, "grouping": "count", "beta": 1.6, "projection": 8},
        {"views": "contrastive", "epochs": 1},
    ),
}
HEADS = {"pf": "Linear", "arconvl": "DistanceHead", "gbg": "CosineHead"}
VALIDATED = {"val_acc", "val_gmean", "val_loss", "val_head", "val_middle", "val_tail"} | {
    "val_spread"
}


@pytest.mark.slow
@pytest.mark.parametrize("case", METHOD_RUNS)
def test_a_method_runs_from_the_images_to_the_record_the_same_each_time(out, case):
    loss, options, recipe = METHOD_RUNS[case]
    config = scratch_config(loss, options=options, **recipe)
    record = run_or_load(config, "cpu")
    assert record.status == "done"
    assert json.loads(record_path(config).read_text())["results"] == record.results
    whole = last_sets(record)["balanced"]
    assert all(0 <= whole[name] <= 1 for name in ("gmean", "auc_hard", "auc", "class_acc"))
    for entry in record.results["curve"]:
        assert set(entry) >= VALIDATED
        assert {"arconvl": "regions", "gbg": "group_weights"}.get(loss, "epoch") in entry
    assert type(load_model(config).head).__name__ == HEADS[loss]
    logits = load_file(logits_path(config))
    assert int((logits["balanced"].argmax(1) == logits["labels"]).sum()) == whole["hits"]
    record_path(config).unlink()
    torch.manual_seed(123)
    assert run_or_load(config, "cpu").results == record.results


def test_the_groups_of_validation_images_part_the_accuracy_of_the_epoch(shared):
    """All classes have as many validation images: the mean over classes is that over the groups,
    as large as they are."""
    record = run_or_load(scratch_config("softmax"), "cpu")
    for entry in record.results["curve"]:
        parts = 33 * entry["val_head"] + 33 * entry["val_middle"] + 34 * entry["val_tail"]
        assert entry["val_acc"] == pytest.approx(parts / 100)


def test_a_share_of_the_images_of_a_step_validates_and_picks_the_latest_of_the_best_epochs(shared):
    step = {"imbalance": "step", "groups": "step", "val_per_class": 0, "val_fraction": 0.3}
    # nothing is learned: all epochs are equal
    config = scratch_config("arconvl", protocol=step, epochs=3, pick="gmean", lr=1e-9)
    results = run_or_load(config, "cpu").results
    counts = train_counts(config.protocol, "longtailed", 100)
    assert counts[:2].tolist() == [1, 7]  # of 2 and 10
    assert results["train_images"] == counts.sum()
    assert results["val_images"] == 50 * (1 + 3)
    gmeans = [entry["val_gmean"] for entry in results["curve"]]
    latest = max(e["epoch"] for e in results["curve"] if e["val_gmean"] == max(gmeans))
    assert results["evaluations"]["picked"]["epoch"] == latest
    assert gmeans[-1] == max(gmeans)
    assert {"val_head", "val_tail"} <= set(results["curve"][0])
    assert "val_middle" not in results["curve"][0]
    tests = set(results["evaluations"]["last"]["sets"])
    assert {"head", "tail", "balanced_head", "balanced_tail"} <= tests


def test_the_test_images_are_predicted_once_where_the_picked_epoch_is_the_last(out, monkeypatch):
    predicted = []

    def counted(model, batches, precision="float32"):
        predicted.append(len(batches.labels))
        return predict(model, batches, precision)

    monkeypatch.setattr(experiment_module, "predict", counted)
    record = run_or_load(smoke_config(), "cpu")
    last, picked = (record.results["evaluations"][name]["epoch"] for name in ("last", "picked"))
    assert last == picked
    assert predicted.count(record.results["evaluations"]["last"]["sets"]["balanced"]["n"]) == 1


def test_the_picked_epoch_is_evaluated_with_its_own_weights(shared):
    """A rate that destroys what the first epoch learned: the picked epoch is not the last."""
    config = scratch_config("softmax", epochs=3, optimizer="sgd", lr=3.0, schedule="step")
    results = run_or_load(config, "cpu").results
    accuracies = [entry["val_acc"] for entry in results["curve"]]
    picked, last = (results["evaluations"][choice] for choice in ("picked", "last"))
    assert picked["epoch"] == 1 + accuracies.index(max(accuracies)) < last["epoch"] == 3
    assert picked["sets"]["balanced"]["loss"] != last["sets"]["balanced"]["loss"]


def test_a_binary_task_runs_with_the_counts_that_it_has(out, monkeypatch, fresh_caches):
    """Ten images of one class against 90 of the rest, in the place of CIFAR-10's."""
    monkeypatch.setitem(DATASETS, "cifar10", DatasetSize(10, 10, 4))
    monkeypatch.setattr(load_module, "cifar10", ten_classes_by_brightness)
    natural = Protocol.natural(dataset_size("cifar10_class3")) | {"counts": (90, 10)}
    config = dataclasses.replace(
        scratch_config("pf", epochs=12, batch_size=20, lr=3e-3),
        dataset="cifar10_class3",
        backbone="pf_binary_cnn",
        protocol=Protocol(**natural, name="natural", groups="step"),
    )
    record = run_or_load(config, "cpu")
    results, sets = record.results, last_sets(record)
    assert (record.status, results["train_images"], results["val_images"]) == ("done", 100, 0)
    sizes = {name: value["n"] for name, value in sets.items()}
    assert sizes == {"longtailed": 40, "head": 36, "tail": 4}
    assert sets["longtailed"]["gmean"] > 0.9, "the classes are told apart by their brightness"
    assert sets["longtailed"]["auc"] > 0.95
    Image.fromarray(np.full((32, 32, 3), 150, np.uint8)).save(out / "image.png")
    named = classify(config, [out / "image.png"], device="cpu")
    assert set(named["class"]) == {"rest", "c3"}


def ten_classes_by_brightness():
    """Ten dark classes but for the fourth, which is bright: 10 training and 4 test images each."""
    random = np.random.default_rng(0)

    def images(each):
        y = np.repeat(np.arange(10, dtype=np.uint8), each)
        dark = random.integers(0, 100, (len(y), 32, 32, 3), np.uint8)
        return dark + np.uint8(100) * (y == 3)[:, None, None, None], y

    names = [f"c{i}" for i in range(10)]
    return images_module.image_data("cifar10", *images(10), *images(4), names, "here")
