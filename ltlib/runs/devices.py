"""On what a run is computed."""

from __future__ import annotations

import os

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


def cpu_count() -> int:
    """Cores that this process may use: affinity and the limits of its container counted in."""
    return joblib.cpu_count()
