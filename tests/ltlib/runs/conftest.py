"""Folders of runs that the tests of a module share."""

import pytest


@pytest.fixture(scope="module")
def _shared_out(tmp_path_factory, _pretrained_cache):
    folder = tmp_path_factory.mktemp("shared")
    (folder / "build").mkdir()
    (folder / "build" / "cache").symlink_to(_pretrained_cache)
    return folder


@pytest.fixture
def shared(_shared_out, monkeypatch):
    """An LTLIB_OUT for tests that only read what runs leave: each run is trained once a module."""
    monkeypatch.setenv("LTLIB_OUT", str(_shared_out))
    return _shared_out
