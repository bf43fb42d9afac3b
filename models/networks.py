"""The digit classifiers of this folder, as torch modules.

All take `image`, float32 (N, 1, 16, 16) in [0, 1], and return `logits`, float32 (N, 10).  They are small on
purpose, yet hold what a quantiser meets in larger networks: residual adds, strided shortcuts, batch
normalisation after every convolution, depthwise layers with clipped activations, linear bottlenecks, norms that no
convolution can take in (before it, after an addition or a concatenation), and attention.
"""

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn

CLASSES = 10


def _conv_norm(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[tuple[str, nn.Module]]:
    conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [("conv", conv), ("norm", nn.BatchNorm2d(c_out))]


class ConvNorm(nn.Sequential):
    """Convolution, batch normalisation and, if given, an activation."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
    ) -> None:
        layers = _conv_norm(c_in, c_out, kernel, stride, groups)
        if activation is not None:
            layers.append(("act", activation))
        super().__init__(OrderedDict(layers))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut; the shortcut is 1x1 where the shape changes [he2016]."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(c_in, c_out, 3, stride, activation=nn.ReLU())
        self.second = ConvNorm(c_out, c_out, 3)
        changes = stride != 1 or c_in != c_out
        self.shortcut: nn.Module = ConvNorm(c_in, c_out, 1, stride) if changes else nn.Identity()
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, H, W) to (N, c_out, H/stride, W/stride)."""
        return self.act(self.second(self.first(x)) + self.shortcut(x))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise 3x3, project 1x1 without activation [sandler2018]."""

    def __init__(self, c_in: int, c_out: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = c_in * expand
        self.expand = ConvNorm(c_in, hidden, 1, activation=nn.ReLU6())
        self.depthwise = ConvNorm(hidden, hidden, 3, stride, groups=hidden, activation=nn.ReLU6())
        self.project = ConvNorm(hidden, c_out, 1)
        self.residual = stride == 1 and c_in == c_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, H, W) to (N, c_out, H/stride, W/stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class _PooledClassifier(nn.Module):
    def __init__(self, features: nn.Module, channels: int) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 16, 16) to logits (N, 10)."""
        pooled: Tensor = self.pool(self.features(x)).flatten(1)
        logits: Tensor = self.classifier(pooled)
        return logits


def resnet() -> nn.Module:
    """Five residual blocks of 16, 24 and 48 channels, about 61 thousand weights."""
    features = nn.Sequential(
        ConvNorm(1, 16, 3, activation=nn.ReLU()),
        ResidualBlock(16, 16, 1),
        ResidualBlock(16, 16, 1),
        ResidualBlock(16, 24, 2),
        ResidualBlock(24, 24, 1),
        ResidualBlock(24, 48, 2),
    )
    return _PooledClassifier(features, 48)


def mobilenet() -> nn.Module:
    """Five inverted residual blocks with clipped activations, about 50 thousand weights."""
    features = nn.Sequential(
        ConvNorm(1, 16, 3, activation=nn.ReLU6()),
        InvertedResidual(16, 16, 1, 2),
        InvertedResidual(16, 24, 2, 4),
        InvertedResidual(24, 24, 1, 4),
        InvertedResidual(24, 40, 2, 4),
        InvertedResidual(40, 40, 1, 4),
        ConvNorm(40, 128, 1, activation=nn.ReLU6()),
    )
    return _PooledClassifier(features, 128)


class NormConv(nn.Sequential):
    """Batch normalisation, ReLU, convolution: no convolution before the norm to take it in [he2016identity]."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1) -> None:
        conv = nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False)
        super().__init__(OrderedDict([("norm", nn.BatchNorm2d(c_in)), ("act", nn.ReLU()), ("conv", conv)]))


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each after its norm; the sum stays as it is [he2016identity]."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.first = NormConv(c_in, c_out, 3, stride)
        self.second = NormConv(c_out, c_out, 3)
        changes = stride != 1 or c_in != c_out
        self.shortcut: nn.Module = nn.Conv2d(c_in, c_out, 1, stride, bias=False) if changes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, c_in, H, W) to (N, c_out, H/stride, W/stride)."""
        y: Tensor = self.second(self.first(x)) + self.shortcut(x)
        return y


class DenseLayer(nn.Module):
    """A 1x1 bottleneck and a 3x3 convolution, whose outputs stand beside the inputs [huang2017]."""

    def __init__(self, c_in: int, growth: int) -> None:
        super().__init__()
        self.bottleneck = NormConv(c_in, 2 * growth, 1)
        self.conv = NormConv(2 * growth, growth, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C + growth, H, W)."""
        return torch.cat([x, self.conv(self.bottleneck(x))], dim=1)


class EncoderBlock(nn.Module):
    """Pre-norm transformer block: self-attention, then a two-layer perceptron with GELU [vaswani2017]."""

    def __init__(self, width: int, heads: int, tokens: int) -> None:
        super().__init__()
        self.split = (-1, tokens, heads, width // heads)
        self.merged = (-1, tokens, width)
        self.scale = 1.0 / math.sqrt(width // heads)
        self.norm1 = nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.gelu = nn.GELU()
        self.down = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, width) to the same shape."""
        h = self.norm1(x)
        q, k, v = (p(h).reshape(self.split).transpose(1, 2) for p in (self.query, self.key, self.value))
        attention = torch.softmax((q @ k.transpose(2, 3)) * self.scale, dim=-1)
        x = x + self.out((attention @ v).transpose(1, 2).reshape(self.merged))
        y: Tensor = x + self.down(self.gelu(self.up(self.norm2(x))))
        return y


class Transformer(nn.Module):
    """Vision transformer on 4x4 patches with mean pooling [dosovitskiy2021]."""

    def __init__(
        self, width: int = 48, heads: int = 4, depth: int = 3, patch: int = 4, side: int = 16
    ) -> None:
        super().__init__()
        tokens = (side // patch) ** 2
        self.embed = nn.Conv2d(1, width, patch, patch)
        self.flat = (-1, width, tokens)  # constant target shapes keep Shape nodes out of the exported graph
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.Sequential(*(EncoderBlock(width, heads, tokens) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 1, 16, 16) to logits (N, 10)."""
        h = self.embed(x).reshape(self.flat).transpose(1, 2) + self.position
        logits: Tensor = self.classifier(self.norm(self.blocks(h)).mean(dim=1))
        return logits


def preactivation() -> nn.Module:
    """Five pre-activation blocks of 16, 24 and 48 channels, about 61 thousand weights."""
    features = nn.Sequential(
        nn.Conv2d(1, 16, 3, 1, 1, bias=False),
        PreActivationBlock(16, 16, 1),
        PreActivationBlock(16, 16, 1),
        PreActivationBlock(16, 24, 2),
        PreActivationBlock(24, 24, 1),
        PreActivationBlock(24, 48, 2),
        nn.BatchNorm2d(48),
        nn.ReLU(),
    )
    return _PooledClassifier(features, 48)


def densenet() -> nn.Module:
    """Two stages of four dense layers with growth 12 and a transition between them, about 35 thousand weights."""
    growth, width = 12, 24
    stages: list[nn.Module] = [nn.Conv2d(1, width, 3, 1, 1, bias=False)]
    for stage in range(2):
        for _ in range(4):
            stages.append(DenseLayer(width, growth))
            width += growth
        if not stage:
            stages += [NormConv(width, width // 2, 1), nn.AvgPool2d(2)]
            width //= 2
    features = nn.Sequential(*stages, nn.BatchNorm2d(width), nn.ReLU())
    return _PooledClassifier(features, width)


NETWORKS = {
    "digits_resnet": resnet,
    "digits_mobilenet": mobilenet,
    "digits_preactivation": preactivation,
    "digits_densenet": densenet,
    "digits_transformer": Transformer,
}
