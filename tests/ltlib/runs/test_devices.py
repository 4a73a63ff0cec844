import pytest

from ltlib.errors import ConfigError
from ltlib.runs import pick_device


@pytest.mark.parametrize("wanted", ["cuda:99", "toaster", "meta"])
def test_an_impossible_device_is_refused(wanted):
    with pytest.raises(ConfigError, match="expected auto, cpu, or a CUDA device"):
        pick_device(wanted)


def test_the_device_of_the_environment_is_taken(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    assert pick_device().type == "cpu"
