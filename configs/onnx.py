"""Your own network from an ONNX file, and your own images; docs/own_model.md.

    python -m apq_jax.search --config=configs/onnx.py \\
        --config.model.path=net.onnx --config.data.path=data.npz

The network is not trained. Fine-tuning does not augment images by default: set training.max_shift
and training.flip as your network was trained.

apq_jax/config.py has every field and its default. Set fields that differ here.
"""

import ml_collections

from apq_jax import config
from apq_jax.models.options import ModelOptions, Training


def get_config() -> ml_collections.ConfigDict:
    """Returns the fields that differ from LeNet-5's; set the paths on the command line."""
    return config.to_config_dict(
        config.Config(
            model=ModelOptions(path="net.onnx"),
            training=Training(max_shift=0),
            search=config.SearchOptions(chunk=100, moment_images=128, finalists=16),
        )
    )
