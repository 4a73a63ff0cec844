import dataclasses
import math
import os

import pytest

from ltlib.errors import ConfigError
from ltlib.losses import build_loss
from ltlib.recipe import Recipe
from ltlib.runs.profiles import Slurm, load_profile, profile_names, with_slurm
from ltlib.runs.records import computed_as

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
ONE = dict(seeds=[0], protocols=["thesis"], backbones=["vit_small32"])
RECIPE = dict(epochs=8, batch_size=64, optimizer="adamw", lr=3e-3, resolution=32)


@pytest.fixture
def load(tmp_path):
    """Load PROFILE from a file of its own, after replacing ``old`` by ``new`` and appending
    ``more``."""

    def load(old="", new="", more="", **overrides):
        assert old in PROFILE
        path = tmp_path / "mine.toml"
        path.write_text(PROFILE.replace(old, new, 1) + more if old else PROFILE + more)
        return load_profile(str(path), **overrides)

    return load


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_loads_with_losses_that_build_and_runs_with_ids_of_their_own(name):
    profile = load_profile(name)
    configs = profile.configs()
    axes = (profile.backbones, profile.protocols, profile.train_sets, profile.losses, profile.seeds)
    assert len({c.id for c in configs}) == len(configs) == math.prod(map(len, axes))
    assert (profile.name, profile.path) == (name, name)
    assert {c.profile for c in configs} == {name}
    assert profile.deviations
    for run in configs:
        build_loss(run.loss, [2, 1, 1, 1], **dict(run.loss_options))


def test_the_designs_profiles_are_there():
    assert {"smoke", "demo", "probe", "finetune", "thesis"} <= set(profile_names())


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
    narrow = load(losses=["ldam"], seeds=[1])
    assert {c.id for c in narrow.configs()} < {c.id for c in load().configs()}


def test_a_backbones_recipe_gives_the_same_run_as_the_same_common_recipe(load):
    steps = '\nschedule = "step"\nmilestones = [2, 4]\n'
    own = load(more=f"\n[recipe_by_backbone.vit_small32]\nlr = 1{steps}").configs()[0]
    common = load("lr = 3.0e-3", f"lr = 1.0{steps}").configs()[0]
    assert own == common
    assert own.id == common.id


def test_a_backbones_recipe_overrides_the_common_one_for_it_alone(load):
    profile = load(more="\n[recipe_by_backbone.vit_small32]\nlr = 1.0e-3\n")
    rates = {c.backbone: c.recipe.lr for c in profile.configs()}
    assert rates == {"vit_small32": 1e-3, "resnetv2_small32": 3e-3}


def test_loss_options_reach_the_runs_of_that_loss_alone(load):
    runs = load(more="\n[loss_options.ldam]\nscale = 20.0\nmax_margin = 0.3\n").configs()
    assert {(c.loss, c.loss_options) for c in runs} == {
        ("softmax", ()),
        ("ldam", (("max_margin", 0.3), ("scale", 20.0))),
    }


def test_variants_are_losses_with_deferred_weights_or_adjusted_logits(load):
    losses = ["ldam", "ldam_drw", "softmax", "logit_adjusted"]
    runs = load("seeds = [0, 1]", "seeds = [0]\ndrw = 0.75", losses=losses).configs()
    found = {(c.variant, c.loss, c.drw, c.tau) for c in runs}
    assert found == {
        ("ldam", "ldam", None, None),
        ("ldam_drw", "ldam", 0.75, None),
        ("softmax", "softmax", None, None),
        ("logit_adjusted", "softmax", None, 1.0),
    }
    assert all(f"-{c.variant}-" in c.id and f", {c.variant}," in c.describe() for c in runs)


def test_options_of_variants(load):
    more = "\n[loss_options.ldam]\nscale = 20.0\n[loss_options.logit_adjusted]\ntau = 0.5\n"
    narrow = ONE | {"losses": ["ldam_drw", "logit_adjusted"], "train_sets": ["longtailed"]}
    ldam, adjusted = load(more=more, **narrow).configs()
    assert ldam.loss_options == (("scale", 20.0),)
    assert adjusted.tau == 0.5


METHODS_TABLE = """
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
    losses = ["softmax", "cpl", "wldam", "ldam", "late_drw"]
    runs = load(more=METHODS_TABLE, losses=losses, seeds=[0]).configs()
    assert {(c.variant, c.loss, c.head, c.loss_options, c.drw, c.method) for c in runs} == {
        ("softmax", "softmax", "linear", (), None, ""),
        ("cpl", "softmax", "distance", (), None, "cpl"),
        ("wldam", "ldam", "cosine", (("weighting", "inverse"),), None, "wldam"),
        ("ldam", "ldam", "cosine", (("scale", 20.0),), None, ""),
        ("late_drw", "arconvl", "distance", (), None, "late_drw"),
    }
    assert all(f"-{c.variant}-" in c.id and f", {c.variant}," in c.describe() for c in runs)
    assert len({c.id for c in runs}) == len(runs)


def test_a_method_that_is_softmax_on_equal_counts_is_answered_by_the_softmax_run(load):
    more = '[methods.wce]\nloss = "weighted_softmax"\noptions = { weighting = "inverse" }\n'
    profile = load(more=more, losses=["softmax", "wce"], **ONE)
    runs = {(c.train_set, c.variant): c for c in profile.configs()}
    assert computed_as(runs["balanced", "wce"]).id == runs["balanced", "softmax"].id
    assert computed_as(runs["longtailed", "wce"]) == runs["longtailed", "wce"]


def test_protocols_and_training_sets_can_be_narrowed(load):
    profile = load(protocols=["other"], train_sets=["longtailed"])
    assert {(c.protocol.name, c.train_set) for c in profile.configs()} == {("other", "longtailed")}


def test_a_protocol_at_another_imbalance_factor_is_named_after_it(load):
    profile = load(protocols=["thesis", "thesis_if50", "thesis_if2.5"])
    assert [(p.name, p.imbalance_factor, p.max_count) for p in profile.protocols] == [
        ("thesis", 100.0, 100),
        ("thesis_if50", 50.0, 100),
        ("thesis_if2.5", 2.5, 100),
    ]
    assert len({c.id for c in profile.configs()}) == len(profile.configs())
    same, plain = (load(protocols=[name]).protocols for name in ("thesis_if100", "thesis"))
    assert same == plain, "the very same runs"


def test_a_protocol_given_twice_is_named_as_it_was_given(load):
    message = r"protocols = \['thesis', 'thesis_if100'\]: expected each one once"
    with pytest.raises(ConfigError, match=message):
        load(protocols=["thesis", "thesis_if100"])


@pytest.mark.parametrize(
    "name", ["othr", "thesis_if", "thesis_if0", "thesis_ifx", "othr_if50", "thesis_if1000"]
)
def test_a_protocol_that_is_not_there_or_cannot_be_is_refused(load, name):
    with pytest.raises(ConfigError, match=r"protocol = |imbalance_factor = "):
        load(protocols=[name])


def test_wishes_for_slurm_come_from_the_profile_and_the_command_line(load):
    profile = load(more='\n[slurm]\npartition = "gpu"\nminutes = 30\n')
    assert profile.slurm == Slurm(partition="gpu", minutes=30)
    other = Slurm(partition="gpu", minutes=90, gpus=0)
    assert with_slurm(profile, "minutes=90 gpus=0").slurm == other
    assert with_slurm(profile, "").slurm == profile.slurm
    assert with_slurm(profile, "partition=2024").slurm.partition == "2024"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", "SLURM = 'gpu': expected words like partition=gpu"),
        ("minute=5", "SLURM: key = 'minute'.*did you mean 'minutes'"),
        ("minutes=soon", "SLURM: minutes = 'soon': expected a whole number"),
        ("minutes=0", "SLURM: minutes = 0: expected at least 1"),
    ],
)
def test_a_mistake_in_the_wishes_for_slurm_is_named(load, text, message):
    with pytest.raises(ConfigError, match=message):
        with_slurm(load(), text)


def test_a_protocol_is_found_by_its_name(load):
    assert load().protocol("other").max_count == 50
    with pytest.raises(ConfigError, match=r"protocol = 'othr'.*did you mean 'other'"):
        load().protocol("othr")


def test_whole_numbers_are_taken_where_a_number_is_wanted(load):
    rate = load("lr = 3.0e-3", "lr = 1").recipe.lr
    assert (rate, type(rate)) == (1.0, float)


# refusals of a profile


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # unknown keys, with a hint where there is a near one
        (
            "seeds = ",
            "notebooks = ['19_gb']\nseeds = ",
            r"notebooks = '19_gb': expected one of 00_.*did you mean '19_gbg'",
        ),
        (
            "[recipe]",
            "[notebook_parameters]\nsmal_seeds = 2\n[recipe]",
            r"notebook_parameters = 'smal_seeds': expected one of .*did you mean 'small_seeds'",
        ),
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
        (
            "lr = 3.0e-3",
            'lr = "3e-3"',
            r"recipe: lr = '3e-3': expected a number \(write 1.0e-4, not 1e-4 in quotes\)",
        ),
        ("_test = true", "_test = 1", r"longtailed_test = 1: expected true or false"),
        ('title = "Mine"', "title = 3", r"title = 3: expected a string in quotes"),
        ("seeds =", "recipe_by_backbone = 3\nseeds =", r"recipe_by_backbone = 3: expected a table"),
        ("seeds =", "pretraining = 3\nseeds =", r"pretraining = 3: expected a table"),
        # impossible values
        ('"finetune"', '"finetunes"', r"mode = 'finetunes'.*did you mean 'finetune'"),
        ('"ldam"', '"ldma"', r"losses = 'ldma'.*did you mean 'ldam'"),
        ("seeds = [0, 1]", "seeds = []", r"seeds = \(\): expected at least one"),
        ("seeds = [0, 1]", "seeds = [0, 0]", r"seeds = \[0, 0\]: expected each one once"),
        ("seeds = [0, 1]", "seeds = [-1]", r"seed = -1: expected 0 to 4294967295"),
        ("seeds = [0, 1]", 'seeds = [0]\ntrain_sets = ["long"]', r"train_set = 'long'"),
        ("seeds = [0, 1]", "seeds = [0]\ndrw = 1.5", r"drw = 1.5: expected a fraction"),
        ('groups = "thesis"', 'groups = "theses"', r"groups = 'theses'.*did you mean 'thesis'"),
        (
            "max_count = 100",
            "max_count = 111",
            r"protocol thesis: max_count = 111: expected at most 110, what digits has",
        ),
        (
            "test_per_class = 50",
            "test_per_class = 51",
            r"protocol thesis: test_per_class = 51: expected at most 50",
        ),
        ('dataset = "digits"', 'dataset = "digit"', r"dataset = 'digit'.*did you mean 'digits'"),
        ("max_count = 100", "max_count = 0", r"max_count = 0: expected at least 1"),
        ("epochs = 8", "epochs = 0", r"recipe: epochs = 0: expected 1 to 100000"),
        ("lr = 3.0e-3", "lr = nan", r"recipe: lr = nan: expected a number above 0"),
        ('"adamw"', '"adamv"', r"recipe: optimizer = 'adamv'.*did you mean 'adam'"),
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
    start, end = PROFILE.split("[protocols.thesis]")[0], PROFILE.split("[recipe]")[1]
    path.write_text(f"{start}{table}[recipe]{end}")
    message = r"mine.toml: protocols: expected tables like \[protocols.thesis\]"
    with pytest.raises(ConfigError, match=message):
        load_profile(str(path))


OWN = "[recipe_by_backbone.vit_small32]"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (f"{OWN}\nlearning_rate = 1.0", r"recipe_by_backbone.vit_small32: key = 'learning_rate'"),
        (f"{OWN}\nlr = -1.0", r"recipe_by_backbone.vit_small32: lr = -1.0"),
        (f"{OWN}\nlr = '1'", r"recipe_by_backbone.vit_small32: lr = '1': expected a number"),
        ("[loss_options.foca]\ngamma = 1.0", r"loss_options = 'foca'.*did you mean 'focal'"),
        (
            "[recipe_by_backbone]\nvit_small32 = 3",
            r"recipe_by_backbone.vit_small32 = 3: expected a table",
        ),
        (
            "[recipe_by_backbone.vit_smal32]\nlr = 1.0",
            r"recipe_by_backbone = 'vit_smal32'.*did you mean 'vit_small32'",
        ),
        (
            "[loss_options.logit_adjusted]\ntua = 1.0",
            r"loss_options.logit_adjusted = 'tua'.*did you mean 'tau'",
        ),
        ("[tune]\nlearning_rate = [1.0]", r"tune = 'learning_rate'"),
        ("[tune]\nlr = 1.0", r"tune.lr = 1.0: expected a list of values to try"),
        ("[tune]\nlr = [1, 1.0]", r"tune.lr = \[1.0, 1.0\]: expected each one once"),
        ("[tune]\nlr = [1.0, 'fast']", r"tune.lr\[1\] = 'fast': expected a number"),
        ("[slurm]\ngpu = 1", r"slurm: key = 'gpu'.*did you mean 'gpus'"),
        ("[loss_options]\nldam = 3", r"loss_options.ldam = 3: expected a table"),
        (
            "[pretraining]\nimages = 0\n[pretraining.recipe]\n" + PROFILE.split("[recipe]")[1],
            r"pretraining: images = 0: expected",
        ),
        ("[pretraining]\nimages = 9", r"pretraining: the key 'recipe' is missing \(a table\)"),
        (
            "[methods.softmax]\nloss = 'focal'",
            r"methods.softmax = 'softmax': expected a name that no loss has already",
        ),
        (
            "[methods.gbg]\nloss = 'gbg'",
            r"methods.gbg = 'gbg': expected a name that no loss has already",
        ),
        ("[methods.logit_adjusted]\nloss = 'focal'", r"expected a name that no loss has already"),
        (
            "[methods.My-Loss]\nloss = 'focal'",
            r"methods.My-Loss = 'My-Loss': expected small letters, digits and underscores",
        ),
        ("[methods]\ncpl = 'softmax'", r"methods.cpl = 'softmax': expected a table"),
        ("[methods.cpl]\nhead = 'distance'", r"methods.cpl: the key 'loss' is missing"),
        (
            "[methods.cpl]\nloss = 'softmaxx'",
            r"methods.cpl: loss = 'softmaxx'.*did you mean 'softmax'",
        ),
        (
            "[methods.cpl]\nloss = 'softmax'\noption = { a = 1 }",
            r"methods.cpl: key = 'option'.*did you mean 'options'",
        ),
        (
            "[methods.cpl]\nloss = 'softmax'\noptions = 3",
            r"methods.cpl: options = 3: expected a table",
        ),
    ],
)
def test_a_mistake_in_an_optional_table_is_named(load, more, message):
    with pytest.raises(ConfigError, match=message):
        load(more="\n" + more)


def test_an_unknown_profile_is_refused_with_the_known_ones():
    message = r"PROFILE = 'dmo': expected one of .*demo.*or the path of a TOML file"
    with pytest.raises(ConfigError, match=message):
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


@pytest.mark.parametrize(
    "text", ["x = " + "[" * 5000 + "]" * 5000, "seeds = [" + "9" * 5000 + "]"], ids=["deep", "long"]
)
def test_toml_that_no_parser_takes_is_refused(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine.toml: "):
        load_profile(str(path))


def test_a_pipe_is_no_profile(tmp_path):
    os.mkfifo(tmp_path / "mine.toml")
    with pytest.raises(ConfigError, match="the path of a TOML file"):
        load_profile(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize("name", ["own\\input{y}%", "my own", "$x"])
def test_a_profiles_file_has_a_plain_name(tmp_path, name):
    path = tmp_path / f"{name}.toml"
    path.write_text(PROFILE)
    with pytest.raises(ConfigError, match="a file that has a name of letters, digits"):
        load_profile(str(path))


@pytest.mark.parametrize("tau", ['"1"', "0", "-1", "[1]"])
def test_a_tau_that_is_no_number_above_0_is_refused(load, tau):
    with pytest.raises(
        ConfigError, match=r"loss_options.logit_adjusted.tau = .*: expected a number"
    ):
        load(more=f"\n[loss_options.logit_adjusted]\ntau = {tau}\n")


def test_a_path_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.toml"):
        load_profile(str(tmp_path / "nothing.toml"))


def test_whole_numbers_to_try_are_as_good_as_others(load):
    """1 and 1.0 are the same run."""
    assert [type(lr) for lr in load(more="\n[tune]\nlr = [1, 0.5]\n").tune["lr"]] == [float, float]


def test_a_loss_has_its_own_rate_and_the_profiles_head_where_it_can():
    light = load_profile("light")
    rates = {"vit_tiny_patch16_224": {"ldam": 0.02, "ldam_drw": 0.01, "softmax": 0.1}}
    changed = dataclasses.replace(light, lr_by_loss=rates)
    for loss, lr, head in (
        ("ldam", 0.02, "cosine"),
        ("ldam_drw", 0.01, "cosine"),
        ("logit_adjusted", 0.1, "scaled_cosine"),
        ("focal", light.recipe.lr, "scaled_cosine"),
    ):
        run = changed.config("vit_tiny_patch16_224", loss, "longtailed", 0, "standard")
        assert (run.recipe.lr, run.head) == (lr, head), loss
    other = changed.config("mobilenetv2_100", "ldam", "longtailed", 0, "standard")
    assert other.recipe.lr == light.recipe.lr


# a base, and backbones of other runs

SECOND = """title = "Another rate"
base = "{base}"
losses = ["softmax"]
recipe = {{ lr = 1.0e-4 }}
"""


def write_second(folder, base="mine.toml", more=""):
    path = folder / "second.toml"
    path.write_text(SECOND.format(base=base) + more)
    return str(path)


def test_a_profile_completes_its_base(load, tmp_path):
    first = load()
    second = load_profile(write_second(tmp_path))
    assert (second.title, second.losses, second.base) == ("Another rate", ("softmax",), "mine.toml")
    assert second.recipe == dataclasses.replace(first.recipe, lr=1.0e-4)
    kept = ("dataset", "mode", "backbones", "protocols", "seeds", "pretraining", "deviations")
    assert all(getattr(second, key) == getattr(first, key) for key in kept)


def test_a_base_of_the_workbooks_own_is_named(tmp_path):
    second = load_profile(write_second(tmp_path, "light"), backbones=["mobilenetv2_100"])
    assert {run.recipe.lr for run in second.configs()} == {1.0e-4}
    assert {run.mode for run in second.configs()} == {"light"}


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("nowhere", "expected one of .*demo"),
        ("light_224", "base = 'light_224': expected a profile that has no base itself"),
    ],
)
def test_a_wrong_base_is_named(tmp_path, base, message):
    with pytest.raises(ConfigError, match=message):
        load_profile(write_second(tmp_path, base))


def test_runs_start_from_the_backbones_of_another_profile(tmp_path):
    refit, whole = load_profile("whole_refit"), load_profile("whole")
    for run in refit.configs():
        key = run.backbone, "softmax", run.train_set, run.seed, run.protocol.name
        assert run.backbone_of == whole.config(*key).id
    assert "backbone_of" not in whole.configs()[0].to_dict()


@pytest.mark.parametrize(
    ("of", "base", "message"),
    [
        ("light", "probe", "backbone_of.profile = 'light': expected one with mode 'finetune'"),
        ("whole", "whole", "backbone_of = '.*': expected empty, or mode = 'probe' or 'light'"),
    ],
)
def test_other_backbones_than_whole_ones_or_for_other_heads_are_refused(
    tmp_path, of, base, message
):
    more = f'[backbone_of]\nprofile = "{of}"\nloss = "softmax"\n'
    with pytest.raises(ConfigError, match=message):
        load_profile(write_second(tmp_path, base, more))


def test_on_equal_counts_a_loss_has_the_rate_of_the_one_that_it_is_there():
    profile = load_profile("probe")
    backbone = "vit_tiny_patch16_224"
    for loss, other in (("class_balanced", "softmax"), ("ldam_drw", "ldam")):
        runs = [profile.config(backbone, x, "balanced", 0, "standard") for x in (loss, other)]
        assert computed_as(runs[0]) == computed_as(runs[1])
        long = [profile.config(backbone, x, "longtailed", 0, "standard") for x in (loss, other)]
        assert long[0].recipe.lr != long[1].recipe.lr
