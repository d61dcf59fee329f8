"""LeNet-5 on MNIST-5k: the whole main job in about four minutes on two CPU cores.

Every field and its default stands in apq_jax/config.py; set here what differs, or on the command
line: --config.search.episodes=100.
"""

import ml_collections

from apq_jax import config


def get_config() -> ml_collections.ConfigDict:
    """The defaults are this network's."""
    return config.to_config_dict(config.Config())
