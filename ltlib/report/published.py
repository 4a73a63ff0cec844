"""What others published beside ours: results on CIFAR-100(-LT), and the papers of 17 to 19."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from ltlib import registry
from ltlib.metrics import mean_interval, seeds_for_power
from ltlib.models import backbone_title
from ltlib.protocol import Protocol
from ltlib.report.tables import Gain, Grid, number, signed, summarise
from ltlib.report.thesis import printed
from ltlib.runs.config import RunConfig
from ltlib.runs.profiles import Profile, load_profile, profiles_of
from ltlib.runs.records import Record, computed_as, load_record, load_records

_METHODS = {  # as the tables of the literature call them
    "softmax": ("CE", "Softmax"),
    "ldam_drw": ("LDAM-DRW",),
    "balanced_softmax": ("Balanced Softmax (end to end)",),
}
_BACKBONES = {
    "resnet32": "ResNet-32",
    "vit_base_patch16_224": "ViT-B/16",
    "resnetv2_50": "ResNet-50x1 v2 (BiT-M)",
    "convnext_base": "ConvNeXt-B",
    "mobilenetv2_100": "MobileNetV2",
}
_SETS = {
    "balanced": "All",
    "balanced_head": "Many",
    "balanced_middle": "Medium",
    "balanced_tail": "Few",
}


def is_comparable(profile: Profile, protocol: Protocol) -> bool:
    """Whether published results on CIFAR-100(-LT) may stand beside this profile's.

    They may where whole models are trained on the standard sets.
    """
    sizes = (protocol.max_count, protocol.balanced_count, protocol.test_per_class)
    return profile.dataset == "cifar100" and profile.mode != "probe" and sizes == (500, 500, 100)


def published_grid(
    profile: Profile, records: pd.DataFrame, protocol: Protocol, train_set: str
) -> tuple[Grid, list[str]]:
    """Balanced-test accuracy in percent, ours beside published ones, and notes on their sources.

    Published: ``data/reference/literature_*.csv``. For fine-tuned backbones a note says what other
    methods reach with pretrained ones at this imbalance factor.
    """
    grid, ours, notes, published = Grid(profile), summarise(records), [], {}
    for eval_set, title in _SETS.items():
        grid.add_summary(ours, protocol.name, train_set, eval_set, ("Ours", title))
    longtailed = train_set == "longtailed"
    table = printed(f"literature_cifar100{'lt' if longtailed else ''}").astype(object).fillna("")
    if not longtailed:  # there the literature has the same data, and softmax alone
        table = table.assign(method="Softmax", imbalance_factor=protocol.imbalance_factor)
    at_factor = table["imbalance_factor"] == protocol.imbalance_factor
    for backbone, loss in grid.index:
        known = table["method"].isin(_METHODS.get(loss, ()))
        for label, row in table[known & (table["backbone"] == _BACKBONES.get(backbone))].iterrows():
            accuracy, elsewhere = _accuracy(row), f" at IF {row['imbalance_factor']}"
            if at_factor[label]:
                published.setdefault((backbone, loss), []).append(accuracy)
                elsewhere = ""
            what = f"{backbone_title(backbone)}, {profile.loss_title(loss)} {accuracy}{elsewhere}"
            notes.append(f"Published, {what}: {_source(row)}.")
    text = {key: ", ".join(values) for key, values in published.items()}
    grid.add(("Published", "All"), text, best=None)
    if longtailed and profile.mode == "finetune":
        others = [
            f"{row['method']}, {row['backbone']}, {row['top1']:g}: {_source(row)}."
            for _, row in table[at_factor & (table["pretraining"] != "none")].iterrows()
        ]
        where = f"Published with pretrained models at IF {protocol.imbalance_factor:g}"
        notes += [f"{where}: {' '.join(others)}"] if others else []
    return grid, notes


def _accuracy(row: pd.Series) -> str:
    """As printed: "92.3", or "92–93" where a range is printed."""
    if row["top1"] != "":
        return f"{row['top1']:g}"
    return f"{row['top1_low']:g}–{row['top1_high']:g}"


def _source(row: pd.Series) -> str:
    pretraining = "" if row["pretraining"] == "none" else row["pretraining"]
    doubt = "" if row["verified"] == "yes" else "not verified"
    return "; ".join(filter(None, (pretraining, row["source"], row["note"], doubt)))


def paper_records(notebook: str) -> pd.DataFrame:
    """All results of a notebook's profiles, with a column ``profile``.

    Otherwise as :func:`ltlib.runs.records.load_records` gives them.
    """
    tables = [load_records(p).assign(profile=p.name) for p in profiles_of(notebook)]
    # of which an empty table says nothing
    return pd.concat(tables, ignore_index=True).astype({"value": float})


def by_seed(
    records: pd.DataFrame,
    profile: str,
    protocol: str,
    eval_set: str,
    metric: str,
    epoch_choice: str = "last",
) -> pd.DataFrame:
    """One metric of the long-tailed runs of a protocol: a row per seed, a column per method.

    Fractions or nats as recorded.
    """
    rows = records.query(
        "profile == @profile and protocol == @protocol and train_set == 'longtailed' and "
        "eval_set == @eval_set and metric == @metric and epoch_choice == @epoch_choice"
    )
    return rows.pivot_table(index="seed", columns="loss", values="value")


def cell(values: pd.Series | None) -> str:
    """As "82.4 ± 1.0": mean over seeds and half the 95 % t interval, in percent.

    One seed has no interval; a dash for none.
    """
    known = np.asarray([] if values is None else values.dropna(), float)
    return number(*mean_interval(known)) if len(known) else "–"


def compare(
    ours: pd.DataFrame,
    theirs: pd.Series,
    method: str,
    title: Callable[[str], str] = registry.title,
) -> pd.DataFrame:
    """What a paper claims of ``method`` against its rivals beside what our runs show.

    ours: one metric by seed (:func:`by_seed`), fractions. theirs: the printed values by method,
    percent. A row for each rival; columns: printed and ours, the rival's values; gain printed and
    gain ours, method minus rival in points, ours paired by seed with half the 95 % t interval;
    finding (:func:`_finding`); and, where it is undecided, seeds needed
    (:func:`ltlib.metrics.seeds_for_power`), were our seeds typical. title: what rows are called,
    such as ``profile.loss_title``.
    """
    rows = {}
    for rival in [name for name in ours.columns if name != method]:
        claim = theirs.get(method, np.nan) - theirs.get(rival, np.nan)
        own = ours.get(method, np.nan * ours[rival])
        gain = Gain.of(own, ours[rival])
        rows[rival] = {
            "printed": number(theirs.get(rival, np.nan), scale=1),
            "ours": cell(ours[rival]),
            "gain printed": signed(claim) if np.isfinite(claim) else "–",
            "gain ours": str(gain),
            "finding": _finding(claim, gain),
            "seeds needed": _seeds_needed(gain, (own - ours[rival]).dropna()),
        }
    return pd.DataFrame(rows).T.rename(index=title)


def _finding(claim: float, gain: Gain) -> str:
    """A dash where we have no runs, "no claim" where nothing is printed, otherwise "as claimed" or
    "against the claim", or "undecided" where the interval of the gain holds 0.
    """
    if not gain.known:
        return "–"
    if not np.isfinite(claim):
        return "no claim"
    same, other = "as claimed", "against the claim"
    return gain.word(same, other) if claim > 0 else gain.word(other, same)


def _seeds_needed(gain: Gain, differences: pd.Series) -> str:
    if len(differences) < 2 or gain.decided:
        return "–"
    needed = seeds_for_power(differences, most=1000)
    return str(needed) if needed < 1000 else "1000 or more"


def deviations(notebook: str) -> str:
    """Every deviation from the paper, by profile, in Markdown."""
    return "\n".join(
        f"- **{profile.title}** (`{profile.name}`): {' '.join(profile.deviations)}"
        for profile in profiles_of(notebook)
    )


def finished(profile: str, protocol: str, method: str) -> dict[int, tuple[RunConfig, Record]]:
    """The finished runs of a method on a profile's long tail, by seed: for curves and the like."""
    chosen = load_profile(profile, losses=[method], protocols=[protocol], train_sets=["longtailed"])
    return {config.seed: (config, record) for _, config, record in _done([chosen])}


def _done(profiles: list[Profile]) -> Iterator[tuple[Profile, RunConfig, Record]]:
    """Every finished run of these profiles."""
    for profile in profiles:
        for config in profile.configs():
            record = load_record(computed_as(config))
            if record is not None and record.status == "done":
                yield profile, config, record


def run_seconds(notebook: str) -> pd.DataFrame:
    """Wall time of every run that went through undisturbed.

    Columns: profile, protocol, loss, seed, device, seconds.
    """
    columns, rows = ["profile", "protocol", "loss", "seed", "device", "seconds"], []
    for profile, config, record in _done(profiles_of(notebook)):
        made = record.provenance
        if not {"starts", "adjusted"} & set(made):
            run = [profile.name, config.protocol.name, config.variant, config.seed]
            rows.append([*run, made.get("device_name"), made.get("wall_seconds")])
    return pd.DataFrame(rows, columns=columns)


def coverage(paper: str) -> pd.DataFrame:
    """Every table, figure, equation, example and test of a paper ("pf_loss", "arconvl", "gbg"), and
    where it stands in this workbook: complete, partly (what is missing, and what it would cost), or
    left out (why)."""
    table = printed(f"coverage_{paper}").fillna("")
    return table.rename(columns=str.capitalize).rename(columns={"Missing": "Missing, or why not"})


def last_falls(notebook: str) -> pd.Series:
    """How training still falls at its end, by profile and method, mean over runs.

    Training loss of the last tenth of the epochs / of the tenth before it.
    """
    found = {}
    for profile, config, record in _done(profiles_of(notebook)):
        curve = np.array([entry["train_loss"] for entry in record.results["curve"]])
        tenth = len(curve) // 10
        before = curve[-2 * tenth : -tenth].mean() if tenth else 0.0
        if before > 0:
            ratio = curve[-tenth:].mean() / before
            found.setdefault((profile.name, config.variant), []).append(ratio)
    return pd.Series({key: float(np.mean(values)) for key, values in found.items()}, dtype=float)
