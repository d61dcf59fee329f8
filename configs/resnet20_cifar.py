"""ResNet-20 on CIFAR-10, which nothing installs: --config.data.path names its folder.

The package carries weights for JPEG-recompressed images of CIFAR-10 (85.2 % on test, float16,
552 kB), so that nobody who has those need train them. Other images, or another seed, train for 20
epochs of 45,000 images, AdamW with cosine decay, shifts of four pixels and mirroring, and for eight
more from half the learning rate: six to twelve minutes of one core each. A training that was
stopped goes on. The weights carried went through float16 between the two parts.

Every field and its default stands in apq_jax/config.py; set here what differs.
"""

import ml_collections

from apq_jax import config
from apq_jax.models.options import Training


def get_config() -> ml_collections.ConfigDict:
    """What differs from LeNet-5."""
    return config.to_config_dict(
        config.Config(
            data=config.DataOptions(name="cifar_10", search_images=500),
            model=config.ModelOptions(name="resnet20"),
            training=Training(
                epochs=20,
                batch_size=128,
                learning_rate=4e-3,
                weight_decay=0.1,
                max_shift=4,
                flip=True,
                restart_epochs=8,
            ),
            search=config.SearchOptions(chunk=100, moment_images=128, finalists=16),
        )
    )
