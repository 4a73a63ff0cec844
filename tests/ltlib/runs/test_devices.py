import subprocess
import sys

import pytest
import torch

from ltlib.errors import ConfigError
from ltlib.runs import pick_device
from ltlib.runs.devices import thread_count, tune_process


@pytest.mark.parametrize("wanted", ["cuda:99", "toaster", "meta"])
def test_an_impossible_device_is_refused(wanted):
    with pytest.raises(ConfigError, match="expected auto, cpu, or a CUDA device"):
        pick_device(wanted)


def test_the_device_of_the_environment_is_taken(monkeypatch):
    monkeypatch.setenv("DEVICE", "cpu")
    assert pick_device().type == "cpu"


FAULTS = """
import resource, torch
from ltlib.runs.devices import tune_process

tune_process(torch.device("cpu"))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(50):
    torch.ones(2**24)  # 64 MiB, given back at once
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_large_blocks_are_not_fetched_from_the_system_again_and_again():
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 25 * 2**14  # the pages of some blocks, not of all fifty


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_wrong_number_of_threads_is_named(monkeypatch, text):
    monkeypatch.setenv("THREADS", text)
    with pytest.raises(ConfigError, match=f"THREADS = '{text}': expected a whole number"):
        thread_count()


def test_float32_products_take_tf32_on_a_gpu():
    before = torch.get_float32_matmul_precision()
    tune_process(torch.device("cuda"))
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision(before)
