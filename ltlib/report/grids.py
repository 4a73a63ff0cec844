"""The tables of results: head, middle and tail, and the thesis's own tables with ours beside."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from ltlib import registry
from ltlib.longtail import GROUPS
from ltlib.metrics import exceeds_noise, student
from ltlib.models import backbone_title
from ltlib.protocol import Protocol, base_set
from ltlib.report import thesis
from ltlib.report.tables import Grid, number, summarise
from ltlib.runs.profiles import Profile

NOISE_COLORS = {  # on white, and on a dark page
    "within noise": "light-dark(#666666, #a8a8a8)",
    "ours higher": "light-dark(#1b5fa8, #8ab8ee)",
    "ours lower": "light-dark(#a8321b, #f09a85)",
}
_LOSS, _ACCURACY, _F1 = ("Loss", "criterion", 1, 2), ("Acc", "acc1", 100, 1), ("F1", "f1", 100, 1)


def group_sets(protocol: Protocol, records: pd.DataFrame) -> dict[str, str]:
    """The evaluation sets by which "all", "head", "middle" and "tail" are judged.

    They are parts of the balanced test; imported photographs with unequal numbers of test images
    have only a long-tailed one.
    """
    tests = set(records.loc[records["protocol"] == protocol.name, "eval_set"])
    if protocol.counts and base_set(tests) == "longtailed":
        return {"all": "longtailed"} | {name: name for name in GROUPS}
    return {"all": "balanced"} | {name: f"balanced_{name}" for name in GROUPS}


def groups_grid(profile: Profile, records: pd.DataFrame, protocol: str, train_set: str) -> Grid:
    """Accuracy of the three groups in percent, ± over seeds, and Wilson's intervals in brackets.

    With several seeds the brackets stand at the two tails alone, where they matter most and the
    page has room. Where the test set is the long-tailed one (:func:`group_sets`), a column has the
    accuracy of each class, averaged over classes.
    """
    sets = group_sets(profile.protocol(protocol), records)
    test = "Balanced test" if sets["all"] == "balanced" else "Long-tailed test"
    # title, metric, evaluation set, brackets: a line here is a column of the table
    columns = [
        ((test, group.capitalize()), "acc1", eval_set, len(profile.seeds) == 1 or group == "tail")
        for group, eval_set in sets.items()
    ]
    if profile.protocol(protocol).longtailed_test:
        columns.append((("Long-tailed test", "Tail"), "acc1", "tail", True))
    if sets["all"] == "longtailed":
        columns.append(((test, "Mean of classes"), "class_acc", "longtailed", False))
    grid, means = Grid(profile), {m: summarise(records, m) for m in {c[1] for c in columns}}
    for title, metric, eval_set, brackets in columns:
        grid.add_summary(means[metric], protocol, train_set, eval_set, title, interval=brackets)
    return grid


def accuracy_grid(profile: Profile, records: pd.DataFrame, train_set: str) -> Grid:
    """The thesis's tables 5.1 to 5.10: accuracy in percent on its five test sets, ours beside."""
    grid, ours = Grid(profile), summarise(records)
    theirs = thesis.thesis_results().query("train_set == @train_set and metric == 'acc1'")
    theirs = theirs.set_index(["backbone", "loss", "eval_set"])["value"]
    for eval_set, title in thesis.SETS.items():
        grid.add_summary(ours, "thesis", train_set, eval_set, (title, "ours"))
        printed = {
            (b, loss): number(theirs.get((thesis.family(b), loss, eval_set), np.nan))
            for b, loss in grid.index
        }
        grid.add((title, "thesis"), printed, best=None)
    return grid


def thesis_notes(profile: Profile) -> list[str]:
    """A note on whose numbers the "thesis" columns hold, where a backbone is not its own."""
    own = {b: thesis.BACKBONES[thesis.family(b)] for b in profile.backbones if thesis.family(b)}
    stand_ins = [
        f"{backbone_title(theirs)} beside {backbone_title(b)}"
        for b, theirs in own.items()
        if b != theirs
    ]
    return [f"In the thesis columns, CIFAR-100 with {', '.join(stand_ins)}."] if stand_ins else []


def appendix_grid(profile: Profile, records: pd.DataFrame, train_set: str) -> Grid:
    """Our appendix: cross-entropy (nats), accuracy and support-weighted F1 (percent).

    On the thesis's five test sets, means over seeds. Unlike the thesis's, the loss is plain
    cross-entropy everywhere, so that rows can be compared.
    """
    grid, measures = Grid(profile), (("CE", "loss", 1, 2), _ACCURACY, _F1)
    means = {metric: summarise(records, metric).assign(half=np.nan) for _, metric, *_ in measures}
    for eval_set, title in thesis.SETS.items():
        for name, metric, scale, digits in measures:
            how = {"scale": scale, "digits": digits, "best": "min" if metric == "loss" else "max"}
            grid.add_summary(means[metric], "thesis", train_set, eval_set, (title, name), **how)
    return grid


def thesis_stand_in(profile: Profile, records: pd.DataFrame, backbone: str) -> str | None:
    """The backbone of the profile that stands beside one of the thesis's, or None.

    One of its family: with runs before others, its own before others.
    """
    there, own = set(records["backbone"]), thesis.BACKBONES[backbone]
    family = [b for b in profile.backbones if thesis.family(b) == backbone]
    return min(family, key=lambda b: (b not in there, b != own), default=None)


def thesis_appendix(
    profile: Profile, records: pd.DataFrame, backbone: str, train_set: str, full: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One table of the thesis's appendix A, ours beside theirs, and the CSS that colours ours.

    backbone: the thesis's name. full: loss (each row's own criterion), accuracy and F1, otherwise
    accuracy alone; accuracies and F1 in percent, means over seeds. ``NOISE_COLORS`` say whether the
    difference exceeds the noise of two finite test sets and of our seeds
    (:func:`ltlib.metrics.exceeds_noise`); F1 is judged as if it were an accuracy, losses are not.
    """
    printed = thesis.printed("thesis").query("backbone == @backbone and train_set == @train_set")
    printed = printed.replace({"metric": {"loss": "criterion"}})
    printed = printed.set_index(["loss", "eval_set", "metric"])
    here = thesis_stand_in(profile, records, backbone)
    measures = (_LOSS, _ACCURACY, _F1) if full else (_ACCURACY,)
    ours = {metric: summarise(records, metric) for _, metric, *_ in measures}
    losses = [loss for loss in registry.ENTRIES if loss in printed.index.unique(0)]
    titles = [registry.title(loss) for loss in losses]
    index = pd.MultiIndex.from_product([titles, ["thesis", "ours"]])
    columns = pd.MultiIndex.from_product([thesis.SETS.values(), [name for name, *_ in measures]])
    text, css = pd.DataFrame("–", index, columns), pd.DataFrame("", index, columns)
    for loss, (eval_set, top), measure in itertools.product(losses, thesis.SETS.items(), measures):
        name, metric, scale, digits = measure
        title, theirs = registry.title(loss), printed.loc[loss, eval_set, metric]
        missing = thesis.is_missing(theirs["note"])
        if not missing:
            text.loc[(title, "thesis"), (top, name)] = number(
                theirs["value"], np.nan, scale, digits
            )
        key = ("thesis", train_set, here, loss, eval_set)
        if key not in ours[metric].index:
            continue
        row = ours[metric].loc[key]
        text.loc[(title, "ours"), (top, name)] = number(row["mean"], np.nan, scale, digits)
        if metric != "criterion" and not missing:
            kind = _against_noise(row, theirs["value"], thesis.IMAGES[eval_set])
            css.loc[(title, "ours"), (top, name)] = f"color: {NOISE_COLORS[kind]}"
    return text, css


def _against_noise(row: pd.Series, printed: float, images: int) -> str:
    """How our accuracy (a row of :func:`summarise`) stands to a printed one on so many images."""
    sem = row["half"] / student(row["seeds"]) if row["seeds"] > 1 else 0.0
    if not exceeds_noise(printed, images, row["mean"], row["n"], sem):
        return "within noise"
    return "ours higher" if row["mean"] > printed else "ours lower"
