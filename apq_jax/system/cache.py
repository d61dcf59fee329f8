"""Where trained weights, Plans and compiled programs are kept between runs."""

import os
import pathlib

import jax


def folder() -> pathlib.Path:
    """The user's, where a configuration names none."""
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "apq_jax"


def opened(path: str = "") -> pathlib.Path:
    """This folder, or the user's; programs that are compiled from now on are kept in it."""
    cache = pathlib.Path(path) if path else folder()
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return cache
