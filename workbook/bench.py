"""What things cost, measured in one run on one machine: ``make bench``."""

from __future__ import annotations

import dataclasses
import functools
import itertools
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

from ltlib.batches import ImageBatches
from ltlib.data.sizes import dataset_size
from ltlib.longtail import class_counts
from ltlib.losses import build_loss
from ltlib.models import backbone_title, build_backbone, build_classifier
from ltlib.protocol import train_counts
from ltlib.recipe import Recipe
from ltlib.registry import heads_of
from ltlib.report.lessons import PLAIN, best_of_turns, loss_times
from ltlib.runs.config import RunConfig
from ltlib.runs.devices import pick_device
from ltlib.runs.profiles import Profile, load_profile
from ltlib.runs.progress import unique_runs
from ltlib.training import build_optimizer, fit, threads

Actions = dict[str, Callable[[], None]]  # what takes turns, by the name of its row or column
MEAN = STD = (0.5, 0.5, 0.5)
STEPS, GROUPS = 4, 4
METHODS = {"softmax": {}, "pf": {}, "arconvl": {}, "gbg": {"groups": GROUPS, "grouping": "count"}}


def report(say: Callable[[str], None] = print, seconds: float = 8.0) -> None:
    """Measure and print everything on the device of ``DEVICE=``; a comparison may take ``seconds``,
    that of methods four times as long."""
    device = pick_device()
    name, step = f"CPU, {torch.get_num_threads()} threads", "one thread, as in a run"
    if device.type == "cuda":
        name, step = torch.cuda.get_device_name(device), "bfloat16"
    say(f"{name}, torch {torch.__version__}")

    def show(heading: str, measure: Callable[..., pd.DataFrame], digits: int, turns: int = 1):
        say(f"\n{heading}")
        say(measure(seconds=turns * seconds, device=device).round(digits).to_string())

    heading = f"Losses: forward and backward in milliseconds, and as a multiple of {PLAIN}; "
    show(heading + "(images, classes), float32", loss_times, 3)
    heading = "Batches of 128 images cropped and flipped, from 32 px: images/s, and as a multiple "
    show(heading + "of the usual path with 0 workers", batch_rates, 1)
    heading = "One training step in milliseconds: the engine beside the bare forward pass, loss, "
    show(heading + f"backward pass and optimizer; {step}", step_times, 2)
    heading = "One step of ResNet-32 at batch 256 by method, in milliseconds and as a multiple of "
    heading += "softmax's; GBG with four groups, also without its four backward passes by group"
    show(heading, method_times, 2, turns=4)
    if device.type == "cuda":
        rate = matrix_rate(device)
        heading = "Training at each profile's recipe. Measured rate of bfloat16 matrix products:"
        say(f"\n{heading} {rate / 1e12:.0f} TFLOP/s")
        for profile in map(load_profile, ("finetune", "thesis")):
            table = training_rates(profile, device, rate, seconds)
            say(f"\n{profile.name}: {table['hours'].sum():.1f} hours in all\n{table.round(2)}")


def batch_rates(
    resolutions=(32, 224), seconds: float = 8.0, device="cpu", images: int = 2048, workers=(0, 2)
) -> pd.DataFrame:
    """Training images per second: this project's batches beside PIL, torchvision's transforms and a
    DataLoader.

    Random 32 px images, padded by 4 and cropped, flipped, scaled to each of ``resolutions``
    (bicubic), normalised, and brought to the device. Each path runs whole epochs for about
    ``seconds``; the best counts. One row per path, columns (resolution, "images/s") and
    (resolution, "ratio"), the ratio to the usual path with the first of ``workers``.
    """
    x, y = _random_images(images)
    device, result = torch.device(device), {}
    for resolution in resolutions:
        actions = {
            f"usual, {n} workers": _usual_epoch(x, y, resolution, n, device) for n in workers
        }
        batches = _batches(x, y, _recipe(device, 128, resolution), device)
        actions["this workbook"] = lambda batches=batches: list(map(len, batches.epoch(0, 0)))
        rates = images / pd.Series(best_of_turns(actions, seconds, device))
        result[f"{resolution} px", "images/s"] = rates
        result[f"{resolution} px", "ratio"] = rates / rates.iloc[0]
    return pd.DataFrame(result)


def _random_images(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) and labels of 100 classes."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (number, 32, 32, 3), dtype=np.uint8)
    return images, random.integers(0, 100, number)


class _PilImages(Dataset):
    """The usual path: one image after the other, through PIL and torchvision's transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, resolution: int):
        self.images, self.labels = images, labels
        steps = [transforms.RandomCrop(images.shape[1], 4), transforms.RandomHorizontalFlip()]
        if resolution != images.shape[1]:
            steps.append(transforms.Resize(resolution, transforms.InterpolationMode.BICUBIC))
        steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int):
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def _usual_epoch(x: np.ndarray, y: np.ndarray, resolution: int, workers: int, device):
    options = {"num_workers": workers, "persistent_workers": workers > 0}
    options["pin_memory"] = device.type == "cuda"
    loader = DataLoader(_PilImages(x, y, resolution), 128, shuffle=True, **options)

    def epoch():
        for batch, labels in loader:
            batch.to(device, non_blocking=True), labels.to(device, non_blocking=True)

    return epoch


def step_times(
    seconds: float = 8.0, device="cpu", models=(("resnet32", 32, 128), ("mobilenetv2_100", 128, 32))
) -> pd.DataFrame:
    """One training step in milliseconds: the engine's, from stored image to new weights, beside the
    bare model's.

    models: (backbone, resolution, batch size). The bare step is forward, cross-entropy, backward
    and optimizer on one batch that never changes. The two take turns of four steps for about
    ``seconds``; the best turn counts. Fresh weights, SGD with momentum. Columns: bare, engine,
    overhead (%); on a GPU also "bare, compiled".
    """
    device = torch.device(device)
    rows = {}
    for name, resolution, batch in models:
        model = functools.partial(_model, name, resolution, device)
        recipe = _recipe(device, batch, resolution)
        actions = {
            "bare": _bare_steps(model(), recipe, device),
            "engine": _engine_steps(model(), recipe, device),
        }
        if device.type == "cuda":
            compiled = torch.compile(model(), dynamic=False)
            actions["bare, compiled"] = _bare_steps(compiled, recipe, device)
        best = _best_as_in_a_run(actions, seconds, device)
        row = {action: 1e3 * value / STEPS for action, value in best.items()}
        row["overhead (%)"] = 100 * (row["engine"] / row["bare"] - 1)
        rows[f"{backbone_title(name)}, {resolution} px, batch {batch}"] = row
    return pd.DataFrame(rows).T


def method_times(
    seconds: float = 8.0, device="cpu", backbone: str = "resnet32", batch: int = 256
) -> pd.DataFrame:
    """One training step (forward, loss, backward, optimizer) with softmax, PF-loss, ARConvL and GBG
    on 100 classes at IF 100.

    Images of 32 px that never change, float32 on a CPU (one thread), bfloat16 on a GPU. Columns:
    ms; ratio, to softmax; group passes (ms), the backward passes through the backbone for each of
    GBG's four groups, on a graph of their own; ratio beyond them, (step - group passes) / softmax's
    step. The steps take turns for about ``seconds``; the best turn counts.
    """
    device = torch.device(device)
    actions = _method_steps(device, backbone, batch)
    best = pd.Series(_best_as_in_a_run(actions, seconds, device))
    passes, best = best["passes"], best.drop("passes")
    table = pd.DataFrame({"ms": 1e3 * best, "ratio": best / best["softmax"]})
    table.loc["gbg", "group passes (ms)"] = 1e3 * passes
    table.loc["gbg", "ratio beyond them"] = (best["gbg"] - passes) / best["softmax"]
    return table


def _method_steps(device: torch.device, backbone: str, batch: int) -> Actions:
    """A training step of each method, and "passes": GBG's backward passes by group alone."""
    recipe, counts = _recipe(device, batch, 32), class_counts(100, 500, 100)
    x = _noise(recipe, device)
    shares = torch.as_tensor(counts, dtype=torch.float64)
    labels = torch.multinomial(shares, batch, replacement=True).to(device)

    def forward(model, loss):
        with _autocast(recipe, device):
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
    for name, options in METHODS.items():
        loss = build_loss(name, counts, **options).to(device)
        model = _model(backbone, 32, device, heads_of(name)[0])
        loss.start_epoch(0, model, None)
        optimizer = build_optimizer(model.train(), recipe, loss.param_groups(recipe.lr))
        actions[name] = functools.partial(step, model, loss, optimizer)
    value, shared = forward(model, loss), list(model.backbone.parameters())
    return actions | {"passes": functools.partial(group_passes, value, shared)}


def _best_as_in_a_run(actions: Actions, seconds: float, device: torch.device) -> dict[str, float]:
    """The best of turns, on a CPU with one thread."""
    with threads(1 if device.type == "cpu" else torch.get_num_threads()):
        return best_of_turns(actions, seconds, device)


def _recipe(device: torch.device, batch: int, resolution: int) -> Recipe:
    """One epoch of SGD on images that are cropped and flipped."""
    how = {"optimizer": "sgd", "lr": 0.01, "crop_padding": 4, "flip": True}
    how["precision"] = "bfloat16" if device.type == "cuda" else "float32"
    return Recipe(epochs=1, batch_size=batch, resolution=resolution, **how)


def _model(name: str, resolution: int, device, head: str = "linear") -> nn.Module:
    model = build_classifier(build_backbone(name, None, resolution), head, 100)
    return model.to(device, memory_format=torch.channels_last)


def _noise(recipe: Recipe, device) -> torch.Tensor:
    """A batch for the model."""
    x = torch.randn(recipe.batch_size, 3, recipe.resolution, recipe.resolution, device=device)
    return x.contiguous(memory_format=torch.channels_last)


def _autocast(recipe: Recipe, device: torch.device):
    return torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16")


def _bare_steps(model: nn.Module, recipe: Recipe, device: torch.device) -> Callable[[], None]:
    optimizer, x = build_optimizer(model, recipe), _noise(recipe, device)
    labels = torch.randint(100, (recipe.batch_size,), device=device)
    model.train()

    def run():
        for _ in range(STEPS):
            with _autocast(recipe, device):
                logits = model(x)
            loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

    return run


def _engine_steps(
    model: nn.Module,
    recipe: Recipe,
    device: torch.device,
    steps: int = STEPS,
    loss: str = "softmax",
) -> Callable[[], None]:
    batches = _batches(*_random_images(steps * recipe.batch_size), recipe, device)
    # groups by count: what is timed are steps, and not how classes are grouped before the first one
    options, seeds = {"grouping": "count"} if loss == "gbg" else {}, itertools.count()
    built = build_loss(loss, np.ones(100), **options)
    return lambda: fit(model, built, batches, recipe, next(seeds), precision=recipe.precision)


def _batches(x: np.ndarray, y: np.ndarray, recipe: Recipe, device: torch.device) -> ImageBatches:
    names = ("batch_size", "resolution", "crop_padding", "flip", "rand_augment")
    options = {name: getattr(recipe, name) for name in names}
    return ImageBatches(x, y, mean=MEAN, std=STD, device=device, **options)


def matrix_rate(device, size: int = 8192, dtype=torch.bfloat16, seconds: float = 1.0) -> float:
    """FLOP/s of a product of two size x size matrices: what the device reaches, not what its data
    sheet says."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = best_of_turns({"product": lambda: a @ b}, seconds, device)["product"]
    return 2 * size**3 / best


def train_flops(model: nn.Module, resolution: int, device="cpu") -> float:
    """FLOP of one training step per image: three times those of the forward pass (a
    multiply-accumulate is two).

    The backward pass computes a gradient for the input and one for the weights of each layer, each
    as dear as the forward pass. It is not counted by running it: FLOP counters take the weight
    gradient of a depthwise convolution for that of a dense one.
    """
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, resolution, resolution, device=device))
    return 3.0 * counter.get_total_flops()


def training_rates(
    profile: Profile, device, rate: float, seconds: float = 8.0, steps: int = 8
) -> pd.DataFrame:
    """For each backbone of a profile, by its own recipe and the engine's steps, from fresh weights:

    images/s with softmax; GFLOP per image (``train_flops``); utilisation (%), what the images take
    of ``rate`` FLOP/s; peak memory (GB, on a GPU); runs, how many the profile computes; hours for
    all of them, those of GBG by the time of its own steps, validation and test counted as forward
    passes.
    """
    device, rows = torch.device(device), {}
    for name in profile.backbones:
        runs = [run for run in unique_runs(profile) if run.backbone == name and run.tau is None]
        recipe, peak = _one_epoch(runs[0].recipe), float("nan")
        model = _model(name, recipe.resolution, device)
        flops = train_flops(model.eval(), recipe.resolution, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        actions = {"softmax": _engine_steps(model, recipe, device, steps)}
        if any(run.loss == "gbg" for run in runs):
            plain = dataclasses.replace(recipe, compile=False)
            actions["gbg"] = _engine_steps(model, plain, device, steps, "gbg")
        best = best_of_turns(actions, seconds, device)
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
        per_second = {loss: steps * recipe.batch_size / time for loss, time in best.items()}
        images_per_second = per_second["softmax"]
        costs = [
            _training_images(run) / per_second.get(run.loss, images_per_second) for run in runs
        ]
        rows[backbone_title(name)] = {
            "images/s": images_per_second,
            "GFLOP per image": flops / 1e9,
            "utilisation (%)": 100 * images_per_second * flops / rate,
            "peak memory (GB)": peak / 1e9,
            "runs": len(runs),
            "hours": sum(costs) / 3600,
        }
    return pd.DataFrame(rows).T


def _one_epoch(recipe: Recipe) -> Recipe:
    short = {"epochs": 1, "warmup_epochs": 0.0, "milestones": (), "schedule": "cosine"}
    return dataclasses.replace(recipe, **short)


def _training_images(run: RunConfig) -> float:
    """What a run costs in training images, of which a validation or test image costs a third."""
    size = dataset_size(run.dataset)
    counts = train_counts(run.protocol, run.train_set, size.num_classes)
    val = np.minimum(run.protocol.val_per_class, size.train_per_class - counts).sum()
    tested = 2 * run.protocol.test_per_class * size.num_classes
    return run.recipe.epochs * (counts.sum() + val / 3) + tested / 3
