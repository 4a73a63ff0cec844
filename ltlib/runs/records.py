"""One JSON file per finished run, and the table of results made from them.

A record holds ``config``, ``results`` (digit for digit the same whenever the run is repeated on the
same kind of machine) and ``provenance`` (data and weights checksums, code, libraries, device,
time). ``status`` is "done" or "diverged"; a diverged run is kept, so that it is not tried again,
and never reaches a table.
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
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ltlib.checkpoints import library_versions
from ltlib.files import ROOT, atomic_path, build_dir, results_dir
from ltlib.protocol import base_set
from ltlib.runs.config import RunConfig, computed_as
from ltlib.runs.devices import thread_count
from ltlib.runs.profiles import Profile, load_profile
from ltlib.runs.schema import fault_of

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1


class RecordError(RuntimeError):
    """A record's file cannot be what a run of this version wrote."""


@dataclass(frozen=True)
class Record:
    """What a run found. ``results`` is empty for a diverged run, whose ``note`` says what
    happened."""

    id: str
    status: str
    config: dict
    results: dict
    provenance: dict
    note: str = ""

    @property
    def fault(self) -> str:
        """What cannot be as a run writes it, or ""."""
        if self.status == "diverged":
            return ""
        if self.status != "done":
            return f"status {self.status!r}, expected 'done' or 'diverged'"
        return fault_of(self.results)


def record_path(config: RunConfig) -> Path:
    """Where the record of a run lies."""
    return results_dir(config.profile) / f"{config.id}.json"


def logits_path(config: RunConfig) -> Path:
    """Test logits of a run (safetensors: ``balanced`` (N, C) float32, or ``longtailed`` where the
    base set is that; its labels; last epoch)."""
    return build_dir(config.profile) / "logits" / f"{config.id}.safetensors"


def load_record(config: RunConfig) -> Record | None:
    """The stored record of this very config, or None. Raises RecordError if the file is not a
    record of it."""
    path = record_path(config)
    if not path.exists():
        return None
    try:
        value = json.loads(path.read_text())
        schema = value.pop("schema")
        record = Record(**value)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        fault = f"not a record ({error})"
    except OSError as error:
        raise RecordError(f"{path}: cannot be read ({error})") from None
    else:
        if schema != SCHEMA:
            fault = f"has schema {schema}, expected {SCHEMA}"
        elif record.config != config.to_dict():
            fault = "holds another config than its name says"
        elif record.fault:
            fault = f"cannot be what a run wrote ({record.fault})"
        else:
            return record
    raise RecordError(f"{path}: {fault}. Remove the file to run it again.")


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
    """Beside the record: small enough to be kept with it, for what a record's counts cannot tell
    (confusions, calibration)."""
    return record_path(config).with_suffix(".npz")


def save_predictions(config: RunConfig, logits: Tensor, labels: Tensor) -> None:
    """logits (N, C) as the loss means them for prediction, labels (N,) -> the :class:`Predictions`
    of p = softmax(z)."""
    p, small, half = logits.double().softmax(1), torch.uint16, torch.float16
    arrays = {
        "labels": labels.to(small),
        "predicted": logits.argmax(1).to(small),
        "confidence": p.max(1).values.to(half),
        "label_probability": p.gather(1, labels[:, None])[:, 0].to(half),
    }
    with atomic_path(predictions_path(config)) as partial:
        np.savez_compressed(partial, **{name: value.numpy() for name, value in arrays.items()})


def load_predictions(config: RunConfig) -> Predictions | None:
    """The stored predictions of this run, or None. Raises RecordError if the file is not one of
    them."""
    path = predictions_path(config)
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {f.name: file[f.name] for f in dataclasses.fields(Predictions)}
    except FileNotFoundError:
        return None
    except Exception as error:  # zipfile, zlib, NumPy and KeyError: all mean the same to the user
        raise RecordError(
            f"{path}: not the predictions of a run ({error}). Remove it; without its record the run"
            " is done again."
        ) from None
    _require_same_hits(config, path, arrays)
    for name, array in arrays.items():
        arrays[name] = array.astype(np.float64 if array.dtype.kind == "f" else np.int64)
    return Predictions(**arrays)


def _require_same_hits(config: RunConfig, path: Path, arrays: dict) -> None:
    """Raise RecordError where a record says other hits than the predictions beside it."""
    record = load_record(config)
    if record is None or record.status != "done":
        return
    if not (by_set := record.results["evaluations"]["last"]["per_class"]):
        return
    said = by_set[base_set(by_set)]["hits"]
    labels = arrays["labels"]
    found = np.bincount(labels[arrays["predicted"] == labels], minlength=len(said)).tolist()
    if found != said:
        raise RecordError(
            f"{path}: expected the predictions of the record beside it, which has"
            f" {sum(said)} hits and other ones by class; these have {sum(found)}. Remove both to"
            " run it again."
        )


def look_again(profile: str) -> None:
    """Make a network file system forget that a record was not there: its folder is read anew."""
    with contextlib.suppress(FileNotFoundError):
        os.listdir(results_dir(profile))


def check_origin(record: Record, config: RunConfig, data: dict, weights_sha256: str | None) -> None:
    """Raise RecordError if a record was made from other data or weights than those at hand: their
    results do not mix."""
    made = record.provenance
    found = {
        "data": (content(made["data"]), content(data)),
        "weights": (made["weights"]["sha256"], weights_sha256),
    }
    for what, (known, here) in found.items():
        if here is not None and known != here:
            raise RecordError(
                f"{record_path(config)} was made from other {what} than those at hand: expected"
                f" {here}, found {known}. Use the same {what}, or move results/{config.profile}"
                " away to run everything again."
            )


def content(checksums: dict) -> dict:
    """Checksums of a data set's images and labels, without where they came from."""
    return {key: value for key, value in checksums.items() if key != "origin"}


def save_record(config: RunConfig, record: Record) -> None:
    """Write a record, whole or not at all."""
    value = {"schema": SCHEMA} | dataclasses.asdict(record)
    with atomic_path(record_path(config)) as partial:
        partial.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


@functools.cache
def code_version() -> dict:
    """Commit of the code and whether it was changed since; "unknown" outside a git checkout."""

    def git(*args):
        command, pipe = ["git", "-C", str(ROOT), *args], subprocess.PIPE
        return subprocess.check_output(command, text=True, stderr=pipe).strip()

    try:
        commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", "ltlib")
    except (OSError, subprocess.CalledProcessError):
        return {"commit": "unknown", "dirty": True}
    return {"commit": commit, "dirty": bool(changes)}


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
    on_gpu = torch.device(device).type == "cuda"
    threads = {"threads": thread_count()} if thread_count() > 1 else {}
    return threads | {
        "code": code_version(),
        "python": platform.python_version(),
        "libraries": library_versions() | {"numpy": np.__version__},
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if on_gpu else _processor(),
    }


COLUMNS = ["run_id", "dataset", "protocol", "train_set", "backbone", "loss", "seed", "epoch_choice"]
COLUMNS += ["eval_set", "metric", "value", "n", "same_as_softmax"]


def metrics_of(record: Record, config: RunConfig) -> dict[str, dict[str, dict[str, float]]]:
    """What a record says of each epoch choice and evaluation set: choice -> set -> metric -> value.

    Metrics that need logits or predictions are stored. Those that follow from the hits of each
    class are made of them here (:func:`ltlib.metrics.of_hits`), so that a record from before a
    metric was thought of has it too.
    """
    from ltlib.metrics import of_hits  # here: its statistics take a second to load

    ids, found = config.groups | {"": slice(None)}, {}
    for choice, result in record.results["evaluations"].items():
        found[choice] = {}
        for eval_set, stored in result["sets"].items():
            base = "balanced" if eval_set.startswith("balanced") else "longtailed"
            group = "" if eval_set == base else eval_set.removeprefix("balanced_")
            derived = {}
            if seen := result["per_class"].get(base):
                images, hits = (np.array(seen[key])[ids[group]] for key in ("images", "hits"))
                derived = of_hits(images, hits)
            found[choice][eval_set] = derived | stored
    return found


def load_records(profile: str | Profile, **narrow) -> pd.DataFrame:
    """All results of a profile as a tidy DataFrame: one row per run, evaluation set and metric.

    ``profile`` is a name (``narrow`` as in :func:`ltlib.runs.profiles.load_profile`) or a Profile.
    Columns: ``COLUMNS``; ``value`` as a fraction (accuracies, F1) or in nats (losses), ``n``
    images; ``epoch_choice`` "last" or "picked" (the epoch with the best validation accuracy, the
    earliest of equals); ``same_as_softmax`` marks runs that stand for themselves by identity.
    Missing and diverged runs have no rows.
    """
    import pandas as pd  # here: what asks for a run's state has no use for tables

    if isinstance(profile, str):
        profile = load_profile(profile, **narrow)
    rows = []
    for config in profile.configs():
        source = computed_as(config)
        record = load_record(source)
        if record is None or record.status != "done":
            continue
        run = [record.id, config.dataset, config.protocol.name, config.train_set, config.backbone]
        run += [config.variant, config.seed]
        same = source.to_dict() != config.to_dict()
        for choice, sets in metrics_of(record, source).items():
            for eval_set, metrics in sets.items():
                n = metrics.pop("n")
                for metric, value in metrics.items():
                    rows.append([*run, choice, eval_set, metric, value, n, same])
    return pd.DataFrame(rows, columns=COLUMNS)
