"""Finds the folder that keeps trained weights, Plans and compiled programs between runs."""

import atexit
import os
import pathlib
import shutil
import tempfile
import warnings

import jax
import platformdirs
from absl import logging

from apq_jax.system.errors import InputError, explain_os_errors

_PROGRAMS = "xla"  # folder in the cache


def find_cache() -> pathlib.Path:
    """Returns the path of the user's cache folder, which may not exist.

    It begins with ~ if the user has no home folder.
    """
    try:
        return platformdirs.user_cache_path("apq_jax", appauthor=False)
    except RuntimeError:
        return pathlib.Path("~/.cache/apq_jax")


def open_cache(path: str = "") -> pathlib.Path:
    """Returns `path`, or `find_cache()` if it is empty, and lets JAX keep compiled programs there.

    A folder that cannot be written to is only read, with a warning. A temporary folder, again with
    a warning, takes the place of a user's cache folder that is not there and cannot be made. JAX's
    configuration changes for the whole process.

    Raises:
      InputError: the folder at `path` is not there and cannot be made; or as `require_32_bits`.
    """
    require_32_bits()
    cache = pathlib.Path(path) if path else find_cache()
    try:
        _require_writable(cache)
    except InputError as error:
        if cache.is_dir():
            warn_not_kept(error)
        elif path:
            raise
        else:
            cache = _make_temporary_cache(error)
    programs = cache / _PROGRAMS
    jax.config.update("jax_compilation_cache_dir", str(programs) if programs.is_dir() else None)
    # Every program is kept because a run compiles hundreds that take less than a second each.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    # XLA's own caches would make the folder's path a part of each program's key.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache entry")
    return cache


def require_32_bits() -> None:
    """Raises InputError if JAX computes in 64 bits, which no number here is meant for."""
    if jax.config.jax_enable_x64:
        raise InputError("JAX_ENABLE_X64 (jax_enable_x64): True; allowed: False, or not set")


def warn_not_kept(error: Exception) -> None:
    """Warns that a cache cannot be written; once in a process, because every file would say so."""
    logging.log_first_n(logging.WARNING, "%s; the cache is read, but nothing is added", 1, error)


def _require_writable(cache: pathlib.Path) -> None:
    if cache.parts[:1] == ("~",):
        raise InputError(f"{cache}: the user has no home folder")
    with explain_os_errors(cache, "cannot be written"):
        (cache / _PROGRAMS).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=cache).close()


def _make_temporary_cache(error: InputError) -> pathlib.Path:
    """Makes a folder that is deleted when the process ends; warns of it, and why it is needed."""
    with explain_os_errors(tempfile.gettempdir(), "cannot be written"):
        folder = pathlib.Path(tempfile.mkdtemp(prefix="apq_jax-"))
        (folder / _PROGRAMS).mkdir()
    # Matplotlib would make one of its own, and warn of it.
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    logging.warning("%s; a temporary cache takes its place: %s", error, folder)
    return folder
