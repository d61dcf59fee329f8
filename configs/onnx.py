"""Your own network from an ONNX file, and your own images; docs/own_model.md.

    python -m apq_jax.search --config=configs/onnx.py \\
        --config.model.path=net.onnx --config.data.path=data.npz

The network is not trained. Fine-tuning sees the images as they are: set training.max_shift and
training.flip to what yours was trained with.

Every field and its default stands in apq_jax/config.py; set here what differs.
"""

import ml_collections

from apq_jax import config
from apq_jax.models.options import ModelOptions, Training


def get_config() -> ml_collections.ConfigDict:
    """What differs from LeNet-5; the paths are still to be given."""
    return config.to_config_dict(
        config.Config(
            model=ModelOptions(path="net.onnx"),
            training=Training(max_shift=0),
            search=config.SearchOptions(chunk=100, moment_images=128, finalists=16),
        )
    )
