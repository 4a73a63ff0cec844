import io
import json

import numpy as np
import pytest
import timm
import torch
from conftest import needs_cifar100, needs_real_weights
from safetensors.torch import save_file

from ltlib import backbones
from ltlib.backbones import (
    SMALL,
    Classifier,
    CosineHead,
    MissingWeights,
    build_backbone,
    build_head,
    check_name,
    find_weights,
    fresh_weights,
    require_weights,
)
from ltlib.config import ConfigError

TINY = "mobilenetv2_035"


@pytest.fixture
def weights_dir(tmp_path, monkeypatch, fresh_caches):
    """LTLIB_WEIGHTS with random weights of one small timm model."""
    torch.manual_seed(0)
    model = timm.create_model(TINY, num_classes=7)
    save_file(model.state_dict(), tmp_path / f"{TINY}.safetensors")
    meta = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear", "num_classes": 7, "origin": "here"}
    (tmp_path / f"{TINY}.json").write_text(json.dumps(meta))
    monkeypatch.setenv("LTLIB_WEIGHTS", str(tmp_path))
    return tmp_path, model


@pytest.fixture
def offline(monkeypatch, tmp_path, fresh_caches):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "no-cache"))
    monkeypatch.delenv("LTLIB_WEIGHTS", raising=False)


@pytest.mark.parametrize("name", SMALL)
def test_small_backbones_pool_to_their_number_of_features(name):
    model = build_backbone(name, None).eval()
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, model.num_features)


def test_local_weights_are_loaded_to_the_last_key_and_their_normalisation_honoured(weights_dir):
    _, model = weights_dir
    found = find_weights(TINY)
    assert (found.mean, found.std, found.interpolation) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear")
    assert len(found.checksum) == 64
    x = torch.randn(2, 3, 64, 64)
    model.reset_classifier(0)
    assert torch.equal(build_backbone(TINY, found).eval()(x), model.eval()(x))


def test_weights_of_another_model_are_refused(weights_dir):
    folder, _ = weights_dir
    save_file({"nonsense": torch.zeros(1)}, folder / f"{TINY}.safetensors")
    with pytest.raises(ConfigError, match=r"mobilenetv2_035.safetensors: expected the weights of this very model"):
        build_backbone(TINY, find_weights(TINY))


def test_truncated_weights_are_refused(weights_dir):
    path = weights_dir[0] / f"{TINY}.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ConfigError, match="whole"):
        build_backbone(TINY, find_weights(TINY))


def test_a_weights_folder_that_is_not_there_is_refused(fresh_caches, monkeypatch, tmp_path):
    monkeypatch.setenv("LTLIB_WEIGHTS", str(tmp_path / "typo"))
    with pytest.raises(ConfigError, match="expected a folder"):
        find_weights(TINY)


def test_heads_compute_in_float32_under_autocast():
    model = Classifier(torch.nn.Flatten(), build_head("cosine", 12, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.randn(2, 3, 2, 2)).dtype == torch.float32


@pytest.mark.parametrize("text", ["", "{}", '{"mean": [0.5], "std": [0.5]}', '{"mean": [0, 0, 0], "std": [1, 1, 0]}', "[]",
                                  '{"mean": "123", "std": "123"}',
                                  '{"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "nearest"}'])
def test_a_damaged_description_is_refused(weights_dir, text):
    (weights_dir[0] / f"{TINY}.json").write_text(text)
    with pytest.raises(ConfigError, match="expected a JSON file with mean and std"):
        find_weights(TINY)


def test_every_missing_weight_is_named_in_one_error_with_the_ways_out(weights_dir, offline, monkeypatch):
    monkeypatch.setenv("LTLIB_WEIGHTS", str(weights_dir[0]))
    with pytest.raises(MissingWeights) as error:
        require_weights([TINY, "convnext_base", "resnetv2_50"])
    text = str(error.value)
    for part in ("2 backbone(s)", "convnext_base", "resnetv2_50", "Hugging Face", "LTLIB_WEIGHTS", f'BACKBONES="{TINY}"'):
        assert part in text


def test_the_hub_is_asked_once_when_it_is_out_of_reach(offline, monkeypatch):
    calls = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: calls.append(a) or (_ for _ in ()).throw(OSError("down")))
    with pytest.raises(MissingWeights, match="down"):
        require_weights(["convnext_base", "resnetv2_50", "vit_base_patch16_224"])
    assert len(calls) == 1


def test_offline_mode_of_the_hub_is_respected(offline, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingWeights, match="HF_HUB_OFFLINE"):
        find_weights("convnext_base")


def test_hub_weights_carry_timm_s_normalisation(offline, monkeypatch, tmp_path):
    """The hub itself is out of reach of tests: its client is replaced, the rest is real."""
    model = timm.create_model(TINY, num_classes=0)
    config = timm.get_pretrained_cfg("mobilenetv2_100")
    full = timm.create_model("mobilenetv2_100")
    save_file(full.state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: io.BytesIO())
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda repo, file: str(tmp_path / "model.safetensors"))
    found = find_weights("mobilenetv2_100")
    assert found.mean == tuple(config.mean)
    assert config.hf_hub_id in found.origin
    full.reset_classifier(0)
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(build_backbone("mobilenetv2_100", found).eval()(x), full.eval()(x))
    assert model.num_features == 1280


def test_a_failing_download_says_what_failed(offline, monkeypatch):
    def fail(*_):
        raise TimeoutError("too slow")

    monkeypatch.setattr("urllib.request.urlopen", lambda *a, **k: io.BytesIO())
    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(MissingWeights, match="TimeoutError: too slow"):
        find_weights("convnext_base")


def test_an_unknown_name_is_refused_with_near_ones():
    with pytest.raises(ConfigError, match="resnet18"):
        check_name("resnet1800")
    check_name("vit_tiny_patch16_224")


def test_cosine_head_gives_cosines():
    head = CosineHead(5, 3)
    x = torch.randn(4, 5) * 100
    expected = torch.nn.functional.cosine_similarity(x[:, None], head.weight[None], dim=2)
    assert torch.allclose(head(x), expected, atol=1e-6)
    assert isinstance(build_head("cosine", 5, 3), CosineHead)


def test_linear_head_has_a_bias():
    assert build_head("linear", 5, 3).bias.shape == (3,)


def test_classifier_is_head_after_backbone():
    model = Classifier(torch.nn.Flatten(), build_head("linear", 12, 3))
    assert model(torch.zeros(2, 3, 2, 2)).shape == (2, 3)


def test_titles_fall_back_to_timm_s_name():
    assert backbones.backbone_title("resnet18") == "resnet18"


@needs_cifar100
@needs_real_weights
@pytest.mark.parametrize("name", ["mobilenetv2_100", "vit_tiny_patch16_224"])
def test_real_weights_know_images(name, fresh_caches):
    """Nearest neighbour among 100 CIFAR-100 images of ten classes: chance is 9 %."""
    from ltlib.batches import ImageBatches
    from ltlib.datasets import load_dataset
    from ltlib.training import predict

    data, weights = load_dataset("cifar100"), find_weights(name)
    rows = np.flatnonzero(np.isin(data.test_labels, range(0, 100, 10)))
    rows = np.concatenate([rows[data.test_labels[rows] == c][:10] for c in range(0, 100, 10)])
    labels = data.test_labels[rows]
    batches = ImageBatches(data.test_images[rows], labels, batch_size=50, resolution=224, mean=weights.mean, std=weights.std)
    x = torch.nn.functional.normalize(predict(build_backbone(name, weights), batches), dim=1)
    similarity = (x @ x.T).fill_diagonal_(-1)
    assert (labels[similarity.argmax(1).numpy()] == labels).mean() > 0.5


# ------------------------------------------------------------------------------------------- from scratch


def test_resnet32_is_the_published_network():
    model = build_backbone("resnet32", None)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 64)
    parameters = sum(p.numel() for p in model.parameters()) + sum(p.numel() for p in build_head("linear", 64, 10).parameters())
    assert parameters == 464_154  # 0.46 M in He et al. 2016, table 6
    assert sum(isinstance(m, torch.nn.Conv2d) for m in model.modules()) == 31  # and the linear layer


def test_the_shortcut_of_resnet32_takes_every_other_pixel_and_pads_with_zeros():
    block = build_backbone("resnet32", None).blocks[5].eval()
    torch.nn.init.zeros_(block.bn2.weight)  # the residual branch is silent
    x = torch.rand(1, 16, 8, 8)
    y = block(x)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert y[:, :8].abs().max() == y[:, 24:].abs().max() == 0


def test_fresh_weights_come_from_the_random_state():
    found = fresh_weights("cifar100")
    assert found.checksum is None
    assert found.mean == (0.4914, 0.4822, 0.4465)
    models = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        models.append(build_backbone("resnet32", found).conv1.weight)
    assert torch.equal(models[0], models[1])
    assert not torch.equal(models[0], models[2])


def test_a_vit_takes_another_resolution_with_its_position_embeddings_resampled():
    model = build_backbone("vit_tiny_patch16_224", None, 128)
    assert model.pos_embed.shape == (1, 1 + 8 * 8, 192)
    assert model.eval()(torch.zeros(1, 3, 128, 128)).shape == (1, 192)
    assert build_backbone("vit_tiny_patch16_224", None, 224).pos_embed.shape == (1, 1 + 14 * 14, 192)
    assert build_backbone("mobilenetv2_035", None, 96)(torch.zeros(2, 3, 96, 96)).shape == (2, 1280)
