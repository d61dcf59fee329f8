"""Compiled programs are kept between runs of the tests, and shared by their processes."""

import pathlib
from collections.abc import Iterator

import jax
import pytest

jax.config.update(
    "jax_compilation_cache_dir", str(pathlib.Path(__file__).parents[1] / ".cache/xla")
)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


@pytest.fixture(scope="module", autouse=True)
def _few_programs_at_a_time() -> Iterator[None]:
    """Every program holds pieces of memory, of which a process may have only so many."""
    yield
    jax.clear_caches()
