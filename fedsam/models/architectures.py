"""Network architectures, pure functions of their parameters: no dropout, no running statistics except with BatchNorm.

ReLU comes after max-pooling, with which it commutes, values and gradients: a quarter of the work.

A factory is `(image, classes, *, hyperparameters) -> module`, where `image` is (channels, height, width). Numbers of parameters below are
for 10 classes.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedsam import registry
from fedsam.config import Component, ConfigError, Count
from fedsam.documentation import documented
from fedsam.models.narrow import NarrowConv2d
from fedsam.plugins import component_errors
from fedsam.registry import FunctionContract, Registry
from fedsam.seeds import seeded_globals, tensor_stream

ImageShape = tuple[int, int, int]
Norm = Literal["group", "batch"]
Groups = Literal[1, 2, 4, 8, 16]  # divisors of the number of channels of every layer
Depth = Literal[10, 16, 22, 28, 34, 40]  # of a wide ResNet


@documented(source="McMahan et al., 2017, arXiv:1602.05629, section 3, the network for MNIST.")
def cnn(image: ImageShape, classes: int) -> nn.Module:
    """Two 5 x 5 convolutions of 32 and 64 channels, each with 2 x 2 max-pooling, and a hidden layer of 512.

    1,663,370 parameters for (1, 28, 28), 2,156,490 for (3, 32, 32).
    """
    body = nn.Sequential(
        *(nn.Conv2d(image[0], 32, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.MaxPool2d(2), nn.ReLU()),
        nn.Flatten(),
    )
    return body.extend([nn.Linear(_features(body, image), 512), nn.ReLU(), nn.Linear(512, classes)])


@documented(source="LeCun et al., 1998, Gradient-based learning applied to document recognition, with modern activations.")
def lenet5(image: ImageShape, classes: int) -> nn.Module:
    """LeNet-5 with ReLU and max-pooling; images of 28 x 28 are padded to 32 x 32.

    61,706 parameters for grey images, 62,006 for colour.
    """
    body = nn.Sequential(
        *(NarrowConv2d(image[0], 6, 5, padding=2 if image[1] < 32 else 0), nn.MaxPool2d(2), nn.ReLU()),
        *(NarrowConv2d(6, 16, 5), nn.MaxPool2d(2), nn.ReLU()),
        nn.Flatten(),
    )
    return body.extend([nn.Linear(_features(body, image), 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)])


@documented(
    source="McMahan et al., 2017, arXiv:1602.05629, section 3, the network 2NN, for 200 units.",
    hidden="Units of each hidden layer.",
)
def mlp(image: ImageShape, classes: int, *, hidden: Count = 200) -> nn.Module:
    """Two hidden layers with ReLU on the pixels.

    199,210 parameters for (1, 28, 28) and 200 units, 70,410 for (1, 32, 32) and 64.
    """
    pixels = math.prod(image)
    layers = nn.Linear(pixels, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    return nn.Sequential(nn.Flatten(), *layers)


@documented(
    source=(
        "He et al., 2016, arXiv:1512.03385; GroupNorm against unlike clients: Hsieh et al., 2020, arXiv:1910.00189; two groups: the code "
        "of Acar et al., 2021, arXiv:2111.04263 (FedDyn)."
    ),
    norm="Normalization layers: GroupNorm or BatchNorm.",
    groups="Groups of GroupNorm.",
)
def resnet18(image: ImageShape, classes: int, *, norm: Norm = "group", groups: Groups = 2) -> nn.Module:
    """ResNet-18 for small images: a 3 x 3 convolution of stride 1 first, no max-pooling.

    11,173,962 parameters for colour images.
    """
    from torchvision.models.resnet import BasicBlock, ResNet

    network: nn.Module = ResNet(BasicBlock, [2, 2, 2, 2], num_classes=classes, norm_layer=_norm(norm, groups))
    network.conv1 = _conv(image[0], 64)
    network.maxpool = nn.Identity()
    return network


@documented(
    source="He et al., 2016, arXiv:1512.03385, section 4.2, with GroupNorm in place of BatchNorm unless that is asked for.",
    norm="Normalization layers: GroupNorm or BatchNorm.",
    groups="Groups of GroupNorm.",
)
def resnet20(image: ImageShape, classes: int, *, norm: Norm = "group", groups: Groups = 2) -> nn.Module:
    """ResNet-20 for small images: three stages of three blocks with 16, 32 and 64 channels, shortcuts without parameters.

    269,722 parameters for colour images.
    """
    from torchvision.models.resnet import BasicBlock

    layer = _norm(norm, groups)

    def stage(before: int, channels: int, stride: int) -> nn.Sequential:
        first = BasicBlock(before, channels, stride, Shortcut(channels - before, stride) if stride > 1 else None, norm_layer=layer)
        return nn.Sequential(first, *(BasicBlock(channels, channels, norm_layer=layer) for _ in range(2)))

    stem = OrderedDict(conv=_conv(image[0], 16), norm=layer(16), relu=nn.ReLU())
    stages = OrderedDict(stage1=stage(16, 16, 1), stage2=stage(16, 32, 2), stage3=stage(32, 64, 2))
    head = OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(64, classes))
    network = nn.Sequential(OrderedDict({**stem, **stages, **head}))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            _he(module)
    return network


@documented(
    source="Zagoruyko and Komodakis, 2016, arXiv:1605.07146, without dropout; GroupNorm in place of BatchNorm unless that is asked for.",
    depth="Layers: 6 for each block of a stage, and 4.",
    width="Factor of the channels 16, 32 and 64.",
    norm="Normalization layers: GroupNorm or BatchNorm.",
    groups="Groups of GroupNorm.",
)
def wide_resnet(
    image: ImageShape, classes: int, *, depth: Depth = 16, width: Count = 4, norm: Norm = "group", groups: Groups = 2
) -> nn.Module:
    """Wide ResNet for small images, three stages of blocks that normalize before they convolve: by default WRN-16-4.

    2,748,890 parameters for colour images, 36,479,194 for WRN-28-10.
    """
    layer, blocks, before = _norm(norm, groups), list[nn.Module](), 16
    for channels, first in zip((16 * width, 32 * width, 64 * width), (1, 2, 2), strict=True):
        for place in range((depth - 4) // 6):
            blocks.append(WideBlock(before, channels, 1 if place else first, layer))
            before = channels
    head = OrderedDict(
        norm=layer(before), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(before, classes)
    )
    return nn.Sequential(OrderedDict(conv=_conv(image[0], 16), blocks=nn.Sequential(*blocks), **head))


_GLOBAL_GENERATORS = threading.Lock()  # layers draw from them, also those of runs in parallel

MODELS = Registry[Callable[..., nn.Module]](
    "models",
    FunctionContract(("image", "classes")),
    {"cnn": cnn, "lenet5": lenet5, "mlp": mlp, "resnet18": resnet18, "resnet20": resnet20, "wide_resnet": wide_resnet},
)


def create(component: Component, image: ImageShape, classes: int, generator: torch.Generator) -> nn.Module:
    """Create the network that `component` names on the CPU, with initial weights from `generator`; global generators are unchanged.

    Args:
        component: A name of MODELS, or `module:factory` for any importable `factory(image, classes, **settings)`.

    Raises:
        ConfigError: The name is not known or cannot be imported, or a setting is not allowed.
    """
    factory = registry.build(MODELS, component, "model")
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))
    with _GLOBAL_GENERATORS, seeded_globals(seed), torch.device("cpu"), component_errors("model", component.name):
        network = factory(image, classes)
    if not isinstance(network, nn.Module):
        raise ConfigError(f"model: {component.name!r} is not allowed: it makes a {type(network).__name__}, not a torch.nn.Module")
    lazy = [name for name, tensor in (*network.named_parameters(), *network.named_buffers()) if is_lazy(tensor)]
    if lazy:
        remedy = "have the factory pass torch.zeros(2, *image) through it, so that it knows its sizes"
        raise ConfigError(f"model: {component.name!r} is not allowed: {lazy[0]} has no shape yet, as it is of a lazy layer; {remedy}")
    return network


def initial_draws(seed: int) -> torch.Generator:
    """What the initial weights of an experiment's network are drawn from."""
    return tensor_stream(seed, "initial weights")


class Shortcut(nn.Module):
    """The identity between stages: every `stride`-th pixel, and zeros in the new channels.

    Source: He et al., 2016, arXiv:1512.03385, section 3.3, option A.
    """

    def __init__(self, new_channels: int, stride: int) -> None:
        super().__init__()
        self.new_channels, self.stride = new_channels, stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C + new, H / stride, W / stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class WideBlock(nn.Module):
    """A block of a wide ResNet: twice normalization, ReLU, convolution; the input added, through a convolution where channels differ.

    Source: Zagoruyko and Komodakis, 2016, arXiv:1605.07146, figure 1d without dropout.
    """

    def __init__(self, before: int, channels: int, stride: int, layer: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer(before), layer(channels)
        self.conv1, self.conv2 = _conv(before, channels, stride), _conv(channels, channels)
        self.shortcut = None if before == channels else _he(nn.Conv2d(before, channels, 1, stride=stride, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, channels, H / stride, W / stride)."""
        active = F.relu(self.norm1(x))
        residual: Tensor = self.conv2(F.relu(self.norm2(self.conv1(active))))
        return residual + (x if self.shortcut is None else self.shortcut(active))


def _features(body: nn.Module, image: ImageShape) -> int:
    """Number of outputs of `body` for an image."""
    with torch.no_grad():
        return int(body(torch.zeros(1, *image)).numel())


def _norm(norm: Norm, groups: int) -> Callable[[int], nn.Module]:
    return nn.BatchNorm2d if norm == "batch" else partial(nn.GroupNorm, groups)


def _conv(before: int, channels: int, stride: int = 1) -> nn.Conv2d:
    """A convolution of a ResNet for small images, the first one of all ResNets here."""
    return _he(nn.Conv2d(before, channels, 3, stride=stride, padding=1, bias=False))


def _he(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")  # in place; as torchvision's ResNet does
    return layer
