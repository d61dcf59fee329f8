"""VGG-8 at an eighth of its width on Fashion-MNIST: 93.9 % on test.

The package carries the weights (apq_jax/checkpoints, float16, 414 kB), which therefore need no
training. Another seed trains for 16 epochs of 54,000 images with AdamW, cosine decay, shifts of two
pixels and mirroring: 33 minutes on two cores that other work shared.

apq_jax/config.py has every field and its default. Set fields that differ here.
"""

import ml_collections

from apq_jax import config
from apq_jax.compression.options import FinetuneOptions
from apq_jax.models.options import Training


def get_config() -> ml_collections.ConfigDict:
    """Returns the fields that differ from LeNet-5's."""
    return config.to_config_dict(
        config.Config(
            data=config.DataOptions(name="fashion_mnist", search_images=500),
            model=config.ModelOptions(name="vgg8", width=0.125),
            training=Training(
                epochs=16,
                batch_size=128,
                learning_rate=4e-3,
                weight_decay=0.05,
                max_shift=2,
                flip=True,
            ),
            finetune=FinetuneOptions(steps=2000),
            search=config.SearchOptions(chunk=100, moment_images=128, finalists=16),
        )
    )
