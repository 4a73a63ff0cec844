"""Choose a recipe's rates by validation accuracy, and write down what was tried: ``make tune``."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import pandas as pd

from ltlib.config import ConfigError, Profile, atomic_path, dataset_size, results_dir
from ltlib.launch import compute_runs, unique_runs
from ltlib.longtail import train_counts
from ltlib.records import load_record


def trials(profile: Profile) -> list[tuple[dict, Profile]]:
    """Every combination of the values in ``profile.tune``, and the profile that tries it for all backbones.

    A trial trains with the profile's losses (not post-hoc adjustment, which trains nothing) on the long-tailed set, where the
    profile has it, of its first protocol and seed. Its records lie in ``results/<profile>/tune``. Raises ConfigError for a profile
    without values to try, or impossible ones.
    """
    if not profile.tune:
        raise ConfigError(f"{profile.name}: expected a table [tune] with lists of values, such as lr = [1.0e-4, 3.0e-4]; there is none")
    losses = tuple(loss for loss in profile.losses if loss != "logit_adjusted")
    if not losses:
        raise ConfigError(f"{profile.name}: losses = {profile.losses}: expected one that is trained; logit_adjusted is not")
    train_sets = ("longtailed",) if "longtailed" in profile.train_sets else profile.train_sets
    result = []
    for values in itertools.product(*profile.tune.values()):
        change = dict(zip(profile.tune, values, strict=True))
        recipes = {b: profile.recipe_by_backbone.get(b, {}) | change for b in profile.backbones}
        trial = dataclasses.replace(profile, name=f"{profile.name}/tune", recipe_by_backbone=recipes, losses=losses,
                                    seeds=profile.seeds[:1], protocols=profile.protocols[:1], train_sets=train_sets)
        try:
            trial.configs()
        except (ConfigError, TypeError) as error:
            raise ConfigError(f"{profile.name}: tune: {change}: {error}") from None
        result.append((change, trial))
    return result


def tune(profile: Profile, jobs: int | None = None, say: Callable[[str], None] = print, launcher: str = "local") -> pd.DataFrame:
    """Compute the missing trials, write ``results/<profile>/tune.csv`` and say which values are best for each backbone.

    One row per trial: backbone, loss, the values tried, val_acc and val_loss after the last epoch (validation images only),
    chosen (the highest val_acc of the backbone, averaged over losses; the earlier of equals), run_id. Diverged trials count as 0.
    """
    rows = []
    every = trials(profile)
    _require_validation(every[0][1])
    say(f"{len(every)} trials of {', '.join(profile.tune)}")
    compute_runs(every[0][1], jobs, say=say, launcher=launcher, runs=[run for _, trial in every for run in unique_runs(trial)])
    for change, trial in every:
        for run in unique_runs(trial):
            record = load_record(run)
            last = record.results["curve"][-1] if record.status == "done" else {"val_acc": 0.0, "val_loss": float("nan")}
            rows.append({"backbone": run.backbone, "loss": run.variant} | change
                        | {"val_acc": last["val_acc"], "val_loss": last["val_loss"], "run_id": run.id})
    table = pd.DataFrame(rows)
    table["chosen"] = False
    for backbone in profile.backbones:
        rows_of = {index: table[(table["backbone"] == backbone) & (table[list(change)] == pd.Series(change)).all(axis=1)]
                   for index, (change, _) in enumerate(every)}
        best = max(rows_of, key=lambda index: rows_of[index]["val_acc"].mean())
        table.loc[rows_of[best].index, "chosen"] = True
        change, trial = every[best]
        at_edge = [key for key, values in profile.tune.items() if len(values) > 2 and change[key] in (values[0], values[-1])]
        say(f"{backbone}: {_text(change)}: mean validation accuracy {100 * rows_of[best]['val_acc'].mean():.1f} %"
            + (f"; at the edge of what was tried: {', '.join(at_edge)}" if at_edge else ""))
    path = results_dir(profile.name) / "tune.csv"
    with atomic_path(path) as partial:
        table.to_csv(partial, index=False)
    say(f"written: {path}")
    return table


def _require_validation(trial: Profile) -> None:
    """Validation images are those that training leaves over: some must be left to choose by."""
    size, protocol = dataset_size(trial.dataset), trial.protocols[0]
    for train_set in trial.train_sets:
        left = protocol.val_per_class and (train_counts(protocol, train_set, size.num_classes) < size.train_per_class).any()
        if not (left or protocol.val_fraction):
            raise ConfigError(f"{trial.name}: {protocol.name} {train_set}: expected validation images to choose by, and there are none; "
                              "raise val_per_class, or lower balanced_count so that training leaves some images over")


def _text(values: dict) -> str:
    return ", ".join(f"{key} = {value}" for key, value in values.items())
