"""A profile for imported photographs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from ltlib.errors import ConfigError, require_one_of
from ltlib.files import atomic_path
from ltlib.models import is_small
from ltlib.runs.config import Pretraining
from ltlib.runs.profiles import Profile, load_profile
from workbook.photographs.importing import Imported

TRANSFORMERS = ("vit_", "deit")  # how timm's names of those begin that take adapters
HEAD = (
    "# Written by notebook 16, and written again when it runs. Copy it to another name to change it"
    " by hand."
)


def write_profile(
    path: Path,
    own: Imported,
    *,
    backbones=("mobilenetv2_100",),
    losses=("softmax", "balanced_softmax", "logit_adjusted"),
    way: str = "",
    epochs: int = 20,
    flip: bool = True,
    precision: str = "float32",
    pretraining: Pretraining | None = None,
) -> Profile:
    """Write a whole profile for imported photographs, and load it: ``make runs PROFILE=<path>``
    computes the same runs.

    way: "finetune", the whole backbone, or "light", a small part of it
    (:mod:`ltlib.models.light`); empty means light where all are transformers and none is small, and
    otherwise whole. The rates are those of the profile "finetune"
    for the backbone's family, or of "light" (of "demo" for the small ones). Images are those of the
    import, cropped at random after padding by an eighth. ``flip``: mirrored at random, right for
    all but scripts and the like. precision "bfloat16" is for GPUs.
    pretraining: of small backbones (None: a short one).
    Raises ConfigError for what no profile may say.
    """
    small = _all_small(backbones)
    mode = _mode(way, backbones, small)
    base = load_profile("demo" if small else mode)
    images = {"resolution": own.size, "crop_padding": own.size // 8, "flip": flip}
    recipe = dataclasses.replace(
        base.recipe,
        epochs=epochs,
        batch_size=64,
        precision=precision,
        warmup_epochs=min(base.recipe.warmup_epochs, epochs / 4),
        **images,
    )
    tables = {"protocols.own": {"groups": own.groups()}, "recipe": vars(recipe)}
    tables |= _light_recipes(backbones) if mode == "light" else _family_recipes(base, backbones)
    if small:
        tables |= _pretraining(pretraining, base.pretraining)
    else:
        tables["tune"] = {"lr": [recipe.lr / 3, recipe.lr, recipe.lr * 3]}
    top = _top(own, base, backbones, losses) | {"mode": mode}
    if mode == "light":
        top["head"] = "scaled_cosine"
    text = [HEAD, *_toml(top)]
    for heading, table in tables.items():
        text += ["", f"[{heading}]", *_toml(table)]
    with atomic_path(Path(path)) as partial:
        partial.write_text("\n".join(text) + "\n", encoding="utf-8")
    return load_profile(str(path))


def _all_small(backbones) -> bool:
    small = [name for name in backbones if is_small(name)]
    if small and len(small) < len(backbones):
        raise ConfigError(
            f"backbones = {list(backbones)}: expected either small ones ({', '.join(small)}) or"
            " real ones; they need other recipes"
        )
    return bool(small)


def _mode(way: str, backbones, small: bool) -> str:
    transformers = all(name.startswith(TRANSFORMERS) for name in backbones)
    mode = way or ("light" if transformers and not small else "finetune")
    require_one_of("way", mode, ("finetune", "light"))
    return mode


def _top(own: Imported, base: Profile, backbones, losses) -> dict:
    untested = sum(not n for n in own.test)
    tested = f"Own photographs: {sum(own.test):,} test images of {len(own.test) - untested} classes"
    tested += f"; {untested} classes have none." if untested else "."
    return {
        "title": f"{own.name}: {sum(own.train):,} training images of {len(own.train)} classes",
        "dataset": own.dataset,
        "backbones": list(backbones),
        "losses": list(losses),
        "seeds": [0],
        "train_sets": ["longtailed"],
        "deviations": [tested, f"Rates of the profile {base.name}, not tuned on these images."],
    }


def _pretraining(given: Pretraining | None, usual: Pretraining) -> dict[str, dict]:
    """The tables of what is given, or of a shorter one than usual."""
    short = dataclasses.replace(usual.recipe, epochs=4)
    made = given or dataclasses.replace(usual, images=3000, recipe=short)
    return {"pretraining": {"images": made.images}, "pretraining.recipe": vars(made.recipe)}


def _family_recipes(base: Profile, backbones) -> dict[str, dict]:
    """Each backbone with the recipe that the base profile has for one of its family, the first."""
    result = {}
    for name in backbones:
        family = f"{name.split('_')[0]}_"
        for other, change in base.recipe_by_backbone.items():
            if f"{other}_".startswith(family):
                result.setdefault(f"recipe_by_backbone.{name}", change)
    return result


def _light_recipes(backbones) -> dict[str, dict]:
    """What is trained of each backbone: adapters in a transformer, biases and normalisations in a
    convolutional network."""
    kinds = {b: "adaptformer" if b.startswith(TRANSFORMERS) else "bias_norm" for b in backbones}
    return {f"recipe_by_backbone.{name}": {"light": kind} for name, kind in kinds.items()}


def _toml(table: dict) -> list[str]:
    """Strings, numbers, truth values and lists are the same in TOML as in JSON."""
    return [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in table.items()]
