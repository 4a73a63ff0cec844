"""Results for people with other tools: a CSV of all of them, LaTeX macros, and the results page of the README."""

from __future__ import annotations

import dataclasses
import json

import pandas as pd

from ltlib import report
from ltlib.config import (
    PROFILES,
    ROOT,
    ConfigError,
    Profile,
    figures_dir,
    load_profile,
    output_root,
    results_dir,
    variant_name,
    write_changed,
)
from ltlib.launch import run_state, unique_runs
from ltlib.records import load_record, load_records

REMADE = ("demo", "smoke")  # profiles whose records anyone makes in minutes: not kept
DICTIONARY = {
    "profile": "profile that the run belongs to (`ltlib/profiles`)",
    "dataset": "data set",
    "protocol": "how training, validation and test sets are cut (README, Profiles)",
    "imbalance_factor": "images of the most frequent class / images of the rarest, of the long-tailed training set",
    "train_set": "`balanced` or `longtailed`",
    "backbone": "timm's name",
    "loss": "loss, or variant of one (`_drw`: deferred re-weighting; `logit_adjusted`)",
    "seed": "seed of weights, order and augmentation",
    "epoch_choice": "`last`: after the last epoch; `picked`: the epoch that validation says is the best",
    "eval_set": "`balanced` test set and its groups (`balanced_head`, ...); `longtailed` test set and its groups (`head`, ...)",
    "n": "test images",
    "acc1": "top-1 accuracy, 0 to 1",
    "hits": "images classified rightly, acc1 * n",
    "cross_entropy": "plain cross-entropy, nats per image: can be compared between losses",
    "criterion": "the run's own training loss: cannot be compared between losses",
    "class_acc": "accuracy of each class that occurs, averaged over classes, 0 to 1 (records before it was there: empty)",
    "gmean": "geometric mean of the accuracies of the classes that occur, 0 to 1 (likewise)",
    "auc_hard": "one class against the rest on hard predictions, mean of (1 + TPR - FPR) / 2, 0 to 1 (likewise)",
    "auc": "one class against the rest on scores, mean area under the ROC curve, 0 to 1 (likewise)",
    "f1": "F1 averaged with the classes' support as weight, 0 to 1",
    "f1_macro": "F1 averaged over the classes that occur, 0 to 1",
    "same_as_softmax": "whether the run is softmax's by mathematics (equal class counts) and was computed once",
    "wall_seconds": "training and evaluation time of the run",
    "device": "device that computed it",
    "run_id": "name of its record, `results/<profile>/<run_id>.json`",
}


def results_table(profile: Profile) -> pd.DataFrame:
    """Everything that the records of a profile hold: a row per run, epoch choice and evaluation set; columns: ``DICTIONARY``."""
    records = load_records(profile)
    records["metric"] = records["metric"].replace("loss", "cross_entropy")
    keys = [column for column in records if column not in ("metric", "value")]
    table = records.pivot(index=keys, columns="metric", values="value").reset_index()
    made = {run.id: load_record(run).provenance for run in unique_runs(profile) if run.id in set(table["run_id"])}
    factors = {protocol.name: protocol.imbalance_factor for protocol in profile.protocols}
    return table.assign(
        profile=profile.name, imbalance_factor=table["protocol"].map(factors),
        wall_seconds=table["run_id"].map({key: origin["wall_seconds"] for key, origin in made.items()}),
        device=table["run_id"].map({key: origin["device_name"] for key, origin in made.items()}),
    ).reindex(columns=list(DICTIONARY)).astype({"hits": "Int64"})


def whole(profile: Profile) -> Profile:
    """The profile with everything that it names and that its records hold, however it was narrowed (BACKBONES=, SEEDS=, ...)."""
    listed = load_profile(profile.path)
    names = {key: list(getattr(listed, key)) for key in ("backbones", "losses", "seeds", "train_sets")}
    names["protocols"] = [protocol.name for protocol in listed.protocols]
    for path in sorted(results_dir(profile.name).glob("*.json")):
        try:
            config = json.loads(path.read_text())["config"]
            variant = variant_name(config["loss"], config["drw"], config.get("tau"), config.get("method", ""))
            found = {"backbones": config["backbone"], "losses": variant, "seeds": config["seed"], "train_sets": config["train_set"],
                     "protocols": config["protocol"]["name"]}
        except (OSError, ValueError, KeyError, TypeError):  # load_records says what is wrong with it, where it is one of ours
            continue
        for key, value in found.items():
            names[key] += [value] if value not in names[key] else []
    try:
        return load_profile(profile.path, **names)
    except ConfigError:  # records of runs that the profile, changed since, cannot have any more
        return profile


def write_results(profile: Profile) -> None:
    """``results/<profile>.csv``, with its data dictionary ``results/README.md`` beside it, and ``figures/<profile>/numbers.tex``."""
    folder, profile = output_root() / "results", whole(profile)
    write_changed(folder / f"{profile.name}.csv", results_table(profile).to_csv(index=False))
    write_changed(folder / "README.md", dictionary_text())
    write_changed(figures_dir(profile.name) / "numbers.tex", numbers_latex(profile))


def dictionary_text() -> str:
    """The data dictionary, in Markdown."""
    rows = "".join(f"| `{name}` | {meaning} |\n" for name, meaning in DICTIONARY.items())
    return (
        "# Results\n\n- `<profile>/<run_id>.json`: the record of a run (configuration, results, provenance).\n"
        "- `<profile>/<run_id>.npz`: what it says of each image of its largest test set (`labels`, `predicted`, `confidence`,\n"
        "  `label_probability`).\n- `<profile>.csv`: all results of a profile, made from the records:\n\n"
        f"| column | meaning |\n|---|---|\n{rows}"
    )


_MACRO = r"""%% \ltresult{%(example)s} prints %(value)s: mean accuracy (%%) over seeds after the last epoch; with "/half" at the end
%% half its 95 %% interval, with "/seeds" the number of seeds. Made from the records of profile %(profile)s.
\providecommand{\ltresult}[1]{\ifcsname ltresult@#1\endcsname\csname ltresult@#1\endcsname\else
  \textbf{??}\GenericWarning{}{LaTeX Warning: there is no result #1}\fi}
"""


def numbers_latex(profile: Profile) -> str:
    """One macro per number that prose may quote: accuracies in percent by profile/protocol/training set/backbone/loss/evaluation set.

    Runs that are missing print as a dash, names that nothing has as "??" with a warning, as LaTeX does with references.
    """
    records = load_records(profile)
    summary = report.summarise(records)
    sets = [list(report.SET_TITLES) if p.longtailed_test else list(report.group_sets(p, records).values()) for p in profile.protocols]
    lines = []
    for protocol, eval_sets in zip(profile.protocols, sets, strict=True):
        for key in pd.MultiIndex.from_product([[protocol.name], profile.train_sets, profile.backbones, profile.losses, eval_sets]):
            name, known = "/".join((profile.name, *key)), key in summary.index
            row = summary.loc[key] if known else {"mean": float("nan"), "half": float("nan"), "seeds": 0}
            for end, value in (("", report.number(row["mean"])), ("/half", report.number(row["half"])), ("/seeds", f"{row['seeds']:.0f}")):
                lines.append(f"\\expandafter\\def\\csname ltresult@{name}{end}\\endcsname{{{report.latex_signs(value)}}}")
    example = lines[0].split("@")[1].split("\\endcsname")
    head = _MACRO % {"example": example[0], "value": example[1].strip("{}"), "profile": profile.name}
    return head + "\n".join(lines) + "\n"


BEGIN, END = "<!-- results: made by `make readme` -->", "<!-- end of results -->"


def readme_results() -> str:
    """The README's results: for each profile whose records are kept, its table of groups, its picture, and what to know beside them."""
    parts = []
    for path in sorted(PROFILES.glob("*.toml")):
        profile = load_profile(path.stem)
        records = load_records(profile)
        if path.stem in REMADE or not len(records):
            continue
        there = {name: tuple(x for x in getattr(profile, name) if x in set(records[column]))
                 for name, column in (("backbones", "backbone"), ("losses", "loss"), ("seeds", "seed"))}
        shown, protocol = dataclasses.replace(profile, **there), profile.protocols[0].name
        summary = report.summarise(records)
        grid = report.Grid(shown)
        for eval_set in ("balanced", "balanced_head", "balanced_middle", "balanced_tail"):
            title = "All" if eval_set == "balanced" else report.SET_TITLES[eval_set]
            grid.add_summary(summary, protocol, "longtailed", eval_set, ("", title), interval=len(shown.seeds) == 1)
        seeds, states = ", ".join(map(str, shown.seeds)), [run_state(run) for run in unique_runs(profile)]
        missing = sum(state != "done" for state in states)
        one = "Brackets: Wilson's 95 % interval of the finite test set."
        spread = one if len(shown.seeds) == 1 else "± is half the 95 % t interval over seeds."
        picture = f"figures/{profile.name}/head_middle_tail.png"
        parts.append(
            f"### `{profile.name}`\n\n{profile.title}. Trained on the long tail (protocol {protocol}, imbalance factor "
            f"{profile.protocols[0].imbalance_factor:g}), top-1 accuracy in percent on the balanced test; seeds {seeds}. {spread}\n"
            + "".join(f"{line} " for line in profile.deviations).strip() + f"\n\n{grid.markdown()}"
            + (f"\nMissing: {missing} of {len(states)} runs; `make runs-list PROFILE={profile.name}` lists them.\n" if missing else "")
            + (f"\n![Accuracy of head, middle and tail, profile {profile.name}]({picture})\n" if (ROOT / picture).exists() else "")
        )
    return "\n".join(parts)


def write_readme() -> None:
    """Put :func:`readme_results` between its marks in the README."""
    path = ROOT / "README.md"
    before, _, rest = path.read_text().partition(BEGIN)
    write_changed(path, f"{before}{BEGIN}\n\n{readme_results()}\n{END}{rest.partition(END)[2]}")
