"""Profiles: TOML files that name data, backbones, losses, seeds and recipe, and unfold into
runs."""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import tomllib
from dataclasses import field
from pathlib import Path
from typing import Annotated, Literal

from ltlib import registry
from ltlib.checked import (
    NAME,
    NAME_PATTERN,
    Count,
    Positive,
    Several,
    bounds,
    checked,
    table,
    value_of,
    within,
)
from ltlib.data.sizes import dataset_size
from ltlib.errors import ConfigError, require, require_number, require_one_of
from ltlib.files import ROOT
from ltlib.protocol import TRAIN_SETS, Protocol
from ltlib.recipe import Recipe
from ltlib.runs.config import Pretraining, RunConfig, computed_as

PROFILES = ROOT / "profiles"


@checked
class Slurm:
    """What ``LAUNCHER=slurm`` asks for, per run: ``minutes`` of time, ``gpus`` (0: none), ``cpus``,
    ``memory_gb`` (0: the cluster's default), a ``partition`` ("": the cluster's default); at most
    ``concurrency`` runs at a time."""

    partition: str = ""
    minutes: Positive = 1440
    gpus: Count = 1
    cpus: Positive = 4
    memory_gb: Count = 32
    concurrency: Positive = 8


@checked
class Method:
    """A loss with options and a head, under a name that a profile gives it; ``title`` and ``short``
    are what tables call it."""

    loss: str
    head: str = ""
    options: dict = field(default_factory=dict)
    title: str = ""
    short: str = ""


@checked
class BackboneOf:
    """Runs of another profile whose trained backbones take the place of the pretrained ones: those
    with this loss, and the backbone, training set, seed and protocol of the run that starts."""

    profile: str
    loss: str

    @functools.cached_property
    def _runs(self) -> Profile:
        mode = _read(_profile_path(self.profile)).get("mode")
        whole = "one with mode 'finetune', which trains whole backbones"
        require(mode == "finetune", "backbone_of.profile", self.profile, whole)
        return load_profile(self.profile)

    def run_id(self, backbone: str, train_set: str, seed: int, protocol: str) -> str:
        """Of the run whose backbone a run with these starts from."""
        return self._runs.config(backbone, self.loss, train_set, seed, protocol).id


# of a profile's own methods in figures: seaborn's "dark" palette, and markers in turn
OWN_COLORS = ("#001c7f", "#b1400d", "#12711c", "#8c0800", "#591e71", "#592f0d", "#a23582")
OWN_MARKERS = "8x4+|_"  # none of the registry's


@checked
class Profile:
    """A named set of runs. ``configs()`` lists them; ``deviations`` are printed beside its results.

    base       a profile (name or path, without a base of its own) whose keys hold where this one
               has none; [recipe] is completed key by key
    losses     names of losses, of ``methods``, and of variants: ``<name>_drw`` re-weights from the
               fraction ``drw`` of the epochs on, ``logit_adjusted`` adjusts the softmax run (its
               only option: tau, 1 by default)
    datasets   the data set of a protocol, by its name, where it is not ``dataset``: the key dataset
               of [protocols.<name>]
    lr_by_loss  rates by backbone and loss, where a loss has not the backbone's: of a variant's own
               name, or its loss's
    head       of every loss that can have it; the others have their own
    methods    names of your own for a loss with options and a head
    notebooks  stems of the notebooks that this profile executes; none: all
    notebook_parameters  values for the cells tagged "parameters", of the notebooks that have them
    backbone_of  runs of another profile whose trained backbones these start from, such as those
               whose heads are to be fitted again
    tune       lists of values, by key of the recipe, that ``make tune`` tries in all combinations;
               tune_by  whether it chooses for a "backbone", on average over losses, or for each
               "loss" of a backbone; tune_seeds  what it averages over (none: the first seed)
    path       what load_profile was given: the name, or a TOML file
    """

    name: str
    title: str
    dataset: str
    mode: Literal["finetune", "light", "probe", "scratch"]
    backbones: Several[str]
    losses: Several[str]
    seeds: Several[int]
    protocols: Several[Annotated[Protocol, table(Protocol)]]
    recipe: Annotated[Recipe, table(Recipe)]
    recipe_by_backbone: dict[str, dict] = field(default_factory=dict)
    lr_by_loss: dict[str, dict[str, float]] = field(default_factory=dict)
    head: str = ""
    train_sets: Several[str] = TRAIN_SETS
    loss_options: dict[str, dict] = field(default_factory=dict)
    datasets: dict = field(default_factory=dict)
    methods: dict[str, Annotated[Method, table(Method)]] = field(default_factory=dict)
    notebooks: Several[str] = ()
    notebook_parameters: dict = field(default_factory=dict)
    drw: Annotated[float, bounds("a fraction of the epochs, 0 <= drw < 1", ge=0, lt=1)] = 0.8
    pretraining: Annotated[Pretraining, table(Pretraining)] | None = None
    backbone_of: Annotated[BackboneOf, table(BackboneOf)] | None = None
    deviations: Several[str] = ()
    tune: dict = field(default_factory=dict)
    tune_by: Literal["backbone", "loss"] = "backbone"
    tune_seeds: Several[int] = ()
    slurm: Annotated[Slurm, table(Slurm)] = Slurm()
    base: str = ""
    path: str = ""

    def configs(self) -> list[RunConfig]:
        """Every run of the profile, in the order of the tables."""
        return [
            self.config(backbone, loss, train_set, seed, protocol)
            for backbone in self.backbones
            for protocol in self.protocols
            for train_set in self.train_sets
            for loss in self.losses
            for seed in self.seeds
        ]

    def config(
        self, backbone: str, loss: str, train_set: str, seed: int, protocol: Protocol | str
    ) -> RunConfig:
        """One run of the profile. ``loss`` is a name that a profile may list, ``protocol`` one of
        the profile's or its name."""
        if isinstance(protocol, str):
            protocol = self.protocol(protocol)
        require_one_of("loss", loss, self.known_losses)
        start = self.backbone_of
        run = RunConfig(
            dataset=self.datasets.get(protocol.name, self.dataset),
            protocol=protocol,
            train_set=train_set,
            backbone=backbone,
            seed=seed,
            mode=self.mode,
            recipe=self._recipe(backbone, loss),
            pretraining=self.pretraining,
            backbone_of=start.run_id(backbone, train_set, seed, protocol.name) if start else "",
            profile=self.name,
            **self._what_a_loss_means(loss),
        )
        if not self.lr_by_loss or loss in self.methods:
            return run
        # a loss that is another one on equal counts has its rate there
        return dataclasses.replace(run, recipe=self._recipe(backbone, computed_as(run).variant))

    def _recipe(self, backbone: str, loss: str) -> Recipe:
        """The recipe of a backbone, with the loss's own rate where it has one."""
        changes, rates = (
            self.recipe_by_backbone.get(backbone, {}),
            self.lr_by_loss.get(backbone, {}),
        )
        base = "softmax" if loss == "logit_adjusted" else loss.removesuffix(registry.DRW)
        own = rates.get(loss, rates.get(base))
        return dataclasses.replace(self.recipe, **changes | ({"lr": own} if own else {}))

    def _what_a_loss_means(self, loss: str) -> dict:
        """The fields of a run that follow from what ``losses`` lists."""
        if own := self.methods.get(loss):
            options = tuple(own.options.items())
            return {"loss": own.loss, "loss_options": options, "head": own.head, "method": loss}
        if loss == "logit_adjusted":
            options = self.loss_options.get("softmax", {})
            tau = self.loss_options.get(loss, {}).get("tau", 1.0)
            options = {"loss_options": tuple(options.items()), "head": self._head("softmax")}
            return {"loss": "softmax", "tau": tau} | options
        name = loss.removesuffix(registry.DRW)
        options = {"loss_options": tuple(self.loss_options.get(name, {}).items())}
        drw = None if name == loss else self.drw
        return {"loss": name, "head": self._head(name), "drw": drw} | options

    def _head(self, loss: str) -> str:
        return self.head if self.head in registry.heads_of(loss) else ""

    @property
    def seeds_in_words(self) -> str:
        """ "seed 0", or "seeds 0, 1, 2"."""
        word = "seed" if len(self.seeds) == 1 else "seeds"
        return f"{word} {', '.join(map(str, self.seeds))}"

    @property
    def is_imported(self) -> bool:
        """Whether it is of imported photographs, whose protocols list their own counts."""
        return any(protocol.counts for protocol in self.protocols)

    @property
    def known_losses(self) -> tuple[str, ...]:
        """What ``losses`` may list."""
        return (*registry.ENTRIES, *registry.VARIANTS, *self.methods)

    def protocol(self, name: str) -> Protocol:
        """The profile's protocol of this name."""
        require_one_of("protocol", name, [p.name for p in self.protocols])
        return next(p for p in self.protocols if p.name == name)

    def loss_title(self, name: str) -> str:
        """What tables and figures call a loss, a variant or a method of this profile."""
        own = self.methods.get(name)
        return own.title or name if own else registry.title(name)

    def loss_style(self, name: str) -> dict[str, str]:
        """ "color" and "marker" of a loss or variant, the same in every figure; of this profile's
        own methods by their place among them."""
        if name not in self.methods:
            return {"color": registry.color(name), "marker": registry.marker(name)}
        place = list(self.methods).index(name)
        return {
            "color": OWN_COLORS[place % len(OWN_COLORS)],
            "marker": OWN_MARKERS[place % len(OWN_MARKERS)],
        }

    def short_title(self, name: str) -> str:
        """The same where columns are narrow."""
        own = self.methods.get(name)
        return own.short or name if own else registry.short_title(name)


def profile_names() -> list[str]:
    """The workbook's own profiles, by name."""
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def profiles_of(notebook: str) -> list[Profile]:
    """The profiles that belong to a notebook, by its stem: those that execute it and little
    else."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in PROFILES.glob("*.toml")}
    naming = [load_profile(name) for name in sorted(texts) if notebook in texts[name]]
    return [profile for profile in naming if notebook in profile.notebooks]


def parameters_of(notebook: Path) -> set[str]:
    """The names that a notebook's cell tagged "parameters" gives values to."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    tagged = ["".join(c["source"]) for c in cells if "parameters" in c["metadata"].get("tags", ())]
    return set(re.findall(r"^(\w+) = ", "\n".join(tagged), re.M))


def load_profile(
    name: str, backbones=(), losses=(), seeds=(), protocols=(), train_sets=()
) -> Profile:
    """Read ``profiles/<name>.toml``, or a TOML file of your own given by its path.

    The lists narrow or replace the profile's own, as ``BACKBONES=``, ``LOSSES=``, ``SEEDS=``,
    ``PROTOCOLS=`` and ``TRAIN_SETS=`` do for make. A protocol "standard_if50" is the profile's
    "standard" at imbalance factor 50. Raises ConfigError for unknown keys, wrong types and
    impossible values.
    """
    choices = {"backbones": backbones, "losses": losses, "seeds": seeds, "protocols": protocols}
    choices["train_sets"] = train_sets
    for key, chosen in choices.items():
        require(isinstance(chosen, list | tuple), key, chosen, f"a list, such as [{chosen!r}]")
    path = _profile_path(name)
    with within(path.name):
        table, listed = _completed(_read(path), path)
        table["protocols"], table["datasets"] = _protocols(table, protocols)
        table |= {k: list(v) for k, v in choices.items() if v and k != "protocols"}
        given = str(path.resolve()) if path.parent != PROFILES else path.stem
        profile = Profile(name=path.stem, path=given, **table)
        _check_lists(profile, choices)
        _check_tables(profile, {*listed, *profile.backbones})
        profile.configs()  # an impossible run is an error now, not in the middle of the night
    return profile


def _profile_path(name: str) -> Path:
    path = Path(name) if str(name).endswith(".toml") else PROFILES / f"{name}.toml"
    own = profile_names()
    expected = f"one of {', '.join(own)}, or the path of a TOML file"
    if not own:
        where = f"{PROFILES}, which a checkout of the workbook has, is not here"
        expected = f"the path of a TOML file: {where}"
    require(path.is_file(), "PROFILE", name, expected)
    plain = re.fullmatch(NAME_PATTERN, path.stem) is not None
    require(plain, "PROFILE", name, f"a file that has {NAME}")
    taken = path.stem in own and path.resolve().parent != PROFILES
    owner = f"results/{path.stem} belongs to the workbook's own profile"
    require(not taken, "PROFILE", name, f"another file name; {owner}")
    return path


def _read(path: Path) -> dict:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:  # ValueError: TOML, UTF-8, long numbers
        raise ConfigError(f"not a readable TOML file: {error}") from None
    reasons = dict.fromkeys(("name", "path"), "the file's name is the profile's")
    reasons["datasets"] = "a protocol's own data set is a key of it, dataset"
    for key, reason in reasons.items():
        if key in table:
            raise ConfigError(f"the key {key!r} is not to be set: {reason}")
    return table


def _completed(table: dict, path: Path) -> tuple[dict, set]:
    """The table of a profile with what it takes from its base (a path is relative to its file), and
    the backbones that the two list."""
    listed, name = _listed(table), table.get("base")
    if not name:
        return table, listed
    require(isinstance(name, str), "base", name, "the name or path of a profile")
    own = path.parent / name
    base = _read(own if own.suffix == ".toml" and own.exists() else _profile_path(name))
    require("base" not in base, "base", name, "a profile that has no base itself")
    recipes = [part.get("recipe", {}) for part in (base, table)]
    if all(isinstance(recipe, dict) for recipe in recipes):
        table = table | {"recipe": recipes[0] | recipes[1]}
    return base | table, listed | _listed(base)


def _listed(table: dict) -> set:
    """The backbones of a table, where it has a list of names."""
    names = table.get("backbones")
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


def _protocols(table: dict, wanted) -> tuple[list[dict], dict[str, str]]:
    """Tables of the wanted protocols (all where none is named), and the data set of each by
    name."""
    own, protocols, datasets = table.get("protocols"), {}, {}
    if not isinstance(own, dict) or not all(isinstance(value, dict) for value in own.values()):
        raise ConfigError("protocols: expected tables like [protocols.thesis]")
    for name, value in own.items():
        if "name" in value:
            named = "[protocols.thesis] is named thesis"
            raise ConfigError(f"protocols: the key 'name' is not to be set: {named}")
        datasets[name] = value.pop("dataset", table.get("dataset"))
        protocols[name] = {"name": name} | _with_own_counts(value, datasets[name])
    found = [_find_protocol(protocols, name) for name in wanted or protocols]
    bases = {p["name"]: p["name"].rpartition("_if")[0] for p in found}
    return found, {name: datasets.get(name, datasets.get(base)) for name, base in bases.items()}


def _with_own_counts(value: dict, dataset) -> dict:
    """The table of a protocol; of a data set with class counts of its own, with what follows."""
    if not isinstance(dataset, str) or not (size := dataset_size(dataset)).counts:
        return value
    for key in value.keys() - {"groups"}:
        raise ConfigError(
            f"protocols: the key {key!r} is not to be set: {dataset} has its own class counts, and"
            ' only groups = "survey", "thesis" or "step" is left to choose'
        )
    return Protocol.natural(size) | value


def _find_protocol(own: dict[str, dict], name) -> dict:
    base, _, factor = str(name).rpartition("_if")
    if name not in own and base in own and re.fullmatch(r"\d+(\.\d+)?", factor):
        if own[base].get("imbalance_factor", Protocol.imbalance_factor) == float(factor):
            return own[base]
        return own[base] | {"name": name, "imbalance_factor": float(factor)}
    require_one_of("protocol", name, own)
    return own[name]


def _check_lists(profile: Profile, choices: dict) -> None:
    """What a profile lists is known, and listed once."""
    for loss in profile.losses:
        require_one_of("losses", loss, profile.known_losses)
    sources = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    for notebook in profile.notebooks:
        require_one_of("notebooks", notebook, [path.stem for path in sources])
    for name in profile.notebook_parameters:
        known = sorted(set().union(*map(parameters_of, sources)))
        require_one_of("notebook_parameters", name, known)
    for key, chosen in choices.items():
        values = getattr(profile, key)
        require(values, key, values, "at least one")
        shown = chosen or [getattr(value, "name", value) for value in values]
        require(len(set(values)) == len(values), key, shown, "each one once")


def _check_tables(profile: Profile, backbones: set[str]) -> None:
    """What stands in the optional tables can be meant; numbers of [tune] and of a backbone's recipe
    become what the recipe has."""
    for name, own in profile.methods.items():
        where = f"methods.{name}"
        new = name not in (*registry.ENTRIES, *registry.VARIANTS)
        require(new, where, name, "a name that no loss has already")
        plain = re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None
        require(plain, where, name, "small letters, digits and underscores")
        require_one_of(f"{where}: loss", own.loss, registry.ENTRIES)
    if profile.head:
        require_one_of("head", profile.head, registry.HEADS)
    for backbone, rates in profile.lr_by_loss.items():
        require_one_of("lr_by_loss", backbone, backbones)
        for loss, rate in rates.items():
            require_one_of(f"lr_by_loss.{backbone}", loss, profile.known_losses)
            value_of(Recipe, "lr", rate, f"lr_by_loss.{backbone}.{loss}")
    for loss in profile.loss_options:
        require_one_of("loss_options", loss, (*registry.ENTRIES, "logit_adjusted"))
    for key, value in profile.loss_options.get("logit_adjusted", {}).items():
        require_one_of("loss_options.logit_adjusted", key, ("tau",))
        require_number("loss_options.logit_adjusted.tau", value, 0, open_low=True)
    for key, values in profile.tune.items():
        where = f"tune.{key}"
        require_one_of("tune", key, Recipe.__dataclass_fields__)
        require(isinstance(values, list) and values, where, values, "a list of values to try")
        values[:] = [value_of(Recipe, key, v, f"{where}[{i}]") for i, v in enumerate(values)]
        require(len(set(values)) == len(values), where, values, "each one once")
    for backbone, override in profile.recipe_by_backbone.items():
        require_one_of("recipe_by_backbone", backbone, backbones)
        with within(f"recipe_by_backbone.{backbone}"):
            for key in override:
                require_one_of("key", key, Recipe.__dataclass_fields__)
            merged = dataclasses.replace(profile.recipe, **override)
        override.update({key: getattr(merged, key) for key in override})


def with_slurm(profile: Profile, text: str) -> Profile:
    """The profile with other wishes for SLURM: "partition=gpu minutes=600". Raises ConfigError for
    unknown or wrong ones."""
    table = dataclasses.asdict(profile.slurm)
    for word in text.split():
        key, equals, value = word.partition("=")
        require(bool(equals), "SLURM", text, "words like partition=gpu or minutes=600")
        number = value.isdecimal() and key != "partition"
        table[key] = int(value) if number else value
    with within("SLURM"):
        return dataclasses.replace(profile, slurm=Slurm(**table))
