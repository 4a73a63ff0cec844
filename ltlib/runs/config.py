"""One training run: all that its result depends on, and the name that follows from it."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from typing import Annotated, Any, Literal

import numpy as np

from ltlib import registry
from ltlib.checked import Positive, Several, bounds, checked, later, table, to_dict
from ltlib.data.sizes import DatasetSize, dataset_size
from ltlib.errors import ConfigError, require, require_one_of
from ltlib.longtail import groups
from ltlib.protocol import Protocol, longtailed_counts, train_counts
from ltlib.recipe import Recipe


@checked
class Pretraining:
    """How the small backbones of the embedded data set are pretrained: on ``images`` clean pairs of
    digits."""

    images: Positive
    recipe: Annotated[Recipe, table(Recipe)]
    seed: int = 0


@checked
class RunConfig:
    """One training run. Equal configs are the same run; ``profile`` only says where its files lie.

    mode          "finetune": backbone and head, from pretrained weights; "light": the same, but of
                  the backbone only what ``recipe.light`` says; "probe": a head on the features of a
                  frozen backbone; "scratch": backbone and head, from fresh weights
    loss_options  (name, value) pairs for :func:`ltlib.losses.build_loss`, sorted by name
    head          one of :data:`ltlib.registry.HEADS`; empty means the first that the loss can have
    drw           deferred re-weighting, for losses that the registry calls deferrable: no weights
                  up to this fraction of the epochs, then the loss's own, or class-balanced ones
                  (beta 0.9999) where it has none; None means never
    tau           post-hoc logit adjustment of the softmax run (Menon et al. 2021): nothing is
                  trained, its stored test logits are evaluated as z_c - tau ln f_c, f_c the class's
                  share of the training images; None means none
    backbone_of   id of a finished run of mode "finetune": in mode "probe", or "light", its
                  backbone, after its last epoch, takes the place of the pretrained one; empty means
                  none
    method        what the profile calls this combination of loss, options and head, where it names
                  it (``Profile.methods``)
    """

    dataset: str
    protocol: Annotated[Protocol, table(Protocol)]
    train_set: Literal["balanced", "longtailed"]
    backbone: str
    loss: str
    seed: Annotated[int, bounds("0 to 4294967295", ge=0, lt=2**32)]
    mode: Literal["finetune", "light", "probe", "scratch"]
    recipe: Annotated[Recipe, table(Recipe)]
    loss_options: Several[tuple[str, Any]] = ()
    head: str = ""
    drw: Annotated[float | None, bounds("a fraction of the epochs, 0 <= drw < 1", ge=0, lt=1)] = (
        None
    )
    pretraining: Annotated[Pretraining, table(Pretraining)] | None = None
    tau: Annotated[float | None, bounds("a number above 0", gt=0)] = later(None)
    method: str = later("")
    backbone_of: str = later("")
    profile: str = "custom"

    def __post_init__(self):
        require_one_of("loss", self.loss, registry.ENTRIES)
        options = tuple(sorted(dict(self.loss_options).items()))
        object.__setattr__(self, "loss_options", options)
        object.__setattr__(self, "head", self.head or registry.heads_of(self.loss)[0])
        self._check_sizes(dataset_size(self.dataset))
        self._check_head()
        self._check_recipe()
        self._check_variant()

    def _check_sizes(self, size: DatasetSize) -> None:
        protocol = self.protocol
        if protocol.counts != size.counts:
            expected = "its own" if size.counts else "none: its sets are cut"
            raise ConfigError(
                f"protocol {protocol.name}: expected the class counts of {self.dataset}"
                f" ({expected}), got {protocol.counts or 'none'}"
            )
        if size.counts:
            own = f"{self.dataset} is used with its own class counts"
            expected = f"'longtailed': {own}, and a balanced set is not cut from it"
            require(self.train_set == "longtailed", "train_set", self.train_set, expected)
            return
        limits = dict.fromkeys(("max_count", "balanced_count"), size.train_per_class)
        for name, limit in (limits | {"test_per_class": size.test_per_class}).items():
            value, where = getattr(protocol, name), f"protocol {protocol.name}: {name}"
            expected = f"at most {limit}, what {self.dataset} has of each class"
            require(value <= limit, where, value, expected)

    def _check_head(self) -> None:
        require_one_of("head", self.head, registry.HEADS)
        needed = registry.heads_of(self.loss)
        if self.head not in needed:
            raise ConfigError(
                f"head = {self.head!r} with loss = {self.loss!r}: expected head ="
                f" {' or '.join(map(repr, needed))}. ldam and gbg scale cosines themselves; gcpl,"
                " affinity and arconvl need distances to centres; the other losses need unbounded"
                " logits. Leave head out to get the right one."
            )

    def _check_recipe(self) -> None:
        recipe, mode, gbg = self.recipe, self.mode, self.loss == "gbg"
        if gbg:
            weighs = "it weighs gradients of the backbone, which mode 'probe' does not train"
            whole = f"finetune or scratch with loss = 'gbg': {weighs}"
            require(mode != "probe", "mode", mode, whole)
            goes = "false with loss = 'gbg', which goes backward group by group"
            require(not recipe.compile, "compile", recipe.compile, goes)
            contrasts = not dict(self.loss_options).get("beta") or recipe.views == "contrastive"
            views = "'contrastive' with beta > 0: its contrastive term compares views of an image"
            require(contrasts, "views", recipe.views, views)
        known = "'normalised', or mode = 'scratch': pretrained weights know their normalisation"
        require(recipe.pixels == "normalised" or mode == "scratch", "pixels", recipe.pixels, known)
        used = recipe.views == "one" or (gbg and mode != "probe")
        require(used, "views", recipe.views, "'one': only loss = 'gbg' has a use for more")
        uniform = mode not in ("probe", "light") or recipe.layer_decay == 1
        frozen = f"1 in mode {mode!r}, whose backbone is frozen"
        require(uniform, "layer_decay", recipe.layer_decay, frozen)
        starts = recipe.head_init == "random" or mode != "scratch"
        means = "'random' in mode 'scratch': features of fresh weights have no class means to go by"
        require(starts, "head_init", recipe.head_init, means)
        for name, usual in (("light", "adaptformer"), ("width", 16)):
            value = getattr(recipe, name)
            light = "its default, or mode = 'light': only there does it mean something"
            require(mode == "light" or value == usual, name, value, light)

    def _check_variant(self) -> None:
        own = f"empty, or mode = 'probe' or 'light': in mode {self.mode!r} all of it trains"
        fits = not self.backbone_of or self.mode in ("probe", "light")
        require(fits, "backbone_of", self.backbone_of, own)
        if self.drw is not None:
            names = [entry.name for entry in registry.ENTRIES.values() if entry.deferrable]
            others = f"a loss out of {', '.join(names)}, not {self.loss!r}; leave drw out"
            require(self.loss in names, "drw", self.drw, others)
            some = f"to leave some of the {self.recipe.epochs} epochs"
            require((self.drw_epoch or 0) < self.recipe.epochs, "drw", self.drw, some)
        if self.tau is not None:
            softmax = f"loss = 'softmax', not {self.loss!r}; leave tau out"
            require(self.loss == "softmax", "tau", self.tau, softmax)

    @classmethod
    def from_dict(cls, values: dict, profile: str = "custom") -> RunConfig:
        """The run of :meth:`to_dict`'s values, as a record holds them. Raises ConfigError."""
        values = {key: value for key, value in values.items() if key != "loss_version"}
        options = tuple(values.pop("loss_options").items())
        return cls(**values, loss_options=options, profile=profile)

    @property
    def counts(self) -> np.ndarray:
        """(C,) training images of each class."""
        classes = dataset_size(self.dataset).num_classes
        return train_counts(self.protocol, self.train_set, classes)

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Classes of the head, the middle and the tail."""
        classes = dataset_size(self.dataset).num_classes
        return groups(self.protocol.groups, longtailed_counts(self.protocol, classes))

    @property
    def drw_epoch(self) -> int | None:
        """The epoch, counted from 0, from which deferred re-weighting is on."""
        return None if self.drw is None else round(self.drw * self.recipe.epochs)

    @property
    def variant(self) -> str:
        """What profiles and tables call the loss: the profile's name for it, its own,
        ``<name>_drw``, or ``logit_adjusted``."""
        if self.tau is not None and not self.method:
            return "logit_adjusted"
        return self.method or self.loss + ("" if self.drw is None else registry.DRW)

    def to_dict(self) -> dict:
        """The config as plain JSON values, without what does not change the result (``profile``).

        "loss_version" stands in it once the formula of the loss has another version than the first.
        """
        values = to_dict(self) | {"loss_options": dict(self.loss_options)}
        del values["profile"]
        if (version := registry.version(self.loss)) > 1:
            values["loss_version"] = version
        return json.loads(json.dumps(values))

    @functools.cached_property
    def id(self) -> str:
        """Readable name and a hash of the canonical JSON: the name of every file of this run."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
        sets = f"{self.protocol.name}-{self.train_set}"
        return f"{self.backbone}-{sets}-{self.variant}-s{self.seed}-{digest}"

    def describe(self) -> str:
        """A run in words, for messages."""
        sets = f"{self.protocol.name} {self.train_set}"
        return f"{self.backbone}, {sets}, {self.variant}, seed {self.seed}"


def computed_as(config: RunConfig) -> RunConfig:
    """The run that stands for this one: softmax where the loss equals it on these counts, otherwise
    itself.

    Re-weighting equal counts, at once or deferred, or shifting all logits by the same ln n, is
    softmax cross-entropy by mathematics (:func:`ltlib.losses.equals_softmax`): such runs are
    computed once, and the tables say so.
    """
    counts, options = config.counts, dict(config.loss_options)
    if len(set(counts.tolist())) > 1:
        return config
    from ltlib.losses import equals_softmax  # here: who reads a profile needs no torch for it

    config = dataclasses.replace(config, drw=None, tau=None)
    if config.loss != "softmax" and equals_softmax(config.loss, counts, **options):
        return dataclasses.replace(config, loss="softmax", loss_options=(), method="")
    return config
