"""Tables out of records: means over seeds, numbers as text, the grid of backbones and losses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from ltlib import registry
from ltlib.metrics import mean_interval, proportion_interval
from ltlib.models import backbone_title
from ltlib.protocol import base_set
from ltlib.report.latex import foot, latex_escape, latex_signs, tabular
from ltlib.runs.profiles import Profile
from ltlib.runs.progress import run_state, unique_runs
from ltlib.runs.records import Record, load_record

SET_TITLES = {
    "balanced": "Balanced",
    "longtailed": "Long-tailed",
    "head": "Head",
    "middle": "Middle",
    "tail": "Tail",
    "balanced_head": "Head",
    "balanced_middle": "Middle",
    "balanced_tail": "Tail",
}
TRAIN_TITLES = {"balanced": "balanced", "longtailed": "long-tailed"}
DAGGER = "†"
BEST, SECOND = "font-weight: bold", "text-decoration: underline"  # CSS
_KEYS = ["protocol", "train_set", "backbone", "loss", "eval_set"]


def summarise(
    records: pd.DataFrame, metric: str = "acc1", epoch_choice: str = "last"
) -> pd.DataFrame:
    """Mean and interval over seeds of one metric.

    A row for each protocol, training set, backbone, loss and evaluation set. Columns: mean; half,
    half the 95 % t interval over seeds, nan for one seed; seeds, their number; n, test images; low
    and high, for acc1 Wilson's 95 % interval of the mean on n images, the noise of a finite test
    set; same_as_softmax. records: of :func:`ltlib.runs.records.load_records`.
    """
    rows = records[(records["metric"] == metric) & (records["epoch_choice"] == epoch_choice)]
    result = {}
    for key, group in rows.groupby(_KEYS, sort=False):
        mean, half = mean_interval(group["value"])
        n, same = int(group["n"].iloc[0]), bool(group["same_as_softmax"].any())
        bounds = (np.nan, np.nan)
        if metric == "acc1":
            bounds = proportion_interval(round(mean * n), n)
        result[key] = [mean, half, len(group), n, *bounds, same]
    columns = ["mean", "half", "seeds", "n", "low", "high", "same_as_softmax"]
    index = pd.MultiIndex.from_frame(pd.DataFrame(list(result), columns=_KEYS))
    return pd.DataFrame(list(result.values()), index, columns)


def error_arms(row: pd.Series) -> np.ndarray:
    """The arms (2, 1) of the error bar of a row of :func:`summarise`, down and up.

    Half the interval over seeds; of one seed Wilson's.
    """
    if row["seeds"] > 1:
        return np.full((2, 1), row["half"])
    return np.array([[row["mean"] - row["low"]], [row["high"] - row["mean"]]])


def number(mean: float, half: float = np.nan, scale: float = 100, digits: int = 1) -> str:
    """As in tables: "84.3", "84.3 ± 0.6" over seeds, or a dash for what is missing."""
    if not np.isfinite(mean):
        return "–"
    text = f"{scale * mean:.{digits}f}".replace("-", "−")
    return text if not np.isfinite(half) else f"{text} ± {scale * half:.{digits}f}"


def signed(points: float) -> str:
    """With its sign, "+1.2" or "−1.2"."""
    return f"{points:+.1f}".replace("-", "−")


@dataclass(frozen=True)
class Gain:
    """What one method gains over another, in points: the mean, half its 95 % interval, and over how
    many seeds. Of one seed the interval holds the finite test set alone, and training again could
    change the sign, so that nothing is decided."""

    mean: float
    half: float
    seeds: int = 2

    @classmethod
    def of(cls, better: pd.Series, worse: pd.Series) -> Gain:
        """Over seeds, paired, of fractions, with the t interval; nan where no seed has both, and
        half of one seed.
        """
        paired = 100 * (better - worse).dropna()
        return cls(*mean_interval(paired)) if len(paired) else cls(np.nan, np.nan)

    @property
    def known(self) -> bool:
        """Whether there is one."""
        return bool(np.isfinite(self.mean))

    @property
    def decided(self) -> bool:
        """Whether the interval does not hold 0, over two seeds or more."""
        return self.seeds > 1 and abs(self.mean) > self.half

    def word(self, up: str = "better", down: str = "worse") -> str:
        """``up``, ``down``, or "undecided" where the interval holds 0."""
        return (up if self.mean > 0 else down) if self.decided else "undecided"

    def __str__(self) -> str:
        """As "+1.2 ± 0.3", or a dash."""
        if not self.known:
            return "–"
        return signed(self.mean) + (f" ± {self.half:.1f}" if np.isfinite(self.half) else "")

    def starred(self) -> str:
        """With a star where the interval does not hold 0."""
        return f"{self}{'*' if self.decided else ''}"


class Grid:
    """A table of texts with a row for each backbone and loss of a profile.

    In each column the best of a backbone's losses is bold, the second underlined. They are ranked
    by the number that their text begins with, so that what is printed alike is marked alike.
    """

    def __init__(self, profile: Profile):
        self.profile = profile
        self.index = [(b, loss) for b in profile.backbones for loss in profile.losses]
        self._columns: dict[tuple[str, str], dict] = {}
        self._signs: list[float] = []  # of a column: 1 where the lowest is best, -1 the highest
        self._daggers: set[tuple[str, str]] = set()
        self._partial = False  # whether a text says how many of the seeds are there

    def add(self, title: tuple[str, str], text: dict, best: str | None = "max") -> None:
        """Add a column: (backbone, loss) -> text; a dash for what is not there.

        best: "max", "min", or None to mark nothing.
        """
        self._columns[title] = text
        self._signs.append({"max": -1.0, "min": 1.0, None: np.nan}[best])

    def add_summary(
        self,
        summary: pd.DataFrame,
        protocol: str,
        train_set: str,
        eval_set: str,
        title: tuple[str, str],
        *,
        scale: float = 100,
        digits: int = 1,
        best: str = "max",
        interval: bool = False,
    ) -> None:
        """Add a column of :func:`summarise`.

        interval: with "[low, high]", what the finite test set leaves open.
        """
        text, seeds = {}, len(self.profile.seeds)
        for backbone, loss in self.index:
            key = (protocol, train_set, backbone, loss, eval_set)
            if key not in summary.index:
                continue
            row = summary.loc[key]
            cell = number(row["mean"], row["half"], scale, digits)
            if interval:
                cell += f" [{scale * row['low']:.1f}, {scale * row['high']:.1f}]"
            if row["seeds"] < seeds:
                cell += f" ({row['seeds']} of {seeds})"
                self._partial = True
            if row["same_as_softmax"]:
                self._daggers.add((backbone, loss))
            text[backbone, loss] = cell
        self.add(title, text, best)

    def frame(self) -> pd.DataFrame:
        """The texts, by titles."""
        rows = [[text.get(key, "–") for text in self._columns.values()] for key in self.index]
        names = [
            (
                backbone_title(b),
                self.profile.loss_title(loss) + DAGGER * ((b, loss) in self._daggers),
            )
            for b, loss in self.index
        ]
        index = pd.MultiIndex.from_tuples(names, names=[None, None])
        return pd.DataFrame(rows, index, pd.MultiIndex.from_tuples(list(self._columns)))

    def ranks(self) -> pd.DataFrame:
        """Of each cell of :meth:`frame` its rank in its backbone and column, 1 for the best."""
        first = self.frame().apply(
            lambda column: column.str.split(" ").str[0].str.replace("−", "-")
        )
        numbers = first.apply(pd.to_numeric, errors="coerce") * self._signs
        return numbers.groupby(level=0, sort=False).rank(method="dense")

    def styler(self) -> Styler:
        """The table for a notebook."""
        return _marked(self.frame(), self.ranks(), BEST, SECOND)

    def markdown(self) -> str:
        """The table in GitHub's Markdown, best in bold."""
        head = ["", "", *(f"{top}: {sub}".strip(": ") for top, sub in self._columns)]
        lines = [head, ["---"] * 2 + ["---:"] * len(self._columns)]
        bold = self.frame().where(self.ranks() != 1, "**" + self.frame() + "**")
        lines += [[*names, *cells] for names, cells in bold.iterrows()]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self, notes: Iterable[str] = ()) -> str:
        """A bare booktabs tabular: a block for each backbone, notes under the last rule."""
        frame, ranks, layout = self.frame(), self.ranks(), "l" + "r" * len(self._columns)
        parts = []
        for title in frame.index.unique(0):
            rows, places = frame.loc[[title]], ranks.loc[[title]]
            styler = _marked(rows, places, "textbf: --rwrap;", "underline: --rwrap;")
            head, body = tabular(styler.hide(level=0, axis="index"), layout).split("\\midrule\n")
            start = (
                f"\\midrule\n\\multicolumn{{{len(layout)}}}{{l}}{{\\emph{{{latex_escape(title)}}}"
            )
            if (rows == "–").all(axis=None):
                parts.append(f"{start}: --, no run yet}} \\\\\n")
            else:
                parts.append(f"{start}}} \\\\\n" + body.split("\\bottomrule")[0])
        end = "\\bottomrule\n" + foot([*self.explained(), *notes], frame) + "\\end{tabular}\n"
        return latex_signs(head + "".join(parts) + end)

    def explained(self) -> list[str]:
        """What the marks of the table stand for, a sentence each."""
        told = []
        if any(np.isfinite(sign) for sign in self._signs):
            told.append("Bold: the best of a backbone in its column; underlined: the second.")
        if self._partial:
            told.append(f"(1 of {len(self.profile.seeds)}): how many of the seeds are there.")
        return [*told, *self._dagger_explained()]

    def _dagger_explained(self) -> list[str]:
        if not self._daggers:
            return []
        other = "softmax"
        if any(loss.endswith(registry.DRW) for _, loss in self._daggers):
            other += " (with deferred re-weighting: to the loss without it)"
        return [f"{DAGGER} Equal to {other} on equal class counts by mathematics: computed once."]


def _marked(frame: pd.DataFrame, ranks: pd.DataFrame, best: str, second: str) -> Styler:
    """A table with this CSS at its ranks 1 and 2."""
    marks = ranks.map(lambda rank: {1: best, 2: second}.get(rank, ""))
    return frame.style.apply(lambda _: marks, axis=None)


def plain_cells(frame: pd.DataFrame) -> pd.DataFrame:
    """A table for CSV: what a spreadsheet would take for a formula gets an apostrophe before it."""

    def plain(value):
        formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
        return f"'{value}" if formula else value

    return frame.map(plain)


def class_accuracy(record: Record) -> np.ndarray:
    """Accuracy of each class on the run's largest test set, 0 to 1; nan without test images.

    record: of a finished run, after its last epoch.
    """
    by_set = record.results["evaluations"]["last"]["per_class"]
    found = by_set[base_set(by_set)]
    hits, images = np.array(found["hits"]), np.array(found["images"])
    return np.divide(hits, images, out=np.full(len(hits), np.nan), where=images > 0)


def missing_runs(profile: Profile) -> list[str]:
    """What dashes stand for: runs without a finished record, each with its state.

    A line for all of a backbone that has none.
    """
    states = {run: run_state(run) for run in unique_runs(profile)}
    lines = []
    for backbone in profile.backbones:
        own = {run: state for run, state in states.items() if run.backbone == backbone}
        if set(own.values()) == {"missing"} and len(own) > 1:
            lines.append(f"{backbone}, all {len(own)} runs: missing")
        else:
            lines += [f"{run.describe()}: {state}" for run, state in own.items() if state != "done"]
    return lines


def late_fall(curve: list[dict]) -> float:
    """The part of the training loss's whole fall that came in the last quarter of the epochs: near
    0 where training has come to its end; nan for less than four epochs, or none that fell."""
    losses = [entry["train_loss"] for entry in curve]
    if len(losses) < 4 or not losses[0] > losses[-1]:
        return np.nan
    return (losses[-1 - len(losses) // 4] - losses[-1]) / (losses[0] - losses[-1])


def unfinished(profile: Profile, least: float = 0.1) -> list[str]:
    """A note on the runs of a table whose training had not come to its end, by :func:`late_fall`;
    nothing where there are none."""
    late = {}
    for run in unique_runs(profile):
        record = load_record(run)
        if record is not None and record.status == "done":
            title = f"{backbone_title(run.backbone)} with {profile.loss_title(run.variant)}"
            late.setdefault(title, []).append(late_fall(record.results["curve"]))
    names = [title for title, found in late.items() if np.mean(found) > least]
    if not names:
        return []
    return [
        f"Not at the end of training (of the fall of the training loss, over {100 * least:.0f} %"
        f" came in the last quarter of the epochs): {'; '.join(names)}."
    ]
