"""How a model is trained: epochs, optimizer, rates, augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from ltlib.checked import NotNegative, Several, bounds, checked, later
from ltlib.errors import require


@checked
class Recipe:
    """How a model is trained.

    lr            the rate of the head, and of the backbone but for ``layer_decay``
    schedule      "cosine" warms up linearly for ``warmup_epochs`` and falls to 0; "step" multiplies
                  the rate by ``decay`` at each epoch of ``milestones``
    crop_padding  in pixels of the original image
    precision     of the forward pass; losses are always computed in float32. In mode "probe" the
                  forward pass through the frozen backbone has this precision and the head is
                  trained in float32
    layer_decay   the rate of each layer of the backbone is this times that of the layer above it
                  (1: all the same)
    clip_grad     largest norm of the gradient (0: not clipped)
    ema           decay of the moving average of the weights, which is then evaluated instead of
                  them (0: none)
    rand_augment  magnitude, 0 to 30, of two random operations per image (RandAugment; 0: none)
    decay_all     weight decay acts on biases and normalisation too, as in the literature on CIFAR
                  from scratch
    compile       ``torch.compile`` the model for training
    pick          the epoch that validation picks: highest "accuracy" (mean over classes; the
                  earliest of equals) or "gmean" (geometric mean of the classes' accuracies; the
                  latest of equals)
    pixels        of a model that starts from fresh weights: "normalised" with the data set's mean
                  and deviation, or "raw", 0 to 255
    cutout        side in pixels of a square that is blanked in each image (0: none)
    views         "one", or "contrastive": AutoAugment and Cutout, and two more views of each image
                  by SimCLR's augmentation
    light         what trains in mode "light" beside the head: "adaptformer", "lora" or "bias_norm"
                  (:func:`ltlib.models.lighten`)
    width         features of the bottleneck of adaptformer and lora
    head_init     the head starts from "random" weights, or from the "class_means" of the pretrained
                  backbone's features (:func:`ltlib.models.start_at_class_means`)
    """

    epochs: Annotated[int, bounds("1 to 100000", ge=1, le=100_000)]
    batch_size: Annotated[int, bounds("1 to 65536", ge=1, le=65_536)]
    optimizer: Literal["adamw", "adam", "sgd"]
    lr: Annotated[float, bounds("a number above 0", gt=0)]
    resolution: Annotated[int, bounds("1 to 2048 pixels", ge=1, le=2048)]
    weight_decay: NotNegative = 0.0
    momentum: Annotated[float, bounds("0 <= momentum < 1", ge=0, lt=1)] = 0.9
    schedule: Literal["cosine", "step"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    milestones: Several[int] = ()
    decay: Annotated[float, bounds("0 < decay <= 1", gt=0, le=1)] = 0.1
    crop_padding: Annotated[int, bounds("0 to 512 pixels", ge=0, le=512)] = 0
    flip: bool = False
    precision: Literal["float32", "bfloat16"] = "float32"
    layer_decay: Annotated[float, bounds("0 < layer_decay <= 1", gt=0, le=1)] = later(1.0)
    clip_grad: Annotated[float, bounds("a norm above 0, or 0 for none", ge=0)] = later(0.0)
    ema: Annotated[float, bounds("0 <= ema < 1", ge=0, lt=1)] = later(0.0)
    rand_augment: Annotated[int, bounds("0 to 30", ge=0, le=30)] = later(0)
    decay_all: bool = later(False)
    compile: bool = later(False)
    pick: Literal["accuracy", "gmean"] = later("accuracy")
    pixels: Literal["normalised", "raw"] = later("normalised")
    cutout: Annotated[int, bounds("0 to 2048 pixels", ge=0, le=2048)] = later(0)
    views: Literal["one", "contrastive"] = later("one")
    light: Literal["adaptformer", "lora", "bias_norm"] = later("adaptformer")
    width: Annotated[int, bounds("1 to 4096", ge=1, le=4096)] = later(16)
    head_init: Literal["random", "class_means"] = later("random")

    def __post_init__(self):
        one_view = self.views == "one"
        require(
            one_view or not self.rand_augment,
            "rand_augment",
            self.rand_augment,
            '0 with views = "contrastive"',
        )
        inside = all(0 < milestone < self.epochs for milestone in self.milestones)
        require(inside, "milestones", self.milestones, f"epochs between 0 and {self.epochs}")
        uniform = self.layer_decay == 1 or not self.decay_all
        require(uniform, "layer_decay", self.layer_decay, "1 with decay_all = true")
        short = self.warmup_epochs < self.epochs
        require(short, "warmup_epochs", self.warmup_epochs, f"below epochs = {self.epochs}")
        steps = self.schedule == "step" or not self.milestones
        require(steps, "milestones", self.milestones, 'none, or schedule = "step"')
