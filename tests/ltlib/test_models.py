import io
import json

import numpy as np
import pytest
import timm
import torch
from needs import needs_cifar100, needs_real_weights
from safetensors.torch import save_file

from ltlib import models
from ltlib.errors import ConfigError
from ltlib.models import (
    Classifier,
    CosineHead,
    DistanceHead,
    MissingWeights,
    build_backbone,
    build_head,
    check_name,
    find_weights,
    fresh_weights,
    require_weights,
)
from ltlib.models.nets import SMALL

TINY = "mobilenetv2_035"


@pytest.fixture
def weights_dir(tmp_path, monkeypatch, fresh_caches):
    """LTLIB_WEIGHTS with random weights of one small timm model."""
    torch.manual_seed(0)
    model = timm.create_model(TINY, num_classes=7)
    save_file(model.state_dict(), tmp_path / f"{TINY}.safetensors")
    meta = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": "bilinear",
        "num_classes": 7,
        "origin": "here",
    }
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
    assert (found.mean, found.std, found.interpolation) == (
        (0.1, 0.2, 0.3),
        (0.4, 0.5, 0.6),
        "bilinear",
    )
    assert len(found.checksum) == 64
    x = torch.randn(2, 3, 64, 64)
    model.reset_classifier(0)
    assert torch.equal(build_backbone(TINY, found).eval()(x), model.eval()(x))


def test_weights_of_another_model_are_refused(weights_dir):
    folder, _ = weights_dir
    save_file({"nonsense": torch.zeros(1)}, folder / f"{TINY}.safetensors")
    with pytest.raises(
        ConfigError, match=r"mobilenetv2_035.safetensors: expected the weights of this very model"
    ):
        build_backbone(TINY, find_weights(TINY))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("conv_stem.weight", float("nan"), "conv_stem.weight holds numbers that are not finite"),
        ("bn1.running_var", float("inf"), "bn1.running_var holds numbers that are not finite"),
        ("bn1.running_var", -1.0, "bn1.running_var holds variances below 0"),
        ("conv_stem.weight", 1, "conv_stem.weight has dtype torch.int64, expected torch.float32"),
    ],
)
def test_weights_that_are_no_numbers_are_refused_when_they_are_loaded(
    weights_dir, name, value, message
):
    folder, model = weights_dir
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    state[name] = torch.full(state[name].shape, value)
    save_file(state, folder / f"{TINY}.safetensors")
    with pytest.raises(ConfigError, match=message):
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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"mean": [0.5], "std": [0.5]}',
        '{"mean": [0, 0, 0], "std": [1, 1, 0]}',
        "[]",
        '{"mean": "123", "std": "123"}',
        '{"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "nearest"}',
        '{"mean": [1e300, 0, 0], "std": [1, 1, 1]}',
        '{"mean": [0, 0, 0], "std": [1, 1, 1e-300]}',
    ],
)
def test_a_damaged_description_is_refused(weights_dir, text):
    (weights_dir[0] / f"{TINY}.json").write_text(text)
    with pytest.raises(ConfigError, match="expected a JSON file with mean and std"):
        find_weights(TINY)


def test_every_missing_weight_is_named_in_one_error_with_the_ways_out(
    weights_dir, offline, monkeypatch
):
    monkeypatch.setenv("LTLIB_WEIGHTS", str(weights_dir[0]))
    with pytest.raises(MissingWeights) as error:
        require_weights([TINY, "convnext_base", "resnetv2_50"])
    text = str(error.value)
    for part in (
        "2 backbone(s)",
        "convnext_base",
        "resnetv2_50",
        "Hugging Face",
        "LTLIB_WEIGHTS",
        f'BACKBONES="{TINY}"',
    ):
        assert part in text


def test_the_hub_is_asked_once_when_it_is_out_of_reach(offline, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "urllib.request.urlopen",
        lambda *a, **k: calls.append(a) or (_ for _ in ()).throw(OSError("down")),
    )
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
    monkeypatch.setattr(
        "huggingface_hub.hf_hub_download", lambda repo, file: str(tmp_path / "model.safetensors")
    )
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
    assert models.backbone_title("resnet18") == "resnet18"


@needs_cifar100
@needs_real_weights
@pytest.mark.parametrize("name", ["mobilenetv2_100", "vit_tiny_patch16_224"])
def test_real_weights_know_images(name, fresh_caches):
    """Nearest neighbour among 100 CIFAR-100 images of ten classes: chance is 9 %."""
    from ltlib.batches import ImageBatches
    from ltlib.data import load_dataset
    from ltlib.training import predict

    data, weights = load_dataset("cifar100"), find_weights(name)
    rows = np.flatnonzero(np.isin(data.test_labels, range(0, 100, 10)))
    rows = np.concatenate([rows[data.test_labels[rows] == c][:10] for c in range(0, 100, 10)])
    labels = data.test_labels[rows]
    batches = ImageBatches(
        data.test_images[rows],
        labels,
        batch_size=50,
        resolution=224,
        mean=weights.mean,
        std=weights.std,
    )
    x = torch.nn.functional.normalize(predict(build_backbone(name, weights), batches), dim=1)
    similarity = (x @ x.T).fill_diagonal_(-1)
    assert (labels[similarity.argmax(1).numpy()] == labels).mean() > 0.5


# from
# scratch


def test_resnet32_is_the_published_network():
    model = build_backbone("resnet32", None)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 64)
    parameters = sum(p.numel() for p in model.parameters()) + sum(
        p.numel() for p in build_head("linear", 64, 10).parameters()
    )
    assert parameters == 464_154  # 0.46 M in He et al. 2016, table 6
    assert (
        sum(isinstance(m, torch.nn.Conv2d) for m in model.modules()) == 31
    )  # and the linear layer


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
    assert build_backbone("vit_tiny_patch16_224", None, 224).pos_embed.shape == (
        1,
        1 + 14 * 14,
        192,
    )
    assert build_backbone("mobilenetv2_035", None, 96)(torch.zeros(2, 3, 96, 96)).shape == (2, 1280)


# the nets of the
# three papers


def conv(channels, out_channels, size, bias=True):
    return out_channels * (channels * size**2 + bias)


STAGE = conv(32, 32, 3) + conv(32, 64, 3) + conv(64, 64, 3)
NETS = {  # features, side of the image, parameters, counted by hand
    "pf_cnn": (128, 28, conv(1, 32, 3) + conv(32, 64, 3) + 128 * (64 * 12**2 + 1)),
    "pf_binary_cnn": (84, 32, conv(3, 6, 5) + conv(6, 16, 5) + 120 * (16 * 5**2 + 1) + 84 * 121),
    "arconvl_cnn": (64, 28, conv(1, 32, 3) + STAGE + 64 * (64 * 7**2 + 1) + 2 * 64),
    "arconvl_cnn2": (2, 28, conv(1, 32, 3) + STAGE + 2 * (64 * 7**2 + 1) + 2 * 2),
    # He et al. 2016, table 6: 0.66 M, with the linear layer; two more blocks a stage than ResNet-32
    "resnet44": (
        64,
        32,
        464_154 - 650 + sum(4 * (conv(c, c, 3, False) + 2 * c) for c in (16, 32, 64)),
    ),
    "resnet18_cifar": (
        512,
        32,
        11_173_962 - 5130,
    ),  # 11.17 M, as CIFAR code has it, without the linear layer
}


@pytest.mark.parametrize("name", NETS)
def test_the_nets_of_the_papers_have_their_features_and_their_parameters(name):
    features, side, parameters = NETS[name]
    model = build_backbone(name, None, side)
    assert model.num_features == features
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model(torch.rand(2, 3, side, side)).shape == (2, features)
    assert models.backbone_title(name) != name


@pytest.mark.parametrize("name", ["pf_cnn", "arconvl_cnn"])
def test_nets_for_grey_images_look_at_one_of_the_equal_channels(name):
    model, x = build_backbone(name, None).eval(), torch.rand(2, 3, 28, 28)
    others = x.clone()
    others[:, 1:] = 0
    assert torch.equal(model(x), model(others))
    assert not torch.equal(model(x), model(0.5 * x))


def test_the_binary_net_looks_at_all_channels():
    model, x = build_backbone("pf_binary_cnn", None).eval(), torch.rand(2, 3, 32, 32)
    for channel in range(3):
        other = x.clone()
        other[:, channel] = 0
        assert not torch.equal(model(x), model(other))


def test_the_stem_of_the_small_resnet18_keeps_the_resolution():
    model = build_backbone("resnet18_cifar", None).eval()
    assert model.forward_features(torch.zeros(1, 3, 32, 32)).shape == (1, 512, 4, 4)


def test_the_penultimate_layers_are_those_of_the_papers():
    torch.manual_seed(0)
    x = torch.rand(64, 3, 28, 28)
    pf = build_backbone("pf_cnn", None)
    assert (pf.eval()(x) >= 0).all(), "a ReLU"
    zeros = [
        (pf.train()(x) == 0).float().mean() - (pf.eval()(x) == 0).float().mean() for _ in range(3)
    ]
    assert np.mean([float(z) for z in zeros]) == pytest.approx(
        (pf.eval()(x) > 0).float().mean().item() / 2, abs=0.05
    ), "dropout of a half"
    features = build_backbone("arconvl_cnn", None).train()(
        1000 * x
    )  # so that the variance is large beside the eps of its inverse
    torch.testing.assert_close(features.mean(0), torch.zeros(64), rtol=0, atol=1e-4)
    torch.testing.assert_close(features.std(0, unbiased=False), torch.ones(64), rtol=0, atol=1e-2)


# distance head


def test_the_distance_head_gives_minus_squared_distances():
    head = build_head("distance", 5, 3)
    assert isinstance(head, DistanceHead)
    x = torch.randn(4, 5)
    expected = torch.tensor(
        [
            [
                -sum((a - b) ** 2 for a, b in zip(row, centre, strict=True))
                for centre in head.weight.tolist()
            ]
            for row in x.tolist()
        ]
    )
    torch.testing.assert_close(head(x).detach(), expected)


def test_the_distance_head_keeps_small_distances_of_far_points_and_the_gradient_of_none():
    head = build_head("distance", 4, 2)
    head.weight = torch.nn.Parameter(torch.full((2, 4), 1000.0))
    x = torch.full((1, 4), 1000.0)
    x[0, 0] += 0.5
    assert head(x)[0, 0] == -0.25
    z = head(x[:, :] * 0 + 1000)
    z.sum().backward()
    assert torch.equal(z, torch.zeros(1, 2))
    assert torch.equal(head.weight.grad, torch.zeros(2, 4))


def test_centres_start_uniform_with_the_classes_as_fan_in():
    torch.manual_seed(0)
    weight = build_head("distance", 10_000, 6).weight
    assert weight.shape == (6, 10_000)
    assert weight.abs().max() <= 1
    assert weight.std().item() == pytest.approx(1 / 3**0.5, rel=0.02)


def test_a_classifier_gives_its_features_too_when_asked():
    model = Classifier(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4)),
        build_head("distance", 4, 3),
    ).eval()
    x = torch.randn(2, 3, 2, 2)
    logits, features = model(x, return_features=True)
    assert torch.equal(features, model.backbone(x))
    assert torch.equal(logits, model.head(features))
    assert torch.equal(logits, model(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {t.dtype for t in model(x, return_features=True)} == {torch.float32}


@pytest.mark.parametrize(
    ("dataset", "mean"),
    [
        ("fashion_mnist", 0.2860),
        ("cifar10_class3", 0.4914),
        ("cifar100_class19", 0.4914),
        ("svhn", 0.4377),
        ("mnist", 0.1307),
        ("digits", 0.5),
    ],
)
def test_fresh_models_see_images_normalised_as_their_data_set_is_or_as_they_are(dataset, mean):
    assert fresh_weights(dataset).mean[0] == mean
    raw = fresh_weights(dataset, "raw")
    x = (200 / 255 - np.array(raw.mean)) / np.array(raw.std)
    np.testing.assert_allclose(x, 200)
