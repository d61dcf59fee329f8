"""Reads the versions of the packages that decide the results."""

import importlib.metadata
import platform

TRAINING = ("jax", "optax", "flax")
ALL = ("jax", "jaxlib", "flax", "optax", "rlax", "evosax", "numpy", "chex")


def read_versions(packages: tuple[str, ...] = ALL) -> dict[str, str]:
    """Returns installed versions by package; with `ALL`, the default, Python's version too."""
    python = {"python": platform.python_version()} if packages == ALL else {}
    return python | {name: importlib.metadata.version(name) for name in packages}
