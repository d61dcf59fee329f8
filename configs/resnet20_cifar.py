"""ResNet-20 on CIFAR-10, which no package installs: --config.data.path names its folder.

The package carries weights for JPEG-recompressed images of CIFAR-10 (85.2 % on test, float16,
552 kB), which therefore need no training. Other images, or another seed, train for 20 epochs of
45,000 images with AdamW, cosine decay, shifts of four pixels and mirroring, and for eight more
epochs from half the learning rate: six to twelve minutes of one core each. A stopped training
resumes. The carried weights were rounded to float16 between the two parts.

apq_jax/config.py has every field and its default. Set fields that differ here.
"""

import ml_collections

from apq_jax import config
from apq_jax.models.options import Training


def get_config() -> ml_collections.ConfigDict:
    """Returns the fields that differ from LeNet-5's."""
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
