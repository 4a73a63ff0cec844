"""One JSON file per finished run, and the table of results made from them.

A record holds ``config``, ``results`` (digit for digit the same whenever the run is repeated on the same kind of
machine) and ``provenance`` (data and weights checksums, code, libraries, device, time). ``status`` is "done" or
"diverged"; a diverged run is kept, so that it is not tried again, and never reaches a table.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ltlib.config import ROOT, Profile, RunConfig, atomic_path, build_dir, dataset_size, load_profile, results_dir
from ltlib.longtail import train_counts
from ltlib.losses import equals_softmax

SCHEMA = 1


class RecordError(RuntimeError):
    """A record's file cannot be what a run of this version wrote."""


@dataclass(frozen=True)
class Record:
    """What a run found. ``results`` is empty for a diverged run, whose ``note`` says what happened."""

    id: str
    status: str
    config: dict
    results: dict
    provenance: dict
    note: str = ""

    def to_json(self) -> str:
        return json.dumps({"schema": SCHEMA} | dataclasses.asdict(self), indent=1, allow_nan=False) + "\n"


def computed_as(config: RunConfig) -> RunConfig:
    """The run that stands for this one: softmax where the loss equals it on these counts, otherwise itself.

    Re-weighting equal counts, at once or deferred, or shifting all logits by the same ln n, is softmax cross-entropy by
    mathematics (:func:`ltlib.losses.equals_softmax`): such runs are computed once, and the tables say so.
    """
    counts = train_counts(config.protocol, config.train_set, dataset_size(config.dataset).num_classes)
    if len(set(counts.tolist())) == 1:
        config = dataclasses.replace(config, drw=None, tau=None)
    if config.loss != "softmax" and equals_softmax(config.loss, counts, **dict(config.loss_options)):
        return dataclasses.replace(config, loss="softmax", loss_options=(), method="")
    return config


def record_path(config: RunConfig) -> Path:
    return results_dir(config.profile) / f"{config.id}.json"


def logits_path(config: RunConfig) -> Path:
    """Test logits of a run (safetensors: ``balanced`` (N, C) float32, or ``longtailed`` where the base set is that; its labels; last
    epoch)."""
    return build_dir(config.profile) / "logits" / f"{config.id}.safetensors"


def load_record(config: RunConfig) -> Record | None:
    """The stored record of this very config, or None. Raises RecordError if the file is not a record of it."""
    path = record_path(config)
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text())
        schema = value.pop("schema")
        record = Record(**value)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RecordError(f"{path}: not a record ({error}). Remove the file to run it again.") from None
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None
    whole = record.status == "diverged" or (record.status == "done" and "last" in record.results.get("evaluations", {}))
    for good, fault in (
        (schema == SCHEMA, f"has schema {schema}, expected {SCHEMA}"),
        (record.config == config.to_dict(), "holds another config than its name says"),
        (whole, f"has status {record.status!r} without the results that belong to it"),
    ):
        if not good:
            raise RecordError(f"{path}: {fault}. Remove the file to run it again.")
    return record


@dataclass(frozen=True)
class Predictions:
    """What a run says of each image of its largest test set, after the last epoch.

    labels             (N,) the true classes
    predicted          (N,) argmax z
    confidence         (N,) probability of the predicted class, 0 to 1
    label_probability  (N,) probability of the true class
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    label_probability: np.ndarray


def predictions_path(config: RunConfig) -> Path:
    """Beside the record: small enough to be kept with it, for what a record's counts cannot tell (confusions, calibration)."""
    return record_path(config).with_suffix(".npz")


def save_predictions(config: RunConfig, logits: Tensor, labels: Tensor) -> None:
    """logits (N, C) as the loss means them for prediction, labels (N,) -> the :class:`Predictions` of p = softmax(z)."""
    p = logits.double().softmax(1)
    small, half = torch.uint16, torch.float16
    arrays = {"labels": labels.to(small), "predicted": logits.argmax(1).to(small), "confidence": p.max(1).values.to(half),
              "label_probability": p.gather(1, labels[:, None])[:, 0].to(half)}
    with atomic_path(predictions_path(config)) as partial:
        np.savez_compressed(partial, **{name: value.numpy() for name, value in arrays.items()})


def load_predictions(config: RunConfig) -> Predictions | None:
    """The stored predictions of this run, or None. Raises RecordError if the file is not one of them."""
    path = predictions_path(config)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {f.name: file[f.name] for f in dataclasses.fields(Predictions)}
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib, NumPy and KeyError: all mean the same to the user
        raise RecordError(f"{path}: not the predictions of a run ({error}). Remove it; without its record the run is done again.") from None
    return Predictions(**{name: array.astype(np.float64 if array.dtype.kind == "f" else np.int64) for name, array in arrays.items()})


def look_again(profile: str) -> None:
    """Make a network file system forget that a record was not there: its folder is read anew."""
    with contextlib.suppress(FileNotFoundError):
        os.listdir(results_dir(profile))


def check_origin(record: Record, config: RunConfig, data: dict, weights_sha256: str | None) -> None:
    """Raise RecordError if a record was made from other data or weights than those at hand: their results do not mix."""
    made = record.provenance
    for what, known, here in (("data", content(made["data"]), content(data)), ("weights", made["weights"]["sha256"], weights_sha256)):
        if here is not None and known != here:
            raise RecordError(f"{record_path(config)} was made from other {what} than those at hand: expected {here}, found {known}. "
                              f"Use the same {what}, or move results/{config.profile} away to run everything again.")


def content(checksums: dict) -> dict:
    """Checksums of a data set's images and labels, without where they came from."""
    return {key: value for key, value in checksums.items() if key != "origin"}


def save_record(config: RunConfig, record: Record) -> None:
    with atomic_path(record_path(config)) as partial:
        partial.write_text(record.to_json())


@functools.cache
def code_version() -> dict:
    """Commit of the code and whether it was changed since; "unknown" outside a git checkout."""

    def git(*args):
        return subprocess.run(["git", "-C", str(ROOT), *args], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "--", "ltlib"))}
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": True}


@functools.cache
def _processor() -> str:
    """The processor's model, where the system says it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def environment(device) -> dict:
    """Library and device versions, for the provenance of a record."""
    import numpy
    import timm

    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else _processor()
    libraries = {module.__name__: module.__version__ for module in (torch, timm, numpy)}
    return {"code": code_version(), "python": platform.python_version(), "libraries": libraries, "device": str(device), "device_name": name}


COLUMNS = ["run_id", "dataset", "protocol", "train_set", "backbone", "loss", "seed", "epoch_choice", "eval_set", "metric", "value",
           "n", "same_as_softmax"]


def load_records(profile: str | Profile, **narrow) -> pd.DataFrame:
    """All results of a profile as a tidy table: one row per run, evaluation set and metric.

    ``profile`` is a name (``narrow`` as in :func:`ltlib.config.load_profile`) or a Profile. Columns: ``COLUMNS``;
    ``value`` as a fraction (accuracies, F1) or in nats (losses), ``n`` images; ``epoch_choice`` "last" or "picked" (the epoch
    with the best validation accuracy, the earliest of equals); ``same_as_softmax`` marks runs that stand for themselves by identity.
    Missing and diverged runs have no rows.
    """
    if isinstance(profile, str):
        profile = load_profile(profile, **narrow)
    rows = []
    for config in profile.configs():
        source = computed_as(config)
        record = load_record(source)
        if record is None or record.status != "done":
            continue
        stands_for_another = source.to_dict() != config.to_dict()
        shared = [config.dataset, config.protocol.name, config.train_set, config.backbone, config.variant, config.seed]
        for choice, result in record.results["evaluations"].items():
            for eval_set, metrics in result["sets"].items():
                rows += [[record.id, *shared, choice, eval_set, metric, value, metrics["n"], stands_for_another]
                         for metric, value in metrics.items() if metric != "n"]
    return pd.DataFrame(rows, columns=COLUMNS)
