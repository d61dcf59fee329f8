"""The cache moves with its folder, can be read-only, and is temporary without a home."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import platformdirs
import pytest
from helpers import ROOT

from apq_jax.network.capture import capture
from apq_jax.system import cache
from apq_jax.system.errors import InputError

# Compiles a program, and keeps two trees, in a cache that cannot be written to if so asked.
USE = """
import pathlib, sys, tempfile
import jax, numpy as np
from apq_jax.system import cache, pytrees

folder, is_read_only = sys.argv[1:]
if is_read_only:
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied")
    tempfile.TemporaryFile = pytrees.write_whole = refuse
opened = cache.open_cache(folder)
assert str(opened) == folder
jax.jit(lambda x: x * 2 + 1)(np.ones(3))
for name in "ab":
    pytrees.keep(opened / "plans" / f"{name}.safetensors", {"x": np.ones(2)})
"""


@pytest.fixture
def _tests_own_cache() -> Iterator[None]:
    yield
    cache.open_cache(str(ROOT / ".cache"))


def use(folder: pathlib.Path, is_read_only: str = "") -> tuple[list[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", USE, str(folder), is_read_only],
        text=True,
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return sorted(os.listdir(folder / "xla")), done.stderr


def test_a_moved_read_only_cache_serves_with_one_line(tmp_path: pathlib.Path) -> None:
    programs, warned = use(tmp_path / "a")
    assert programs
    assert not warned
    (tmp_path / "a").rename(tmp_path / "b")
    again, warned = use(tmp_path / "b", "read-only")
    assert again == programs
    says = f"{tmp_path}/b: cannot be written (Permission denied); the cache is read, but nothing is"
    assert says in warned
    assert len(warned.splitlines()) == 1


@pytest.mark.usefixtures("_tests_own_cache")
def test_without_a_home_the_cache_is_temporary(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(platformdirs, "user_cache_path", fail)
    monkeypatch.setenv("MPLCONFIGDIR", "")
    folder = cache.open_cache()
    assert folder.is_dir()
    assert pathlib.Path(jax.config.jax_compilation_cache_dir).is_dir()
    assert [record.message for record in caplog.records] == [
        "~/.cache/apq_jax: the user has no home folder; a temporary cache takes its place: "
        f"{folder}"
    ]


def test_a_named_cache_that_cannot_be_made_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/cache: cannot be written \(Not a directory\)"):
        cache.open_cache(str(tmp_path / "file" / "cache"))


def test_numbers_of_64_bits_are_refused() -> None:
    with jax.enable_x64(True):
        with pytest.raises(InputError, match=r"JAX_ENABLE_X64 .*: True; allowed: False"):
            capture(lambda params, x: x @ params, jnp.eye(2), jnp.ones((1, 2)))
        with pytest.raises(InputError, match="JAX_ENABLE_X64"):
            cache.open_cache()
