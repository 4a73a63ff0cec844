"""What is to be computed: profiles, run configurations, and where their files lie.

A *profile* (a TOML file in ``ltlib/profiles``) names data, backbones, losses, seeds and recipe. It unfolds
into :class:`RunConfig` values, one per training run. Everything here is frozen and checked when it is built,
so that a mistake in a profile is an error that names the key, and never a run of something else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import json
import math
import os
import re
import shutil
import socket
import threading
import tomllib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

ROOT = Path(__file__).resolve().parent.parent
PROFILES = Path(__file__).resolve().parent / "profiles"

LOSS_NAMES = ("softmax", "weighted_softmax", "focal", "class_balanced", "balanced_softmax", "ldam", "equalization")
METHODS = ("pf", "gcpl", "affinity", "arconvl", "gbg")  # beyond the thesis: ltlib.methods
HEADS = ("linear", "cosine", "distance")
HEADS_OF = {"ldam": ("cosine",), "gbg": ("cosine",), "gcpl": ("distance",), "affinity": ("distance",), "arconvl": ("distance",)}
TRAIN_SETS = ("balanced", "longtailed")
DRW = "_drw"
DRW_LOSSES = ("weighted_softmax", "focal", "class_balanced", "ldam")
VARIANTS = (*(name + DRW for name in DRW_LOSSES), "logit_adjusted")


@dataclass(frozen=True)
class DatasetSize:
    """Classes of a data set, and images of each class in its training and its test part.

    An imported data set (:mod:`ltlib.imagefolder`) has ``counts`` too, the training images of each class; the two numbers are
    then the largest of any class, and so is ``val_per_class``, whose images its training part holds beside those of ``counts``.
    """

    num_classes: int
    train_per_class: int
    test_per_class: int
    counts: tuple[int, ...] = ()
    val_per_class: int = 0


DATASETS = {"cifar100": DatasetSize(100, 500, 100), "digits": DatasetSize(100, 110, 50), "cifar10": DatasetSize(10, 5000, 1000),
            "fashion_mnist": DatasetSize(10, 6000, 1000),
            # the smallest class: the others have more, of which no protocol takes any
            "mnist": DatasetSize(10, 5421, 892), "svhn": DatasetSize(10, 4659, 1595)}
ONE_VS_REST = re.compile(r"(cifar10|cifar100)_class(0|[1-9][0-9]?)")


class ConfigError(ValueError):
    """A profile, a run or an environment variable asks for something that cannot be meant."""


def dataset_size(name: str) -> DatasetSize:
    """The size of a data set, built in or imported. Raises ConfigError for an unknown one: it names those that exist."""
    if name in DATASETS:
        return DATASETS[name]
    if (task := ONE_VS_REST.fullmatch(str(name))) and int(task[2]) < (whole := DATASETS[task[1]]).num_classes:
        rest = whole.num_classes - 1
        return DatasetSize(2, rest * whole.train_per_class, rest * whole.test_per_class,
                           (rest * whole.train_per_class, whole.train_per_class))
    found = sorted(path.stem for path in imported_dir().glob("*.json"))
    if name in found:
        return _imported_size(imported_dir() / f"{name}.json")
    if re.fullmatch(r".+-[0-9a-f]{10}", str(name)):
        raise ConfigError(f"dataset = {name!r}: expected one of {', '.join([*DATASETS, *found])}. So imported photographs are called, "
                          f"and {imported_dir()} does not hold these: import them again (notebook 16), or let LTLIB_OUT name the "
                          "folder where that was done.")
    _require_one_of("dataset", name, [*DATASETS, "cifar10_class<0 to 9>", "cifar100_class<0 to 99>", *found])


@functools.cache
def _imported_size(path: Path) -> DatasetSize:
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        train, val, test = (tuple(map(int, about[key])) for key in ("train", "val", "test"))
        return DatasetSize(len(train), max(map(sum, zip(train, val, strict=True))), max(test), train, max(val))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{path}: expected what an import wrote there, and it cannot be read ({error}). Remove the file and import the "
                          "photographs again (notebook 16).") from None


# ----------------------------------------------------------------------------------------------- places


def output_root() -> Path:
    """Folder that holds build/, results/ and figures/: the project, or ``LTLIB_OUT`` where it is set."""
    return Path(os.environ.get("LTLIB_OUT") or ROOT)


def data_dir() -> Path:
    """Folder of the data sets: ``data/`` of the project, or ``LTLIB_DATA`` where it is set."""
    return Path(os.environ.get("LTLIB_DATA") or ROOT / "data")


def results_dir(profile: str) -> Path:
    return output_root() / "results" / profile


def figures_dir(profile: str) -> Path:
    return output_root() / "figures" / profile


def build_dir(profile: str) -> Path:
    return output_root() / "build" / profile


def cache_dir() -> Path:
    """What is dear to compute and shared by profiles: features of frozen backbones, pretrained small ones."""
    return output_root() / "build" / "cache"


def imported_dir() -> Path:
    """Data sets made of photographs of your own (:mod:`ltlib.imagefolder`): a copy that can be made again, so it is with the caches."""
    return cache_dir() / "datasets"


def _host() -> str:
    """Where a process number means one process: several machines, or containers of one name, may share the folders."""
    try:
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        space = ""
    return f"{socket.gethostname()}-{space}".replace(".", "-")


HOST = _host()


def sweep(profile: str) -> None:
    """Remove the temporary files and folders that processes of this machine left when they were killed, where we may."""
    temporary = re.compile(rf"\..*\.{re.escape(HOST)}\.(\d+)\..*tmp")
    for top in (build_dir(profile), results_dir(profile), figures_dir(profile), cache_dir()):
        for folder, folders, files in os.walk(top):  # passes over what vanishes meanwhile
            for name in folders + files:
                if (found := temporary.match(name)) and not psutil.pid_exists(int(found[1])):
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
                    with contextlib.suppress(OSError):
                        os.unlink(os.path.join(folder, name))


@contextlib.contextmanager
def atomic_path(path: Path, durable: bool = True):
    """Yield a temporary path beside ``path``; it becomes ``path`` only if the block ends without an error.

    A process that is killed half way leaves the old file, or none, and never half of a new one; with ``durable`` this
    holds for a machine that loses its power too.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.{threading.get_ident()}.tmp{path.suffix}")
    try:
        yield partial
        if durable:
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_changed(path: Path, text: str) -> None:
    """Write a text file, unless it holds this text already."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        with atomic_path(path) as partial:
            partial.write_text(text, encoding="utf-8")


class Busy(RuntimeError):
    """Another process is at it."""


@contextlib.contextmanager
def exclusive(path: Path, busy: str, say=lambda line: None, wait: bool = True):
    """Let one process at a time make ``path``; the lock, ``<path>.lock``, goes with the process that holds it.

    Where another one holds it: say ``busy`` and wait, or, without ``wait``, raise Busy.
    """
    lock = FileLock(path.with_name(f"{path.name}.lock"))
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        if not wait:
            raise Busy(busy) from None
        say(f"{busy}: waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


# ------------------------------------------------------------------------------- what a run is made of


def _require(condition: bool, name: str, value, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{name} = {value!r}: expected {expected}")


def _require_one_of(name: str, value, allowed) -> None:
    if value not in allowed:
        close = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(f"{name} = {value!r}: expected one of {', '.join(map(str, allowed))}{hint}")


def _later(default):
    """A field that came after the first records: left out of ``to_dict`` at its default, so that their ids still hold."""
    return field(default=default, metadata={"later": True})


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How training, validation and test sets are cut from a data set.

    max_count         training images of the largest class in the long-tailed set (n_0)
    balanced_count    training images per class in the balanced set
    val_per_class     validation images per class, taken from the training images that were not selected; a class
                      that was selected whole has none
    test_per_class    test images per class of the balanced test set
    longtailed_test   whether there is a long-tailed test set too, n_c = max(1, int(test_per_class IF^(-c/(C-1))))
    groups            "thesis" (thirds of the classes), "survey" (> 100, 20 to 100, < 20 training images) or "step" (the classes with
                      the most images, and all others: head and tail, without a middle)
    imbalance_factor  n_0 / n_(C-1) of the long-tailed sets
    data_seed         seed of the selection; one for all training seeds, as in the literature
    counts            training images of each class of an imported data set, whose own training, validation and test parts are
                      used as they are; empty for the others, whose sets are cut. The sizes above then say what follows from it
                      (:meth:`natural`)
    imbalance         "exponential", or "step": even classes keep int(n / IF) of their n images, odd ones all, in the long-tailed
                      training set and in the long-tailed test set
    val_fraction      instead of val_per_class: this share of the selected training images of each class validates, and is not trained on
    """

    name: str
    max_count: int
    balanced_count: int
    val_per_class: int
    test_per_class: int
    longtailed_test: bool
    groups: str
    imbalance_factor: float = 100.0
    data_seed: int = 0
    counts: tuple[int, ...] = _later(())
    imbalance: str = _later("exponential")
    val_fraction: float = _later(0.0)

    @staticmethod
    def natural(size: DatasetSize) -> dict:
        """The keys of the protocol of an imported data set, but for its name and groups."""
        largest, smallest = max(size.counts), min(size.counts)
        return {"max_count": largest, "balanced_count": smallest, "imbalance_factor": largest / smallest, "counts": list(size.counts),
                "val_per_class": size.val_per_class, "test_per_class": size.test_per_class, "longtailed_test": False}

    def __post_init__(self):
        _require_one_of("groups", self.groups, ("thesis", "survey", "step"))
        _require_one_of("imbalance", self.imbalance, ("exponential", "step"))
        _require(0 <= self.val_fraction < 1, "val_fraction", self.val_fraction, "0 <= val_fraction < 1")
        _require(not self.val_fraction or not self.val_per_class, "val_fraction", self.val_fraction, "0, or val_per_class = 0")
        _require(not self.val_fraction or not self.counts, "val_fraction", self.val_fraction, "0: own class counts are used as they are")
        for name in ("max_count", "balanced_count", "test_per_class"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(self.val_per_class >= 0, "val_per_class", self.val_per_class, "at least 0")
        _require(1 <= self.imbalance_factor < math.inf, "imbalance_factor", self.imbalance_factor, "at least 1")
        if self.counts:
            _require(min(self.counts) >= 1, "counts", self.counts, "at least one training image of every class")
            own = max(self.counts) / min(self.counts)
            _require(self.imbalance_factor == own, "imbalance_factor", self.imbalance_factor, f"{own:g}, that of the imported photographs: "
                     "their own class counts are used as they are")
        else:
            _require(int(self.max_count * (1 / self.imbalance_factor)) >= 1, "imbalance_factor", self.imbalance_factor,
                     f"at most max_count = {self.max_count}, so that the rarest class keeps an image")
        _require(self.data_seed >= 0, "data_seed", self.data_seed, "at least 0")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained.

    schedule      "cosine" warms up linearly for ``warmup_epochs`` and falls to 0; "step" multiplies the rate by ``decay`` at
                  each epoch of ``milestones``
    crop_padding  in pixels of the original image
    precision     of the forward pass; losses are always computed in float32. In mode "probe" the forward pass through
                  the frozen backbone has this precision and the head is trained in float32
    layer_decay   the rate of each layer of the backbone is this times that of the layer above it (1: all the same)
    clip_grad     largest norm of the gradient (0: not clipped)
    ema           decay of the moving average of the weights, which is then evaluated instead of them (0: none)
    rand_augment  magnitude, 0 to 30, of two random operations per image (RandAugment; 0: none)
    decay_all     weight decay acts on biases and normalisation too, as in the literature on CIFAR from scratch
    compile       ``torch.compile`` the model for training
    pick          the epoch that validation picks: highest "accuracy" (mean over classes; the earliest of equals) or "gmean" (geometric
                  mean of the classes' accuracies; the latest of equals)
    pixels        of a model that starts from fresh weights: "normalised" with the data set's mean and deviation, or "raw", 0 to 255
    cutout        side in pixels of a square that is blanked in each image (0: none)
    views         "one", or "contrastive": AutoAugment and Cutout, and two more views of each image by SimCLR's augmentation
    """

    epochs: int
    batch_size: int
    optimizer: str
    lr: float
    resolution: int
    weight_decay: float = 0.0
    momentum: float = 0.9
    schedule: str = "cosine"
    warmup_epochs: float = 0.0
    milestones: tuple[int, ...] = ()
    decay: float = 0.1
    crop_padding: int = 0
    flip: bool = False
    precision: str = "float32"
    layer_decay: float = _later(1.0)
    clip_grad: float = _later(0.0)
    ema: float = _later(0.0)
    rand_augment: int = _later(0)
    decay_all: bool = _later(False)
    compile: bool = _later(False)
    pick: str = _later("accuracy")
    pixels: str = _later("normalised")
    cutout: int = _later(0)
    views: str = _later("one")

    def __post_init__(self):
        _require_one_of("pick", self.pick, ("accuracy", "gmean"))
        _require_one_of("pixels", self.pixels, ("normalised", "raw"))
        _require_one_of("views", self.views, ("one", "contrastive"))
        _require(self.cutout >= 0, "cutout", self.cutout, "a number of pixels, or 0")
        _require(self.views == "one" or not self.rand_augment, "rand_augment", self.rand_augment, '0 with views = "contrastive"')
        _require_one_of("optimizer", self.optimizer, ("adamw", "adam", "sgd"))
        _require_one_of("schedule", self.schedule, ("cosine", "step"))
        _require_one_of("precision", self.precision, ("float32", "bfloat16"))
        for name in ("epochs", "batch_size", "resolution"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("weight_decay", "warmup_epochs", "crop_padding"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        _require(0 < self.lr < math.inf, "lr", self.lr, "a number above 0")
        _require(all(0 < m < self.epochs for m in self.milestones), "milestones", self.milestones, f"epochs between 0 and {self.epochs}")
        _require(0 <= self.momentum < 1, "momentum", self.momentum, "0 <= momentum < 1")
        _require(0 < self.decay <= 1, "decay", self.decay, "0 < decay <= 1")
        _require(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "0 < layer_decay <= 1")
        _require(self.layer_decay == 1 or not self.decay_all, "layer_decay", self.layer_decay, "1 with decay_all = true")
        _require(0 <= self.clip_grad < math.inf, "clip_grad", self.clip_grad, "a norm above 0, or 0 for none")
        _require(0 <= self.ema < 1, "ema", self.ema, "0 <= ema < 1")
        _require(0 <= self.rand_augment <= 30, "rand_augment", self.rand_augment, "0 to 30")
        _require(self.warmup_epochs < self.epochs, "warmup_epochs", self.warmup_epochs, f"below epochs = {self.epochs}")
        _require(self.schedule == "step" or not self.milestones, "milestones", self.milestones, 'none, or schedule = "step"')


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """How the small backbones of the embedded data set are pretrained: on ``images`` clean pairs of digits."""

    images: int
    recipe: Recipe
    seed: int = 0

    def __post_init__(self):
        _require(self.images >= 1, "images", self.images, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Slurm:
    """What ``LAUNCHER=slurm`` asks for, per run: ``minutes`` of time, ``gpus`` (0: none), ``cpus``, ``memory_gb`` (0: the
    cluster's default), a ``partition`` ("": the cluster's default); at most ``concurrency`` runs at a time."""

    partition: str = ""
    minutes: int = 1440
    gpus: int = 1
    cpus: int = 4
    memory_gb: int = 32
    concurrency: int = 8

    def __post_init__(self):
        for name in ("minutes", "cpus", "concurrency"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        for name in ("gpus", "memory_gb"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")


def variant_name(loss: str, drw: float | None, tau: float | None, method: str = "") -> str:
    """What profiles and tables call a loss with these options of a run."""
    return method or ("logit_adjusted" if tau is not None else loss + (DRW if drw is not None else ""))


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One training run. Equal configs are the same run; ``profile`` only says where its files lie.

    mode          "finetune": backbone and head, from pretrained weights; "probe": a head on the features of a frozen
                  backbone; "scratch": backbone and head, from fresh weights
    loss_options  (name, value) pairs for :func:`ltlib.losses.build_loss`, sorted by name
    head          "linear", "cosine" or "distance"; empty means the one that the loss needs
    drw           deferred re-weighting, for ``DRW_LOSSES``: no weights up to this fraction of the epochs, then the
                  loss's own, or class-balanced ones (beta 0.9999) where it has none; None means never
    tau           post-hoc logit adjustment of the softmax run (Menon et al. 2021): nothing is trained, its stored test logits
                  are evaluated as z_c - tau ln f_c, f_c the class's share of the training images; None means none
    method        what the profile calls this combination of loss, options and head, where it names it (``Profile.methods``)
    """

    dataset: str
    protocol: Protocol
    train_set: str
    backbone: str
    loss: str
    seed: int
    mode: str
    recipe: Recipe
    loss_options: tuple[tuple[str, typing.Any], ...] = ()
    head: str = ""
    drw: float | None = None
    pretraining: Pretraining | None = None
    tau: float | None = _later(None)
    method: str = _later("")
    profile: str = "custom"

    def __post_init__(self):
        _require_one_of("loss", self.loss, LOSS_NAMES + METHODS)
        _require_one_of("train_set", self.train_set, TRAIN_SETS)
        _require_one_of("mode", self.mode, ("finetune", "probe", "scratch"))
        _require(0 <= self.seed < 2**32, "seed", self.seed, "0 to 4294967295")
        self._check_sizes(self.protocol, dataset_size(self.dataset))
        object.__setattr__(self, "loss_options", tuple(sorted(dict(self.loss_options).items())))
        needed = HEADS_OF.get(self.loss, ("linear", "distance"))
        object.__setattr__(self, "head", self.head or needed[0])
        _require_one_of("head", self.head, HEADS)
        if self.head not in needed:
            raise ConfigError(
                f"head = {self.head!r} with loss = {self.loss!r}: expected head = {' or '.join(map(repr, needed))}. ldam and gbg scale "
                "cosines themselves; gcpl, affinity and arconvl need distances to centres; the other losses need unbounded logits. "
                "Leave head out to get the right one."
            )
        if self.loss == "gbg":
            _require(self.mode != "probe", "mode", self.mode, "finetune or scratch with loss = 'gbg': it weighs gradients of the backbone, "
                     "which mode 'probe' does not train")
            _require(not self.recipe.compile, "compile", self.recipe.compile, "false with loss = 'gbg', which goes backward group by group")
            _require(not dict(self.loss_options).get("beta") or self.recipe.views == "contrastive", "views", self.recipe.views,
                     "'contrastive' with beta > 0: its contrastive term compares views of an image")
        _require(self.recipe.pixels == "normalised" or self.mode == "scratch", "pixels", self.recipe.pixels,
                 "'normalised', or mode = 'scratch': pretrained weights know their normalisation")
        _require(self.recipe.views == "one" or (self.loss == "gbg" and self.mode != "probe"), "views", self.recipe.views,
                 "'one': only loss = 'gbg' has a use for more")
        if self.drw is not None:
            _require(self.loss in DRW_LOSSES, "drw", self.drw, f"a loss out of {', '.join(DRW_LOSSES)}, not {self.loss!r}; leave drw out")
            _require(0 <= self.drw < 1, "drw", self.drw, "a fraction of the epochs, 0 <= drw < 1")
            _require(self.drw_epoch < self.recipe.epochs, "drw", self.drw, f"to leave some of the {self.recipe.epochs} epochs")
        _require(self.mode != "probe" or self.recipe.layer_decay == 1, "layer_decay", self.recipe.layer_decay,
                 "1 in mode 'probe', whose backbone is frozen")
        if self.tau is not None:
            _require(self.loss == "softmax", "tau", self.tau, f"loss = 'softmax', not {self.loss!r}; leave tau out")
            _require(0 < self.tau < math.inf, "tau", self.tau, "a number above 0")

    def _check_sizes(self, protocol: Protocol, size: DatasetSize) -> None:
        if protocol.counts != size.counts:
            raise ConfigError(f"protocol {protocol.name}: expected the class counts of {self.dataset} "
                              f"({'its own' if size.counts else 'none: its sets are cut'}), got {protocol.counts or 'none'}")
        if size.counts:
            _require(self.train_set == "longtailed", "train_set", self.train_set, f"'longtailed': {self.dataset} is used with its own "
                     "class counts, and a balanced set is not cut from it")
            return
        for name, limit in (("max_count", size.train_per_class), ("balanced_count", size.train_per_class),
                            ("test_per_class", size.test_per_class)):
            value = getattr(protocol, name)
            _require(value <= limit, f"protocol {protocol.name}: {name}", value, f"at most {limit}, what {self.dataset} has of each class")

    @property
    def drw_epoch(self) -> int | None:
        """The epoch, counted from 0, from which deferred re-weighting is on."""
        return None if self.drw is None else round(self.drw * self.recipe.epochs)

    @property
    def variant(self) -> str:
        """What profiles and tables call the loss: the profile's name for it, its own, ``<name>_drw``, or ``logit_adjusted``."""
        return variant_name(self.loss, self.drw, self.tau, self.method)

    def to_dict(self) -> dict:
        """The config as plain JSON values, without what does not change the result (``profile``)."""
        values = dataclasses.asdict(self)
        del values["profile"]
        parts = [(self, values), (self.protocol, values["protocol"]), (self.recipe, values["recipe"])]
        if self.pretraining is not None:
            parts.append((self.pretraining.recipe, values["pretraining"]["recipe"]))
        for owner, table in parts:
            for f in dataclasses.fields(owner):
                if f.metadata.get("later") and table[f.name] == f.default:
                    del table[f.name]
        values["loss_options"] = dict(self.loss_options)
        return json.loads(json.dumps(values))

    @functools.cached_property
    def id(self) -> str:
        """Readable name and a hash of the canonical JSON: the name of every file of this run."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
        return f"{self.backbone}-{self.protocol.name}-{self.train_set}-{self.variant}-s{self.seed}-{digest}"

    def describe(self) -> str:
        return f"{self.backbone}, {self.protocol.name} {self.train_set}, {self.variant}, seed {self.seed}"


# -------------------------------------------------------------------------------------------- profiles


@dataclass(frozen=True, kw_only=True)
class Profile:
    """A named set of runs. ``configs()`` lists them; ``deviations`` are printed beside its results.

    losses     names of losses, of ``methods``, and of ``VARIANTS``: ``<name>_drw`` re-weights from the fraction ``drw`` of the epochs
               on, ``logit_adjusted`` adjusts the softmax run (its only option: tau, 1 by default)
    datasets   the data set of a protocol, by its name, where it is not ``dataset``: [protocols.<name>] with a key dataset
    methods    names of your own for a loss with options and a head: {"cpl": {"loss": "softmax", "head": "distance", "options": {}}}
    notebooks  stems of the notebooks that this profile executes; none: all
    tune       lists of values, by key of the recipe, that ``make tune`` tries in all combinations
    """

    name: str
    title: str
    dataset: str
    mode: str
    backbones: tuple[str, ...]
    losses: tuple[str, ...]
    seeds: tuple[int, ...]
    protocols: tuple[Protocol, ...]
    recipe: Recipe
    recipe_by_backbone: dict = field(default_factory=dict)
    train_sets: tuple[str, ...] = TRAIN_SETS
    loss_options: dict = field(default_factory=dict)
    datasets: dict = field(default_factory=dict)
    methods: dict = field(default_factory=dict)
    notebooks: tuple[str, ...] = ()
    drw: float = 0.8
    pretraining: Pretraining | None = None
    deviations: tuple[str, ...] = ()
    tune: dict = field(default_factory=dict)
    slurm: Slurm = Slurm()
    path: str = ""  # what load_profile was given: the name, or a TOML file

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

    def config(self, backbone: str, loss: str, train_set: str, seed: int, protocol: Protocol | str) -> RunConfig:
        """One run of the profile. ``loss`` is a name that a profile may list, ``protocol`` one of the profile's or its name."""
        if isinstance(protocol, str):
            protocol = self.protocol(protocol)
        _require_one_of("loss", loss, (*LOSS_NAMES, *METHODS, *VARIANTS, *self.methods))
        own = self.methods.get(loss)
        adjusted = loss == "logit_adjusted"
        name = own["loss"] if own else "softmax" if adjusted else loss.removesuffix(DRW)
        options = own.get("options", {}) if own else self.loss_options.get(name, {})
        return RunConfig(
            dataset=self.datasets.get(protocol.name, self.dataset),
            protocol=protocol,
            train_set=train_set,
            backbone=backbone,
            loss=name,
            seed=seed,
            mode=self.mode,
            recipe=dataclasses.replace(self.recipe, **self.recipe_by_backbone.get(backbone, {})),
            loss_options=tuple(options.items()),
            head=own.get("head", "") if own else "",
            drw=self.drw if loss.endswith(DRW) and not own else None,
            tau=self.loss_options.get("logit_adjusted", {}).get("tau", 1.0) if adjusted else None,
            pretraining=self.pretraining,
            method=loss if own else "",
            profile=self.name,
        )

    def protocol(self, name: str) -> Protocol:
        """The profile's protocol of this name."""
        _require_one_of("protocol", name, [p.name for p in self.protocols])
        return next(p for p in self.protocols if p.name == name)


def profile_names() -> list[str]:
    return sorted(path.stem for path in PROFILES.glob("*.toml"))


def load_profile(name: str, backbones=(), losses=(), seeds=(), protocols=(), train_sets=()) -> Profile:
    """Read ``ltlib/profiles/<name>.toml``, or a TOML file of your own given by its path.

    The lists narrow or replace the profile's own, as ``BACKBONES=``, ``LOSSES=``, ``SEEDS=``, ``PROTOCOLS=`` and
    ``TRAIN_SETS=`` do for make. A protocol "standard_if50" is the profile's "standard" at imbalance factor 50.
    Raises ConfigError for unknown keys, wrong types and impossible values.
    """
    path = Path(name) if str(name).endswith(".toml") else PROFILES / f"{name}.toml"
    if not path.exists():
        raise ConfigError(f"PROFILE = {name!r}: expected one of {', '.join(profile_names())}, or the path of a TOML file")
    if path.stem in profile_names() and path.resolve().parent != PROFILES:
        raise ConfigError(f"PROFILE = {name!r}: expected another file name; results/{path.stem} belongs to the workbook's own profile")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path.name}: not a readable TOML file: {error}") from None
    own_backbones = table.get("backbones")
    own_backbones = own_backbones if isinstance(own_backbones, list) else []
    if any("name" in value for value in _table(table, "protocols", path.name).values()):
        raise ConfigError(f"{path.name}: protocols: the key 'name' is not to be set: [protocols.thesis] is named thesis")
    own_protocols = {key: {"name": key, **value} for key, value in _table(table, "protocols", path.name).items()}
    datasets = {key: value.pop("dataset", table.get("dataset")) for key, value in own_protocols.items()}
    for name, dataset in datasets.items():
        if isinstance(dataset, str) and (size := dataset_size(dataset)).counts:
            for key in own_protocols[name].keys() - {"name", "groups"}:
                raise ConfigError(f"{path.name}: protocols: the key {key!r} is not to be set: {dataset} has its own class counts, and "
                                  "only groups = \"survey\", \"thesis\" or \"step\" is left to choose")
            own_protocols[name] = Protocol.natural(size) | own_protocols[name]
    choices = {"backbones": backbones, "losses": losses, "seeds": seeds, "protocols": protocols, "train_sets": train_sets}
    for key, chosen in choices.items():
        _require(isinstance(chosen, list | tuple), key, chosen, f"a list, such as [{chosen!r}]")
        if chosen:
            table[key] = list(chosen)
    table["protocols"] = [_find_protocol(own_protocols, key) for key in protocols or own_protocols]
    for key in ("name", "path"):
        if key in table:
            raise ConfigError(f"{path.name}: the key {key!r} is not to be set: the file's name is the profile's")
    if "datasets" in table:
        raise ConfigError(f"{path.name}: the key 'datasets' is not to be set: a protocol's own data set is a key of it, dataset")
    table["datasets"] = {p["name"]: datasets.get(p["name"], datasets.get(p["name"].rpartition("_if")[0])) for p in table["protocols"]}
    given = str(path.resolve()) if path.parent != PROFILES else path.stem
    profile = _from_table(Profile, {"name": path.stem, "path": given, **table}, path.name)
    for name, own in profile.methods.items():
        where = f"{path.name}: methods.{name}"
        _require(name not in (*LOSS_NAMES, *METHODS, *VARIANTS), where, name, "a name that no loss has already")
        _require(re.fullmatch(r"[a-z][a-z0-9_]*", name) is not None, where, name, "small letters, digits and underscores")
        _require(isinstance(own, dict), where, own, f'a table like [methods.{name}] with loss = "softmax"')
        for key in own:
            _require_one_of(f"{where}: key", key, ("loss", "head", "options"))
        _require_one_of(f"{where}: loss", own.get("loss"), LOSS_NAMES + METHODS)
        _require(isinstance(own.get("options", {}), dict), f"{where}: options", own.get("options"), "a table")
    for notebook in profile.notebooks:
        _require_one_of(f"{path.name}: notebooks", notebook, sorted(p.stem for p in (ROOT / "notebooks").glob("[0-9]*.ipynb")))
    for loss in profile.losses:
        _require_one_of(f"{path.name}: losses", loss, (*LOSS_NAMES, *METHODS, *VARIANTS, *profile.methods))
    for loss in profile.loss_options:
        _require_one_of(f"{path.name}: loss_options", loss, (*LOSS_NAMES, *METHODS, "logit_adjusted"))
    for key in ("backbones", "losses", "seeds", "protocols", "train_sets"):
        values = getattr(profile, key)
        _require(values, f"{path.name}: {key}", values, "at least one")
        shown = choices[key] or [getattr(value, "name", value) for value in values]
        _require(len(set(values)) == len(values), f"{path.name}: {key}", shown, "each one once")
    for loss, options in profile.loss_options.items():
        _require(isinstance(options, dict), f"{path.name}: loss_options.{loss}", options, f"a table like [loss_options.{loss}]")
    for key in profile.loss_options.get("logit_adjusted", {}):
        _require_one_of(f"{path.name}: loss_options.logit_adjusted", key, ("tau",))
    _require(0 <= profile.drw < 1, f"{path.name}: drw", profile.drw, "a fraction of the epochs, 0 <= drw < 1")
    kinds = typing.get_type_hints(Recipe)
    for key, values in profile.tune.items():
        _require_one_of(f"{path.name}: tune", key, kinds)
        _require(isinstance(values, list) and values, f"{path.name}: tune.{key}", values, "a list of values to try")
        values = profile.tune[key] = [_convert(value, kinds[key], f"{path.name}: tune.{key}[{i}]") for i, value in enumerate(values)]
        _require(len(set(values)) == len(values), f"{path.name}: tune.{key}", values, "each one once")
    for backbone, override in profile.recipe_by_backbone.items():
        where = f"{path.name}: recipe_by_backbone.{backbone}"
        _require_one_of(f"{path.name}: recipe_by_backbone", backbone, {*own_backbones, *profile.backbones})
        _require(isinstance(override, dict), where, override, "a table of keys of [recipe]")
        merged = _from_table(Recipe, dataclasses.asdict(profile.recipe) | override, where)
        profile.recipe_by_backbone[backbone] = {key: getattr(merged, key) for key in override}
    profile.configs()  # an impossible run is an error now, not in the middle of the night
    return profile


def with_slurm(profile: Profile, text: str) -> Profile:
    """The profile with other wishes for SLURM: "partition=gpu minutes=600". Raises ConfigError for unknown or wrong ones."""
    table, kinds = {}, typing.get_type_hints(Slurm)
    for word in text.split():
        key, equals, value = word.partition("=")
        _require(bool(equals), "SLURM", text, 'words like partition=gpu or minutes=600')
        table[key] = int(value) if kinds.get(key) is int and value.isdecimal() else value
    return dataclasses.replace(profile, slurm=_from_table(Slurm, dataclasses.asdict(profile.slurm) | table, "SLURM"))


def _find_protocol(own: dict[str, dict], name) -> dict:
    base, _, factor = str(name).rpartition("_if")
    if name not in own and base in own and re.fullmatch(r"\d+(\.\d+)?", factor):
        if own[base].get("imbalance_factor", Protocol.imbalance_factor) == float(factor):
            return own[base]
        return own[base] | {"name": name, "imbalance_factor": float(factor)}
    _require_one_of("protocol", name, own)
    return own[name]


def _table(table: dict, key: str, where: str) -> dict:
    value = table.get(key)
    if not isinstance(value, dict) or not all(isinstance(v, dict) for v in value.values()):
        raise ConfigError(f"{where}: {key}: expected tables like [{key}.thesis]")
    return value


def _from_table(cls, table: dict, where: str):
    """Build a dataclass from a TOML table; unknown or missing keys and wrong types raise ConfigError."""
    hints = typing.get_type_hints(cls)
    for key in table:
        _require_one_of(f"{where}: key", key, hints)
    for f in dataclasses.fields(cls):
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in table:
            raise ConfigError(f"{where}: the key {f.name!r} is missing ({_type_name(hints[f.name])})")
    values = {key: _convert(value, hints[key], f"{where}: {key}") for key, value in table.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _convert(value, kind, where: str):
    origin = typing.get_origin(kind)
    if origin is types.UnionType:
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
        return None if value is None else _convert(value, kind, where)
    if dataclasses.is_dataclass(kind):
        return _from_table(kind, value, where) if isinstance(value, dict) else _wrong_type(value, kind, where)
    if origin is tuple:
        inner = typing.get_args(kind)[0]
        if not isinstance(value, list | tuple):
            _wrong_type(value, kind, where)
        return tuple(_convert(v, inner, f"{where}[{i}]") for i, v in enumerate(value))
    if kind is float and type(value) is int:
        return float(value)
    return value if type(value) is kind else _wrong_type(value, kind, where)


def _wrong_type(value, kind, where: str):
    raise ConfigError(f"{where} = {value!r}: expected {_type_name(kind)}")


def _type_name(kind) -> str:
    names = {int: "a whole number", float: "a number (write 1.0e-4, not 1e-4 in quotes)", str: "a string in quotes",
             bool: "true or false", dict: "a table"}
    if typing.get_origin(kind) is tuple:
        return "a list"
    return names.get(kind, "a table" if dataclasses.is_dataclass(kind) else str(kind))
