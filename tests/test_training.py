import dataclasses
import errno
import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from ltlib import config as ltconfig
from ltlib import datasets, training
from ltlib.backbones import Classifier, build_backbone, build_head
from ltlib.batches import ImageBatches
from ltlib.config import DRW, VARIANTS, ConfigError, DatasetSize, Protocol, dataset_size, load_profile
from ltlib.datasets import DataError, load_dataset
from ltlib.engine import predict, schedule_factor
from ltlib.launch import compute_runs
from ltlib.longtail import make_splits, train_counts
from ltlib.losses import build_loss
from ltlib.records import RecordError, load_records, logits_path, record_path
from ltlib.training import classify, load_model, model_path, pick_device, run_or_load

CPU = torch.device("cpu")


def smoke_config(loss="softmax", train_set="longtailed", profile=None, **recipe):
    profile = profile or load_profile("smoke")
    config = profile.config("resnetv2_small32", loss, train_set, 0, "thesis")
    return dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, **recipe))


@pytest.mark.parametrize("wanted", ["cuda:99", "toaster", "meta"])
def test_an_impossible_device_is_refused(wanted):
    with pytest.raises(ConfigError, match="expected auto, cpu, or a CUDA device"):
        pick_device(wanted)


# ------------------------------------------------------------------------------------------------- runs


def test_a_run_is_never_repeated_and_a_changed_one_is_another(out, monkeypatch):
    config = smoke_config()
    first = run_or_load(config, "cpu")
    before = record_path(config).stat().st_mtime_ns
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained again"))
    assert run_or_load(config, "cpu") == first
    assert record_path(config).stat().st_mtime_ns == before
    with pytest.raises(pytest.fail.Exception):
        run_or_load(smoke_config(lr=2.0e-3), "cpu")


def test_the_same_config_gives_the_same_digits(out):
    config = smoke_config("ldam")
    first = run_or_load(config, "cpu")
    record_path(config).unlink()
    torch.manual_seed(123)
    torch.rand(7)
    assert run_or_load(config, "cpu").results == first.results


def test_a_run_leaves_the_random_state_and_the_threads_alone(out):
    before = torch.random.get_rng_state(), torch.get_num_threads()
    run_or_load(smoke_config(), "cpu")
    assert torch.equal(torch.random.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def test_seed_and_loss_change_the_result(out):
    base = run_or_load(smoke_config(), "cpu").results
    other_seed = dataclasses.replace(smoke_config(), seed=1)
    assert run_or_load(other_seed, "cpu").results["curve"] != base["curve"]
    assert run_or_load(smoke_config("focal"), "cpu").results["curve"] != base["curve"]


def test_stored_logits_give_the_metrics_of_the_record(out):
    config = smoke_config("balanced_softmax")
    record = run_or_load(config, "cpu")
    stored = load_file(logits_path(config))
    sets = record.results["evaluations"]["last"]["sets"]
    assert (stored["balanced"].argmax(1) == stored["labels"]).sum() == sets["balanced"]["hits"]
    assert sets["balanced"]["hits"] == sum(sets[f"balanced_{g}"]["hits"] for g in ("head", "middle", "tail"))
    assert sets["longtailed"]["hits"] == sum(sets[g]["hits"] for g in ("head", "middle", "tail"))


def test_a_record_knows_where_it_comes_from(out):
    provenance = run_or_load(smoke_config(), "cpu").provenance
    assert provenance["data"] == load_dataset("digits").checksums
    assert len(provenance["weights"]["sha256"]) == 64
    assert {"code", "python", "libraries", "device", "device_name", "wall_seconds", "finished"} <= set(provenance)


def test_a_diverging_run_is_recorded_once_and_stays_out_of_the_tables(out, monkeypatch):
    config = smoke_config(lr=1.0e30, epochs=2)
    record = run_or_load(config, "cpu")
    assert record.status == "diverged"
    assert "lr = 1e+30" in record.note
    assert record.results == {}
    monkeypatch.setattr(training, "_train", lambda *_: pytest.fail("trained again"))
    assert run_or_load(config, "cpu") == record
    assert load_records("smoke").empty
    assert not logits_path(config).exists()


@pytest.mark.parametrize("loss", ["weighted_softmax", "class_balanced", "balanced_softmax", "equalization"])
def test_losses_that_equal_softmax_on_equal_counts_train_to_the_same_network(out, loss):
    """The identity that lets the tables count one run for five: the same steps, up to the last bits."""
    softmax = smoke_config(train_set="balanced", epochs=2)
    other = smoke_config(loss, "balanced", epochs=2)
    logits = []
    for config in (softmax, other):
        record = training._train(config, CPU, print)
        assert record.config["loss"] == config.loss
        logits.append((load_file(logits_path(config))["balanced"], record.results["evaluations"]["last"]["sets"]["balanced"]))
    (a, metrics_a), (b, metrics_b) = logits
    assert torch.allclose(a, b, atol=2e-3 * float(a.abs().max()))
    assert metrics_a["hits"] == metrics_b["hits"]


def test_drw_runs_through_the_engine(out):
    plain = smoke_config("ldam", epochs=2)
    drw = dataclasses.replace(plain, drw=0.5)
    assert drw.id != plain.id
    a, b = (run_or_load(c, "cpu").results["curve"] for c in (plain, drw))
    assert a[0] == b[0]
    assert a[1]["train_loss"] != b[1]["train_loss"]


def test_bfloat16_runs(out):
    assert run_or_load(smoke_config(precision="bfloat16"), "cpu").status == "done"


def test_a_small_backbone_needs_a_pretraining_table(out):
    with pytest.raises(ConfigError, match="pretraining"):
        run_or_load(dataclasses.replace(smoke_config(), pretraining=None), "cpu")


# ------------------------------------------------------------------------------------------------ probe

PROBE = """
title = "probe of the digits"
dataset = "digits"
mode = "probe"
backbones = ["mobilenetv2_035"]
losses = ["softmax", "balanced_softmax", "ldam"]
seeds = [0]
[protocols.thesis]
max_count = 40
balanced_count = 4
val_per_class = 2
test_per_class = 10
longtailed_test = true
groups = "thesis"
imbalance_factor = 40.0
[recipe]
epochs = 3
batch_size = 64
optimizer = "adamw"
lr = 1.0e-2
resolution = 32
precision = "bfloat16"
"""


@pytest.fixture
def probe(out, tmp_path, monkeypatch, fresh_caches):
    """A probe profile over random weights of a small timm model."""
    torch.manual_seed(0)
    save_file(timm.create_model("mobilenetv2_035").state_dict(), tmp_path / "mobilenetv2_035.safetensors")
    (tmp_path / "mobilenetv2_035.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3}))
    monkeypatch.setenv("LTLIB_WEIGHTS", str(tmp_path))
    monkeypatch.setattr("ltlib.config.cache_dir", lambda: tmp_path / "cache")
    monkeypatch.setattr(training, "cache_dir", lambda: tmp_path / "cache")
    (tmp_path / "mine.toml").write_text(PROBE)
    return load_profile(str(tmp_path / "mine.toml"))


def feature_files(tmp_path):
    return sorted((tmp_path / "cache" / "features").rglob("*.npy"))


def test_probe_computes_features_once_and_goes_on_after_a_kill(probe, tmp_path):
    config = probe.config("mobilenetv2_035", "softmax", "longtailed", 0, "thesis")
    said = []
    train, test = training.features(config, CPU, said.append)
    assert train.shape == (11000, 1280)
    assert len(said) == len(feature_files(tmp_path)) == 3 + 2
    again = []
    assert np.array_equal(training.features(config, CPU, again.append)[0], train)
    assert again == []
    feature_files(tmp_path)[1].unlink()  # as if killed before this chunk was written
    assert np.array_equal(training.features(config, CPU, again.append)[1], test)
    assert len(again) == 1


@pytest.mark.parametrize("change", [{"resolution": 40}, {"precision": "float32"}])
def test_features_of_another_kind_are_another_cache(probe, tmp_path, change, monkeypatch):
    small = dataclasses.replace(load_dataset("digits"), train_images=np.zeros((4, 32, 32, 3), np.uint8),
                                test_images=np.zeros((2, 32, 32, 3), np.uint8))
    monkeypatch.setattr(training, "load_dataset", lambda name: small)
    config = probe.config("mobilenetv2_035", "softmax", "longtailed", 0, "thesis")
    training.features(config, CPU)
    training.features(dataclasses.replace(config, recipe=dataclasses.replace(config.recipe, **change)), CPU)
    assert len(list((tmp_path / "cache" / "features").iterdir())) == 2
    key = json.loads(next((tmp_path / "cache" / "features").rglob("key.json")).read_text())
    assert {"weights", "data", "resolution", "dtype", "batch_size"} <= set(key)


def test_probe_trains_heads_on_standardised_training_features(probe):
    config = probe.config("mobilenetv2_035", "softmax", "longtailed", 0, "thesis")
    data = load_dataset("digits")
    splits = make_splits(data, config.protocol, "longtailed")
    weights = training.find_weights("mobilenetv2_035")
    model, train, val, test = training._probe_parts(config, data, splits, weights, CPU, print)
    assert torch.allclose(train.x.mean(0), torch.zeros(1280), atol=1e-3)
    assert len(val.x) == 200
    assert len(test.x) == 1000
    assert predict(model, test).shape == (1000, 100)


def test_a_probe_does_not_depend_on_whether_its_features_were_there(probe, out):
    config = probe.config("mobilenetv2_035", "softmax", "longtailed", 0, "thesis")
    first = run_or_load(config, "cpu")
    record_path(config).unlink()
    assert run_or_load(config, "cpu").results == first.results


def test_probe_runs_end_in_records(probe, out):
    compute_runs(probe, jobs=1, device="cpu", say=lambda line: None)
    table = load_records(probe)
    assert set(table["loss"]) == {"softmax", "balanced_softmax", "ldam"}
    assert set(table["eval_set"]) >= {"balanced", "longtailed", "head", "middle", "tail", "balanced_tail"}


@pytest.mark.parametrize("name", ["thesis", "finetune"])
def test_the_recipes_of_the_gpu_profiles_run_on_a_timm_backbone(probe, name):
    """Whole fine-tuning as those profiles ask for it (optimizer, schedule, augmentation, precision), only smaller."""
    recipe = dataclasses.replace(load_profile(name).recipe, epochs=2, batch_size=64, resolution=64, milestones=(), warmup_epochs=0.5)
    if name == "thesis":
        recipe = dataclasses.replace(recipe, milestones=(1,))
    config = dataclasses.replace(probe.config("mobilenetv2_035", "ldam", "longtailed", 0, "thesis"), mode="finetune", recipe=recipe)
    record = run_or_load(config, "cpu")
    assert record.status == "done"
    rates = [entry["lr"] for entry in record.results["curve"]]
    assert rates == pytest.approx([recipe.lr * schedule_factor(recipe, epoch) for epoch in (0, 1)])
    assert record.results["curve"][1]["train_loss"] < record.results["curve"][0]["train_loss"]


# --------------------------------------------------------------------------- variants, progress, what is kept


def test_logit_adjustment_is_the_softmax_run_with_the_prior_taken_out(out):
    adjusted = run_or_load(smoke_config("logit_adjusted"), "cpu")
    softmax = run_or_load(smoke_config("softmax"), "cpu")
    counts = train_counts(smoke_config().protocol, "longtailed", 100)
    logits = load_file(logits_path(smoke_config("softmax")))
    expected = logits["balanced"].double() - torch.as_tensor(np.log(counts / counts.sum()))
    found = load_file(logits_path(smoke_config("logit_adjusted")))
    assert torch.allclose(found["balanced"].double(), expected, atol=1e-6)
    hits = int((expected.argmax(1) == logits["labels"]).sum())
    assert adjusted.results["evaluations"]["last"]["sets"]["balanced"]["hits"] == hits
    assert adjusted.results["curve"] == softmax.results["curve"]
    assert adjusted.provenance["adjusted"] == softmax.id
    assert adjusted.config["tau"] == 1.0


def test_half_of_the_prior_is_another_run(out):
    whole = smoke_config("logit_adjusted")
    half = dataclasses.replace(whole, tau=0.5)
    assert half.id != whole.id
    a, b = (run_or_load(c, "cpu").results["evaluations"]["last"]["sets"]["balanced"]["loss"] for c in (whole, half))
    assert a != b


def test_logit_adjustment_without_the_logits_says_where_they_should_be(out):
    run_or_load(smoke_config("softmax"), "cpu")
    logits_path(smoke_config("softmax")).unlink()
    with pytest.raises(RecordError, match=r"needs the test logits of .*softmax.*Bring them.*or remove results/smoke"):
        run_or_load(smoke_config("logit_adjusted"), "cpu")


def test_logit_adjustment_of_a_diverged_run_is_diverged(out):
    record = run_or_load(smoke_config("logit_adjusted", lr=1.0e30, epochs=2), "cpu")
    assert record.status == "diverged"
    assert "the softmax run diverged" in record.note


@pytest.mark.parametrize("name", [name for name in VARIANTS if name.endswith(DRW)])
def test_deferred_weights_begin_at_their_epoch(out, name):
    smoke = load_profile("smoke")
    longer = dataclasses.replace(smoke, recipe=dataclasses.replace(smoke.recipe, epochs=4), drw=0.5)
    plain = "softmax" if name in ("weighted_softmax_drw", "class_balanced_drw") else name.removesuffix(DRW)
    a, b = (run_or_load(smoke_config(loss, profile=longer), "cpu").results["curve"] for loss in (plain, name))
    assert [e["train_loss"] for e in a[:2]] == [e["train_loss"] for e in b[:2]]
    assert a[2]["train_loss"] != b[2]["train_loss"]


def test_a_run_from_scratch_needs_no_weights(out, monkeypatch):
    monkeypatch.setattr(training, "find_weights", lambda name: pytest.fail("looked for weights"))
    record = run_or_load(dataclasses.replace(smoke_config(), mode="scratch", pretraining=None), "cpu")
    assert record.provenance["weights"] == {"origin": "fresh", "sha256": None}


def test_the_weights_after_the_last_epoch_are_kept(out):
    config = smoke_config(epochs=2)
    run_or_load(config, "cpu")
    weights = load_file(training.model_path(config))
    model = Classifier(build_backbone(config.backbone, None), build_head("linear", 256, 100))
    model.load_state_dict(weights)
    data = load_dataset("digits")
    index = make_splits(data, config.protocol, "longtailed").tests["balanced"]
    batches = ImageBatches(data.test_images[index], data.test_labels[index], batch_size=256, resolution=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert torch.allclose(predict(model, batches), load_file(logits_path(config))["balanced"], atol=1e-4)


def test_nothing_of_a_run_under_way_is_left_when_it_is_done(out):
    config = smoke_config()
    run_or_load(config, "cpu")
    assert [p.suffix for p in training.live_path(config, "").parent.iterdir()] == [".lock"]


def test_progress_is_said_every_20_s_and_written_every_second(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    said = []
    progress = training.Progress(4, said.append, tmp_path / "run.json")
    for step in range(1, 41):  # 10 steps an epoch, 1 s each
        now[0] = float(step)
        progress(step, 40, 2.5)
    assert [line.split(",")[0] for line in said] == ["epoch 3/4"]
    assert said[0] == "epoch 3/4, loss 2.500, 19 s left"
    state = json.loads((tmp_path / "run.json").read_text())
    assert (state["epoch"], state["epochs"], state["done"], state["seconds_left"]) == (4, 4, 1.0, 0.0)


def test_progress_that_cannot_be_written_costs_nothing_but_itself(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    (tmp_path / "file").write_text("")
    said = []
    progress = training.Progress(4, said.append, tmp_path / "file" / "run.json")
    for step in range(1, 41):
        now[0] = float(step)
        progress(step, 40, 2.5)
    assert said == ["epoch 3/4, loss 2.500, 19 s left"]


def test_what_a_kill_after_the_record_left_is_removed_when_the_run_is_asked_for(out):
    config = smoke_config()
    first = run_or_load(config, "cpu")
    for suffix in (".pt", ".pt.0123456789.unused", ".pt.damaged", ".json"):
        training.live_path(config, suffix).write_text("left")
    assert run_or_load(config, "cpu") == first
    assert [p.suffix for p in training.live_path(config, "").parent.iterdir()] == [".lock"]


def test_a_checkpoint_of_other_libraries_is_put_aside_by_name(out, monkeypatch):
    config, said = smoke_config(epochs=2), []
    monkeypatch.setattr(training, "save_record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run_or_load(config, "cpu")
    monkeypatch.undo()
    monkeypatch.setenv("LTLIB_OUT", str(out))
    monkeypatch.setattr(timm, "__version__", "0.1")
    assert run_or_load(config, "cpu", said.append).status == "done"
    assert any("was written with another timm" in line and "now 0.1" in line for line in said)
    assert [p.suffix for p in training.live_path(config, "").parent.iterdir()] == [".lock"], "the run is done"


def test_a_record_is_loaded_where_nothing_can_be_removed(out, monkeypatch):
    config = smoke_config()
    first = run_or_load(config, "cpu")

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(training.Path, "unlink", refuse)
    assert run_or_load(config, "cpu") == first


@pytest.mark.parametrize("text", ["soon", "-1", "nan"])
def test_impossible_minutes_between_checkpoints_are_refused(monkeypatch, text):
    monkeypatch.setenv("CHECKPOINT_MINUTES", text)
    with pytest.raises(ConfigError, match=f"CHECKPOINT_MINUTES = '{text}': expected a number of minutes"):
        training.checkpoint_minutes()


# ------------------------------------------------------------------------------------ methods, end to end


def scratch_config(loss, *, options=(), protocol=None, **recipe):
    """A run of two epochs from fresh weights on few images."""
    config = smoke_config()
    few = {"max_count": 10, "imbalance_factor": 5.0, "val_per_class": 2, "test_per_class": 10}
    return dataclasses.replace(config, mode="scratch", pretraining=None, loss=loss, head="", loss_options=tuple(dict(options).items()),
                               protocol=dataclasses.replace(config.protocol, **{**few, **(protocol or {})}),
                               recipe=dataclasses.replace(config.recipe, **{"epochs": 2, "milestones": (), **recipe}))


METHOD_RUNS = {
    "pf": ("pf", {}, {}),
    "arconvl": ("arconvl", {}, {"momentum": 0.0, "pixels": "raw"}),
    "gbg": ("gbg", {"groups": 3}, {"cutout": 8}),
    "gbg, contrastive": ("gbg", {"groups": 3, "grouping": "count", "beta": 1.6, "projection": 8}, {"views": "contrastive", "epochs": 1}),
}


@pytest.mark.parametrize("case", METHOD_RUNS)
def test_a_method_runs_from_the_images_to_the_record_the_same_each_time(out, case):
    loss, options, recipe = METHOD_RUNS[case]
    config = scratch_config(loss, options=options, **recipe)
    record = run_or_load(config, "cpu")
    assert record.status == "done"
    assert json.loads(record_path(config).read_text())["results"] == record.results
    whole = record.results["evaluations"]["last"]["sets"]["balanced"]
    for name in ("gmean", "auc_hard", "auc", "class_acc"):
        assert 0 <= whole[name] <= 1
    for entry in record.results["curve"]:
        assert {"val_acc", "val_gmean", "val_loss", "val_head", "val_middle", "val_tail"} <= set(entry)
        assert {"arconvl": "regions", "gbg": "group_weights"}.get(loss, "epoch") in entry
    model = load_model(config)
    assert type(model.head).__name__ == {"pf": "Linear", "arconvl": "DistanceHead", "gbg": "CosineHead"}[loss]
    logits = load_file(logits_path(config))
    assert int((logits["balanced"].argmax(1) == logits["labels"]).sum()) == whole["hits"]
    record_path(config).unlink()
    torch.manual_seed(123)
    assert run_or_load(config, "cpu").results == record.results


def test_the_groups_of_validation_images_part_the_accuracy_of_the_epoch(out):
    """All classes have as many validation images: the mean over classes is that over the groups, as large as they are."""
    record = run_or_load(scratch_config("softmax"), "cpu")
    for entry in record.results["curve"]:
        expected = (33 * entry["val_head"] + 33 * entry["val_middle"] + 34 * entry["val_tail"]) / 100
        assert entry["val_acc"] == pytest.approx(expected)


def test_a_share_of_the_images_of_a_step_validates_and_picks_the_latest_of_the_best_epochs(out):
    step = {"imbalance": "step", "groups": "step", "val_per_class": 0, "val_fraction": 0.3}
    config = scratch_config("arconvl", protocol=step, epochs=3, pick="gmean", lr=1e-9)  # nothing is learned: all epochs are equal
    record = run_or_load(config, "cpu")
    counts = train_counts(config.protocol, "longtailed", 100)
    assert counts[:2].tolist() == [1, 7]  # of 2 and 10
    assert record.results["train_images"] == counts.sum()
    assert record.results["val_images"] == 50 * (1 + 3)
    curve = record.results["curve"]
    gmeans = [entry["val_gmean"] for entry in curve]
    latest = max(entry["epoch"] for entry in curve if entry["val_gmean"] == max(gmeans))
    assert record.results["evaluations"]["picked"]["epoch"] == latest
    assert gmeans[-1] == max(gmeans)
    assert {"val_head", "val_tail"} <= set(curve[0])
    assert "val_middle" not in curve[0]
    assert {"head", "tail", "balanced_head", "balanced_tail"} <= set(record.results["evaluations"]["last"]["sets"])


def test_a_binary_task_runs_with_the_counts_that_it_has(out, monkeypatch, fresh_caches):
    """Ten images of one class against 90 of the rest, in the place of CIFAR-10's."""
    monkeypatch.setitem(ltconfig.DATASETS, "cifar10", DatasetSize(10, 10, 4))
    random = np.random.default_rng(0)
    y, y_test = np.repeat(np.arange(10, dtype=np.uint8), 10), np.repeat(np.arange(10, dtype=np.uint8), 4)
    x, x_test = (random.integers(0, 100, (len(labels), 32, 32, 3), np.uint8) + np.uint8(100) * (labels == 3)[:, None, None, None]
                 for labels in (y, y_test))
    small = datasets._make("cifar10", x, y, x_test, y_test, [f"c{i}" for i in range(10)], "here")
    monkeypatch.setattr(datasets, "_cifar10", lambda: small)
    protocol = Protocol(**{**Protocol.natural(dataset_size("cifar10_class3")), "counts": (90, 10)}, name="natural", groups="step")
    config = dataclasses.replace(scratch_config("pf", epochs=12, batch_size=20, lr=3e-3), dataset="cifar10_class3",
                                 backbone="pf_binary_cnn", protocol=protocol)
    record = run_or_load(config, "cpu")
    assert (record.status, record.results["train_images"], record.results["val_images"]) == ("done", 100, 0)
    sets = record.results["evaluations"]["last"]["sets"]
    assert {name: value["n"] for name, value in sets.items()} == {"longtailed": 40, "head": 36, "tail": 4}
    assert sets["longtailed"]["gmean"] > 0.9, "the classes are told apart by their brightness"
    assert sets["longtailed"]["auc"] > 0.95
    assert set(classify_names(config)) == {"rest", "c3"}


def classify_names(config):
    """The names that a trained model gives to an image."""
    path = ltconfig.output_root() / "image.png"
    Image.fromarray(np.full((32, 32, 3), 150, np.uint8)).save(path)
    return classify(config, [path], device="cpu")["class"]


# ------------------------------------------------------------------------------------------ a trained model


@pytest.mark.parametrize("loss", ["softmax", "ldam", "balanced_softmax", "logit_adjusted"])
def test_test_images_as_files_are_classified_as_the_run_evaluated_them(out, loss):
    config = smoke_config(loss)
    run_or_load(config, "cpu")
    data = load_dataset("digits")
    rows = make_splits(data, config.protocol, "longtailed").tests["balanced"][::40]
    files = [out / "new" / f"{row:04}.png" for row in rows]
    (out / "new").mkdir()
    for file, row in zip(files, rows, strict=True):
        Image.fromarray(data.test_images[row]).save(file)
    counts = train_counts(config.protocol, "longtailed", 100)
    criterion = build_loss(config.loss, counts).eval()
    expected = criterion.prediction_logits(load_file(logits_path(config))["balanced"][::40].double()).softmax(1)
    found = classify(config, files, k=100, device="cpu")
    assert list(found.columns) == ["file", "rank", "class", "probability"]
    table = found.pivot_table(index="file", columns="class", values="probability")[list(data.class_names)]
    np.testing.assert_allclose(table.loc[[str(file) for file in files]].to_numpy(), expected.numpy(), rtol=1e-3, atol=1e-7)
    assert classify(config, out / "new", device="cpu").groupby("file")["rank"].max().tolist() == [5] * len(files)
    assert (found.sort_values(["file", "rank"])["probability"].groupby(found["file"]).diff().dropna() <= 0).all()


def test_files_that_are_no_images_are_refused_by_name(out):
    config = smoke_config()
    run_or_load(config, "cpu")
    (out / "a.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"(?s)2 of 2 files are no whole images; .*a.jpg: not an image.*gone.jpg: No such file"):
        classify(config, [out / "a.jpg", out / "gone.jpg"], device="cpu")
    (out / "empty").mkdir()
    with pytest.raises(DataError, match="expected a folder with photographs, or their paths"):
        classify(config, out / "empty", device="cpu")
    with pytest.raises(ConfigError, match="k = 0: expected at least 1"):
        classify(config, [out / "a.jpg"], 0, device="cpu")


def test_a_model_that_is_not_there_is_refused_with_the_way_to_get_it(out):
    config = smoke_config()
    with pytest.raises(ConfigError, match=r"expected mode finetune or scratch, got 'probe'"):
        load_model(dataclasses.replace(config, mode="probe"))
    with pytest.raises(RecordError, match="expected a finished run, and it is not computed yet"):
        load_model(config)
    run_or_load(config, "cpu")
    assert not load_model(config).training
    for damage in (lambda path: save_file({"x": torch.zeros(1)}, path), lambda path: path.write_bytes(b"x"), lambda path: path.unlink()):
        damage(model_path(config))
        with pytest.raises(RecordError, match=r"expected the trained weights of .*to train it again"):
            load_model(config)
