"""The nets of the literature on small images, and the four small backbones of the demonstration."""

from __future__ import annotations

import functools

from torch import Tensor, nn
from torch.nn import functional as F


def _mobilenetv2_small() -> nn.Module:
    import timm

    model = timm.create_model("mobilenetv2_035", num_classes=0)
    model.conv_stem.stride = (1, 1)  # 32 px images: 2 x 2 instead of 1 x 1 at the end
    return model


def _resnetv2_small() -> nn.Module:
    import timm

    model = timm.models.ResNetV2(
        layers=(1, 1, 1, 1),
        channels=(32, 64, 128, 256),
        num_classes=0,
        stem_chs=32,
        stem_type="",
        conv_layer=timm.layers.create_conv2d,
        norm_layer=timm.layers.BatchNormAct2d,
    )
    model.stem.pool = nn.Identity()  # 32 px images: stages at 16, 8, 4 and 2 px
    return model


def _vit_small() -> nn.Module:
    import timm

    return timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=128, depth=3, num_heads=4, num_classes=0
    )


def _convnext_small() -> nn.Module:
    import timm

    return timm.models.ConvNeXt(
        depths=(1, 1, 2, 1), dims=(32, 64, 128, 256), patch_size=2, num_classes=0
    )


SMALL = {
    "mobilenetv2_small32": _mobilenetv2_small,
    "resnetv2_small32": _resnetv2_small,
    "vit_small32": _vit_small,
    "convnext_small32": _convnext_small,
}


class _BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters (He et al.'s option A: every other
    pixel, zeros for new channels)."""

    def __init__(self, channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride, self.new = stride, (out_channels - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.new, self.new))
        return F.relu(x + y)


class ResNet32(nn.Module):
    """The ResNet-32 of the literature on CIFAR: (B, 3, 32, 32) -> (B, 64), 0.46 M parameters.

    A 3 x 3 stem of 16 channels, three stages of five blocks with 16, 32 and 64 channels, mean over
    the image; weights from Kaiming's normal distribution. Source: He et al. 2016, Deep Residual
    Learning, section 4.2; as in LDAM-DRW's code.
    """

    num_features = 64

    def __init__(self, blocks: int = 5):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        layers, channels = [], 16
        for out_channels in (16, 32, 64):
            for _ in range(blocks):
                layers.append(
                    _BasicBlock(channels, out_channels, 2 if out_channels > channels else 1)
                )
                channels = out_channels
        self.blocks = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.relu(self.bn1(self.conv1(x)))).mean((2, 3))


class ResNet44(ResNet32):
    """:class:`ResNet32` with seven blocks a stage, as ARConvL has it for 32 px images: (B, 3, 32,
    32) -> (B, 64)."""

    def __init__(self):
        super().__init__(blocks=7)


def _resnet18_cifar() -> nn.Module:
    """timm's ResNet-18 with a 3 x 3 stem and no pooling after it, as usual for 32 px images: (B, 3,
    32, 32) -> (B, 512)."""
    import timm

    model = timm.create_model("resnet18", num_classes=0)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()
    return model


class Net(nn.Sequential):
    """Layers in a row that look at the first ``channels`` channels of images (B, 3, R, R) and give
    (B, ``num_features``).

    Grey images are stored as three equal channels; nets made for one look at the first.
    """

    def __init__(self, channels: int, num_features: int, *layers: nn.Module):
        super().__init__(*layers)
        self.channels, self.num_features = channels, num_features

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, : self.channels])


def _pf_cnn() -> nn.Module:
    """PF-loss's net for Fashion-MNIST, Conv-ReLU-Conv-ReLU-MaxPool-FC-ReLU-Dropout (its last FC is
    the head): (B, 3, 28, 28) -> (B, 128).

    The paper gives no widths: here 3 x 3 without padding, 32 and 64 channels, 128 features, dropout
    0.5.
    """
    return Net(
        1,
        128,
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(9216, 128),
        nn.ReLU(),
        nn.Dropout(0.5),
    )


def _pf_binary_cnn() -> nn.Module:
    """PF-loss's net for binary tasks, two convolutions and three FC (the last is the head): (B, 3,
    32, 32) -> (B, 84).

    The paper gives no widths: here those of LeNet-5 (6 and 16 channels of 5 x 5, 120 and 84
    features).
    """
    return Net(
        3,
        84,
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(400, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
    )


def _arconvl_cnn(num_features: int = 64) -> nn.Module:
    """ARConvL's net for 28 px images: two pairs of 3 x 3 convolutions (32 and 64 channels, padded),
    each with pooling, FC, batch normalisation: (B, 3, 28, 28) -> (B, 64). "arconvl_cnn2" has two
    features, to be drawn."""

    def pair(channels, out_channels):
        return (
            nn.Conv2d(channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )

    return Net(
        1,
        num_features,
        *pair(1, 32),
        *pair(32, 64),
        nn.Flatten(),
        nn.Linear(3136, num_features),
        nn.BatchNorm1d(num_features),
    )


OWN = SMALL | {
    "resnet32": ResNet32,
    "resnet44": ResNet44,
    "resnet18_cifar": _resnet18_cifar,
    "pf_cnn": _pf_cnn,
    "pf_binary_cnn": _pf_binary_cnn,
    "arconvl_cnn": _arconvl_cnn,
    "arconvl_cnn2": functools.partial(_arconvl_cnn, 2),
}
