"""Compiled programs are kept between runs of the tests."""

import pathlib

import jax

jax.config.update(
    "jax_compilation_cache_dir", str(pathlib.Path(__file__).parents[1] / ".cache/xla")
)
