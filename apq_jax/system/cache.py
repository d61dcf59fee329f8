"""Finds the folder that keeps trained weights, Plans and compiled programs between runs."""

import pathlib

import jax
import platformdirs


def find_cache() -> pathlib.Path:
    """Returns the path of the user's cache folder, which may not exist."""
    return platformdirs.user_cache_path("apq_jax", appauthor=False)


def open_cache(path: str = "") -> pathlib.Path:
    """Returns `path`, or `find_cache()` if it is empty, and lets JAX keep compiled programs there.

    JAX's configuration changes for the whole process. The folder need not exist.
    """
    cache = pathlib.Path(path) if path else find_cache()
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    # Every program is kept because a run compiles hundreds that take less than a second each.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return cache
