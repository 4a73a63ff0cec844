"""Every test writes to a folder of its own; the network is out of bounds but for the loopback."""

import os
from pathlib import Path

import pytest
import torch

from ltlib import backbones, book, datasets
from ltlib.config import load_profile

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _pretrained_cache(tmp_path_factory):
    """Pretrained small backbones, made once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def out(tmp_path, monkeypatch, _pretrained_cache):
    """An empty LTLIB_OUT whose cache is shared by the tests of a session."""
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "cache").symlink_to(_pretrained_cache)
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    return tmp_path


@pytest.fixture
def fresh_caches():
    """Forget loaded data sets and found weights before and after, for tests that change where they come from."""
    caches = (datasets.load_dataset, backbones.find_weights, backbones._hub_fault)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def library(tmp_path, monkeypatch, out):
    """An empty folder of notebooks, in place of the project's."""
    folder = tmp_path / "library"
    folder.mkdir()
    monkeypatch.setattr(book, "NOTEBOOKS", folder)
    return folder


@pytest.fixture
def smoke():
    return load_profile("smoke")


needs_cifar100 = pytest.mark.skipif(
    not (Path(os.environ.get("LTLIB_DATA") or "data") / "cifar100.npz").exists(), reason="LTLIB_DATA holds no cifar100.npz"
)
needs_fashion_mnist = pytest.mark.skipif(
    not (Path(os.environ.get("LTLIB_DATA") or "data") / "fashion-mnist").exists(), reason="LTLIB_DATA holds no fashion-mnist"
)
needs_real_weights = pytest.mark.skipif(
    not (Path(os.environ.get("LTLIB_WEIGHTS") or "none") / "mobilenetv2_100.safetensors").exists(),
    reason="LTLIB_WEIGHTS holds no mobilenetv2_100.safetensors",
)
