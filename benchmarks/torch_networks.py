"""The training step that people write in PyTorch, of the package's VGG-16 and ResNet-20."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from apq_jax.models.resnet import RESNET20
from apq_jax.models.vgg import VGG16, scale_channels

torch.set_num_threads(1)


class Block(nn.Module):
    """ResNet's two convolutions and their shortcut without weights."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.first_norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.second_norm = nn.BatchNorm2d(channels)
        self.stride, self.missing = stride, channels - before

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = functional.relu(self.first_norm(self.first(x)))
        y = self.second_norm(self.second(y))
        if self.stride > 1 or self.missing:
            x = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing)
            )
        return functional.relu(y + x)


class Mean(nn.Module):
    """The mean over all positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


def _list_convolution(before: int, channels: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, channels, 3, padding=1, bias=False)
    return [convolution, nn.BatchNorm2d(channels), nn.ReLU()]


def build_network(name: str, width: float) -> nn.Module:
    """Builds VGG-16 or ResNet-20 as `apq_jax.models` has it."""
    modules: list[nn.Module] = []
    before = 3
    if name == "vgg16":
        for channels, count in VGG16:
            for _ in range(count):
                modules += _list_convolution(before, scale_channels(channels, width))
                before = scale_channels(channels, width)
            modules.append(nn.MaxPool2d(2, ceil_mode=True))
        modules.append(nn.Flatten())
    else:
        modules += _list_convolution(before, scale_channels(RESNET20[0][0], width))
        before = scale_channels(RESNET20[0][0], width)
        for stage, (channels, count) in enumerate(RESNET20):
            for index in range(count):
                after = scale_channels(channels, width)
                modules.append(Block(before, after, 2 if stage and not index else 1))
                before = after
        modules.append(Mean())
    return nn.Sequential(*modules, nn.Linear(before, 10))


def build_torch_step(
    name: str, width: float, images: np.ndarray, labels: np.ndarray, rate: float, bfloat16: bool
) -> Callable[[], None]:
    """Builds one step of AdamW on images [B, H, W, C]."""
    network = build_network(name, width).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), rate)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).to(memory_format=torch.channels_last)
    y = torch.from_numpy(labels)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = network(x)
        functional.cross_entropy(logits.float(), y).backward()
        optimizer.step()

    return step
