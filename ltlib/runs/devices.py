"""On what a run is computed."""

from __future__ import annotations

import ctypes
import os
import sys

import joblib
import torch

from ltlib.errors import ConfigError


def pick_device(wanted: str | None = None) -> torch.device:
    """The device of ``DEVICE=``: "auto" (default) takes a GPU where there is one.

    Raises ConfigError for a device that is not there, or is neither CPU nor CUDA.
    """
    wanted = wanted or os.environ.get("DEVICE") or "auto"
    fault = "another kind of device"
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.zeros(1, device=device)
        if device.type in ("cpu", "cuda"):
            return device
    except Exception as error:  # RuntimeError, AssertionError: whatever the backend says
        fault = str(error).splitlines()[0]
    raise ConfigError(
        f"DEVICE = {wanted!r}: expected auto, cpu, or a CUDA device of this machine ({fault})"
    )


def tune_process(device: torch.device) -> None:
    """Settings of this process that make training faster and are not torch's defaults.

    On a CPU with glibc: large blocks are kept. It otherwise gives those above 32 MB back to the
    system and fetches them again, page by page, which is up to half of a training step. With CUDA:
    products of float32 matrices in TF32.
    """
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "mallopt"):
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # malloc.h
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 2**28)


def thread_count() -> int:
    """CPU threads of a run: 1, or ``THREADS=``, with which the digits of a run are others. Raises
    ConfigError for what is no whole number above 0."""
    text = os.environ.get("THREADS") or "1"
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise ConfigError(f"THREADS = {text!r}: expected a whole number, 1 or more")


def cpu_count() -> int:
    """Cores that this process may use: affinity and the limits of its container counted in."""
    return joblib.cpu_count()
