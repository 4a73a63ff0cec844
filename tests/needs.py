"""Marks of tests that need data or weights which not every machine has."""

import os
from pathlib import Path

import pytest

needs_cifar100 = pytest.mark.skipif(
    not (Path(os.environ.get("LTLIB_DATA") or "data") / "cifar100.npz").exists(),
    reason="LTLIB_DATA holds no cifar100.npz",
)
needs_fashion_mnist = pytest.mark.skipif(
    not (Path(os.environ.get("LTLIB_DATA") or "data") / "fashion-mnist").exists(),
    reason="LTLIB_DATA holds no fashion-mnist",
)
needs_real_weights = pytest.mark.skipif(
    not (Path(os.environ.get("LTLIB_WEIGHTS") or "none") / "mobilenetv2_100.safetensors").exists(),
    reason="LTLIB_WEIGHTS holds no mobilenetv2_100.safetensors",
)
