"""Which runs there are, and where those under way are."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from ltlib.files import Busy, atomic_path, build_dir, exclusive
from ltlib.protocol import base_set
from ltlib.runs.config import RunConfig
from ltlib.runs.profiles import Profile
from ltlib.runs.records import Record, RecordError, computed_as, load_record

# what the file of a run under way holds; see Progress
PROGRESS = {
    "epoch": int,
    "epochs": int,
    "done": float,
    "loss": float,
    "seconds_left": float,
    "updated": float,
}


def unique_runs(profile: Profile) -> list[RunConfig]:
    """The runs to compute: those of the profile, each one that equals softmax replaced by it, every
    one once.
    """
    return list({run.id: run for run in map(computed_as, profile.configs())}.values())


def live_path(config: RunConfig, suffix: str) -> Path:
    """Files of a run under way: its checkpoint (".pt") and where it is (".json"); both are gone
    when it is done.
    """
    return build_dir(config.profile) / "runs" / f"{config.id}{suffix}"


def run_state(config: RunConfig) -> str:
    """One of "done", "diverged", "running" (somewhere), "interrupted" (it has a checkpoint),
    "missing" and "unreadable".
    """
    try:
        record = load_record(config)
    except RecordError:
        return "unreadable"
    if record:
        return record.status
    if live_path(config, ".lock").exists():
        try:
            with exclusive(live_path(config, ""), "", wait=False):
                pass
        except Busy:
            return "running"
        except OSError:  # a folder of someone else: whether a process is at it cannot be seen
            pass
    return "interrupted" if live_path(config, ".pt").exists() else "missing"


def run_progress(config: RunConfig) -> dict | None:
    """What a run under way has last written of itself (see :class:`Progress`), or None."""
    try:
        state = json.loads(live_path(config, ".json").read_text())
        return {key: kind(state[key]) for key, kind in PROGRESS.items()}
    except (OSError, ValueError, TypeError, KeyError):
        return None


class Progress:
    """Where a run is: said every 20 s, and written to a file (JSON) about every second, for whoever
    follows it.

    The file holds epoch (the one under way), epochs, done (share of the run), loss (mean of this
    epoch so far), seconds_left, updated (seconds since 1970). Where it cannot be written, the run
    goes on without it.
    """

    def __init__(self, epochs: int, say: Callable[[str], None], path: Path | None = None):
        self.epochs, self.say, self.path = epochs, say, path
        self.first: tuple[float, int] | None = None
        self.written = self.said = time.monotonic()

    def __call__(self, done: int, total: int, loss) -> None:
        """After a step: steps done, of the run's total, and the loss."""
        now = time.monotonic()
        if self.first is None:
            self.first = now, done
        if now - self.written < 1 or done == self.first[1]:
            return
        self.written = now
        state = {
            "epoch": (done - 1) * self.epochs // total + 1,
            "epochs": self.epochs,
            "done": done / total,
            "loss": float(loss),
            "seconds_left": (now - self.first[0]) / (done - self.first[1]) * (total - done),
            "updated": time.time(),
        }
        if self.path:
            with contextlib.suppress(OSError), atomic_path(self.path, durable=False) as partial:
                partial.write_text(json.dumps(state))
        if now - self.said > 20:
            self.said = now
            self.say(progress_line(state))


def progress_line(state: dict) -> str:
    """The state of a run under way, in words."""
    left = duration(state["seconds_left"])
    return f"epoch {state['epoch']}/{state['epochs']}, loss {state['loss']:.3f}, {left} left"


def outcome_line(record: Record) -> str:
    """What came of a run, in words."""
    if record.status == "diverged":
        return f"diverged ({record.note})"
    sets = record.results["evaluations"]["last"]["sets"]
    base = base_set(sets)
    title = "balanced" if base == "balanced" else "long-tailed"
    took = duration(record.provenance["wall_seconds"])
    return f"{title} test {100 * sets[base]['acc1']:.1f} % in {took}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
