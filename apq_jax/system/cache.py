"""The folder that keeps trained weights, Plans and compiled programs between runs."""

import pathlib

import jax
import platformdirs


def find_cache() -> pathlib.Path:
    """Returns the user's cache folder, for configurations that name none."""
    return platformdirs.user_cache_path("apq_jax", appauthor=False)


def open_cache(path: str = "") -> pathlib.Path:
    """Returns the folder at `path`, or the user's; JAX keeps its compiled programs there, too."""
    cache = pathlib.Path(path) if path else find_cache()
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    # Every program is kept because a run compiles hundreds that take less than a second each.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return cache
