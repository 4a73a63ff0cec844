import pytest

from ltlib.runs.profiles import load_profile


@pytest.fixture
def profile():
    """Three losses, one backbone, two seeds of digits."""
    return load_profile(
        "smoke", backbones=["resnetv2_small32"], losses=["softmax", "focal", "ldam"], seeds=[0, 1]
    )
