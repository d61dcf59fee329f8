"""LeNet-5 on MNIST-5k on a hundred accelerators: which operation unit, in which crossbar?

    python -m apq_jax.sweep --config=configs/sweep_ou.py

docs/scaling.md says what `sweep` holds.
"""

import ml_collections

from apq_jax import config


def get_config() -> ml_collections.ConfigDict:
    """A run's fields, and what the sweep goes over."""
    tree = config.to_config_dict(
        config.Config(search=config.SearchOptions(episodes=200, tuned=0, finalists=8))
    )
    sweep = {
        "kind": "grid",
        "samples": 0,
        "seed": 0,
        "side_by_side": 1,
        "over": {
            "accelerator": {
                "unit_rows": (4, 9, 16, 32),
                "unit_columns": (4, 8, 16, 32, 64),
                "crossbar_rows": (64, 128, 256, 384, 512),
            }
        },
    }
    tree.sweep = ml_collections.ConfigDict(sweep)
    return tree
