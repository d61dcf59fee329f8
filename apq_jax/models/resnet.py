"""ResNet (He et al., arXiv 1512.03385) in its CIFAR forms, with batch normalisation.

ResNet-20 is the paper's network for CIFAR-10 (section 4.2); its shortcuts have no weights (option
A). ResNet-18 is the paper's network for ImageNet (table 1), but its stem is 3 x 3, keeps the size
of the image and has no pooling after it; shortcuts that change shape are 1 x 1 convolutions
(option B).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from apq_jax.models.vgg import scale_channels

RESNET20 = ((16, 3), (32, 3), (64, 3))
RESNET18 = ((64, 2), (128, 2), (256, 2), (512, 2))


class ResNet(nn.Module):
    """A stem of 3 x 3, stages of basic blocks, the mean over all positions, then a classifier.

    Every stage but the first halves the image. Every convolution is followed by a batch
    normalisation: training uses the batch's moments and updates the running moments; inference
    uses the running moments, which are parameters.

    Attributes:
      stages: channels and blocks of each stage; channels never shrink.
      projected: whether shortcuts that change shape are convolutions.
      width: factor of all channels.
      classes: number of logits.
    """

    stages: tuple[tuple[int, int], ...]
    projected: bool = False
    width: float = 1.0
    classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, classes]; `train` chooses the normalisation."""
        stem = scale_channels(self.stages[0][0], self.width)
        x = nn.relu(_convolve(images, stem, 3, 1, train, "1"))
        for stage, (channels, count) in enumerate(self.stages, 1):
            channels = scale_channels(channels, self.width)
            for index in range(1, count + 1):
                stride = 2 if stage > 1 and index == 1 else 1
                name = f"stage{stage}_block{index}"
                x = Block(channels, stride, self.projected, name=name)(x, train)
        return nn.Dense(self.classes, name="logits")(x.mean((1, 2)))


class Block(nn.Module):
    """Two 3 x 3 convolutions, the first with a stride, and a shortcut that is added to them.

    Attributes:
      channels: of the result.
      stride: in both directions.
      projected: whether a shortcut that changes shape is a convolution; otherwise it takes every
        `stride`th row and column, and fills missing channels with zeros.
    """

    channels: int
    stride: int
    projected: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps x [B, H, W, C] to [B, ⌈H / stride⌉, ⌈W / stride⌉, channels]."""
        y = nn.relu(_convolve(x, self.channels, 3, self.stride, train, "1"))
        y = _convolve(y, self.channels, 3, 1, train, "2")
        if self.stride == 1 and self.channels == x.shape[-1]:
            return nn.relu(y + x)
        if self.projected:
            return nn.relu(y + _convolve(x, self.channels, 1, self.stride, train, "_shortcut"))
        x = x[:, :: self.stride, :: self.stride]
        missing = self.channels - x.shape[-1]
        return nn.relu(y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing))))


def _convolve(
    x: jax.Array, channels: int, kernel: int, stride: int, train: bool, name: str
) -> jax.Array:
    """Applies "conv<name>" and "norm<name>" of the calling module: convolution, normalisation."""
    conv = nn.Conv(
        channels,
        (kernel, kernel),
        stride,
        # Both edges are padded alike, which centres windows on the pixels that shortcuts take.
        # SAME with a stride would pad the far edge only.
        padding=kernel // 2,
        use_bias=False,
        name=f"conv{name}",
    )
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{name}")
    return norm(conv(x))
