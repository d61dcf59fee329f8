"""LeNet-5 on MNIST-5k: the whole main job in about four minutes on two CPU cores.

apq_jax/config.py has every field and its default. Set fields that differ here, or on the command
line: --config.search.episodes=100.
"""

import ml_collections

from apq_jax import config


def get_config() -> ml_collections.ConfigDict:
    """Returns the defaults, which are made for this network."""
    return config.to_config_dict(config.Config())
