"""Results for people with other tools: a CSV of all of them, LaTeX macros, and what the README and
the page of results show."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import textwrap

import pandas as pd

from ltlib import registry
from ltlib.errors import ConfigError
from ltlib.files import ROOT, figures_dir, output_root, results_dir, write_changed
from ltlib.models import backbone_title
from ltlib.report.grids import group_sets
from ltlib.report.latex import latex_signs
from ltlib.report.tables import SET_TITLES, Grid, number, summarise
from ltlib.runs.config import RunConfig
from ltlib.runs.profiles import Profile, load_profile, profile_names
from ltlib.runs.progress import run_state, unique_runs
from ltlib.runs.records import load_record, load_records

FURTHER = ("arconvl", "gbg", "pf_loss")  # what their profiles' names begin with
REMADE = ("demo", "smoke")  # profiles whose records anyone makes in minutes: not kept

DICTIONARY = {
    "profile": "profile that the run belongs to (`profiles`)",
    "dataset": "data set",
    "protocol": "how training, validation and test sets are cut (docs/profiles.md)",
    "imbalance_factor": (
        "images of the most frequent class / images of the rarest, of the long-tailed training set"
    ),
    "train_set": "`balanced` or `longtailed`",
    "backbone": "timm's name",
    "loss": "loss, or variant of one (`_drw`: deferred re-weighting; `logit_adjusted`)",
    "seed": "seed of weights, order and augmentation",
    "epoch_choice": (
        "`last`: after the last epoch; `picked`: the epoch that validation says is the best"
    ),
    "eval_set": (
        "`balanced` test set and its groups (`balanced_head`, ...); `longtailed` test set and its"
        " groups (`head`, ...)"
    ),
    "n": "test images",
    "acc1": "top-1 accuracy, 0 to 1",
    "hits": "images classified rightly, acc1 * n",
    "cross_entropy": "plain cross-entropy, nats per image: can be compared between losses",
    "criterion": "the run's own training loss: cannot be compared between losses",
    "class_acc": (
        "accuracy of each class that occurs, averaged over classes, 0 to 1 (records before it was"
        " there: empty)"
    ),
    "gmean": "geometric mean of the accuracies of the classes that occur, 0 to 1 (likewise)",
    "auc_hard": (
        "one class against the rest on hard predictions, mean of (1 + TPR - FPR) / 2, 0 to 1"
        " (likewise)"
    ),
    "auc": "one class against the rest on scores, mean area under the ROC curve, 0 to 1 (likewise)",
    "f1": "F1 averaged with the classes' support as weight, 0 to 1",
    "f1_macro": "F1 averaged over the classes that occur, 0 to 1",
    "same_as_softmax": (
        "whether the run is softmax's by mathematics (equal class counts) and was computed once"
    ),
    "wall_seconds": "training and evaluation time of the run",
    "device": "device that computed it",
    "run_id": "name of its record, `results/<profile>/<run_id>.json`",
}


def results_table(profile: Profile) -> pd.DataFrame:
    """Everything that the records of a profile hold: a row per run, epoch choice and evaluation
    set; columns: ``DICTIONARY``."""
    records = load_records(profile)
    records["metric"] = records["metric"].replace("loss", "cross_entropy")
    keys = [column for column in records if column not in ("metric", "value")]
    table = records.pivot(index=keys, columns="metric", values="value").reset_index()
    ids, factors = table["run_id"], {p.name: p.imbalance_factor for p in profile.protocols}
    runs = {run.id: run for run in unique_runs(profile)}
    made = {run: load_record(runs[run]).provenance for run in ids.unique()}
    table["profile"] = profile.name
    table["imbalance_factor"] = table["protocol"].map(factors)
    table["wall_seconds"] = [made[run]["wall_seconds"] for run in ids]
    table["device"] = [made[run]["device_name"] for run in ids]
    return table.reindex(columns=list(DICTIONARY)).astype({"hits": "Int64"})


def whole(profile: Profile) -> Profile:
    """The profile with everything that it names and that its records hold, however it was narrowed
    (BACKBONES=, SEEDS=, ...)."""
    listed, stored = load_profile(profile.path), _stored_runs(profile)
    protocols = [*listed.protocols, *(run.protocol for run in stored)]
    names = {
        "backbones": [*listed.backbones, *(run.backbone for run in stored)],
        "losses": [*listed.losses, *(run.variant for run in stored)],
        "seeds": [*listed.seeds, *(run.seed for run in stored)],
        "train_sets": [*listed.train_sets, *(run.train_set for run in stored)],
        "protocols": [protocol.name for protocol in protocols],
    }
    names = {key: list(dict.fromkeys(values)) for key, values in names.items()}
    try:
        return load_profile(profile.path, **names)
    except ConfigError:  # records of runs that the profile, changed since, cannot have any more
        return profile


def _stored_runs(profile: Profile) -> list[RunConfig]:
    runs = []
    for path in sorted(results_dir(profile.name).glob("*.json")):
        # load_records says what is wrong with a record, where it is one of ours
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            runs.append(RunConfig.from_dict(json.loads(path.read_text())["config"]))
    return runs


def write_results(profile: Profile) -> None:
    """``results/<profile>.csv``, with its data dictionary ``results/README.md`` beside it, and
    ``figures/<profile>/numbers.tex``."""
    folder, profile = output_root() / "results", whole(profile)
    write_changed(folder / f"{profile.name}.csv", results_table(profile).to_csv(index=False))
    write_changed(folder / "README.md", dictionary_text())
    write_changed(figures_dir(profile.name) / "numbers.tex", numbers_latex(profile))


RESULTS = """\
# Results

- `<profile>/<run_id>.json`: the record of a run (configuration, results, provenance).
- `<profile>/<run_id>.npz`: what it says of each image of its largest test set (`labels`, \
`predicted`, `confidence`,
  `label_probability`).
- `<profile>.csv`: all results of a profile, made from the records:

| column | meaning |
|---|---|
"""


def dictionary_text() -> str:
    """The data dictionary, in Markdown."""
    rows = (f"| `{name}` | {meaning} |\n" for name, meaning in DICTIONARY.items())
    return RESULTS + "".join(rows)


HEAD = """\
%% \\ltresult{%(example)s} prints %(value)s: mean accuracy (%%) over seeds after the last epoch; \
with "/half" at the end
%% half its 95 %% interval, with "/seeds" the number of seeds. Made from the records of profile \
%(profile)s.
\\providecommand{\\ltresult}[1]{\\ifcsname ltresult@#1\\endcsname\
\\csname ltresult@#1\\endcsname\\else
  \\textbf{??}\\GenericWarning{}{LaTeX Warning: there is no result #1}\\fi}
"""


def numbers_latex(profile: Profile) -> str:
    """One macro per number that prose may quote: accuracies in percent by profile/protocol/training
    set/backbone/loss/evaluation set.

    Runs that are missing print as a dash, names that nothing has as "??" with a warning, as LaTeX
    does with references.
    """
    records = load_records(profile)
    found, nan = summarise(records).to_dict("index"), float("nan")
    values = {}
    for protocol in profile.protocols:
        sets = SET_TITLES if protocol.longtailed_test else group_sets(protocol, records).values()
        lists = (profile.train_sets, profile.backbones, profile.losses, sets)
        for key in itertools.product([protocol.name], *lists):
            row = found.get(key, {"mean": nan, "half": nan, "seeds": 0})
            name = "/".join((profile.name, *key))
            values[name] = latex_signs(number(row["mean"]))
            values[f"{name}/half"] = latex_signs(number(row["half"]))
            values[f"{name}/seeds"] = f"{row['seeds']:.0f}"
    example, value = next(iter(values.items()))
    text = HEAD % {"example": example, "value": value, "profile": profile.name}
    for name, value in values.items():
        text += f"\\expandafter\\def\\csname ltresult@{name}\\endcsname{{{value}}}\n"
    return text


def results_page() -> str:
    """For each profile whose records are kept, its table of groups, its picture, and what to know
    beside them; the further methods last."""
    names = [name for name in profile_names() if name not in REMADE]
    profiles = [load_profile(name) for name in sorted(names, key=lambda n: n.startswith(FURTHER))]
    found = [(profile, load_records(profile)) for profile in profiles]
    return "\n".join(_part(profile, records) for profile, records in found if len(records))


def _part(profile: Profile, records: pd.DataFrame) -> str:
    shown = dataclasses.replace(
        profile,
        backbones=tuple(name for name in profile.backbones if name in set(records["backbone"])),
        losses=tuple(name for name in profile.losses if name in set(records["loss"])),
        seeds=tuple(seed for seed in profile.seeds if seed in set(records["seed"])),
    )
    protocol, spread = profile.protocols[0], "± is half the 95 % t interval over seeds."
    if len(shown.seeds) == 1:
        spread = "Brackets: Wilson's 95 % interval of the finite test set."
    trained = f"on the long tail (protocol {protocol.name}, imbalance factor"
    trained += f" {protocol.imbalance_factor:g})"
    if "longtailed" not in profile.train_sets:
        trained = f"on {protocol.balanced_count} images of each class"
    text = (
        f"## `{profile.name}`\n\n{profile.title}. Trained {trained}, top-1 accuracy in"
        f" percent on the balanced test; seeds {', '.join(map(str, shown.seeds))}. {spread}\n"
    )
    text += " ".join(profile.deviations) + f"\n\n{_grid(shown, records).markdown()}"
    states = [run_state(run) for run in unique_runs(profile)]
    if missing := sum(state != "done" for state in states):
        command = f"`make runs-list PROFILE={profile.name}`"
        text += f"\nMissing: {missing} of {len(states)} runs; {command} lists them.\n"
    picture = f"figures/{profile.name}/head_middle_tail.png"
    if (ROOT / picture).exists():
        text += f"\n![Accuracy of head, middle and tail, profile {profile.name}](../{picture})\n"
    return text


def _grid(shown: Profile, records: pd.DataFrame) -> Grid:
    grid, summary, protocol = Grid(shown), summarise(records), shown.protocols[0].name
    titles, one_seed = SET_TITLES | {"balanced": "All"}, len(shown.seeds) == 1
    train_set = "longtailed" if "longtailed" in shown.train_sets else "balanced"
    for eval_set in ("balanced", "balanced_head", "balanced_middle", "balanced_tail"):
        title = ("", titles[eval_set])
        grid.add_summary(summary, protocol, train_set, eval_set, title, interval=one_seed)
    return grid


WAYS = {  # how much of a backbone moves: the profile, and its words
    "probe": "when it stays frozen",
    "light": "with small adapters beside its frozen weights",
    "whole": "when all of it is tuned",
}
SHORT = {"probe": "frozen", "light": "light", "whole": "whole"}
LISTED = (*registry.LOSSES, "ldam_drw", "logit_adjusted")


def finding() -> str:
    """The README's first result, notebook 20's: ViT-Ti/16, frozen, light and whole, with balanced
    softmax and with softmax, as far as the records go."""
    backbone, losses = "vit_tiny_patch16_224", ("balanced_softmax", "softmax")
    found = {}
    for name, words in WAYS.items():
        summary = summarise(load_records(load_profile(name, [backbone], losses)))
        if len(summary):
            found[words] = summary.xs(("standard", "longtailed", backbone))

    def accuracy(words: str, loss: str, eval_set: str) -> str:
        key = loss, eval_set
        return (
            number(*found[words].loc[key, ["mean", "half"]]) if key in found[words].index else "–"
        )

    parts = [
        f"{accuracy(words, losses[0], 'balanced')} % {words}"
        f" (tail: {accuracy(words, losses[0], 'balanced_tail')} %)"
        for words in found
    ]
    tails = [accuracy(words, losses[1], "balanced_tail") for words in found]
    text = (
        "On CIFAR100-LT (imbalance factor 100), a ViT-Ti/16 with ImageNet weights and balanced"
        f" softmax is right on this share of the balanced test: {_and(parts)}. With softmax the"
        f" tail ends at {_and(tails)} %: how much moves matters, and so does the loss."
    )
    return textwrap.fill(text, 100, break_on_hyphens=False)


def _and(parts: list[str]) -> str:
    return ", ".join(parts[:-1]) + " and " * (len(parts) > 1) + "".join(parts[-1:])


def losses_table() -> str:
    """The README's table: every loss on each backbone and way of tuning that has all seven, all
    classes and the tail of CIFAR100-LT."""
    columns = {}
    for name, backbone in itertools.product(WAYS, ("mobilenetv2_100", "vit_tiny_patch16_224")):
        profile = load_profile(name, [backbone], LISTED, protocols=["standard"])
        found = summarise(load_records(profile))
        place = "standard", "longtailed", backbone
        if not all((*place, loss, "balanced") in found.index for loss in registry.LOSSES):
            continue
        for title, eval_set in (("all", "balanced"), ("tail", "balanced_tail")):
            columns[f"{backbone_title(backbone)}, {SHORT[name]}: {title}"] = {
                registry.title(loss): number(*found.loc[(*place, loss, eval_set), ["mean", "half"]])
                for loss in LISTED
                if (*place, loss, eval_set) in found.index
            }
    table = pd.DataFrame(columns, [registry.title(loss) for loss in LISTED]).fillna("–")
    lines = ["| loss | " + " | ".join(table) + " |", "|---|" + "---:|" * table.shape[1]]
    lines += [
        f"| {loss} | {' | '.join(row)} |"
        for loss, row in zip(table.index, table.values, strict=True)
    ]
    said = "Accuracy (%) on the balanced test, imbalance factor 100; ± is half the 95 % t interval"
    return "\n".join([f"{said}\nover three seeds.", "", *lines])


PLACES = {  # what `make readme` writes between marks: the page, and what is made
    "finding": ("README.md", finding),
    "losses": ("README.md", losses_table),
    "results": ("docs/results.md", results_page),
}


def marked(name: str) -> str:
    """What stands in a page between the marks of one of ``PLACES``, made anew."""
    made = PLACES[name][1]().rstrip()
    return f"<!-- {name}: made by `make readme` -->\n\n{made}\n\n<!-- end of {name} -->"


def write_readme() -> None:
    """Put what ``PLACES`` names into the README and into ``docs``."""
    for name, (page, _) in PLACES.items():
        text, new = (ROOT / page).read_text(), marked(name)
        begin, end = (new.splitlines()[i] for i in (0, -1))
        before, _, rest = text.partition(begin)
        write_changed(ROOT / page, f"{before}{new}{rest.partition(end)[2]}")
