"""What one loss gains over another, how sure that is, and what follows for the thesis's hypothesis and goals."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from ltlib import report
from ltlib.backbones import backbone_title
from ltlib.config import Profile, dataset_size
from ltlib.longtail import GROUPS, groups, longtailed_counts
from ltlib.metrics import share_difference, student
from ltlib.records import computed_as, load_predictions

Block = tuple[str, str]  # protocol, backbone


@dataclass(frozen=True)
class Gain:
    """points: accuracy of one loss minus that of another, in percent; half: half the 95 % interval."""

    points: float
    half: float

    @property
    def outcome(self) -> str:
        """ "gains", "loses", or "undecided" where the interval holds 0."""
        return "undecided" if not abs(self.points) > self.half else "gains" if self.points > 0 else "loses"

    def __str__(self) -> str:
        return f"{report.signed(self.points)} ± {self.half:.1f}"


def gain(profile: Profile, records: pd.DataFrame, block: Block, loss: str, group: str, against: str = "softmax") -> Gain | None:
    """Accuracy of ``loss`` minus that of ``against`` in a block, long-tailed training, last epoch; None where no seed has both.

    group: "all", "head", "middle" or "tail" of the largest test set. The interval has two parts, half^2 = (z se)^2 + (t sem)^2: of the
    finite test set, se from the images that only one of the two gets right (predictions of the first seed; without them as if the two
    had been tested on different images), and over seeds, sem of the differences (one seed: the spread of training is not in it).
    """
    protocol, backbone = block
    eval_set = report.group_sets(profile.protocol(protocol), records)[group]
    rows = records[(records["protocol"] == protocol) & (records["backbone"] == backbone) & (records["train_set"] == "longtailed")
                   & (records["eval_set"] == eval_set) & (records["metric"] == "acc1") & (records["epoch_choice"] == "last")]
    by_seed = rows.pivot_table(index="seed", columns="loss", values="value").reindex(columns=[loss, against]).dropna()
    if not len(by_seed):
        return None
    differences = by_seed[loss] - by_seed[against]
    paired = _paired_error(profile, block, loss, against, group, by_seed.index[0])
    if paired is None:
        n = int(rows["n"].iloc[0])
        _, paired = share_difference(by_seed[loss].mean(), n, by_seed[against].mean(), n)
    over_seeds = student(len(by_seed)) * stats.sem(differences) if len(by_seed) > 1 else 0.0
    return Gain(100 * float(differences.mean()), 100 * float(np.hypot(stats.norm.ppf(0.975) * paired, over_seeds)))


def _paired_error(profile: Profile, block: Block, loss: str, against: str, group: str, seed: int) -> float | None:
    """Standard error of the mean over images of (right with one) - (right with the other)."""
    protocol = profile.protocol(block[0])
    runs = [computed_as(profile.config(block[1], name, "longtailed", int(seed), protocol)) for name in (loss, against)]
    first, second = map(load_predictions, runs)
    if first is None or second is None:
        return None
    counts = longtailed_counts(protocol, dataset_size(profile.dataset).num_classes)
    ids = np.arange(len(counts)) if group == "all" else groups(protocol.groups, counts)[group]
    of_group = np.isin(first.labels, ids)
    change = (first.predicted == first.labels)[of_group].astype(float) - (second.predicted == second.labels)[of_group]
    # n + 2 images, one more for each side, so that no change at all is not taken for certainty
    return float(np.concatenate([change, [1, -1]]).std() / np.sqrt(len(change) + 2))


@dataclass(frozen=True)
class Comparison:
    """Gains of all losses over softmax: blocks -> loss -> group -> Gain. Only what has records is in it."""

    profile: Profile
    records: pd.DataFrame
    gains: dict[Block, dict[str, dict[str, Gain]]]

    @property
    def shared(self) -> list[str]:
        """Losses that every block has."""
        return [loss for loss in self.profile.losses if self.gains and all(loss in found for found in self.gains.values())]

    def title(self, block: Block) -> str:
        several = len({protocol for protocol, _ in self.gains}) > 1
        return backbone_title(block[1]) + (f" at IF {self.profile.protocol(block[0]).imbalance_factor:g}" if several else "")


ALL_AND_GROUPS = ("all", *GROUPS)


def first_protocols(profile: Profile) -> dict[float, str]:
    """The first protocol of each imbalance factor: others with the same factor cut nearly the same training images."""
    first: dict[float, str] = {}
    for protocol in profile.protocols:
        first.setdefault(protocol.imbalance_factor, protocol.name)
    return first


def compare(profile: Profile, records: pd.DataFrame) -> Comparison:
    """Gains over softmax in every block: each backbone under :func:`first_protocols`."""
    found = {}
    for block in [(protocol, backbone) for protocol in first_protocols(profile).values() for backbone in profile.backbones]:
        by_loss = {}
        for loss in [name for name in profile.losses if name != "softmax"]:
            by_group = {group: gain(profile, records, block, loss, group) for group in ALL_AND_GROUPS}
            by_group = {group: value for group, value in by_group.items() if value is not None}
            if "all" in by_group:
                by_loss[loss] = by_group
        if by_loss:
            found[block] = by_loss
    return Comparison(profile, records, found)


def gains_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each block and loss, a column for each group; an asterisk where the interval does not hold 0."""
    rows = {(comparison.title(block), report.LOSS_TITLES[loss]): {
        group.capitalize(): f"{by_group[group]}{'' if by_group[group].outcome == 'undecided' else '*'}" if group in by_group else "–"
        for group in ALL_AND_GROUPS} for block, by_loss in comparison.gains.items() for loss, by_group in by_loss.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[group.capitalize() for group in ALL_AND_GROUPS])


def _names(losses: Iterable[str]) -> str:
    return ", ".join(report.LOSS_TITLES[loss] for loss in losses) or "none"


def _sorted_out(comparison: Comparison, group: str) -> tuple[list[str], list[str], list[str]]:
    """Of the shared losses: those that raise the tail for sure and do not lower ``group``, in every block; those that for sure lower one
    of the two in some block; the others."""
    holds, fails, open_ = [], [], []
    for loss in comparison.shared:
        cells = [by_loss[loss] for by_loss in comparison.gains.values()]
        known = [cell for cell in cells if "tail" in cell and group in cell]
        if known and all(cell["tail"].outcome == "gains" and cell[group].points >= 0 for cell in known):
            holds.append(loss)
        elif any("loses" in (cell["tail"].outcome, cell[group].outcome) for cell in known):
            fails.append(loss)
        else:
            open_.append(loss)
    return holds, fails, open_


def answers(comparison: Comparison, agreement: str = "") -> str:
    """The thesis's hypothesis and three goals, answered by the gains, in Markdown; ``agreement``: a sentence on the ranks."""
    gains, profile = comparison.gains, comparison.profile
    if not gains:
        return "No block has softmax and another loss yet: nothing can be answered."
    architectures = {backbone for _, backbone in gains}
    lines = ["*Hypothesis, first sentence.* Gains over softmax that the noise does not explain (table of gains, columns Tail and All):", ""]
    for block, by_loss in gains.items():
        for group in ("tail", "all"):
            parts = [f"{word} {_listed(by_loss, group, outcome)}"
                     for outcome, word in (("gains", "raised by"), ("loses", "lowered by"), ("undecided", "undecided for"))]
            lines.append(f"- {comparison.title(block)}, {'tail' if group == 'tail' else 'all classes'}: {'; '.join(parts)}.")
    holds, fails, open_ = _sorted_out(comparison, "all")
    one = "" if len(architectures) > 1 else " One architecture only: of \"diverse architectures\" this says nothing."
    absent = [loss for loss in profile.losses if loss not in ("softmax", *comparison.shared)]
    left_out = f" Not run in every block, and left out here: {_names(absent)}." if absent else ""
    lines += ["", f"**Verdict.** In all {len(gains)} blocks a better tail and no lower overall accuracy: {_names(holds)}. A lower tail or "
              f"overall accuracy in some block: {_names(fails)}. Not decided: {_names(open_)}.{one}{left_out} Each interval stands for "
              "itself; they are not corrected for their number.", ""]
    holds, fails, open_ = _sorted_out(comparison, "head")
    lines += [f"*Goal 1.* A better tail and no lower head in every block: {_names(holds)}. A lower head or tail in some block: "
              f"{_names(fails)}. Not decided: {_names(open_)}. (table of gains, columns Head and Tail)", ""]
    lines += ["*Hypothesis, second sentence, and goal 2.*", "", f"- {_spread(comparison)}", *([f"- {agreement}"] if agreement else []),
              f"- {_imbalance(comparison)}", "", "*Goal 3.* What is not beaten beyond noise, by the accuracy that counts:", ""]
    for block in gains:
        parts = [f"{word} {_names(_unbeaten(comparison, block, group))}"
                 for group, word in (("all", "all classes"), ("head", "head"), ("tail", "tail"))]
        lines.append(f"- {comparison.title(block)}: {'; '.join(parts)}.")
    return "\n".join(lines)


def _listed(by_loss: dict[str, dict[str, Gain]], group: str, outcome: str) -> str:
    found = [f"{report.LOSS_TITLES[loss]} ({cell[group]})" for loss, cell in by_loss.items()
             if group in cell and cell[group].outcome == outcome]
    return ", ".join(found) or "none"


def _spread(comparison: Comparison) -> str:
    """How much the architecture matters: the largest difference of one loss's gain in the tail between two backbones."""
    best = None
    for loss in comparison.profile.losses:
        for protocol in {protocol: None for protocol, _ in comparison.gains}:
            found = {b: by_loss[loss]["tail"] for (name, b), by_loss in comparison.gains.items()
                     if name == protocol and "tail" in by_loss.get(loss, {})}
            if len(found) > 1:
                low, high = (pick(found, key=lambda b: found[b].points) for pick in (min, max))
                gap = Gain(found[high].points - found[low].points, float(np.hypot(found[high].half, found[low].half)))
                if best is None or gap.points > best[0].points:
                    best = gap, loss, low, high, found
    if best is None:
        return "One architecture only: its influence cannot be told from these runs."
    gap, loss, low, high, found = best
    sure = "more than noise" if gap.outcome == "gains" else "within noise"
    return (f"The gain of one loss in the tail differs most between architectures for {report.LOSS_TITLES[loss]}: {found[low]} with "
            f"{backbone_title(low)}, {found[high]} with {backbone_title(high)}; the largest of all such differences, {gap}, is {sure}.")


def _imbalance(comparison: Comparison) -> str:
    """How much the imbalance factor matters: mean gain in the tail of what every factor has."""
    factors = {protocol: None for protocol, _ in comparison.gains}
    if len(factors) < 2:
        return "One imbalance factor only: the influence of the degree of imbalance is not tested here; `PROTOCOLS` takes others."
    cells = {protocol: {(b, loss): cell["tail"].points for (name, b), by_loss in comparison.gains.items() if name == protocol
                        for loss, cell in by_loss.items() if "tail" in cell} for protocol in factors}
    common = set.intersection(*(set(found) for found in cells.values()))
    if not common:
        return "No backbone and loss has been run at every imbalance factor: its influence cannot be told yet."
    text = ", ".join(f"{report.signed(float(np.mean([found[key] for key in common])))} at IF "
                     f"{comparison.profile.protocol(protocol).imbalance_factor:g}" for protocol, found in cells.items())
    return f"Mean gain in the tail over the {len(common)} pairs of backbone and loss that every factor has: {text} points."


def _unbeaten(comparison: Comparison, block: Block, group: str) -> list[str]:
    """Losses that no other one beats by more than noise."""
    losses = [loss for loss in comparison.profile.losses if loss == "softmax" or loss in comparison.gains[block]]
    over = {loss: [gain(comparison.profile, comparison.records, block, other, group, loss) for other in losses if other != loss]
            for loss in losses}
    return [loss for loss, found in over.items() if not any(g is not None and g.outcome == "gains" for g in found)]
