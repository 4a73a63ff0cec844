"""Features of frozen backbones, and the heads that are trained on them."""

import dataclasses
import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from ltlib.data import load_dataset
from ltlib.models import find_weights
from ltlib.protocol import make_splits
from ltlib.runs import load_profile, load_records, run_or_load, stored_features
from ltlib.runs.feature_cache import CHUNK, FrozenBackbone
from ltlib.runs.records import record_path
from ltlib.runs.sets import feature_sets
from ltlib.training import schedule_factor

CPU = torch.device("cpu")
NAME = "test_byobnet"
PROBE = """
title = "probe of the digits"
dataset = "digits"
mode = "probe"
backbones = ["test_byobnet"]
losses = ["softmax", "balanced_softmax", "ldam"]
seeds = [0]
train_sets = ["longtailed"]
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random weights of a small timm model, and a probe profile."""
    folder = tmp_path_factory.mktemp("probe")
    torch.manual_seed(0)
    save_file(timm.create_model(NAME).state_dict(), folder / f"{NAME}.safetensors")
    (folder / f"{NAME}.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3}))
    (folder / "mine.toml").write_text(PROBE)
    return folder


@pytest.fixture
def probe(folder, monkeypatch, fresh_caches):
    """The profile; its features and records are shared by the tests of this module."""
    monkeypatch.setenv("LTLIB_WEIGHTS", str(folder))
    monkeypatch.setenv("LTLIB_OUT", str(folder / "out"))
    return load_profile(str(folder / "mine.toml"))


def few(data, train=4, test=2):
    """Gray images in place of a data set's."""
    images = {
        f"{part}_images": np.full((n, 32, 32, 3), 90, np.uint8)
        for part, n in (("train", train), ("test", test))
    }
    return dataclasses.replace(data, **images)


@pytest.mark.slow
def test_a_probe_does_not_depend_on_whether_its_features_were_there(probe):
    config = probe.config(NAME, "softmax", "longtailed", 0, "thesis")
    first, said, index = run_or_load(config, "cpu"), [], np.arange(0, 40, 10)
    record_path(config).unlink()
    assert run_or_load(config, "cpu", said.append).results == first.results
    assert not [line for line in said if "features" in line]
    train, test = stored_features(config, index, index)
    assert train.shape == test.shape == (4, 256)


def test_features_that_nobody_has_computed_are_none(probe, tmp_path, monkeypatch):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    config = probe.config(NAME, "softmax", "longtailed", 0, "thesis")
    assert stored_features(config, np.arange(3), np.arange(3)) is None


def test_probe_runs_end_in_records(probe):
    for config in probe.configs():
        run_or_load(config, "cpu")
    table = load_records(probe)
    assert set(table["loss"]) == {"softmax", "balanced_softmax", "ldam"}
    sets = {"balanced", "longtailed", "head", "middle", "tail", "balanced_tail"}
    assert set(table["eval_set"]) >= sets


def test_features_are_computed_once_and_go_on_after_a_kill(probe, tmp_path, monkeypatch):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    data, said = few(load_dataset("digits"), CHUNK + 3, 5), []
    recipe = dataclasses.replace(probe.recipe, precision="float32")
    frozen = FrozenBackbone(NAME, find_weights(NAME), recipe, CPU)
    assert not frozen.are_stored(data)
    train, test = frozen.features(data, said.append)
    assert (train.shape, test.shape) == ((CHUNK + 3, 256), (5, 256))
    files = sorted(tmp_path.rglob("*.npy"))
    assert len(said) == len(files) == 2 + 1
    assert frozen.are_stored(data)
    again = []
    assert np.array_equal(frozen.features(data, again.append)[0], train)
    assert again == []
    files[-1].unlink()  # as if killed before this chunk was written
    assert np.array_equal(frozen.features(data, again.append)[0], train)
    assert len(again) == 1


@pytest.mark.parametrize("change", [{"resolution": 40}, {"precision": "float32"}])
def test_features_of_another_kind_are_another_cache(probe, tmp_path, monkeypatch, change):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    data = few(load_dataset("digits"))
    for recipe in (probe.recipe, dataclasses.replace(probe.recipe, **change)):
        FrozenBackbone(NAME, find_weights(NAME), recipe, CPU).features(data, lambda line: None)
    keys = [json.loads(path.read_text()) for path in tmp_path.rglob("key.json")]
    assert len(keys) == 2
    assert {"weights", "data", "resolution", "dtype", "batch_size"} <= set(keys[0])


def test_heads_are_trained_on_features_that_the_training_set_standardises(probe):
    data, random = load_dataset("digits"), np.random.default_rng(0)
    splits = make_splits(data, probe.protocols[0], "longtailed")
    train_x, test_x = (
        random.normal(3, 5, (len(images), 7)).astype(np.float32)
        for images in (data.train_images, data.test_images)
    )
    sets = feature_sets(train_x, test_x, data, splits, 64, CPU)
    assert torch.allclose(sets.train.x.mean(0), torch.zeros(7), atol=1e-3)
    assert torch.allclose(sets.train.x.std(0), torch.ones(7), atol=1e-2)
    assert (len(sets.val.x), len(sets.test.x)) == (200, 1000)
    mean, std = train_x[splits.train].mean(0), train_x[splits.train].std(0)
    expected = (test_x[splits.tests["balanced"]] - mean) / std
    assert np.allclose(sets.test.x, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["thesis", "finetune"])
def test_the_recipes_of_the_gpu_profiles_run_on_a_timm_backbone(probe, name):
    """Whole fine-tuning as those profiles ask for it (optimizer, schedule, augmentation,
    precision), only smaller."""
    smaller = {"epochs": 2, "batch_size": 64, "resolution": 64, "warmup_epochs": 0.5}
    milestones = (1,) if name == "thesis" else ()
    recipe = dataclasses.replace(load_profile(name).recipe, **smaller, milestones=milestones)
    config = probe.config(NAME, "ldam", "longtailed", 0, "thesis")
    config = dataclasses.replace(
        config,
        mode="finetune",
        recipe=recipe,
        protocol=dataclasses.replace(config.protocol, max_count=12, imbalance_factor=6.0),
    )
    record = run_or_load(config, "cpu")
    assert record.status == "done"
    rates = [entry["lr"] for entry in record.results["curve"]]
    assert rates == pytest.approx([recipe.lr * schedule_factor(recipe, epoch) for epoch in (0, 1)])
    assert record.results["curve"][1]["train_loss"] < record.results["curve"][0]["train_loss"]
