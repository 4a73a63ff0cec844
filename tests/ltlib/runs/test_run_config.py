import dataclasses
import json
import subprocess
import sys

import pytest

from ltlib.errors import ConfigError
from ltlib.protocol import Protocol
from ltlib.recipe import Recipe
from ltlib.registry import ENTRIES
from ltlib.runs.config import Pretraining, RunConfig
from ltlib.runs.profiles import load_profile

RECIPE = dict(epochs=8, batch_size=64, optimizer="adamw", lr=3e-3, resolution=32)
PROTOCOL = dict(
    name="thesis",
    max_count=100,
    balanced_count=21,
    val_per_class=10,
    test_per_class=50,
    longtailed_test=True,
    groups="thesis",
)


def run_config(**changes):
    values = dict(
        dataset="digits",
        protocol=Protocol(**PROTOCOL),
        train_set="balanced",
        backbone="vit_small32",
        loss="softmax",
    )
    return RunConfig(
        **{**values, "seed": 0, "mode": "finetune", "recipe": Recipe(**RECIPE), **changes}
    )


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
        ({"lr": float("inf")}, "lr = inf: expected a number above 0"),
        ({"clip_grad": float("inf")}, "clip_grad = inf: expected a norm above 0"),
        ({"weight_decay": float("inf")}, "weight_decay = inf: expected a finite number"),
        ({"layer_decay": 0.0}, "layer_decay = 0.0: expected 0 < layer_decay <= 1"),
        ({"layer_decay": 0.7, "decay_all": True}, "layer_decay = 0.7: expected 1 with decay_all"),
        ({"clip_grad": -1.0}, "clip_grad = -1.0"),
        ({"ema": 1.0}, "ema = 1.0: expected 0 <= ema < 1"),
        ({"rand_augment": 31}, "rand_augment = 31: expected 0 to 30"),
        ({"pick": "g-mean"}, "pick = 'g-mean'.*did you mean 'gmean'"),
        ({"pixels": "rwa"}, "pixels = 'rwa'.*did you mean 'raw'"),
        ({"cutout": -1}, "cutout = -1: expected 0 to 2048 pixels"),
        ({"views": "two"}, "views = 'two': expected one of one, contrastive"),
        (
            {"views": "contrastive", "rand_augment": 9},
            'rand_augment = 9: expected 0 with views = "contrastive"',
        ),
    ],
)
def test_impossible_recipe_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**{**RECIPE, **changes})


@pytest.mark.parametrize(
    "field",
    [
        "max_count",
        "balanced_count",
        "test_per_class",
        "imbalance_factor",
        "val_per_class",
        "data_seed",
    ],
)
def test_impossible_protocol_is_refused(field):
    with pytest.raises(ConfigError, match=f"{field} = -1"):
        Protocol(**{**PROTOCOL, field: -1})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imbalance": "steps"}, "imbalance = 'steps'.*did you mean 'step'"),
        ({"groups": "steps"}, "groups = 'steps'.*did you mean 'step'"),
        ({"val_fraction": 0.1}, "val_fraction = 0.1: expected 0, or val_per_class = 0"),
        (
            {"val_fraction": 1.0, "val_per_class": 0},
            "val_fraction = 1.0: expected 0 <= val_fraction < 1",
        ),
        (
            {"val_fraction": -0.1, "val_per_class": 0},
            "val_fraction = -0.1: expected 0 <= val_fraction < 1",
        ),
        (
            {"val_fraction": float("nan"), "val_per_class": 0},
            "val_fraction = nan: expected 0 <= val_fraction < 1",
        ),
        (
            {"val_fraction": 0.1, "val_per_class": 0, "counts": (100, 1)},
            "val_fraction = 0.1: expected 0: own class counts",
        ),
    ],
)
def test_protocol_with_an_impossible_step_or_share_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Protocol(**{**PROTOCOL, **changes})


CONTRASTIVE = Recipe(**RECIPE, views="contrastive")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"loss": "ldam", "head": "distance"},
            r"head = 'distance' with loss = 'ldam': expected head = 'cosine'",
        ),
        (
            {"loss": "arconvl", "head": "linear"},
            r"head = 'linear' with loss = 'arconvl': expected head = 'distance'",
        ),
        (
            {"loss": "gbg", "head": "distance"},
            r"head = 'distance' with loss = 'gbg': expected head = 'cosine'",
        ),
        (
            {"loss": "gbg", "mode": "probe"},
            r"mode = 'probe': expected finetune or scratch with loss = 'gbg'",
        ),
        (
            {"loss": "gbg", "recipe": Recipe(**RECIPE, compile=True)},
            r"compile = True: expected false with loss = 'gbg'",
        ),
        (
            {"loss": "gbg", "loss_options": (("beta", 1.6),)},
            r"views = 'one': expected 'contrastive' with beta > 0",
        ),
        (
            {"loss": "softmax", "recipe": CONTRASTIVE},
            r"views = 'contrastive': expected 'one': only loss = 'gbg'",
        ),
        (
            {"loss": "softmax", "recipe": Recipe(**RECIPE, pixels="raw")},
            r"pixels = 'raw': expected 'normalised', or mode = 'scratch'",
        ),
        ({"loss": "pf", "drw": 0.8}, r"drw = 0.8: expected a loss out of"),
        ({"loss": "arconvl", "tau": 1.0}, r"tau = 1.0: expected loss = 'softmax'"),
        (
            {"loss": "ldam", "head": "linear"},
            r"head = 'linear' with loss = 'ldam': expected head = 'cosine'",
        ),
        (
            {"loss": "softmax", "head": "cosine"},
            r"head = 'cosine' with loss = 'softmax': expected head = 'linear'",
        ),
        ({"loss": "ldam", "head": "cosin"}, r"head = 'cosin'.*did you mean 'cosine'"),
        (
            {"loss": "softmax", "drw": 0.8},
            r"drw = 0.8: expected a loss out of weighted_softmax, .*, ldam, not 'softmax'",
        ),
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


HEADS = {
    "ldam": "cosine",
    "gbg": "cosine",
    "gcpl": "distance",
    "affinity": "distance",
    "arconvl": "distance",
}


@pytest.mark.parametrize("loss", ENTRIES)
def test_the_head_follows_the_loss(loss):
    assert run_config(loss=loss).head == HEADS.get(loss, "linear")


@pytest.mark.parametrize("loss", [name for name in ENTRIES if name not in HEADS])
def test_losses_of_unbounded_logits_take_distances_too(loss):
    assert run_config(loss=loss, head="distance").id != run_config(loss=loss).id


def test_the_contrastive_term_with_its_views_is_a_run():
    assert (
        run_config(loss="gbg", loss_options=(("beta", 1.6),), recipe=CONTRASTIVE).head == "cosine"
    )


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        run_config().seed = 1


# ids


def other_value(value):
    """A permitted value of the same type, other than this one."""
    names = {
        "adamw": "sgd",
        "cosine": "step",
        "float32": "bfloat16",
        "thesis": "survey",
        "exponential": "step",
        "accuracy": "gmean",
        "normalised": "raw",
        "one": "contrastive",
        "adaptformer": "lora",
        "random": "class_means",
    }
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return names.get(value, value + "x")
    return (
        value + 1
        if isinstance(value, int)
        else value / 2 + 0.25
        if isinstance(value, float)
        else (3,)
    )


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Recipe)])
def test_the_id_changes_with_each_field_of_the_recipe(field):
    recipe = Recipe(**RECIPE, schedule="step")
    value = "cosine" if field == "schedule" else other_value(getattr(recipe, field))
    changed = dataclasses.replace(recipe, **{field: value})
    loss = {"loss": "gbg", "train_set": "longtailed"} if field == "views" else {}
    modes = {"pixels": "scratch", "light": "light", "width": "light"}
    mode = modes.get(field, "finetune")
    assert (
        run_config(recipe=changed, mode=mode, **loss).id
        != run_config(recipe=recipe, mode=mode, **loss).id
    )


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(Protocol) if f.name != "counts"]
)
def test_the_id_changes_with_each_field_of_the_protocol(field):
    protocol = Protocol(
        **{**PROTOCOL, "test_per_class": 40}
        | ({"val_per_class": 0} if field == "val_fraction" else {})
    )
    changed = dataclasses.replace(protocol, **{field: other_value(getattr(protocol, field))})
    assert run_config(protocol=changed).id != run_config(protocol=protocol).id


def test_fields_that_came_later_are_left_out_while_they_have_their_default():
    later = {
        "layer_decay",
        "clip_grad",
        "ema",
        "rand_augment",
        "decay_all",
        "compile",
        "tau",
        "pick",
        "pixels",
        "cutout",
        "views",
        "light",
        "width",
        "head_init",
        "method",
        "imbalance",
        "val_fraction",
        "counts",
    }
    values = run_config().to_dict()
    assert not later & {*values, *values["recipe"], *values["protocol"]}
    assert run_config(recipe=Recipe(**RECIPE, ema=0.9)).to_dict()["recipe"]["ema"] == 0.9


def test_a_method_is_called_by_its_name():
    profile = load_profile("pf_loss")
    assert [
        profile.config("pf_cnn", loss, "longtailed", 0, "step_ir100").variant
        for loss in profile.losses
    ] == list(profile.losses)


@pytest.mark.parametrize(("drw", "epoch"), [(None, None), (0.0, 0), (0.8, 72)])
def test_drw_switches_at_its_share_of_the_epochs(drw, epoch):
    assert (
        run_config(loss="ldam", drw=drw, recipe=Recipe(**{**RECIPE, "epochs": 90})).drw_epoch
        == epoch
    )


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
    other = run_config(
        loss="ldam", profile="b", head="cosine", loss_options=(("max_margin", 0.3), ("scale", 20.0))
    )
    assert one.id == other.id


def test_the_id_is_readable_and_fit_for_a_file_name():
    name, digest = run_config(seed=3).id.rsplit("-", 1)
    assert name == "vit_small32-thesis-balanced-softmax-s3"
    assert len(digest) == 10
    assert int(digest, 16) >= 0


def test_the_id_is_the_same_in_another_process():
    code = (
        "from ltlib.runs.profiles import load_profile; print(load_profile('smoke').configs()[5].id)"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert other == load_profile("smoke").configs()[5].id


def test_a_config_as_a_dict_survives_json_and_leaves_the_profile_out():
    values = run_config(loss="focal", loss_options=(("gamma", 1.0),)).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["loss_options"] == {"gamma": 1.0}
    assert "profile" not in values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 10**9}, "epochs = 1000000000: expected 1 to 100000"),
        ({"batch_size": 10**9}, "batch_size = 1000000000: expected 1 to 65536"),
        ({"resolution": 10**6}, "resolution = 1000000: expected 1 to 2048 pixels"),
        ({"crop_padding": 10**9}, "crop_padding = 1000000000: expected 0 to 512 pixels"),
        ({"cutout": 10**9}, "cutout = 1000000000: expected 0 to 2048 pixels"),
        ({"width": 10**9}, "width = 1000000000: expected 1 to 4096"),
    ],
)
def test_what_would_never_end_or_fit_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        Recipe(**RECIPE | changes)


@pytest.mark.parametrize(
    "name", ["../x", "own\\input{y}%", "a b", "", ".hidden", "-x", "a/b", "$x"]
)
def test_a_protocols_name_is_a_plain_one(name):
    with pytest.raises(ConfigError, match="expected a name of letters, digits"):
        dataclasses.replace(load_profile("demo").protocols[0], name=name)


def test_a_seed_of_the_selection_is_one_that_numpy_takes():
    with pytest.raises(ConfigError, match="data_seed = 4294967296: expected 0 to 4294967295"):
        dataclasses.replace(load_profile("demo").protocols[0], data_seed=2**32)
