"""What the model of a finished run is good for."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from small_configs import scratch_config, smoke_config

from ltlib.data import load_dataset
from ltlib.errors import ConfigError, DataError
from ltlib.losses import build_loss
from ltlib.protocol import make_splits, train_counts
from ltlib.runs import classify, load_model, run_or_load, stored_features
from ltlib.runs.records import RecordError, logits_path
from ltlib.runs.run import model_path


@pytest.mark.parametrize("loss", ["softmax", "ldam", "balanced_softmax", "logit_adjusted"])
def test_test_images_as_files_are_classified_as_the_run_evaluated_them(shared, tmp_path, loss):
    config, data = smoke_config(loss), load_dataset("digits")
    run_or_load(config, "cpu")
    rows = make_splits(data, config.protocol, "longtailed").tests["balanced"][::40]
    files = [tmp_path / f"{row:04}.png" for row in rows]
    for file, row in zip(files, rows, strict=True):
        Image.fromarray(data.test_images[row]).save(file)
    criterion = build_loss(config.loss, train_counts(config.protocol, "longtailed", 100)).eval()
    logits = load_file(logits_path(config))["balanced"][::40].double()
    expected = criterion.prediction_logits(logits).softmax(1)
    found = classify(config, files, k=100, device="cpu")
    assert list(found.columns) == ["file", "rank", "class", "probability"]
    table = found.pivot_table(index="file", columns="class", values="probability")
    table = table.loc[[str(file) for file in files], list(data.class_names)].to_numpy()
    np.testing.assert_allclose(table, expected.numpy(), rtol=1e-3, atol=1e-7)
    ranked = found.sort_values(["file", "rank"])
    assert (ranked.groupby("file")["probability"].diff().dropna() <= 0).all()
    ranks = classify(config, tmp_path, device="cpu").groupby("file")["rank"].max()
    assert ranks.tolist() == [5] * len(files)


def test_files_that_are_no_images_are_refused_by_name(shared, tmp_path):
    config = smoke_config()
    run_or_load(config, "cpu")
    (tmp_path / "a.jpg").write_text("no image")
    (tmp_path / "empty").mkdir()
    wrong = [tmp_path / "a.jpg", tmp_path / "gone.jpg"]
    message = r"(?s)2 of 2 files are no whole images; .*a.jpg: not an image.*gone.jpg: No such file"
    with pytest.raises(DataError, match=message):
        classify(config, wrong, device="cpu")
    with pytest.raises(DataError, match="expected a folder with photographs, or their paths"):
        classify(config, tmp_path / "empty", device="cpu")
    with pytest.raises(ConfigError, match="k = 0: expected at least 1"):
        classify(config, wrong, 0, device="cpu")


def test_a_model_that_is_not_there_is_refused_with_the_way_to_get_it(out):
    config = smoke_config()
    with pytest.raises(ConfigError, match=r"expected mode finetune, light or scratch, got 'probe'"):
        load_model(dataclasses.replace(config, mode="probe"))
    with pytest.raises(RecordError, match="expected a finished run, and it is not computed yet"):
        load_model(config)
    run_or_load(config, "cpu")
    assert not load_model(config).training
    for damage in (
        lambda path: save_file({"x": torch.zeros(1)}, path),
        lambda path: path.write_bytes(b"x"),
        lambda path: path.unlink(),
    ):
        damage(model_path(config))
        message = r"expected the trained weights of .*to train it again"
        with pytest.raises(RecordError, match=message):
            load_model(config)


@pytest.mark.parametrize("config", [smoke_config(), scratch_config("softmax")])
def test_features_of_a_finished_run_and_none_before_it(out, config):
    index = np.arange(3)
    assert stored_features(config, index, index) is None
    run_or_load(config, "cpu")
    train, test = stored_features(config, index, np.arange(2))
    assert (train.shape, test.shape) == ((3, 256), (2, 256))
    assert np.isfinite(train).all()
