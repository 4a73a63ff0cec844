"""Choose a recipe's rates by validation accuracy, and write down what was tried: ``make tune``."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import pandas as pd

from ltlib.data.sizes import dataset_size
from ltlib.errors import ConfigError
from ltlib.files import atomic_path, results_dir
from ltlib.protocol import train_counts
from ltlib.report.tables import late_fall
from ltlib.runs.config import RunConfig
from ltlib.runs.profiles import Profile
from ltlib.runs.progress import unique_runs
from ltlib.runs.records import load_record
from workbook.runs import compute_runs

Trial = tuple[dict, Profile]  # the values tried, and the profile that tries them for all backbones


def trials(profile: Profile) -> list[Trial]:
    """Every combination of the values in ``profile.tune``.

    A trial trains with the profile's losses (not post-hoc adjustment, which trains nothing) on the
    long-tailed set, where the profile has it, of its first protocol, with ``tune_seeds`` or the
    first seed. Its records lie in ``results/<profile>/tune``. Raises ConfigError for a profile
    without values to try, or impossible ones.
    """
    if not profile.tune:
        raise ConfigError(
            f"{profile.name}: expected a table [tune] with lists of values, such as lr = [1.0e-4, "
            "3.0e-4]; there is none"
        )
    losses = tuple(loss for loss in profile.losses if loss != "logit_adjusted")
    if not losses:
        raise ConfigError(
            f"{profile.name}: losses = {profile.losses}: expected one that is trained; "
            "logit_adjusted is not"
        )
    long = "longtailed" in profile.train_sets
    base = dataclasses.replace(
        profile,
        name=f"{profile.name}/tune",
        losses=losses,
        seeds=profile.tune_seeds or profile.seeds[:1],
        protocols=profile.protocols[:1],
        train_sets=("longtailed",) if long else profile.train_sets,
    )
    changes = [
        dict(zip(profile.tune, values, strict=True))
        for values in itertools.product(*profile.tune.values())
    ]
    return [(change, _trial(base, change)) for change in changes]


def _trial(base: Profile, change: dict) -> Profile:
    recipes = {b: base.recipe_by_backbone.get(b, {}) | change for b in base.backbones}
    own = {} if "lr" in change else base.lr_by_loss  # a rate that is tried is tried for every loss
    trial = dataclasses.replace(base, recipe_by_backbone=recipes, lr_by_loss=own)
    try:
        trial.configs()
    except (ConfigError, TypeError) as error:
        name = base.name.removesuffix("/tune")
        raise ConfigError(f"{name}: tune: {change}: {error}") from None
    return trial


def tune(
    profile: Profile,
    jobs: int | None = None,
    say: Callable[[str], None] = print,
    launcher: str = "local",
) -> pd.DataFrame:
    """Compute the missing trials, write ``results/<profile>/tune.csv``, say which values are best.

    One row per trial: backbone, loss, seed, the values tried, val_acc and val_loss after the last
    epoch (validation images only), falls, chosen, run_id. Chosen for a backbone is the highest
    val_acc, averaged over losses and seeds, or, with ``tune_by = "loss"``, for each of its losses;
    the earlier of equals. Diverged trials count as 0. falls: the part of the fall of the training
    loss that came in the last quarter of the epochs; where that is much, a longer training would do
    better.
    """
    every = trials(profile)
    _require_validation(every[0][1])
    say(f"{len(every)} trials of {', '.join(profile.tune)}")
    runs = [run for _, trial in every for run in unique_runs(trial)]
    compute_runs(every[0][1], jobs, say=say, launcher=launcher, runs=runs)
    table = pd.DataFrame(
        [_row(run, change) for change, trial in every for run in unique_runs(trial)]
    )
    table["chosen"] = False
    of = ["backbone"] if profile.tune_by == "backbone" else ["backbone", "loss"]
    for who in table[of].drop_duplicates().to_dict("records"):
        say(_choose(table, who, profile, [change for change, _ in every]))
    path = results_dir(profile.name) / "tune.csv"
    with atomic_path(path) as partial:
        table.to_csv(partial, index=False)
    say(f"written: {path}")
    return table


def _row(run: RunConfig, change: dict) -> dict:
    record, last, falls = load_record(run), {"val_acc": 0.0, "val_loss": math.nan}, math.nan
    if record.status == "done":
        curve = record.results["curve"]
        last = curve[-1]
        falls = late_fall(curve)
    found = {"val_acc": last["val_acc"], "val_loss": last["val_loss"], "falls": round(falls, 4)}
    found |= {"run_id": run.id}
    return {"backbone": run.backbone, "loss": run.variant, "seed": run.seed} | change | found


def _choose(table: pd.DataFrame, who: dict, profile: Profile, changes: list[dict]) -> str:
    """Mark the best values of a backbone, or of one of its losses; say which they are."""

    def rows(change: dict) -> pd.Series:
        wanted = pd.Series(who | change)
        return (table[list(wanted.index)] == wanted).all(axis=1)

    def mean(change: dict) -> float:
        return table.loc[rows(change), "val_acc"].mean()

    best = max(changes, key=mean)
    table.loc[rows(best), "chosen"] = True
    text = ", ".join(f"{key} = {value}" for key, value in best.items())
    measure = "validation accuracy" if "loss" in who else "mean validation accuracy"
    said = f"{', '.join(who.values())}: {text}: {measure} {100 * mean(best):.1f} %"
    at_edge = [
        key
        for key, values in profile.tune.items()
        if len(values) > 2 and best[key] in (values[0], values[-1])
    ]
    return said + (f"; at the edge of what was tried: {', '.join(at_edge)}" if at_edge else "")


def _require_validation(trial: Profile) -> None:
    """Validation images are those that training leaves over: some must be left to choose by."""
    size, protocol = dataset_size(trial.dataset), trial.protocols[0]
    for train_set in trial.train_sets:
        counts = train_counts(protocol, train_set, size.num_classes)
        left = protocol.val_per_class and (counts < size.train_per_class).any()
        if not (left or protocol.val_fraction):
            raise ConfigError(
                f"{trial.name}: {protocol.name} {train_set}: expected validation images to choose "
                "by, and there are none; raise val_per_class, or lower balanced_count so that "
                "training leaves some images over"
            )
