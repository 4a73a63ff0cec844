"""Every test writes to a folder of its own; the network is out of bounds but for the loopback."""

import os
import subprocess
import sys

import pytest
import torch
from filelock import FileLock

from ltlib.data import load_dataset
from ltlib.files import ROOT
from ltlib.models import weights
from ltlib.runs.profiles import load_profile
from workbook import notebooks as notebooks_module

torch.set_num_threads(1)


def pytest_collection_modifyitems(items):
    """What takes long first, the pipeline before all: at the end only short ones are left."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (item.path.name != "test_pipeline.py", item.path not in long))


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


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """All of the smoke profile, made once for all tests to read: where, and what was said."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # which the workers share
    out, said = base / "built", base / "built.txt"
    with FileLock(base / "built.lock"):
        if not said.exists():
            command = [sys.executable, "-m", "workbook", "all", "--profile", "smoke", "--jobs", "2"]
            environment = os.environ | {"LTLIB_OUT": str(out)}
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, done.stdout + done.stderr
            said.write_text(done.stdout)
    return out, said.read_text()


@pytest.fixture
def fresh_caches():
    """Forget loaded data sets and found weights, for tests that change where they come from."""
    caches = (load_dataset, weights.find_weights, weights.hub_fault)
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
    monkeypatch.setattr(notebooks_module, "NOTEBOOKS", folder)
    return folder


@pytest.fixture
def smoke():
    return load_profile("smoke")
