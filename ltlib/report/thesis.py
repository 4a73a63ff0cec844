"""What the thesis prints: its numbers, ``data/reference/thesis.csv``, and its names of things."""

from __future__ import annotations

import pandas as pd

from ltlib.files import ROOT

SETS = {
    "balanced": "Balanced",
    "longtailed": "Long-tailed",
    "head": "Head",
    "middle": "Middle",
    "tail": "Tail",
}
IMAGES = {"balanced": 5000, "longtailed": 1051, "head": 844, "middle": 169, "tail": 38}  # of each
BACKBONES = {
    "mobilenetv2": "mobilenetv2_100",
    "resnet50v2": "resnetv2_50",
    "vit_b16": "vit_base_patch16_224",
    "convnext_base": "convnext_base",
}
_FAMILIES = {
    "mobilenetv2": "mobilenetv2",
    "resnetv2": "resnet50v2",
    "vit": "vit_b16",
    "convnext": "convnext_base",
}


def printed(name: str) -> pd.DataFrame:
    """What others printed, ``data/reference/<name>.csv``: the thesis, the papers, other studies."""
    return pd.read_csv(ROOT / "data" / "reference" / f"{name}.csv")


def thesis_results() -> pd.DataFrame:
    """The thesis's printed results: acc1 and f1 as fractions, its loss in nats.

    Without rows that it cannot have measured: its LDAM row of ViT repeats another one.
    """
    table = printed("thesis")
    return table[~table["note"].map(is_missing)]


def is_missing(note) -> bool:
    """Whether the note at a printed number says that the thesis cannot have measured it."""
    return "treat as missing" in str(note)


def family(backbone: str) -> str | None:
    """The thesis's backbone of the same family, or None."""
    return _FAMILIES.get(backbone.split("_")[0])
