"""LeNet-5 (LeCun et al., "Gradient-based learning applied to document recognition", 1998)."""

import jax
from flax import linen as nn

MIN_PIXELS = 12  # height and width: two poolings and a 5 x 5 window without padding


class LeNet5(nn.Module):
    """LeNet-5 with the ReLU and max pooling of later reprints; five layers hold weights.

    Attributes:
      classes: number of logits.
    """

    classes: int = 10

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps images [B, H, W, C] to logits [B, classes]; H and W are at least MIN_PIXELS."""
        x = nn.relu(nn.Conv(6, (5, 5), padding="SAME", name="conv1")(images))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = nn.relu(nn.Conv(16, (5, 5), padding="VALID", name="conv2")(x))
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = x.reshape(x.shape[0], -1)
        x = nn.relu(nn.Dense(120, name="fc1")(x))
        x = nn.relu(nn.Dense(84, name="fc2")(x))
        return nn.Dense(self.classes, name="fc3")(x)
