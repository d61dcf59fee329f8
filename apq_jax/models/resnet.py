"""ResNet (He et al., arXiv 1512.03385) in its CIFAR forms, with batch normalisation.

ResNet-20 is the paper's own for CIFAR-10 (section 4.2), with its shortcuts without weights, option
A. ResNet-18 is the ImageNet one (table 1) with a stem of 3 x 3 that does not shrink the image and
no pooling after it; its shortcuts that change shape are 1 x 1 convolutions, option B.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from apq_jax.models.vgg import scale_channels

RESNET20 = ((16, 3), (32, 3), (64, 3))
RESNET18 = ((64, 2), (128, 2), (256, 2), (512, 2))


class ResNet(nn.Module):
    """A stem of 3 x 3, stages of basic blocks, the mean over all positions, then a classifier.

    Every stage but the first halves the image. Every convolution is normalised over the batch: in
    training by the batch's own moments, which also move the running ones; otherwise by the running
    ones, which are parameters.

    Attributes:
      stages: channels and blocks of each stage; channels never shrink.
      projected: whether shortcuts that change shape are convolutions.
      width: what channels are multiplied by.
      classes: number of logits.
    """

    stages: tuple[tuple[int, int], ...]
    projected: bool = False
    width: float = 1.0
    classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, classes]."""
        stem = scale_channels(self.stages[0][0], self.width)
        x = nn.relu(_convolve(images, stem, 3, 1, train, "1"))
        for stage, (channels, count) in enumerate(self.stages, 1):
            for number in range(1, count + 1):
                stride = 2 if stage > 1 and number == 1 else 1
                name = f"stage{stage}_block{number}"
                block = Block(scale_channels(channels, self.width), stride, self.projected, name=name)
                x = block(x, train)
        return nn.Dense(self.classes, name="logits")(x.mean((1, 2)))


class Block(nn.Module):
    """Two 3 x 3 convolutions, the first with a stride, and a shortcut past them.

    Attributes:
      channels: of the result.
      stride: in both directions.
      projected: whether a shortcut that changes shape is a convolution; otherwise it takes one of
        `stride` rows and columns, and zeros for the channels that the input lacks.
    """

    channels: int
    stride: int
    projected: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps x [B, H, W, C] to [B, H / stride, W / stride, channels], rounded up."""
        y = nn.relu(_convolve(x, self.channels, 3, self.stride, train, "1"))
        y = _convolve(y, self.channels, 3, 1, train, "2")
        if self.stride == 1 and self.channels == x.shape[-1]:
            return nn.relu(y + x)
        if self.projected:
            return nn.relu(y + _convolve(x, self.channels, 1, self.stride, train, "_shortcut"))
        x = x[:, :: self.stride, :: self.stride]
        lacking = self.channels - x.shape[-1]
        return nn.relu(y + jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, lacking))))


def _convolve(
    x: jax.Array, channels: int, kernel: int, stride: int, train: bool, name: str
) -> jax.Array:
    """A convolution and its normalisation, both called `name`, in the module that is running."""
    conv = nn.Conv(
        channels,
        (kernel, kernel),
        stride,
        # Both edges alike, so that windows are centred where a shortcut takes its pixels; SAME
        # with a stride would put all of it on the far one.
        padding=kernel // 2,
        use_bias=False,
        name=f"conv{name}",
    )
    norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm{name}")
    return norm(conv(x))
