"""Versions of the packages that decide what is computed."""

import importlib.metadata
import platform

TRAINING = ("jax", "optax", "flax")
ALL = ("jax", "jaxlib", "flax", "optax", "rlax", "evosax", "numpy", "chex")


def versions(packages: tuple[str, ...] = ALL) -> dict[str, str]:
    """Installed versions by package; of ALL, Python's too."""
    python = {"python": platform.python_version()} if packages == ALL else {}
    return python | {name: importlib.metadata.version(name) for name in packages}
