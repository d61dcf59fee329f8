"""Compiled programs are kept between runs of the tests, and shared by their processes."""

import pathlib

import jax

jax.config.update(
    "jax_compilation_cache_dir", str(pathlib.Path(__file__).parents[1] / ".cache/xla")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
