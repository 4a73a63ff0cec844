"""What things cost, measured in one run on one machine: ``make bench``."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from ltlib.backbones import Classifier, backbone_title, build_backbone, build_head
from ltlib.batches import ImageBatches
from ltlib.config import HEADS_OF, Profile, Recipe, dataset_size, load_profile
from ltlib.engine import build_optimizer, fit, threads
from ltlib.launch import unique_runs
from ltlib.longtail import class_counts, train_counts
from ltlib.losses import LOSSES, build_loss
from ltlib.training import pick_device

LOSS_SHAPES = ((512, 100), (512, 8142))  # batch, classes: CIFAR-100, iNaturalist 2018
PLAIN = "F.cross_entropy"
MEAN = STD = (0.5, 0.5, 0.5)


def report(say: Callable[[str], None] = print, seconds: float = 8.0) -> None:
    """Measure and print everything on the device of ``DEVICE=``; a comparison may take ``seconds``, that of methods four times as long."""
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    say(f"{name}, torch {torch.__version__}\n")
    say(f"Losses: forward and backward in milliseconds, and as a multiple of {PLAIN}; (images, classes), float32")
    say(loss_times(seconds=seconds, device=device).round(3).to_string())
    say("\nBatches of 128 images cropped and flipped, from 32 px: images/s, and as a multiple of the usual path with 0 workers")
    say(batch_rates(seconds=seconds, device=device).round(1).to_string())
    say("\nOne training step in milliseconds: the engine beside the bare forward pass, loss, backward pass and optimizer; "
        + ("one thread, as in a run" if device.type == "cpu" else "bfloat16"))
    say(step_times(seconds=seconds, device=device).round(2).to_string())
    say("\nOne step of ResNet-32 at batch 256 by method, in milliseconds and as a multiple of softmax's; GBG with four groups, also "
        "without its four backward passes by group")
    say(method_times(seconds=4 * seconds, device=device).round(2).to_string())  # its steps take long: time for several turns
    if device.type == "cuda":
        rate = matrix_rate(device)
        say(f"\nTraining at each profile's recipe. Measured rate of bfloat16 matrix products: {rate / 1e12:.0f} TFLOP/s")
        for profile in map(load_profile, ("finetune", "thesis")):
            table = training_rates(profile, device, rate, seconds)
            say(f"\n{profile.name}: {table['hours'].sum():.1f} hours in all\n{table.round(2).to_string()}")


# ------------------------------------------------------------------------------------------------ losses


def loss_times(shapes=LOSS_SHAPES, seconds: float = 8.0, device="cpu") -> pd.DataFrame:
    """Time of forward and backward of each loss in milliseconds, beside PyTorch's own cross-entropy.

    shapes: (batch, classes) pairs; each is measured for about ``seconds``. Float32 logits in [-1, 1],
    so that ldam has its cosines. The losses take turns, so that a busy moment of the machine strikes all of them, and the best
    turn counts: what the computation takes when nothing else interferes. Returns one row per loss, columns (shape, "ms") and
    (shape, "ratio").
    """
    result = {}
    for batch, classes in shapes:
        counts = class_counts(classes, 1000, 100)
        logits = (2 * torch.rand(batch, classes, device=device) - 1).requires_grad_()
        labels = torch.randint(classes, (batch,), device=device)
        losses = {PLAIN: F.cross_entropy} | {name: build_loss(name, counts).to(device) for name in LOSSES}

        def turn(loss, logits=logits, labels=labels):
            for _ in range(5):
                logits.grad = None
                loss(logits, labels).backward()

        best = _best_of_turns({name: lambda loss=loss: turn(loss) for name, loss in losses.items()}, seconds, logits.device)
        title = f"({batch}, {classes:,})"
        result[title, "ms"] = {name: 1e3 * value / 5 for name, value in best.items()}
        result[title, "ratio"] = {name: value / best[PLAIN] for name, value in best.items()}
    return pd.DataFrame(result)


def _best_of_turns(actions: dict[str, Callable[[], None]], seconds: float, device) -> dict[str, float]:
    """Seconds of each action: they take turns for about ``seconds`` after a first round, and the shortest turn of each counts."""
    best = dict.fromkeys(actions, float("inf"))
    for action in actions.values():
        action()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or float("inf") in best.values():
        for name, action in actions.items():
            _synchronize(device)
            start = time.perf_counter()
            action()
            _synchronize(device)
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def _synchronize(device) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


# ----------------------------------------------------------------------------------------------- batches


class _PilImages(Dataset):
    """The usual path: one image after the other, through PIL and torchvision's transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, resolution: int):
        resize = [transforms.Resize(resolution, transforms.InterpolationMode.BICUBIC)] if resolution != images.shape[1] else []
        self.images, self.labels = images, labels
        self.transform = transforms.Compose([transforms.RandomCrop(images.shape[1], 4), transforms.RandomHorizontalFlip(), *resize,
                                             transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def batch_rates(resolutions=(32, 224), seconds: float = 8.0, device="cpu", images: int = 2048, workers=(0, 2)) -> pd.DataFrame:
    """Training images per second: this project's batches beside PIL, torchvision's transforms and a DataLoader.

    Random 32 px images, padded by 4 and cropped, flipped, scaled to each of ``resolutions`` (bicubic), normalised, and brought to
    the device. Each path runs whole epochs for about ``seconds``; the best counts. One row per path, columns (resolution, "images/s")
    and (resolution, "ratio"), the ratio to the usual path with the first of ``workers``.
    """
    random = np.random.default_rng(0)
    x, y = random.integers(0, 256, (images, 32, 32, 3), dtype=np.uint8), random.integers(0, 100, images)
    result = {}
    for resolution in resolutions:
        ours = ImageBatches(x, y, batch_size=128, resolution=resolution, mean=MEAN, std=STD, crop_padding=4, flip=True, device=device)
        paths = {f"usual, {n} workers": DataLoader(_PilImages(x, y, resolution), 128, shuffle=True, num_workers=n, persistent_workers=n > 0,
                                                   pin_memory=torch.device(device).type == "cuda") for n in workers}

        def usual_epoch(loader):
            for batch, labels in loader:
                batch.to(device, non_blocking=True), labels.to(device, non_blocking=True)

        def our_epoch(ours=ours):
            for _ in ours.epoch(0, 0):
                pass

        actions = {name: lambda loader=loader: usual_epoch(loader) for name, loader in paths.items()} | {"this workbook": our_epoch}
        rates = {name: images / best for name, best in _best_of_turns(actions, seconds, device).items()}
        result[f"{resolution} px", "images/s"] = rates
        result[f"{resolution} px", "ratio"] = {name: rate / rates[f"usual, {workers[0]} workers"] for name, rate in rates.items()}
    return pd.DataFrame(result)


# ------------------------------------------------------------------------------------------------- steps


def step_times(seconds: float = 8.0, device="cpu", models=(("resnet32", 32, 128), ("mobilenetv2_100", 128, 32))) -> pd.DataFrame:
    """One training step in milliseconds: the engine's, from stored image to new weights, beside the bare model's.

    models: (backbone, resolution, batch size). The bare step is forward, cross-entropy, backward and optimizer on one batch that
    never changes. The two take turns of four steps for about ``seconds``; the best turn counts. Fresh weights, SGD with momentum.
    Columns: bare, engine, overhead (%); on a GPU also "bare, compiled".
    """
    device = torch.device(device)
    precision = "bfloat16" if device.type == "cuda" else "float32"
    rows = {}
    for name, resolution, batch in models:
        recipe = Recipe(epochs=1, batch_size=batch, optimizer="sgd", lr=0.01, resolution=resolution, crop_padding=4, flip=True)
        with threads(1 if device.type == "cpu" else torch.get_num_threads()):
            actions = {"bare": _bare_steps(_model(name, resolution, device), recipe, device, precision),
                       "engine": _engine_steps(_model(name, resolution, device), recipe, device, precision)}
            if device.type == "cuda":
                model = _model(name, resolution, device)
                actions["bare, compiled"] = _bare_steps(model, recipe, device, precision, torch.compile(model, dynamic=False))
            best = _best_of_turns(actions, seconds, device)
        row = {action: 1e3 * value / STEPS for action, value in best.items()}
        rows[f"{backbone_title(name)}, {resolution} px, batch {batch}"] = row | {"overhead (%)": 100 * (row["engine"] / row["bare"] - 1)}
    return pd.DataFrame(rows).T


STEPS = 4
GROUPS = 4


def method_times(seconds: float = 8.0, device="cpu", backbone: str = "resnet32", batch: int = 256) -> pd.DataFrame:
    """One training step (forward, loss, backward, optimizer) with softmax, PF-loss, ARConvL and GBG on 100 classes at IF 100.

    Images of 32 px that never change, float32 on a CPU (one thread), bfloat16 on a GPU. Columns: ms; ratio, to softmax; group passes
    (ms), the backward passes through the backbone for each of GBG's four groups, on a graph of their own; ratio beyond them, (step -
    group passes) / softmax's step. The steps take turns for about ``seconds``; the best turn counts.
    """
    device = torch.device(device)
    precision = "bfloat16" if device.type == "cuda" else "float32"
    recipe = Recipe(epochs=1, batch_size=batch, optimizer="sgd", lr=0.01, resolution=32)
    counts = class_counts(100, 500, 100)
    x = torch.randn(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.multinomial(torch.as_tensor(counts, dtype=torch.float64), batch, replacement=True).to(device)

    def forward(model, loss):
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
            logits, features = model(x, return_features=True)
        return loss(logits, labels, features=features, head=model.head)

    def step(model, loss, optimizer):
        value = forward(model, loss)
        optimizer.zero_grad(set_to_none=True)
        loss.backward(value, model)
        optimizer.step()

    def group_passes(value, shared):
        for loss in value:
            torch.autograd.grad(loss, shared, retain_graph=True)

    actions = {}
    with threads(1 if device.type == "cpu" else torch.get_num_threads()):
        for name, options in {"softmax": {}, "pf": {}, "arconvl": {}, "gbg": {"groups": GROUPS, "grouping": "count"}}.items():
            loss, model = build_loss(name, counts, **options).to(device), _model(backbone, 32, device, HEADS_OF.get(name, ("linear",))[0])
            loss.start_epoch(0, model, None)
            optimizer = build_optimizer(model.train(), recipe, loss.param_groups(recipe.lr))
            actions[name] = functools.partial(step, model, loss, optimizer)
        actions["passes"] = functools.partial(group_passes, forward(model, loss), list(model.backbone.parameters()))
        best = _best_of_turns(actions, seconds, device)
    passes, plain = best.pop("passes"), best["softmax"]
    table = pd.DataFrame({"ms": {name: 1e3 * value for name, value in best.items()},
                          "ratio": {name: value / plain for name, value in best.items()}})
    table["group passes (ms)"] = pd.Series({"gbg": 1e3 * passes})
    table["ratio beyond them"] = pd.Series({"gbg": (best["gbg"] - passes) / plain})
    return table


def _model(name: str, resolution: int, device, head: str = "linear") -> nn.Module:
    backbone = build_backbone(name, None, resolution)
    return Classifier(backbone, build_head(head, backbone.num_features, 100)).to(device, memory_format=torch.channels_last)


def _bare_steps(model: nn.Module, recipe: Recipe, device, precision: str, forward=None) -> Callable[[], None]:
    optimizer, forward = build_optimizer(model, recipe), forward or model
    x = torch.randn(recipe.batch_size, 3, recipe.resolution, recipe.resolution, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(100, (recipe.batch_size,), device=device)
    model.train()

    def run():
        for _ in range(STEPS):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bfloat16"):
                logits = forward(x)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run


def _engine_steps(model: nn.Module, recipe: Recipe, device, precision: str, steps: int = STEPS) -> Callable[[], None]:
    images = np.random.default_rng(0).integers(0, 256, (steps * recipe.batch_size, 32, 32, 3), dtype=np.uint8)
    batches = ImageBatches(images, np.arange(len(images)) % 100, batch_size=recipe.batch_size, resolution=recipe.resolution, mean=MEAN,
                           std=STD, crop_padding=recipe.crop_padding, flip=recipe.flip, rand_augment=recipe.rand_augment, device=device)
    loss = build_loss("softmax", np.ones(100))
    numbers = itertools.count()
    return lambda: fit(model, loss, batches, recipe, next(numbers), precision=precision)


# ------------------------------------------------------------------------------------------ whole grids


def matrix_rate(device, size: int = 8192, dtype=torch.bfloat16, seconds: float = 1.0) -> float:
    """FLOP/s of a product of two size x size matrices: what the device reaches, not what its data sheet says."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = _best_of_turns({"product": lambda: a @ b}, seconds, device)["product"]
    return 2 * size**3 / best


def train_flops(model: nn.Module, resolution: int, device="cpu") -> float:
    """FLOP of one training step per image: three times those of the forward pass (a multiply-accumulate is two).

    The backward pass computes a gradient for the input and one for the weights of each layer, each as dear as the forward pass.
    It is not counted by running it: FLOP counters take the weight gradient of a depthwise convolution for that of a dense one.
    """
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, resolution, resolution, device=device))
    return 3.0 * counter.get_total_flops()


def training_rates(profile: Profile, device, rate: float, seconds: float = 8.0, steps: int = 8) -> pd.DataFrame:
    """For each backbone of a profile, by its own recipe and the engine's steps, from fresh weights:

    images/s; GFLOP per image (``train_flops``); utilisation (%), what the images take of ``rate`` FLOP/s; peak memory (GB, on a
    GPU); runs, how many the profile computes; hours for all of them, validation and test counted as forward passes.
    """
    device = torch.device(device)
    rows = {}
    for name in profile.backbones:
        runs = [run for run in unique_runs(profile) if run.backbone == name and run.tau is None]
        recipe = runs[0].recipe
        one_epoch = Recipe(**{**vars(recipe), "epochs": 1, "warmup_epochs": 0.0, "milestones": (), "schedule": "cosine"})
        model = _model(name, recipe.resolution, device)
        flops = train_flops(model.eval(), recipe.resolution, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        action = _engine_steps(model, one_epoch, device, recipe.precision, steps)
        images_per_second = steps * recipe.batch_size / _best_of_turns({"engine": action}, seconds, device)["engine"]
        size = dataset_size(profile.dataset)
        cost = 0.0  # in training images
        for run in runs:
            counts = train_counts(run.protocol, run.train_set, size.num_classes)
            val = np.minimum(run.protocol.val_per_class, size.train_per_class - counts).sum()
            cost += run.recipe.epochs * (counts.sum() + val / 3) + 2 * run.protocol.test_per_class * size.num_classes / 3
        rows[backbone_title(name)] = {
            "images/s": images_per_second, "GFLOP per image": flops / 1e9, "utilisation (%)": 100 * images_per_second * flops / rate,
            "peak memory (GB)": torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else float("nan"),
            "runs": len(runs), "hours": cost / images_per_second / 3600,
        }
    return pd.DataFrame(rows).T
