"""LeNet-5 on MNIST-5k on a hundred accelerators, to find the best operation unit and crossbar.

    python -m apq_jax.sweep --config=configs/sweep_ou.py

docs/scaling.md describes the fields of `sweep`.
"""

import ml_collections

from apq_jax import config


def get_config() -> ml_collections.ConfigDict:
    """Returns a run's fields, and the fields and values that the sweep varies."""
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
