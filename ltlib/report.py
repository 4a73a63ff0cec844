"""Tables and figures out of records, for notebooks and for LaTeX."""

from __future__ import annotations

import itertools
import os
import re
import textwrap
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from ltlib.backbones import backbone_title
from ltlib.config import DRW, ROOT, Profile, Protocol, atomic_path, figures_dir
from ltlib.launch import run_state, unique_runs
from ltlib.longtail import GROUPS, base_set
from ltlib.metrics import exceeds_noise, mean_interval, proportion_interval, student

TEXT_WIDTH = 6.3  # inches: A4 with margins of 2.5 cm


class _Titles(dict):
    """What a profile of your own names is called by that name."""

    def __missing__(self, name: str) -> str:
        return name


LOSS_TITLES = _Titles({
    "softmax": "Softmax",
    "weighted_softmax": "Weighted softmax",
    "focal": "Focal",
    "class_balanced": "Class-balanced",
    "balanced_softmax": "Balanced softmax",
    "ldam": "LDAM",
    "equalization": "Equalization",
    "weighted_softmax_drw": "Weighted softmax, DRW",
    "focal_drw": "Focal, DRW",
    "class_balanced_drw": "Class-balanced, DRW",
    "ldam_drw": "LDAM-DRW",
    "logit_adjusted": "Logit adjustment",
    "pf": "PF-loss",
    "arconvl": "ARConvL",
    "gbg": "GBG",
    "gcpl": "GCPL",
    "affinity": "Affinity",
    "affinity_043": "Affinity",
    "wce": "WCE",
    "focal_alpha": "Focal (α)",
    "wldam": "Weighted LDAM",
    "pfh": "PFH-loss",
    "cpl": "CPL",
    "cpl_focal": "Focal (CPL)",
    "cpl_cb": "CB (CPL)",
    "cpl_cb_focal": "CB Focal (CPL)",
    "cpl_la": "LA (CPL)",
    "arconvl_beta0": "ARConvL, β = 0",
    "arconvl_sigma0": "ARConvL, σ² = 0",
    "arconvl_c": "ARConvL without centre loss",
    "arconvl_paper": "ARConvL, the paper's weights",
    "cosine": "Softmax, cosine head",
    "gbg_full": "GBG with contrastive term",
    "gbg_without": "GBG without contrastive term",
    "gbg_sum": "GBG, equal weights",
    "gbg_random": "GBG, random groups",
    "gbg_count": "GBG, head/middle/tail",
})
LOSS_SHORT = _Titles({
    "softmax": "Soft", "weighted_softmax": "Weight", "focal": "Focal", "class_balanced": "CB", "balanced_softmax": "BalSoft",
    "ldam": "LDAM", "equalization": "EQL", "weighted_softmax_drw": "Weight-D", "focal_drw": "Focal-D", "class_balanced_drw": "CB-D",
    "ldam_drw": "LDAM-D", "logit_adjusted": "LA", "pf": "PF", "arconvl": "ARC", "gbg": "GBG",
})
SET_TITLES = {"balanced": "Balanced", "longtailed": "Long-tailed", "head": "Head", "middle": "Middle", "tail": "Tail",
              "balanced_head": "Head", "balanced_middle": "Middle", "balanced_tail": "Tail"}
TRAIN_TITLES = {"balanced": "balanced", "longtailed": "long-tailed"}
THESIS_NAMES = {"mobilenetv2": "mobilenetv2", "resnetv2": "resnet50v2", "vit": "vit_b16", "convnext": "convnext_base"}
THESIS_BACKBONES = {"mobilenetv2": "mobilenetv2_100", "resnet50v2": "resnetv2_50", "vit_b16": "vit_base_patch16_224",
                    "convnext_base": "convnext_base"}
GROUP_COLORS = {"head": "#3b6fb6", "middle": "#e0a030", "tail": "#b5403a"}
DAGGER = "†"
TIGHTLIST = "\\providecommand{\\tightlist}{\\setlength{\\itemsep}{0pt}\\setlength{\\parskip}{0pt}}\n"  # pandoc's lists ask for it


def thesis_results() -> pd.DataFrame:
    """The thesis's printed results, ``data/reference/thesis.csv``: acc1 and f1 as fractions, its loss in nats.

    Rows that the thesis cannot have measured (its ViT LDAM row repeats another one) are left out.
    """
    table = pd.read_csv(ROOT / "data" / "reference" / "thesis.csv")
    return table[~table["note"].fillna("").str.contains("treat as missing")]


def thesis_backbone(name: str) -> str | None:
    """The thesis's backbone of the same family, or None."""
    return THESIS_NAMES.get(name.split("_")[0])


def thesis_notes(profile: Profile) -> list[str]:
    """A note, where a backbone is not the thesis's own, on whose numbers stand in its "thesis" columns."""
    own = {b: THESIS_BACKBONES[thesis_backbone(b)] for b in profile.backbones if thesis_backbone(b)}
    stand_ins = [f"{backbone_title(theirs)} beside {backbone_title(b)}" for b, theirs in own.items() if b != theirs]
    return [f"In the thesis columns, CIFAR-100 with {', '.join(stand_ins)}."] if stand_ins else []


# ------------------------------------------------------------------------------------------ numbers


def summarise(records: pd.DataFrame, metric: str = "acc1", epoch_choice: str = "last") -> pd.DataFrame:
    """Mean and interval over seeds of one metric, for each protocol, training set, backbone, loss and evaluation set.

    Columns: mean; half (half width of the 95 % t interval over seeds, nan for one seed); seeds; low and high (for acc1:
    Wilson's 95 % interval of the hits of all seeds' mean on n images, the noise of a finite test set); same_as_softmax.
    Source rows: :func:`ltlib.records.load_records`.
    """
    rows = records[(records["metric"] == metric) & (records["epoch_choice"] == epoch_choice)]
    keys = ["protocol", "train_set", "backbone", "loss", "eval_set"]
    result = {}
    for key, group in rows.groupby(keys, sort=False):
        mean, half = mean_interval(group["value"])
        n = int(group["n"].iloc[0])
        low, high = proportion_interval(round(mean * n), n) if metric == "acc1" else (np.nan, np.nan)
        result[key] = [mean, half, len(group), n, low, high, bool(group["same_as_softmax"].any())]
    columns = ["mean", "half", "seeds", "n", "low", "high", "same_as_softmax"]
    return pd.DataFrame.from_dict(result, orient="index", columns=columns).set_axis(
        pd.MultiIndex.from_tuples(list(result), names=keys) if result else pd.MultiIndex.from_arrays([[]] * 5, names=keys))


def number(mean: float, half: float = np.nan, scale: float = 100, digits: int = 1) -> str:
    """ "84.3", "84.3 ± 0.6" over seeds, or a dash for what is missing."""
    if not np.isfinite(mean):
        return "–"
    text = f"{scale * mean:.{digits}f}".replace("-", "−")
    return text if not np.isfinite(half) else f"{text} ± {scale * half:.{digits}f}"


def signed(points: float) -> str:
    """ "+1.2" or "−1.2", with a minus sign."""
    return f"{points:+.1f}".replace("-", "−")


BEST, SECOND = "font-weight: bold", "text-decoration: underline"


class Grid:
    """A table of numbers with text for each, by backbone and loss, that marks the best and the second of each backbone and column."""

    def __init__(self, profile: Profile):
        self.profile = profile
        self.index = [(b, loss) for b in profile.backbones for loss in profile.losses]
        self.columns: list[tuple[str, str]] = []
        self.text: list[dict] = []
        self.best: list[dict] = []
        self.daggers: set = set()

    def add(self, title: tuple[str, str], values: dict, text: dict, best: str = "max", bold: bool = True) -> None:
        """Add a column: (backbone, loss) -> value and its text; missing ones become dashes."""
        marks = {}
        for backbone in self.profile.backbones if bold else ():
            known = {loss: values[backbone, loss] for loss in self.profile.losses if np.isfinite(values.get((backbone, loss), np.nan))}
            if known:
                printed = {loss: text.get((backbone, loss), str(value)).split(" ")[0] for loss, value in known.items()}
                places = list(dict.fromkeys(printed[loss] for loss in sorted(known, key=known.get, reverse=best == "max")))
                marks |= {(backbone, loss): mark for place, mark in zip(places, (BEST, SECOND), strict=False)
                          for loss in known if printed[loss] == place}  # what is printed alike is not ranked
        self.columns.append(title)
        self.text.append(text)
        self.best.append(marks)

    def add_summary(self, summary: pd.DataFrame, protocol: str, train_set: str, eval_set: str, title, *, scale=100, digits=1,
                    best="max", interval=False) -> None:
        """Add a column from :func:`summarise`; ``interval`` adds [low, high], what the finite test set leaves open."""
        values, text = {}, {}
        for backbone, loss in self.index:
            key = (protocol, train_set, backbone, loss, eval_set)
            if key not in summary.index:
                continue
            row = summary.loc[key]
            values[backbone, loss] = row["mean"]
            text[backbone, loss] = number(row["mean"], row["half"], scale, digits)
            if interval:
                text[backbone, loss] += f" [{scale * row['low']:.1f}, {scale * row['high']:.1f}]"
            if row["seeds"] < len(self.profile.seeds):
                text[backbone, loss] += f" ({row['seeds']} of {len(self.profile.seeds)} seeds)"
            if row["same_as_softmax"]:
                self.daggers.add((backbone, loss))
        self.add(title, values, text, best)

    def frame(self) -> pd.DataFrame:
        rows = [[text.get(key, "–") for text in self.text] for key in self.index]
        names = [(backbone_title(b), LOSS_TITLES[loss] + (DAGGER if (b, loss) in self.daggers else "")) for b, loss in self.index]
        return pd.DataFrame(rows, index=pd.MultiIndex.from_tuples(names, names=[None, None]),
                            columns=pd.MultiIndex.from_tuples(self.columns))

    def styler(self, latex: bool = False):
        """The table for a notebook (or for Styler.to_latex), best of each backbone and column in bold, second underlined."""
        commands = {BEST: "textbf: --rwrap;", SECOND: "underline: --rwrap;"}
        marks = [[(commands[best[key]] if latex else best[key]) if key in best else "" for best in self.best] for key in self.index]
        frame = self.frame()
        marks = pd.DataFrame(marks, index=frame.index, columns=frame.columns)
        return frame.style.apply(lambda _: marks, axis=None)

    def markdown(self) -> str:
        """The table in GitHub's Markdown, a row for each backbone and loss, best in bold."""
        head = ["", "", *(f"{top}: {sub}".strip(": ") for top, sub in self.columns)]
        lines = [head, ["---"] * 2 + ["---:"] * len(self.columns)]
        for key, (names, cells) in zip(self.index, self.frame().iterrows(), strict=True):
            marks = ["**" if best.get(key) == BEST else "" for best in self.best]
            lines.append([*names, *(f"{mark}{cell}{mark}" for mark, cell in zip(marks, cells, strict=True))])
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def latex(self, notes=()) -> str:
        """A bare booktabs tabular: a block per backbone, best in bold, second underlined, notes under the last rule."""
        blocks, header, width = [], self._header(), len(self.columns) + 1
        for backbone in self.profile.backbones:
            if not any(key in text for text in self.text for key in self.index if key[0] == backbone):
                title = latex_escape(backbone_title(backbone))
                blocks.append(f"\\midrule\n\\multicolumn{{{width}}}{{l}}{{\\emph{{{title}}}: --, no run yet}} \\\\\n")
                continue
            styled = self.styler(latex=True)
            hidden = [row for row in styled.index if row[0] != backbone_title(backbone)]
            styled = styled.hide(hidden, axis="index").hide(level=0, axis="index") if hidden else styled.hide(level=0, axis="index")
            styled = styled.format(escape="latex").format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
            latex = styled.to_latex(hrules=True, multicol_align="c", column_format="l" + "r" * len(self.columns))
            body = latex.split("\\midrule\n", 1)[1].split("\\bottomrule", 1)[0]
            blocks.append(f"\\midrule\n\\multicolumn{{{width}}}{{l}}{{\\emph{{{latex_escape(backbone_title(backbone))}}}}} \\\\\n{body}")
        if self.daggers:
            deferred = any(loss.endswith(DRW) for _, loss in self.daggers)
            other = "softmax (with deferred re-weighting: to the loss without it)" if deferred else "softmax"
            notes = [f"{DAGGER} Equal to {other} on equal class counts by mathematics: computed once.", *notes]
        text = header + "".join(blocks) + "\\bottomrule\n" + _foot(notes, self.frame()) + "\\end{tabular}\n"
        return latex_signs(text)

    def _header(self) -> str:
        empty = self.frame().iloc[:0].style.format_index(escape="latex", axis=1).hide(level=0, axis="index")
        latex = empty.to_latex(hrules=True, multicol_align="c", column_format="l" + "r" * len(self.columns))
        return latex.split("\\midrule\n", 1)[0]


def _foot(notes, shown: pd.DataFrame, index_columns: int = 1, characters: int | None = None) -> str:
    """Lines of notes, no wider than the table itself: LaTeX would widen its last column for them."""
    titles = [title if isinstance(title, tuple) else ("", str(title)) for title in shown.columns]
    widths = [max(map(len, (sub, *column))) + 2 for (_, sub), column in zip(titles, shown.to_numpy(str).T, strict=True)]
    spans = itertools.groupby(range(len(titles)), lambda i: titles[i][0] or i)
    total = sum(max(sum(widths[i] for i in span), len(str(top))) for top, span in ((top, list(span)) for top, span in spans))
    total += sum(max((len(str(value)) for value in shown.index.get_level_values(-1 - level)), default=0) for level in range(index_columns))
    lines = [line for note in notes for line in textwrap.wrap(note, characters or int(total))]
    width = len(titles) + index_columns
    return "".join(f"\\multicolumn{{{width}}}{{l}}{{\\scriptsize {latex_escape(line)}}} \\\\\n" for line in lines)


def latex_signs(text: str) -> str:
    """The signs of our tables in LaTeX."""
    text = text.replace(DAGGER, "$^\\dagger$").replace("−", "$-$").replace("–", "--")
    for letter, name in zip("αβγσ", ("alpha", "beta", "gamma", "sigma"), strict=True):
        text = text.replace(letter, f"$\\{name}$")
    return text.replace(" ± ", "\\,$\\pm$\\,").replace("±", "$\\pm$")


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    names = {"\\": "\\textbackslash{}", "^": "\\textasciicircum{}", "~": "\\textasciitilde{}"}
    return re.sub(r"[&%$#_{}\\^~]", lambda found: names.get(found[0], "\\" + found[0]), text)


def accuracy_grid(profile: Profile, records: pd.DataFrame, train_set: str) -> Grid:
    """The thesis's tables 5.1 to 5.10: top-1 accuracy in percent on its five test sets, ours beside the thesis's."""
    grid, ours, theirs = Grid(profile), summarise(records), thesis_results()
    theirs = theirs[(theirs["train_set"] == train_set) & (theirs["metric"] == "acc1")].set_index(["backbone", "loss", "eval_set"])["value"]
    for eval_set in THESIS_SETS:
        grid.add_summary(ours, "thesis", train_set, eval_set, (SET_TITLES[eval_set], "ours"))
        printed = {key: theirs.get((thesis_backbone(key[0]), key[1], eval_set), np.nan) for key in grid.index}
        grid.add((SET_TITLES[eval_set], "thesis"), printed, {key: number(value) for key, value in printed.items()}, bold=False)
    return grid


def group_sets(protocol: Protocol, records: pd.DataFrame) -> dict[str, str]:
    """The evaluation sets by which groups are judged, for "all", "head", "middle" and "tail": parts of the balanced test.

    Imported photographs with unequal numbers of test images have only a long-tailed one.
    """
    natural = bool(protocol.counts) and base_set(set(records.loc[records["protocol"] == protocol.name, "eval_set"])) == "longtailed"
    return {"all": "longtailed" if natural else "balanced"} | {name: name if natural else f"balanced_{name}" for name in GROUPS}


def groups_grid(profile: Profile, records: pd.DataFrame, protocol: str, train_set: str) -> Grid:
    """Balanced-test accuracy of the three groups in percent, +- over seeds, and Wilson's intervals of the finite test set.

    With several seeds the brackets stand at the two tails alone, where they matter most and the page has room. Where the test set
    is the long-tailed one (:func:`group_sets`), a column has the accuracy of each class, averaged over classes.
    """
    grid, summary = Grid(profile), summarise(records)
    one_seed = len(profile.seeds) == 1
    sets = group_sets(profile.protocol(protocol), records)
    for group, eval_set in sets.items():
        title = "Long-tailed test" if sets["all"] == "longtailed" else "Balanced test", group.capitalize()
        grid.add_summary(summary, protocol, train_set, eval_set, title, interval=one_seed or group == "tail")
    if profile.protocol(protocol).longtailed_test:
        grid.add_summary(summary, protocol, train_set, "tail", ("Long-tailed test", "Tail"), interval=True)
    if sets["all"] == "longtailed":
        grid.add_summary(summarise(records, "class_acc"), protocol, train_set, "longtailed", ("Long-tailed test", "Mean of classes"))
    return grid


def appendix_grid(profile: Profile, records: pd.DataFrame, train_set: str) -> Grid:
    """The thesis's appendix: cross-entropy (nats), accuracy and support-weighted F1 (percent) on its five test sets.

    Means over seeds. Unlike the thesis's, the loss is plain cross-entropy everywhere, so that rows can be compared.
    """
    grid = Grid(profile)
    for metric, title, scale, digits, best in (("loss", "CE", 1, 2, "min"), ("acc1", "Acc", 100, 1, "max"), ("f1", "F1", 100, 1, "max")):
        summary = summarise(records, metric).assign(half=np.nan)
        for eval_set in THESIS_SETS:
            grid.add_summary(summary, "thesis", train_set, eval_set, (SET_TITLES[eval_set], title), scale=scale, digits=digits, best=best)
    order = sorted(range(15), key=lambda i: (i % 5, i // 5))
    grid.columns, grid.text, grid.best = ([part[i] for i in order] for part in (grid.columns, grid.text, grid.best))
    return grid


THESIS_IMAGES = {"balanced": 5000, "longtailed": 1051, "head": 844, "middle": 169, "tail": 38}  # of its test sets
THESIS_SETS = ("balanced", "longtailed", "head", "middle", "tail")
NOISE_COLORS = {  # on white, and on a dark page
    "within noise": "light-dark(#666666, #a8a8a8)",
    "ours higher": "light-dark(#1b5fa8, #8ab8ee)",
    "ours lower": "light-dark(#a8321b, #f09a85)",
}


def thesis_stand_in(profile: Profile, records: pd.DataFrame, backbone: str) -> str | None:
    """The backbone of the profile that stands beside one of the thesis's: one of its family with runs, its own before others; else any."""
    family = [b for b in profile.backbones if thesis_backbone(b) == backbone]
    there = set(records["backbone"])
    return min(family, key=lambda b: (b not in there, b != THESIS_BACKBONES[backbone]), default=None)


def thesis_appendix(profile: Profile, records: pd.DataFrame, backbone: str, train_set: str,
                    full: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """One table of the thesis's appendix A, ours beside theirs: its text, and the CSS that colours ours (``NOISE_COLORS``).

    backbone: the thesis's name. full: loss (each row's own criterion), accuracy and F1, otherwise accuracy alone; accuracies and F1 in
    percent, means over seeds. Coloured is whether the difference exceeds the noise of two finite test sets and of our seeds
    (:func:`ltlib.metrics.exceeds_noise`; F1 is judged as if it were an accuracy; losses are not judged).
    """
    printed = pd.read_csv(ROOT / "data" / "reference" / "thesis.csv").query("backbone == @backbone and train_set == @train_set")
    printed = printed.set_index(["loss", "eval_set", "metric"])
    ours, here = {m: summarise(records, m) for m in ("criterion", "acc1", "f1")}, thesis_stand_in(profile, records, backbone)
    measures = (("criterion", "Loss"), ("acc1", "Acc"), ("f1", "F1")) if full else (("acc1", "Acc"),)
    columns = pd.MultiIndex.from_tuples([(SET_TITLES[s], title) for s in THESIS_SETS for _, title in measures])
    losses = [loss for loss in LOSS_TITLES if loss in printed.index.unique(0)]
    index = pd.MultiIndex.from_tuples([(LOSS_TITLES[loss], who) for loss in losses for who in ("thesis", "ours")])
    text, css = pd.DataFrame("–", index, columns), pd.DataFrame("", index, columns)
    for loss, eval_set, (metric, title) in itertools.product(losses, THESIS_SETS, measures):
        column, scale, digits = (SET_TITLES[eval_set], title), *((1, 2) if metric == "criterion" else (100, 1))
        theirs = printed.loc[loss, eval_set, "loss" if metric == "criterion" else metric]
        missing = "treat as missing" in str(theirs["note"])
        if not missing:
            text.loc[(LOSS_TITLES[loss], "thesis"), column] = number(theirs["value"], scale=scale, digits=digits)
        key = ("thesis", train_set, here, loss, eval_set)
        if key not in ours[metric].index:
            continue
        row = ours[metric].loc[key]
        text.loc[(LOSS_TITLES[loss], "ours"), column] = number(row["mean"], scale=scale, digits=digits)
        if metric != "criterion" and not missing:
            sem = row["half"] / student(row["seeds"]) if row["seeds"] > 1 else 0.0
            noisy = not exceeds_noise(theirs["value"], THESIS_IMAGES[eval_set], row["mean"], row["n"], sem)
            kind = "within noise" if noisy else "ours higher" if row["mean"] > theirs["value"] else "ours lower"
            css.loc[(LOSS_TITLES[loss], "ours"), column] = f"color: {NOISE_COLORS[kind]}"
    return text, css


PUBLISHED_METHODS = {"softmax": ("CE", "Softmax"), "ldam_drw": ("LDAM-DRW",), "balanced_softmax": ("Balanced Softmax (end to end)",)}
PUBLISHED_BACKBONES = {"resnet32": "ResNet-32", "vit_base_patch16_224": "ViT-B/16", "resnetv2_50": "ResNet-50x1 v2 (BiT-M)",
                       "convnext_base": "ConvNeXt-B", "mobilenetv2_100": "MobileNetV2"}


def is_comparable(profile: Profile, protocol: Protocol) -> bool:
    """Whether published results on CIFAR-100(-LT) may stand beside this profile's: models trained whole, the standard sets."""
    sizes = (protocol.max_count, protocol.balanced_count, protocol.test_per_class)
    return profile.dataset == "cifar100" and profile.mode != "probe" and sizes == (500, 500, 100)


def published_grid(profile: Profile, records: pd.DataFrame, protocol: Protocol, train_set: str) -> tuple[Grid, list[str]]:
    """Balanced-test accuracy in percent, ours beside published ones (``data/reference/literature_*.csv``), and notes on their sources.

    For fine-tuned backbones a note says what other methods reach with pretrained ones at this imbalance factor.
    """
    grid, ours, notes, published = Grid(profile), summarise(records), [], {}
    for eval_set, title in (("balanced", "All"), ("balanced_head", "Many"), ("balanced_middle", "Medium"), ("balanced_tail", "Few")):
        grid.add_summary(ours, protocol.name, train_set, eval_set, ("Ours", title))
    longtailed = train_set == "longtailed"
    table = pd.read_csv(ROOT / "data" / "reference" / f"literature_cifar100{'lt' if longtailed else ''}.csv").astype(object).fillna("")
    for backbone, loss in grid.index:
        rows = table[table["backbone"] == PUBLISHED_BACKBONES.get(backbone, "")]
        if longtailed:
            rows = rows[rows["method"].isin(PUBLISHED_METHODS.get(loss, ()))]
        elif loss != "softmax":
            continue
        for _, row in rows.iterrows():
            accuracy = f"{row['top1']:g}" if row["top1"] != "" else f"{row['top1_low']:g}–{row['top1_high']:g}"
            here = not longtailed or row["imbalance_factor"] == protocol.imbalance_factor
            if here:
                published.setdefault((backbone, loss), []).append(accuracy)
            where = f"{LOSS_TITLES[loss]} {accuracy}" + ("" if here else f" at IF {row['imbalance_factor']}")
            notes.append(f"Published, {backbone_title(backbone)}, {where}: {_source(row)}.")
    if longtailed and profile.mode == "finetune":
        rows = table[(table["pretraining"] != "none") & (table["imbalance_factor"] == protocol.imbalance_factor)]
        others = [f"{row['method']}, {row['backbone']}, {row['top1']:g}: {_source(row)}." for _, row in rows.iterrows()]
        notes += [f"Published with pretrained models at IF {protocol.imbalance_factor:g}: {' '.join(others)}"] if others else []
    grid.add(("Published", "All"), {}, {key: ", ".join(values) for key, values in published.items()}, bold=False)
    return grid, notes


def _source(row: pd.Series) -> str:
    pretraining = "" if row["pretraining"] == "none" else row["pretraining"]
    return "; ".join(filter(None, (pretraining, row["source"], row["note"], "" if row["verified"] == "yes" else "not verified")))


def missing_runs(profile: Profile) -> list[str]:
    """Runs without a finished record, each with its state, a line for all of a backbone that has none: what dashes stand for."""
    states = {run: run_state(run) for run in unique_runs(profile)}
    lines = []
    for backbone in profile.backbones:
        own = {run: state for run, state in states.items() if run.backbone == backbone}
        if set(own.values()) == {"missing"} and len(own) > 1:
            lines.append(f"{backbone}, all {len(own)} runs: missing")
        else:
            lines += [f"{run.describe()}: {state}" for run, state in own.items() if state != "done"]
    return lines


# ------------------------------------------------------------------------------------- derivations


def small_table(results: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Accuracy in percent, mean ± half the 95 % t interval over seeds: a row for each of ``derivations.over_seeds``."""
    return pd.DataFrame({name: {column.capitalize(): number(*mean_interval(values)) for column, values in table.items()}
                         for name, table in results.items()}).T


def plain_log(axis: matplotlib.axis.Axis) -> None:
    """Ticks at 1, 2, 5, 10, ... of a logarithmic axis, written as plain numbers."""
    low, high = axis.get_view_interval()
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5) if high < 1e4 * low else (1,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter("")


def gradient_figure(tables: dict[str, pd.DataFrame]) -> matplotlib.figure.Figure:
    """What a class of each group receives in an epoch, on average: one line per loss, of ``derivations.class_gradients``."""
    figure, axes = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.7), sharey=True)
    for ax, kind, title in zip(axes, ("label", "negative"), ("As the label: pulled up", "As a negative: pushed down"), strict=True):
        for marker, (name, table) in zip(itertools.cycle("osD^v"), tables.items(), strict=False):
            means = table.groupby("group")[kind].mean()
            shown = [group for group in GROUP_COLORS if group in means.index]
            ax.plot(shown, means[shown], marker=marker, label=name, markersize=5)
        ax.set(title=title, yscale="log", xlabel="Group of classes")
        plain_log(ax.yaxis)
        ax.margins(x=0.15)
    axes[0].set_ylabel("|gradient| per class\nand epoch, sum over images")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


# ----------------------------------------------------------------------------------------- files


def set_style() -> None:
    """One look for all figures: sized for print at text width, fonts embedded, legible at 8 points."""
    sns.set_theme(style="whitegrid", context="paper", palette="colorblind", rc={
        "font.size": 9, "axes.labelsize": 9, "axes.titlesize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "legend.fontsize": 8, "legend.title_fontsize": 8, "pdf.fonttype": 42, "figure.dpi": 120, "axes.grid": True,
        "grid.linewidth": 0.5, "figure.constrained_layout.use": True,
    })


class Output:
    """Where a notebook's figures and tables go: ``figures/<profile>``, or the folder that ``LTLIB_FIGURES`` names.

    Under make that is a temporary one: they move into place when the whole notebook has succeeded.
    """

    def __init__(self, profile: Profile):
        self.profile = profile
        self.folder = Path(os.environ.get("LTLIB_FIGURES") or figures_dir(profile.name))
        set_style()

    def figure(self, figure: matplotlib.figure.Figure, name: str, png: bool = False) -> None:
        """Save as a vector PDF, the same bytes for the same figure, and show it in the notebook; ``png``: as PNG too."""
        with atomic_path(self.folder / f"{name}.pdf") as partial:
            figure.savefig(partial, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
        if png:
            with atomic_path(self.folder / f"{name}.png") as partial:
                figure.savefig(partial, format="png", dpi=150, metadata={"Software": None})
        plt.show()

    def frame(self, frame: pd.DataFrame, name: str, css: pd.DataFrame | None = None, notes=(), widths=()) -> None:
        """Save a plain table as ``tables/<name>.tex``, a bare booktabs tabular, and show it in the notebook.

        css: "" or one declaration for each cell, such as "color: light-dark(#1b5fa8, #8ab8ee)" (in LaTeX the first of them, by package
        xcolor). notes stand under the last rule.
        widths: of the columns in cm, the index included, for tables of prose.
        """
        from IPython.display import display

        colored = frame.style if css is None else frame.style.apply(lambda _: css, axis=None)
        printed = frame.style if css is None else frame.style.apply(
            lambda _: css.replace(r"light-dark\((#\w+).*\)", r"\1", regex=True), axis=None)
        styled = printed.format(escape="latex").format_index(escape="latex", axis=0).format_index(escape="latex", axis=1)
        prose = "".join(rf">{{\raggedright\arraybackslash}}p{{{width}cm}}" for width in widths)
        layout = prose or "l" * frame.index.nlevels + "r" * frame.shape[1]
        latex = styled.to_latex(hrules=True, convert_css=True, multicol_align="c", multirow_align="naive", clines=None,
                                column_format=layout)
        latex = latex.replace("\\bottomrule\n", "\\bottomrule\n" + _foot(notes, frame, frame.index.nlevels, 100 if widths else None))
        with atomic_path(self.folder / "tables" / f"{name}.tex") as partial:
            partial.write_text(latex_signs(latex))
        display(colored.set_properties(**{"white-space": "normal", "text-align": "left"}) if widths else frame if css is None else colored)

    def text(self, markdown: str, name: str) -> None:
        """Save a piece of prose as ``<name>.tex``, and show it in the notebook."""
        import pypandoc
        from IPython.display import Markdown, display

        latex = pypandoc.convert_text(markdown, "latex", "markdown-auto_identifiers", extra_args=["--wrap=none"])
        with atomic_path(self.folder / f"{name}.tex") as partial:
            partial.write_text(TIGHTLIST + latex)
        display(Markdown(markdown))

    def table(self, grid: Grid, name: str, notes=()) -> None:
        """Save as ``tables/<name>.tex``, and show it in the notebook."""
        from IPython.display import display

        seeds = ", ".join(map(str, self.profile.seeds))
        counted = f"Seeds: {seeds}." + (" Mean ± half the 95 % t interval over seeds." if len(self.profile.seeds) > 1 else "")
        with atomic_path(self.folder / "tables" / f"{name}.tex") as partial:
            partial.write_text(grid.latex([counted, *notes, *self.profile.deviations]))
        display(grid.styler().set_table_styles([{"selector": "td, th", "props": "white-space: nowrap"}]))
