"""What one loss gains over another, how sure that is, and what follows for the thesis's hypothesis
and goals.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import scipy

from ltlib.longtail import GROUPS
from ltlib.metrics import share_difference, student
from ltlib.models import backbone_title
from ltlib.report.grids import group_sets
from ltlib.report.tables import Gain, signed
from ltlib.runs.config import RunConfig
from ltlib.runs.profiles import Profile
from ltlib.runs.records import computed_as, load_predictions, load_record

Block = tuple[str, str]  # protocol, backbone
ALL_AND_GROUPS = ("all", *GROUPS)
MARGIN = 1.0  # points: what is lower by less for sure counts as not lower
WORDS = {"better": "raised by", "worse": "lowered by", "undecided": "undecided for"}


def gain(
    profile: Profile,
    records: pd.DataFrame,
    block: Block,
    loss: str,
    group: str,
    against: str = "softmax",
) -> Gain:
    """Accuracy of ``loss`` minus that of ``against`` in a block, long-tailed training, last epoch;
    nan where no seed has both.

    group: "all", "head", "middle" or "tail" of the largest test set. The interval has two parts,
    half^2 = (z se)^2 + (t sem)^2: of the finite test set, se from the images that only one of the
    two gets right (predictions of the first seed; without them as if the two had been tested on
    different images), and over seeds, sem of the differences (one seed: the spread of training is
    not in it).
    """
    protocol, backbone = block
    wanted = {"protocol": protocol, "backbone": backbone, "train_set": "longtailed"}
    wanted |= {"metric": "acc1", "epoch_choice": "last"}
    wanted["eval_set"] = group_sets(profile.protocol(protocol), records)[group]
    rows = records[(records[list(wanted)] == pd.Series(wanted)).all(axis=1)]
    by_seed = rows.pivot_table(index="seed", columns="loss", values="value")
    by_seed = by_seed.reindex(columns=[loss, against]).dropna()
    if not len(by_seed):
        return Gain(np.nan, np.nan)
    seed = int(by_seed.index[0])
    runs = [profile.config(backbone, x, "longtailed", seed, protocol) for x in (loss, against)]
    return _paired_gain(by_seed[loss], by_seed[against], runs, group, int(rows["n"].iloc[0]))


def gain_of_runs(pairs: Iterable[tuple[RunConfig, RunConfig]], group: str) -> Gain:
    """Accuracy of the first of two runs minus that of the second on the balanced test, over the
    pairs, one for each seed, of which both are finished; nan where there are none.

    They share the protocol and may differ in all else, such as the mode. group and the interval are
    those of :func:`gain`.
    """
    eval_set = "balanced" if group == "all" else f"balanced_{group}"
    found = []
    for runs in pairs:
        records = [load_record(computed_as(run)) for run in runs]
        if all(record is not None and record.status == "done" for record in records):
            sets = [r.results["evaluations"]["last"]["sets"][eval_set] for r in records]
            found.append((runs, [s["acc1"] for s in sets], sets[0]["n"]))
    if not found:
        return Gain(np.nan, np.nan)
    runs, _, n = found[0]
    return _paired_gain(*np.array([pair for _, pair, _ in found]).T, runs, group, n)


def _paired_gain(better, worse, runs: Sequence[RunConfig], group: str, n: int) -> Gain:
    """Of accuracies by seed (S,), with the interval of :func:`gain`; ``runs`` are those of the
    first seed, n the images of the group."""
    differences = np.asarray(better) - np.asarray(worse)
    paired = _paired_error(runs, group)
    if paired is None:
        _, paired = share_difference(np.mean(better), n, np.mean(worse), n)
    over_seeds = 0.0
    if len(differences) > 1:
        over_seeds = student(len(differences)) * scipy.stats.sem(differences)
    half = np.hypot(scipy.stats.norm.ppf(0.975) * paired, over_seeds)
    return Gain(100 * float(differences.mean()), 100 * float(half), len(differences))


def _paired_error(runs: Sequence[RunConfig], group: str) -> float | None:
    """Standard error of the mean over images of (right with one run) - (right with the other)."""
    first, second = (load_predictions(computed_as(run)) for run in runs)
    if first is None or second is None:
        return None
    of_group = slice(None)
    if group != "all":
        of_group = np.isin(first.labels, runs[0].groups[group])
    right, other = (p.predicted[of_group] == first.labels[of_group] for p in (first, second))
    change = right.astype(float) - other
    # n + 2 images, one more for each side, so that no change at all is not taken for certainty
    return float(np.concatenate([change, [1, -1]]).std() / np.sqrt(len(change) + 2))


@dataclass(frozen=True)
class Comparison:
    """Gains of all losses over softmax: blocks -> loss -> group -> Gain. Only what has records is
    in it.
    """

    profile: Profile
    records: pd.DataFrame
    gains: dict[Block, dict[str, dict[str, Gain]]]

    @property
    def shared(self) -> list[str]:
        """Losses that every block has."""
        blocks = self.gains.values()
        return [x for x in self.profile.losses if blocks and all(x in found for found in blocks)]

    @property
    def protocols(self) -> list[str]:
        """Those that have a gain, in the profile's order."""
        return list(dict.fromkeys(protocol for protocol, _ in self.gains))

    def title(self, block: Block) -> str:
        """A block in words."""
        title = backbone_title(block[1])
        return f"{title} at IF {self.factor(block[0])}" if len(self.protocols) > 1 else title

    def factor(self, protocol: str) -> str:
        """The imbalance factor of a protocol."""
        return f"{self.profile.protocol(protocol).imbalance_factor:g}"

    def names(self, losses: Iterable[str]) -> str:
        """Losses in words."""
        return ", ".join(map(self.profile.loss_title, losses)) or "none"


def first_protocols(profile: Profile) -> dict[float, str]:
    """The first protocol of each imbalance factor: others with the same factor cut nearly the same
    training images.
    """
    first: dict[float, str] = {}
    for protocol in profile.protocols:
        first.setdefault(protocol.imbalance_factor, protocol.name)
    return first


def compare(profile: Profile, records: pd.DataFrame) -> Comparison:
    """Gains over softmax in every block: each backbone under :func:`first_protocols`."""
    found, losses = {}, [loss for loss in profile.losses if loss != "softmax"]
    for block in itertools.product(first_protocols(profile).values(), profile.backbones):
        for loss in losses:
            cells = {name: gain(profile, records, block, loss, name) for name in ALL_AND_GROUPS}
            if cells["all"].known:
                found.setdefault(block, {})[loss] = cells
    return Comparison(profile, records, found)


def gains_table(comparison: Comparison) -> pd.DataFrame:
    """A row for each block and loss, a column for each group; an asterisk where the interval does
    not hold 0.
    """
    rows = {}
    for block, by_loss in comparison.gains.items():
        for loss, cells in by_loss.items():
            key = comparison.title(block), comparison.profile.loss_title(loss)
            rows[key] = {name.capitalize(): cells[name].starred() for name in ALL_AND_GROUPS}
    columns = [name.capitalize() for name in ALL_AND_GROUPS]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


def advice(comparison: Comparison) -> str:
    """Which loss to take with each backbone, by what is wanted, in Markdown: where every class
    counts the same, where the head must not fall, and where nothing can be trained again.
    """
    profile, records, lines = comparison.profile, comparison.records, []
    for block, by_loss in comparison.gains.items():
        over = {loss: cells["all"].mean for loss, cells in by_loss.items()} | {"softmax": 0.0}
        best = max(over, key=lambda loss: over[loss])
        rivals = [loss for loss in profile.losses if loss in over and loss != best]
        equal = [x for x in rivals if not gain(profile, records, block, best, "all", x).decided]
        not_lower = [loss for loss, cells in by_loss.items() if _not_lower(cells["head"])]
        safe = {"softmax": 0.0} | {loss: by_loss[loss]["tail"].mean for loss in not_lower}
        careful = max(safe, key=lambda loss: safe[loss])
        parts = [
            f"every class counts the same: {_told(comparison, block, best, 'all')}, not told apart"
            f" from it: {comparison.names(equal)}",
            f"the head must not fall: {_told(comparison, block, careful, 'tail')}",
        ]
        if "logit_adjusted" in by_loss:
            adjusted = _told(comparison, block, "logit_adjusted", "all")
            parts.append(f"nothing can be trained again: {adjusted}")
        lines.append(f"- **{comparison.title(block)}**: {'; '.join(parts)}.")
    return "\n".join(lines) or "No block has softmax and another loss yet."


def _told(comparison: Comparison, block: Block, loss: str, group: str) -> str:
    """A loss, and what it gains over softmax."""
    title = comparison.profile.loss_title(loss)
    if loss == "softmax":
        return title
    where = "all classes" if group == "all" else group
    return f"{title} ({comparison.gains[block][loss][group]} points, {where})"


def answers(comparison: Comparison, agreement: str = "") -> str:
    """The thesis's hypothesis and three goals, answered by the gains, in Markdown; ``agreement``: a
    sentence on the ranks.
    """
    if not comparison.gains:
        return "No block has softmax and another loss yet: nothing can be answered."
    goal_2 = [_spread(comparison), agreement, _imbalance(comparison)]
    paragraphs = [
        "*Hypothesis, first sentence.* Gains over softmax that the noise does not explain"
        " (table of gains, columns Tail and All):",
        "\n".join(_gains_by_block(comparison)),
        _verdict(comparison),
        _goal_1(comparison),
        "*Hypothesis, second sentence, and goal 2.*",
        "\n".join(f"- {sentence}" for sentence in goal_2 if sentence),
        "*Goal 3.* Losses that no other outperforms by more than noise, by the group that counts:",
        "\n".join(_goal_3(comparison)),
    ]
    return "\n\n".join(paragraphs)


def _gains_by_block(comparison: Comparison) -> list[str]:
    lines = []
    for block, by_loss in comparison.gains.items():
        for group, title in (("tail", "tail"), ("all", "all classes")):
            told = {outcome: [] for outcome in WORDS}
            for loss, cells in by_loss.items():
                if cells[group].known:
                    text = f"{comparison.profile.loss_title(loss)} ({cells[group]})"
                    told[cells[group].word()].append(text)
            parts = [f"{WORDS[key]} {', '.join(texts) or 'none'}" for key, texts in told.items()]
            lines.append(f"- {comparison.title(block)}, {title}: {'; '.join(parts)}.")
    return lines


def _sorted_out(comparison: Comparison, group: str) -> tuple[str, str, str]:
    """Names of the shared losses: those that raise the tail for sure and for sure do not lower
    ``group`` by ``MARGIN`` or more, in every block; those that for sure lower one of the two in
    some block; the others.
    """
    holds, fails, open_ = [], [], []
    for loss in comparison.shared:
        cells = [by_loss[loss] for by_loss in comparison.gains.values()]
        pairs = [(cell["tail"], cell[group]) for cell in cells]
        pairs = [(tail, other) for tail, other in pairs if tail.known and other.known]
        if pairs and all(tail.word() == "better" and _not_lower(other) for tail, other in pairs):
            holds.append(loss)
        elif any("worse" in (tail.word(), other.word()) for tail, other in pairs):
            fails.append(loss)
        else:
            open_.append(loss)
    return comparison.names(holds), comparison.names(fails), comparison.names(open_)


def _not_lower(found: Gain) -> bool:
    """Non-inferiority: the whole interval lies above -MARGIN, over two seeds or more."""
    return found.seeds > 1 and found.mean - found.half > -MARGIN


def _verdict(comparison: Comparison) -> str:
    holds, fails, open_ = _sorted_out(comparison, "all")
    shared = ("softmax", *comparison.shared)
    absent = [loss for loss in comparison.profile.losses if loss not in shared]
    count = len(comparison.gains)
    where = f"In all {count} blocks" if count > 1 else "In the one block"
    text = (
        f"**Verdict.** {where} a better tail, and an overall accuracy that is not lower by"
        f" {MARGIN:g} point or more: {holds}. A lower tail or overall accuracy in some block:"
        f" {fails}. Not decided: {open_}."
    )
    if any(cell.seeds < 2 for cell in _cells(comparison)):
        text += (
            " With one seed nothing is decided: how much training again would change is not known."
        )
    if len({backbone for _, backbone in comparison.gains}) == 1:
        text += ' One architecture only: of "diverse architectures" this says nothing.'
    if absent:
        text += f" Not run in every block, and left out here: {comparison.names(absent)}."
    return text + " Each interval stands for itself; they are not corrected for their number."


def _cells(comparison: Comparison) -> Iterable[Gain]:
    """Every gain that there is."""
    for by_loss in comparison.gains.values():
        for cells in by_loss.values():
            yield from (cell for cell in cells.values() if cell.known)


def _goal_1(comparison: Comparison) -> str:
    holds, fails, open_ = _sorted_out(comparison, "head")
    return (
        f"*Goal 1.* A better tail, and a head that is not lower by {MARGIN:g} point or more, in"
        f" every block: {holds}. A lower head or tail in some block: {fails}. Not decided: {open_}."
        " (table of gains, columns Head and Tail)"
    )


def _spread(comparison: Comparison) -> str:
    """How much the architecture matters: the largest difference of one loss's gain in the tail
    between two backbones.
    """
    gaps = []
    for loss, protocol in itertools.product(comparison.profile.losses, comparison.protocols):
        found = {}
        for (name, backbone), by_loss in comparison.gains.items():
            if name == protocol and loss in by_loss and by_loss[loss]["tail"].known:
                found[backbone] = by_loss[loss]["tail"]
        if len(found) > 1:
            low, high = (pick(found, key=lambda b: found[b].mean) for pick in (min, max))
            gaps.append((found[high].mean - found[low].mean, loss, low, high, found))
    if not gaps:
        return "One architecture only: its influence cannot be told from these runs."
    points, loss, low, high, found = max(gaps, key=lambda gap: gap[0])
    seeds = min(found[high].seeds, found[low].seeds)
    gap = Gain(points, float(np.hypot(found[high].half, found[low].half)), seeds)
    return (
        "The gain of one loss in the tail differs most between architectures for"
        f" {comparison.profile.loss_title(loss)}: {found[low]} with {backbone_title(low)},"
        f" {found[high]} with {backbone_title(high)}; the largest of all such differences, {gap},"
        f" is {'more than noise' if gap.word() == 'better' else 'within noise'}."
    )


def _imbalance(comparison: Comparison) -> str:
    """How much the imbalance factor matters: mean gain in the tail of what every factor has."""
    if len(comparison.protocols) < 2:
        return (
            "One imbalance factor only: the influence of the degree of imbalance is not tested"
            " here; `PROTOCOLS` takes others."
        )
    tails = {protocol: {} for protocol in comparison.protocols}
    for (protocol, backbone), by_loss in comparison.gains.items():
        for loss, cells in by_loss.items():
            tails[protocol][backbone, loss] = cells["tail"].mean
    common = pd.DataFrame(tails).dropna()  # a row for each backbone and loss
    if common.empty:
        return (
            "No backbone and loss has been run at every imbalance factor: its influence cannot be"
            " told yet."
        )
    means = [f"{signed(x)} at IF {comparison.factor(name)}" for name, x in common.mean().items()]
    return (
        f"Mean gain in the tail of every backbone and loss ({len(common)} in all) that every factor"
        f" has: {', '.join(means)} points."
    )


def _goal_3(comparison: Comparison) -> list[str]:
    lines = []
    for block in comparison.gains:
        parts = []
        for group, word in (("all", "all classes"), ("head", "head"), ("tail", "tail")):
            parts.append(f"{word} {comparison.names(_unbeaten(comparison, block, group))}")
        lines.append(f"- {comparison.title(block)}: {'; '.join(parts)}.")
    return lines


def _unbeaten(comparison: Comparison, block: Block, group: str) -> list[str]:
    """Losses that no other one beats by more than noise."""
    there = ("softmax", *comparison.gains[block])
    losses = [loss for loss in comparison.profile.losses if loss in there]
    profile, records, unbeaten = comparison.profile, comparison.records, []
    for loss in losses:
        others = [other for other in losses if other != loss]
        gains = (gain(profile, records, block, other, group, loss) for other in others)
        if all(found.word() != "better" for found in gains):
            unbeaten.append(loss)
    return unbeaten
