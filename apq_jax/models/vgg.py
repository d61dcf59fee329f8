"""VGG (Simonyan and Zisserman, arXiv 1409.1556) in its CIFAR forms, with batch normalisation.

VGG-8 is the network that NeuroSim maps (Peng et al., "DNN+NeuroSim V2.0", 2020: 2 x 128, 2 x 256,
2 x 512 channels, 1024 neurons). VGG-16 has the paper's 13 convolutions and one classifier.
Poolings round up, so that 28 and 32 pixels give the same layers.
"""

import jax
from flax import linen as nn

VGG8 = ((128, 2), (256, 2), (512, 2))
VGG16 = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class Vgg(nn.Module):
    """Blocks of 3 x 3 convolutions, each followed by a 2 x 2 max pooling, then a classifier.

    Every convolution and hidden layer is followed by a batch normalisation: training uses the
    batch's moments and updates the running moments; inference uses the running moments, which are
    parameters.

    Attributes:
      blocks: channels and convolutions of each block.
      hidden: neurons between the convolutions and the logits; 0 for no hidden layer.
      width: factor of all channels and neurons.
      classes: number of logits.
    """

    blocks: tuple[tuple[int, int], ...]
    hidden: int = 0
    width: float = 1.0
    classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, classes]; `train` chooses the normalisation."""

        def normalise(x: jax.Array, name: str) -> jax.Array:
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, name=name)
            return nn.relu(norm(x))

        x, index = images, 0
        for channels, count in self.blocks:
            channels = scale_channels(channels, self.width)
            for _ in range(count):
                index += 1
                conv = nn.Conv(channels, (3, 3), use_bias=False, name=f"conv{index}")
                x = normalise(conv(x), f"norm{index}")
            x = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
        x = x.reshape(x.shape[0], -1)
        if self.hidden:
            x = nn.Dense(scale_channels(self.hidden, self.width), use_bias=False, name="hidden")(x)
            x = normalise(x, "norm_hidden")
        return nn.Dense(self.classes, name="logits")(x)


def scale_channels(channels: int, width: float) -> int:
    """Returns round(width * channels), but at least 1."""
    return max(round(width * channels), 1)
