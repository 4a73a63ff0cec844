"""How far the runs are: bars on a terminal, otherwise a line per run about every 20 s."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from ltlib.runs.config import RunConfig
from ltlib.runs.progress import duration, progress_line, run_progress

EVERY = 20  # seconds between two lines about one run, where there is no terminal


class Display:
    """Shows runs under way, whoever computes them: each writes where it is to a file of its own.

    missing  the runs that are not finished yet
    rows     how many may be under way at once, each with a line of its own on a terminal
    """

    def __init__(self, missing: list[RunConfig], rows: int, say: Callable[[str], None]):
        self.missing, self.total, self.say = list(missing), len(missing), say
        self.start = time.time()
        self.said = dict.fromkeys((run.id for run in missing), self.start)
        self.bar, self.rows = None, []
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.total, unit="run", dynamic_ncols=True)
            self.rows = [
                tqdm(total=0, position=1 + i, bar_format="{desc}", leave=False, dynamic_ncols=True)
                for i in range(rows)
            ]

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_) -> None:
        for bar in (*self.rows, *([self.bar] if self.bar else [])):
            bar.close()

    @property
    def done(self) -> int:
        return self.total - len(self.missing)

    def finished(self, run: RunConfig, outcome: str) -> None:
        """Say how a run ended, and how long the others may take."""
        self.missing.remove(run)
        line = f"[{self.done}/{self.total}] {run.describe()}: {outcome}"
        if self.missing and self.done > 1:  # the first one alone would mislead
            left = (time.time() - self.start) / self.done * len(self.missing)
            line += f"; about {duration(left)} left"
        if self.bar:
            tqdm.write(line)
            self.bar.update()
        else:
            self.say(line)

    def refresh(self) -> None:
        """Show where the runs under way are; older states are what killed processes left."""
        states = [(run, run_progress(run)) for run in self.missing]
        states = [(run, state) for run, state in states if state and state["updated"] > self.start]
        if self.bar:
            lines = [f"  {run.describe()}: {progress_line(state)}" for run, state in states]
            for row, line in zip(self.rows, lines + [""] * len(self.rows), strict=False):
                row.set_description_str(line)
            return
        for run, state in states:
            if state["updated"] - self.said[run.id] > EVERY:
                self.said[run.id] = state["updated"]
                self.say(f"{run.describe()}: {progress_line(state)}")
