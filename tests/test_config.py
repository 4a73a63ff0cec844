import dataclasses
import json
import os
import subprocess
import sys

import pytest

from ltlib import config
from ltlib.config import (
    Busy,
    ConfigError,
    Pretraining,
    Protocol,
    Recipe,
    RunConfig,
    Slurm,
    atomic_path,
    exclusive,
    load_profile,
    profile_names,
    with_slurm,
)
from ltlib.losses import LOSSES, build_loss
from ltlib.records import computed_as

PROFILE = """
title = "Mine"
dataset = "digits"
mode = "finetune"
backbones = ["vit_small32", "resnetv2_small32"]
losses = ["softmax", "ldam"]
seeds = [0, 1]

[protocols.thesis]
max_count = 100
balanced_count = 21
val_per_class = 10
test_per_class = 50
longtailed_test = true
groups = "thesis"

[protocols.other]
max_count = 50
imbalance_factor = 50.0
balanced_count = 10
val_per_class = 10
test_per_class = 50
longtailed_test = false
groups = "survey"

[recipe]
epochs = 8
batch_size = 64
optimizer = "adamw"
lr = 3.0e-3
resolution = 32
"""
RECIPE = dict(epochs=8, batch_size=64, optimizer="adamw", lr=3e-3, resolution=32)
PROTOCOL = dict(name="thesis", max_count=100, balanced_count=21, val_per_class=10, test_per_class=50, longtailed_test=True, groups="thesis")


def run_config(**changes):
    values = dict(dataset="digits", protocol=Protocol(**PROTOCOL), train_set="balanced", backbone="vit_small32", loss="softmax")
    return RunConfig(**{**values, "seed": 0, "mode": "finetune", "recipe": Recipe(**RECIPE), **changes})


@pytest.fixture
def load(tmp_path):
    """Load PROFILE from a file of its own, after replacing ``old`` by ``new`` and appending ``more``."""

    def load(old="", new="", more="", **overrides):
        assert old in PROFILE
        path = tmp_path / "mine.toml"
        path.write_text(PROFILE.replace(old, new, 1) + more if old else PROFILE + more)
        return load_profile(str(path), **overrides)

    return load


# ---------------------------------------------------------------------------------------------- profiles


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_loads_and_its_runs_have_ids_of_their_own(name):
    profile = load_profile(name)
    configs = profile.configs()
    axes = (profile.backbones, profile.protocols, profile.train_sets, profile.losses, profile.seeds)
    expected = 1
    for axis in axes:
        expected *= len(axis)
    assert len({c.id for c in configs}) == len(configs) == expected
    assert (profile.name, profile.path) == (name, name)
    assert {c.profile for c in configs} == {name}


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_says_everything_that_it_deviates_in(name):
    assert load_profile(name).deviations


@pytest.mark.parametrize("name", profile_names())
def test_loss_options_of_every_profile_build(name):
    for run in load_profile(name).configs():
        build_loss(run.loss, [2, 1, 1, 1], **dict(run.loss_options))


def test_the_designs_profiles_are_there():
    assert {"smoke", "demo", "probe", "finetune", "thesis"} <= set(profile_names())


def test_the_names_of_the_losses_are_those_of_the_registry():
    assert tuple(LOSSES) == config.LOSS_NAMES


def test_a_profile_of_your_own_is_loaded_by_its_path(load, tmp_path):
    profile = load()
    assert (profile.name, profile.path) == ("mine", str(tmp_path / "mine.toml"))
    assert profile.recipe == Recipe(**RECIPE)
    assert [p.name for p in profile.protocols] == ["thesis", "other"]
    assert len(profile.configs()) == 2 * 2 * 2 * 2 * 2


def test_runs_come_in_the_order_of_the_tables(load):
    runs = load().configs()
    first = [(c.backbone, c.protocol.name, c.train_set, c.loss, c.seed) for c in runs[:5]]
    start = ("vit_small32", "thesis")
    assert first == [
        (*start, "balanced", "softmax", 0),
        (*start, "balanced", "softmax", 1),
        (*start, "balanced", "ldam", 0),
        (*start, "balanced", "ldam", 1),
        (*start, "longtailed", "softmax", 0),
    ]


def test_overrides_replace_backbones_losses_and_seeds(load):
    profile = load(backbones=["resnet18"], losses=("focal",), seeds=[5, 6])
    assert (profile.backbones, profile.losses, profile.seeds) == (("resnet18",), ("focal",), (5, 6))


def test_a_narrowed_profile_has_the_runs_of_the_whole_one(load):
    assert {c.id for c in load(losses=["ldam"], seeds=[1]).configs()} < {c.id for c in load().configs()}


def test_a_backbones_recipe_gives_the_same_run_as_the_same_common_recipe(load):
    override = '\n[recipe_by_backbone.vit_small32]\nlr = 1\nschedule = "step"\nmilestones = [2, 4]\n'
    common = load("lr = 3.0e-3", 'lr = 1.0\nschedule = "step"\nmilestones = [2, 4]')
    assert load(more=override).configs()[0] == common.configs()[0]
    assert load(more=override).configs()[0].id == common.configs()[0].id


def test_a_backbones_recipe_overrides_the_common_one_for_it_alone(load):
    profile = load(more="\n[recipe_by_backbone.vit_small32]\nlr = 1.0e-3\n")
    rates = {c.backbone: c.recipe.lr for c in profile.configs()}
    assert rates == {"vit_small32": 1e-3, "resnetv2_small32": 3e-3}


def test_loss_options_reach_the_runs_of_that_loss_alone(load):
    runs = load(more="\n[loss_options.ldam]\nscale = 20.0\nmax_margin = 0.3\n").configs()
    assert {(c.loss, c.loss_options) for c in runs} == {("softmax", ()), ("ldam", (("max_margin", 0.3), ("scale", 20.0)))}


def test_variants_are_losses_with_deferred_weights_or_adjusted_logits(load):
    runs = load("seeds = [0, 1]", "seeds = [0]\ndrw = 0.75", losses=["ldam", "ldam_drw", "softmax", "logit_adjusted"]).configs()
    found = {(c.variant, c.loss, c.drw, c.tau) for c in runs}
    assert found == {("ldam", "ldam", None, None), ("ldam_drw", "ldam", 0.75, None), ("softmax", "softmax", None, None),
                     ("logit_adjusted", "softmax", None, 1.0)}
    assert all(f"-{c.variant}-" in c.id and f", {c.variant}," in c.describe() for c in runs)


def test_options_of_variants(load):
    more = "\n[loss_options.ldam]\nscale = 20.0\n[loss_options.logit_adjusted]\ntau = 0.5\n"
    ldam, adjusted = load(more=more, losses=["ldam_drw", "logit_adjusted"], seeds=[0], train_sets=["longtailed"], protocols=["thesis"],
                          backbones=["vit_small32"]).configs()
    assert ldam.loss_options == (("scale", 20.0),)
    assert adjusted.tau == 0.5


METHODS = """
[methods.cpl]
loss = "softmax"
head = "distance"
[methods.wldam]
loss = "ldam"
options = { weighting = "inverse" }
[methods.late_drw]
loss = "arconvl"
[loss_options.ldam]
scale = 20.0
"""


def test_methods_are_losses_with_options_and_heads_of_their_own(load):
    profile = load(more=METHODS, losses=["softmax", "cpl", "wldam", "ldam", "late_drw"], seeds=[0])
    runs = profile.configs()
    assert {(c.variant, c.loss, c.head, c.loss_options, c.drw, c.method) for c in runs} == {
        ("softmax", "softmax", "linear", (), None, ""), ("cpl", "softmax", "distance", (), None, "cpl"),
        ("wldam", "ldam", "cosine", (("weighting", "inverse"),), None, "wldam"), ("ldam", "ldam", "cosine", (("scale", 20.0),), None, ""),
        ("late_drw", "arconvl", "distance", (), None, "late_drw")}
    assert all(f"-{c.variant}-" in c.id and f", {c.variant}," in c.describe() for c in runs)
    assert len({c.id for c in runs}) == len(runs)


def test_a_method_that_is_softmax_on_equal_counts_is_answered_by_the_softmax_run(load):
    more = '[methods.wce]\nloss = "weighted_softmax"\noptions = { weighting = "inverse" }\n'
    profile = load(more=more, losses=["softmax", "wce"], seeds=[0], protocols=["thesis"], backbones=["vit_small32"])
    runs = {(c.train_set, c.variant): c for c in profile.configs()}
    assert computed_as(runs["balanced", "wce"]).id == runs["balanced", "softmax"].id
    assert computed_as(runs["longtailed", "wce"]) == runs["longtailed", "wce"]


def test_protocols_and_training_sets_can_be_narrowed(load):
    profile = load(protocols=["other"], train_sets=["longtailed"])
    assert {(c.protocol.name, c.train_set) for c in profile.configs()} == {("other", "longtailed")}


def test_a_protocol_at_another_imbalance_factor_is_named_after_it(load):
    profile = load(protocols=["thesis", "thesis_if50", "thesis_if2.5"])
    assert [(p.name, p.imbalance_factor, p.max_count) for p in profile.protocols] == [
        ("thesis", 100.0, 100), ("thesis_if50", 50.0, 100), ("thesis_if2.5", 2.5, 100)]
    assert len({c.id for c in profile.configs()}) == len(profile.configs())
    assert load(protocols=["thesis_if100"]).protocols == load(protocols=["thesis"]).protocols, "the very same runs"


def test_a_protocol_given_twice_is_named_as_it_was_given(load):
    with pytest.raises(ConfigError, match=r"protocols = \['thesis', 'thesis_if100'\]: expected each one once"):
        load(protocols=["thesis", "thesis_if100"])


@pytest.mark.parametrize("name", ["othr", "thesis_if", "thesis_if0", "thesis_ifx", "othr_if50", "thesis_if1000"])
def test_a_protocol_that_is_not_there_or_cannot_be_is_refused(load, name):
    with pytest.raises(ConfigError, match=r"protocol = |imbalance_factor = "):
        load(protocols=[name])


def test_wishes_for_slurm_come_from_the_profile_and_the_command_line(load):
    profile = load(more='\n[slurm]\npartition = "gpu"\nminutes = 30\n')
    assert profile.slurm == Slurm(partition="gpu", minutes=30)
    assert with_slurm(profile, "minutes=90 gpus=0").slurm == Slurm(partition="gpu", minutes=90, gpus=0)
    assert with_slurm(profile, "").slurm == profile.slurm
    assert with_slurm(profile, "partition=2024").slurm.partition == "2024"


@pytest.mark.parametrize(("text", "message"), [
    ("gpu", "SLURM = 'gpu': expected words like partition=gpu"),
    ("minute=5", "SLURM: key = 'minute'.*did you mean 'minutes'"),
    ("minutes=soon", "SLURM: minutes = 'soon': expected a whole number"),
    ("minutes=0", "SLURM: minutes = 0: expected at least 1"),
])
def test_a_mistake_in_the_wishes_for_slurm_is_named(load, text, message):
    with pytest.raises(ConfigError, match=message):
        with_slurm(load(), text)


def test_records_made_before_a_field_was_added_keep_their_ids():
    """The ids of committed records: fields that came later are left out while they have their default."""
    stored = {path.stem for path in (config.ROOT / "results" / "probe").glob("*.json")}
    now = {computed_as(run).id for run in load_profile("probe", ["mobilenetv2_100", "vit_tiny_patch16_224"]).configs()}
    assert len([name for name in stored if "-pf-s" not in name and "-arconvl-s" not in name]) == 120  # of the seven losses
    assert stored <= now
    later = {"layer_decay", "clip_grad", "ema", "rand_augment", "decay_all", "compile", "tau", "pick", "pixels", "cutout", "views",
             "method", "imbalance", "val_fraction", "counts"}
    values = run_config().to_dict()
    assert not later & {*values, *values["recipe"], *values["protocol"]}
    assert run_config(recipe=Recipe(**RECIPE, ema=0.9)).to_dict()["recipe"]["ema"] == 0.9


COMMITTED = sorted((config.ROOT / "results").rglob("*-s*-*.json"))


def from_dict(kind, values):
    """The dataclass of a record's JSON values."""
    values = dict(values)
    for name, inner in (("protocol", Protocol), ("recipe", Recipe), ("pretraining", Pretraining)):
        if isinstance(values.get(name), dict):
            values[name] = from_dict(inner, values[name])
    for name in ("counts", "milestones"):
        if name in values:
            values[name] = tuple(values[name])
    if "loss_options" in values:
        values["loss_options"] = tuple(values["loss_options"].items())
    return kind(**values)


def test_every_committed_record_is_the_run_that_its_name_says():
    """Of fields that came after it, it has the defaults."""
    assert len(COMMITTED) > 100
    for path in COMMITTED:
        values = json.loads(path.read_text())["config"]
        run = from_dict(RunConfig, values)
        assert run.id == path.stem
        assert run.to_dict() == values


def test_a_protocol_is_found_by_its_name(load):
    assert load().protocol("other").max_count == 50
    with pytest.raises(ConfigError, match=r"protocol = 'othr'.*did you mean 'other'"):
        load().protocol("othr")


def test_whole_numbers_are_taken_where_a_number_is_wanted(load):
    rate = load("lr = 3.0e-3", "lr = 1").recipe.lr
    assert (rate, type(rate)) == (1.0, float)


# ------------------------------------------------------------------------------------ refusals of a profile


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # unknown keys, with a hint where there is a near one
        ("seeds = ", "notebooks = ['19_gb']\nseeds = ", r"notebooks = '19_gb': expected one of 01_.*did you mean '19_gbg'"),
        ("seeds = ", "seed = ", r"key = 'seed': .*did you mean 'seeds'"),
        ("batch_size", "batchsize", r"recipe: key = 'batchsize': .*did you mean 'batch_size'"),
        ("max_count", "maxcount", r"protocols\[0\]: key = 'maxcount': .*did you mean 'max_count'"),
        ("[recipe]", "[colour]\nof = 1\n[recipe]", r"key = 'colour'"),
        ("title =", 'name = "x"\ntitle =', r"key 'name' is not to be set"),
        ("title =", 'path = "x"\ntitle =', r"key 'path' is not to be set"),
        # missing keys
        ('dataset = "digits"\n', "", r"key 'dataset' is missing"),
        ("epochs = 8\n", "", r"recipe: the key 'epochs' is missing \(a whole number\)"),
        ("test_per_class = 50\n", "", r"protocols\[0\]: the key 'test_per_class' is missing"),
        # wrong types
        ("seeds = [0, 1]", "seeds = 0", r"seeds = 0: expected a list"),
        ("seeds = [0, 1]", 'seeds = [0, "1"]', r"seeds\[1\] = '1': expected a whole number"),
        ("epochs = 8", "epochs = 8.0", r"recipe: epochs = 8.0: expected a whole number"),
        ("epochs = 8", "epochs = true", r"recipe: epochs = True: expected a whole number"),
        ("lr = 3.0e-3", 'lr = "3e-3"', r"recipe: lr = '3e-3': expected a number \(write 1.0e-4, not 1e-4 in quotes\)"),
        ("longtailed_test = true", "longtailed_test = 1", r"longtailed_test = 1: expected true or false"),
        ('title = "Mine"', "title = 3", r"title = 3: expected a string in quotes"),
        ("seeds =", "recipe_by_backbone = 3\nseeds =", r"recipe_by_backbone = 3: expected a table"),
        ("seeds =", "pretraining = 3\nseeds =", r"pretraining = 3: expected a table"),
        # impossible values
        ('dataset = "digits"\nmode = "finetune"', 'dataset = "digits"\nmode = "finetunes"', r"mode = 'finetunes'.*did you mean 'finetune'"),
        ('"ldam"', '"ldma"', r"losses = 'ldma'.*did you mean 'ldam'"),
        ("seeds = [0, 1]", "seeds = []", r"seeds = \(\): expected at least one"),
        ("seeds = [0, 1]", "seeds = [0, 0]", r"seeds = \[0, 0\]: expected each one once"),
        ("seeds = [0, 1]", "seeds = [-1]", r"seed = -1: expected 0 to 4294967295"),
        ("seeds = [0, 1]", 'seeds = [0]\ntrain_sets = ["long"]', r"train_set = 'long'"),
        ("seeds = [0, 1]", "seeds = [0]\ndrw = 1.5", r"drw = 1.5: expected a fraction"),
        ('groups = "thesis"', 'groups = "theses"', r"groups = 'theses'.*did you mean 'thesis'"),
        ("max_count = 100", "max_count = 111", r"protocol thesis: max_count = 111: expected at most 110, what digits has"),
        ("test_per_class = 50", "test_per_class = 51", r"protocol thesis: test_per_class = 51: expected at most 50"),
        ('dataset = "digits"', 'dataset = "digit"', r"dataset = 'digit'.*did you mean 'digits'"),
        ("max_count = 100", "max_count = 0", r"max_count = 0: expected at least 1"),
        ("epochs = 8", "epochs = 0", r"recipe: epochs = 0: expected at least 1"),
        ("lr = 3.0e-3", "lr = nan", r"recipe: lr = nan: expected a number above 0"),
        ('optimizer = "adamw"', 'optimizer = "adamv"', r"recipe: optimizer = 'adamv'.*did you mean 'adam'"),
        # and what is no TOML at all
        ("seeds = [0, 1]", "seeds = [0, 1", r"mine.toml: not a readable TOML file"),
    ],
)
def test_a_mistake_in_a_profile_is_named(load, old, new, message):
    with pytest.raises(ConfigError, match=message) as error:
        load(old, new)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("table", ["", "[protocols]\nthesis = 3\n"])
def test_a_profile_without_tables_of_protocols_is_refused(tmp_path, table):
    path = tmp_path / "mine.toml"
    path.write_text(PROFILE.split("[protocols.thesis]")[0] + table + "[recipe]" + PROFILE.split("[recipe]")[1])
    with pytest.raises(ConfigError, match=r"mine.toml: protocols: expected tables like \[protocols.thesis\]"):
        load_profile(str(path))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[recipe_by_backbone.vit_small32]\nlearning_rate = 1.0", r"recipe_by_backbone.vit_small32: key = 'learning_rate'"),
        ("[recipe_by_backbone.vit_small32]\nlr = -1.0", r"recipe_by_backbone.vit_small32: lr = -1.0"),
        ("[recipe_by_backbone.vit_small32]\nlr = '1'", r"recipe_by_backbone.vit_small32: lr = '1': expected a number"),
        ("[loss_options.foca]\ngamma = 1.0", r"loss_options = 'foca'.*did you mean 'focal'"),
        ("[recipe_by_backbone]\nvit_small32 = 3", r"recipe_by_backbone.vit_small32 = 3: expected a table"),
        ("[recipe_by_backbone.vit_smal32]\nlr = 1.0", r"recipe_by_backbone = 'vit_smal32'.*did you mean 'vit_small32'"),
        ("[loss_options.logit_adjusted]\ntua = 1.0", r"loss_options.logit_adjusted = 'tua'.*did you mean 'tau'"),
        ("[tune]\nlearning_rate = [1.0]", r"tune = 'learning_rate'"),
        ("[tune]\nlr = 1.0", r"tune.lr = 1.0: expected a list of values to try"),
        ("[tune]\nlr = [1, 1.0]", r"tune.lr = \[1.0, 1.0\]: expected each one once"),
        ("[tune]\nlr = [1.0, 'fast']", r"tune.lr\[1\] = 'fast': expected a number"),
        ("[slurm]\ngpu = 1", r"slurm: key = 'gpu'.*did you mean 'gpus'"),
        ("[loss_options]\nldam = 3", r"loss_options.ldam = 3: expected a table like \[loss_options.ldam\]"),
        ("[pretraining]\nimages = 0\n[pretraining.recipe]\n" + PROFILE.split("[recipe]")[1], r"pretraining: images = 0: expected"),
        ("[pretraining]\nimages = 9", r"pretraining: the key 'recipe' is missing \(a table\)"),
        ("[methods.softmax]\nloss = 'focal'", r"methods.softmax = 'softmax': expected a name that no loss has already"),
        ("[methods.gbg]\nloss = 'gbg'", r"methods.gbg = 'gbg': expected a name that no loss has already"),
        ("[methods.logit_adjusted]\nloss = 'focal'", r"expected a name that no loss has already"),
        ("[methods.My-Loss]\nloss = 'focal'", r"methods.My-Loss = 'My-Loss': expected small letters, digits and underscores"),
        ("[methods]\ncpl = 'softmax'", r"methods.cpl = 'softmax': expected a table like \[methods.cpl\]"),
        ("[methods.cpl]\nhead = 'distance'", r"methods.cpl: loss = None: expected one of softmax"),
        ("[methods.cpl]\nloss = 'softmaxx'", r"methods.cpl: loss = 'softmaxx'.*did you mean 'softmax'"),
        ("[methods.cpl]\nloss = 'softmax'\noption = { a = 1 }", r"methods.cpl: key = 'option'.*did you mean 'options'"),
        ("[methods.cpl]\nloss = 'softmax'\noptions = 3", r"methods.cpl: options = 3: expected a table"),
    ],
)
def test_a_mistake_in_an_optional_table_is_named(load, more, message):
    with pytest.raises(ConfigError, match=message):
        load(more="\n" + more)


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"PROFILE = 'dmo': expected one of .*demo.*or the path of a TOML file"):
        load_profile("dmo")


def test_a_file_named_like_one_of_the_workbooks_profiles_is_refused(tmp_path):
    path = tmp_path / "demo.toml"
    path.write_text(PROFILE)
    with pytest.raises(ConfigError, match=r"results/demo belongs to the workbook's own profile"):
        load_profile(str(path))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"mine.toml: not a readable TOML file"):
        load_profile(str(path))


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        load_profile(str(tmp_path / "nothing.toml"))


# --------------------------------------------------------------------------------------- single values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"momentum": 1.0}, "momentum = 1.0"),
        ({"weight_decay": -1.0}, "weight_decay = -1.0"),
        ({"crop_padding": -1}, "crop_padding = -1"),
        ({"warmup_epochs": 8.0}, "warmup_epochs = 8.0: expected below epochs = 8"),
        ({"decay": 0.0}, "decay = 0.0"),
        ({"schedule": "linear"}, "schedule = 'linear'"),
        ({"precision": "float16"}, "precision = 'float16'"),
        ({"milestones": (3,)}, r"milestones = \(3,\): expected none, or schedule = \"step\""),
        ({"resolution": 0}, "resolution = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"lr": 0.0}, r"lr = 0\.0"),
        ({"layer_decay": 0.0}, "layer_decay = 0.0: expected 0 < layer_decay <= 1"),
        ({"layer_decay": 0.7, "decay_all": True}, "layer_decay = 0.7: expected 1 with decay_all"),
        ({"clip_grad": -1.0}, "clip_grad = -1.0"),
        ({"ema": 1.0}, "ema = 1.0: expected 0 <= ema < 1"),
        ({"rand_augment": 31}, "rand_augment = 31: expected 0 to 30"),
        ({"pick": "g-mean"}, "pick = 'g-mean'.*did you mean 'gmean'"),
        ({"pixels": "rwa"}, "pixels = 'rwa'.*did you mean 'raw'"),
        ({"cutout": -1}, "cutout = -1: expected a number of pixels, or 0"),
        ({"views": "two"}, "views = 'two': expected one of one, contrastive"),
        ({"views": "contrastive", "rand_augment": 9}, "rand_augment = 9: expected 0 with views = \"contrastive\""),
    ],
)
def test_impossible_recipe_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**{**RECIPE, **changes})


@pytest.mark.parametrize("field", ["max_count", "balanced_count", "test_per_class", "imbalance_factor", "val_per_class", "data_seed"])
def test_impossible_protocol_is_refused(field):
    with pytest.raises(ConfigError, match=f"{field} = -1"):
        Protocol(**{**PROTOCOL, field: -1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imbalance": "steps"}, "imbalance = 'steps'.*did you mean 'step'"),
        ({"groups": "steps"}, "groups = 'steps'.*did you mean 'step'"),
        ({"val_fraction": 0.1}, "val_fraction = 0.1: expected 0, or val_per_class = 0"),
        ({"val_fraction": 1.0, "val_per_class": 0}, "val_fraction = 1.0: expected 0 <= val_fraction < 1"),
        ({"val_fraction": -0.1, "val_per_class": 0}, "val_fraction = -0.1: expected 0 <= val_fraction < 1"),
        ({"val_fraction": float("nan"), "val_per_class": 0}, "val_fraction = nan: expected 0 <= val_fraction < 1"),
        ({"val_fraction": 0.1, "val_per_class": 0, "counts": (100, 1)}, "val_fraction = 0.1: expected 0: own class counts"),
    ],
)
def test_protocol_with_an_impossible_step_or_share_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**{**PROTOCOL, **changes})


CONTRASTIVE = Recipe(**RECIPE, views="contrastive")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": "ldam", "head": "distance"}, r"head = 'distance' with loss = 'ldam': expected head = 'cosine'"),
        ({"loss": "arconvl", "head": "linear"}, r"head = 'linear' with loss = 'arconvl': expected head = 'distance'"),
        ({"loss": "gbg", "head": "distance"}, r"head = 'distance' with loss = 'gbg': expected head = 'cosine'"),
        ({"loss": "gbg", "mode": "probe"}, r"mode = 'probe': expected finetune or scratch with loss = 'gbg'"),
        ({"loss": "gbg", "recipe": Recipe(**RECIPE, compile=True)}, r"compile = True: expected false with loss = 'gbg'"),
        ({"loss": "gbg", "loss_options": (("beta", 1.6),)}, r"views = 'one': expected 'contrastive' with beta > 0"),
        ({"loss": "softmax", "recipe": CONTRASTIVE}, r"views = 'contrastive': expected 'one': only loss = 'gbg'"),
        ({"loss": "softmax", "recipe": Recipe(**RECIPE, pixels="raw")}, r"pixels = 'raw': expected 'normalised', or mode = 'scratch'"),
        ({"loss": "pf", "drw": 0.8}, r"drw = 0.8: expected a loss out of"),
        ({"loss": "arconvl", "tau": 1.0}, r"tau = 1.0: expected loss = 'softmax'"),
        ({"loss": "ldam", "head": "linear"}, r"head = 'linear' with loss = 'ldam': expected head = 'cosine'"),
        ({"loss": "softmax", "head": "cosine"}, r"head = 'cosine' with loss = 'softmax': expected head = 'linear'"),
        ({"loss": "ldam", "head": "cosin"}, r"head = 'cosin'.*did you mean 'cosine'"),
        ({"loss": "softmax", "drw": 0.8}, r"drw = 0.8: expected a loss out of weighted_softmax, .*, ldam, not 'softmax'"),
        ({"loss": "balanced_softmax", "drw": 0.8}, r"drw = 0.8: expected a loss out of"),
        ({"loss": "ldam", "tau": 1.0}, r"tau = 1.0: expected loss = 'softmax', not 'ldam'"),
        ({"loss": "softmax", "tau": 0.0}, r"tau = 0.0: expected a number above 0"),
        ({"loss": "ldam", "drw": 1.0}, r"drw = 1.0: expected a fraction"),
        ({"loss": "ldam", "drw": 0.95}, r"drw = 0.95: expected to leave some of the 8 epochs"),
        ({"loss": "ldam", "drw": -0.1}, r"drw = -0.1: expected a fraction"),
        ({"loss": "crossentropy"}, r"loss = 'crossentropy'"),
        ({"train_set": "long-tailed"}, r"train_set = 'long-tailed'.*did you mean 'longtailed'"),
        ({"mode": "train"}, r"mode = 'train'"),
        ({"seed": -1}, r"seed = -1"),
        ({"seed": 2**32}, r"seed = 4294967296"),
    ],
)
def test_impossible_run_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        run_config(**changes)


HEADS = {"ldam": "cosine", "gbg": "cosine", "gcpl": "distance", "affinity": "distance", "arconvl": "distance"}


@pytest.mark.parametrize("loss", config.LOSS_NAMES + config.METHODS)
def test_the_head_follows_the_loss(loss):
    assert run_config(loss=loss).head == HEADS.get(loss, "linear")


@pytest.mark.parametrize("loss", [name for name in config.LOSS_NAMES + config.METHODS if name not in HEADS])
def test_losses_of_unbounded_logits_take_distances_too(loss):
    assert run_config(loss=loss, head="distance").id != run_config(loss=loss).id


def test_the_contrastive_term_with_its_views_is_a_run():
    assert run_config(loss="gbg", loss_options=(("beta", 1.6),), recipe=CONTRASTIVE).head == "cosine"


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        run_config().seed = 1


# ---------------------------------------------------------------------------------------------------- ids


def other_value(value):
    """A permitted value of the same type, other than this one."""
    names = {"adamw": "sgd", "cosine": "step", "float32": "bfloat16", "thesis": "survey", "exponential": "step", "accuracy": "gmean",
             "normalised": "raw", "one": "contrastive"}
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return names.get(value, value + "x")
    return value + 1 if isinstance(value, int) else value / 2 + 0.25 if isinstance(value, float) else (3,)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Recipe)])
def test_the_id_changes_with_each_field_of_the_recipe(field):
    recipe = Recipe(**RECIPE, schedule="step")
    value = "cosine" if field == "schedule" else other_value(getattr(recipe, field))
    changed = dataclasses.replace(recipe, **{field: value})
    loss = {"loss": "gbg", "train_set": "longtailed"} if field == "views" else {}
    mode = "scratch" if field == "pixels" else "finetune"
    assert run_config(recipe=changed, mode=mode, **loss).id != run_config(recipe=recipe, mode=mode, **loss).id


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Protocol) if f.name != "counts"])
def test_the_id_changes_with_each_field_of_the_protocol(field):
    protocol = Protocol(**{**PROTOCOL, "test_per_class": 40} | ({"val_per_class": 0} if field == "val_fraction" else {}))
    changed = dataclasses.replace(protocol, **{field: other_value(getattr(protocol, field))})
    assert run_config(protocol=changed).id != run_config(protocol=protocol).id


def test_a_method_is_called_by_its_name():
    profile = load_profile("pf_loss")
    assert [profile.config("pf_cnn", loss, "longtailed", 0, "step_ir100").variant for loss in profile.losses] == list(profile.losses)


@pytest.mark.parametrize(("drw", "epoch"), [(None, None), (0.0, 0), (0.8, 72)])
def test_drw_switches_at_its_share_of_the_epochs(drw, epoch):
    assert run_config(loss="ldam", drw=drw, recipe=Recipe(**{**RECIPE, "epochs": 90})).drw_epoch == epoch


@pytest.mark.parametrize(
    "changes",
    [
        {"dataset": "cifar100"},
        {"train_set": "longtailed"},
        {"backbone": "resnet18"},
        {"loss": "focal"},
        {"seed": 1},
        {"mode": "probe"},
        {"loss": "focal", "loss_options": (("gamma", 1.0),)},
        {"loss": "ldam", "drw": 0.8},
        {"loss": "ldam"},
        {"pretraining": Pretraining(images=9, recipe=Recipe(**RECIPE))},
        {"pretraining": Pretraining(images=9, recipe=Recipe(**RECIPE), seed=1)},
    ],
)
def test_the_id_changes_with_what_changes_the_run(changes):
    base = {key: value for key, value in changes.items() if key == "loss" and len(changes) > 1}
    assert run_config(**changes).id != run_config(**base).id


def test_the_id_does_not_depend_on_the_profiles_name_or_on_the_order_of_options():
    one = run_config(loss="ldam", profile="a", loss_options=(("scale", 20.0), ("max_margin", 0.3)))
    other = run_config(loss="ldam", profile="b", head="cosine", loss_options=(("max_margin", 0.3), ("scale", 20.0)))
    assert one.id == other.id


def test_the_id_is_readable_and_fit_for_a_file_name():
    name, digest = run_config(seed=3).id.rsplit("-", 1)
    assert name == "vit_small32-thesis-balanced-softmax-s3"
    assert len(digest) == 10
    assert int(digest, 16) >= 0


def test_the_id_is_the_same_in_another_process():
    code = "from ltlib.config import load_profile; print(load_profile('smoke').configs()[5].id)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert other == load_profile("smoke").configs()[5].id


def test_a_config_as_a_dict_survives_json_and_leaves_the_profile_out():
    values = run_config(loss="focal", loss_options=(("gamma", 1.0),)).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["loss_options"] == {"gamma": 1.0}
    assert "profile" not in values


# ------------------------------------------------------------------------------------------------- places


@pytest.mark.parametrize(("variable", "place"), [("LTLIB_OUT", config.output_root), ("LTLIB_DATA", config.data_dir)])
def test_places_follow_the_environment_and_an_empty_variable_is_none(monkeypatch, tmp_path, variable, place):
    monkeypatch.setenv(variable, str(tmp_path))
    assert place() == tmp_path
    monkeypatch.setenv(variable, "")
    assert place().is_relative_to(config.ROOT)


def test_what_a_profile_makes_lies_in_folders_of_its_name(monkeypatch, tmp_path):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    places = [place("mine") for place in (config.results_dir, config.figures_dir, config.build_dir)]
    assert places == [tmp_path / "results/mine", tmp_path / "figures/mine", tmp_path / "build/mine"]


def test_atomic_path_replaces_the_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "file.json"
    for text in ("one", "two"):
        with atomic_path(path) as partial:
            partial.write_text(text)
        assert path.read_text() == text
    assert list(path.parent.iterdir()) == [path]


def test_atomic_path_leaves_the_old_file_alone_until_the_end(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with atomic_path(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "old"


@pytest.mark.parametrize("before", [["file"], []], ids=["old file", "no file"])
def test_an_error_leaves_the_old_file_or_none_and_no_temporary_one(tmp_path, before):
    path = tmp_path / "file"
    for name in before:
        (tmp_path / name).write_text("old")

    def fail_half_way():
        with atomic_path(path) as partial:
            partial.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert [p.name for p in tmp_path.iterdir()] == before
    assert not before or path.read_text() == "old"


def test_the_temporary_file_keeps_the_suffix(tmp_path):
    """Writers such as NumPy's and matplotlib's go by the suffix."""
    with atomic_path(tmp_path / "a.npz") as partial:
        partial.write_text("")
        assert partial.suffix == ".npz"


def test_what_killed_processes_of_this_machine_left_is_swept_away(monkeypatch, tmp_path):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    monkeypatch.setattr(config, "HOST", "here")
    dead, alive = 4194399, os.getpid()
    names = [f".id.json.here.{dead}.1.tmp.json", f".id.json.here.{alive}.1.tmp.json", f".id.json.there.{dead}.1.tmp.json", "id.json"]
    for name in names:
        path = config.results_dir("smoke") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    folders = [config.build_dir("smoke") / "notebooks" / f".01_a.here.{pid}.x.tmp" for pid in (dead, alive)]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "notebook.ipynb").write_text("half")
    config.sweep("smoke")
    assert sorted(p.name for p in config.results_dir("smoke").iterdir()) == sorted(names[1:])
    assert [folder.exists() for folder in folders] == [False, True]


def test_a_sweep_passes_over_what_it_may_not_remove(monkeypatch, tmp_path):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    path = config.results_dir("smoke") / f".a.json.{config.HOST}.4194399.1.tmp.json"
    path.parent.mkdir(parents=True)
    path.write_text("half")

    def refuse(path):
        raise PermissionError

    monkeypatch.setattr(config.os, "unlink", refuse)
    config.sweep("smoke")
    assert path.exists()


def test_whole_numbers_to_try_are_as_good_as_others(load):
    """1 and 1.0 are the same run."""
    assert [type(lr) for lr in load(more="\n[tune]\nlr = [1, 0.5]\n").tune["lr"]] == [float, float]


def test_temporary_files_are_those_that_a_sweep_knows(monkeypatch, tmp_path):
    monkeypatch.setenv("LTLIB_OUT", str(tmp_path))
    monkeypatch.setattr(config.psutil, "pid_exists", lambda pid: pid != os.getpid())
    writing = atomic_path(config.results_dir("smoke") / "a.json")
    partial = writing.__enter__()
    partial.write_text("half")
    config.sweep("smoke")
    assert not partial.exists()


def test_one_process_at_a_time_makes_a_file(tmp_path):
    said = []
    with exclusive(tmp_path / "deep" / "file", "it is being made", said.append):
        with pytest.raises(Busy, match="it is being made"), exclusive(tmp_path / "deep" / "file", "it is being made", wait=False):
            pytest.fail("both at once")
        with exclusive(tmp_path / "deep" / "another", "that too", wait=False):
            pass
    with exclusive(tmp_path / "deep" / "file", "it is being made", wait=False):
        pass
    assert said == []


def test_a_process_that_waits_says_so_and_goes_on_when_the_other_is_killed(tmp_path):
    hold = ("from pathlib import Path; from ltlib.config import exclusive; import time\n"
            f"with exclusive(Path({str(tmp_path / 'file')!r}), ''): print('held', flush=True); time.sleep(60)")
    other = subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    said = []

    def say(line):
        said.append(line)
        other.kill()

    with exclusive(tmp_path / "file", "it is being made", say):
        assert said == ["it is being made: waiting for it"]
    other.communicate()
