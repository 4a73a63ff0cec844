"""Records that no run has made."""

import pandas as pd

from ltlib.runs.records import COLUMNS

USUAL = {
    "run_id": "id",
    "dataset": "digits",
    "protocol": "thesis",
    "train_set": "longtailed",
    "backbone": "resnetv2_small32",
    "epoch_choice": "last",
    "eval_set": "balanced",
    "metric": "acc1",
    "n": 200,
    "same_as_softmax": False,
}


def records(*parts: dict) -> pd.DataFrame:
    """A table as of ``load_records``; each part: loss, values by seed, and what is not USUAL."""
    rows = [
        USUAL | part | {"seed": seed, "value": value}
        for part in parts
        for seed, value in enumerate(part["values"])
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def of(loss: str, *values: float, **other) -> dict:
    return {"loss": loss, "values": values} | other
