"""Opens the folder that a command works in, so that nothing in it is lost which no run wrote."""

import contextlib
import itertools
import json
import os
import pathlib
import time
from collections.abc import Iterator
from typing import NamedTuple

from apq_jax.run import checkpoint
from apq_jax.run.write import CHECKPOINT, CURVES, FILES, FINISHED, write_json
from apq_jax.system.command_line import join_command
from apq_jax.system.errors import InputError, explain_os_errors, make_one_line, quote_name
from apq_jax.system.files import LOCK, UNFINISHED, lock_folder, read_text, write_whole
from apq_jax.system.signals import Terminated
from apq_jax.system.terminal import console

RUNS = pathlib.Path("runs")  # where new folders are made
OWN_FILES = ".files"  # lists the names of all files of the run, one a line
_CHECKPOINTS = CHECKPOINT, checkpoint.name_previous(pathlib.Path(CHECKPOINT)).name


class Kind(NamedTuple):
    """What a command leaves in its folder."""

    word: str  # for messages
    files: tuple[str, ...]  # all names
    result: str  # the file that a finished one has, and that is not empty
    link: str  # the link in RUNS to the newest folder that was made there


RUN = Kind("run", (*FILES, "command.txt", CURVES, *_CHECKPOINTS), "result.json", "latest")
SWEEP = Kind(
    "sweep", ("sweep.csv", FINISHED, "report.html", *_CHECKPOINTS), "sweep.csv", "latest-sweep"
)


@contextlib.contextmanager
def open_folder(
    workdir: pathlib.Path | None, kind: Kind, resume: bool | None, overwrite: bool
) -> Iterator[pathlib.Path]:
    """Opens a folder to work in: locks it, and lists the names of the run's files in it.

    Args:
      workdir: the folder, made if it is missing; None makes a new one in RUNS and links to it, or
        with `resume` opens the one that is linked to.
      kind: which files will be written.
      resume: whether the run in the folder is to be resumed.
      overwrite: whether the folder may hold other files or a finished run. Only files with names of
        the kind's are replaced.

    Yields:
      The folder's path.

    Raises:
      InputError: the folder cannot be used, or not without `overwrite`.
    """
    link = RUNS / kind.link
    with contextlib.ExitStack() as stack:
        if workdir is None and resume and os.path.isdir(link):
            workdir = RUNS / os.readlink(link) if link.is_symlink() else link
        if workdir is None:
            workdir = stack.enter_context(_make_folder(link))
        _require_own(workdir, kind, resume, overwrite)  # before the lock leaves a file there
        stack.enter_context(lock_folder(workdir, kind.files))
        _require_own(workdir, kind, resume, overwrite)
        write_whole(workdir / OWN_FILES, "".join(f"{name}\n" for name in sorted(kind.files)))
        yield workdir


def write_finished(result: pathlib.Path, identity: dict[str, str]) -> None:
    """Writes beside the result of a run or sweep that it is finished, and what decided it.

    Raises:
      InputError: the file cannot be written.
    """
    write_json(result.with_name(FINISHED), identity)


def read_finished(result: pathlib.Path, identity: dict[str, str]) -> dict[str, str] | None:
    """Reads what `write_finished` wrote; returns None if there is no result, or an empty one.

    Raises:
      InputError: that file is missing or damaged, or its identity differs from `identity`.
    """
    if not result.exists() or not result.stat().st_size:
        return None
    path, others = result.with_name(FINISHED), "another --workdir, or --overwrite"
    try:
        written = checkpoint.check_identity(json.loads(read_text(path, 1 << 20)))
    except (ValueError, TypeError, RecursionError) as error:
        reason = make_one_line(error)
        raise InputError(
            f"{result}: it is not known of what ({reason}); allowed: {others}"
        ) from error
    checkpoint.require_same(checkpoint.Saved(path, written, 0.0, 0, {}), identity, f"; or {others}")
    return written


def list_resume_flags(asked: pathlib.Path | None, folder: pathlib.Path) -> str:
    """Returns the flags that let a command go on in a folder; `asked` is its --workdir."""
    return join_command([*([] if asked else [f"--workdir={folder}"]), "--resume"])


def _require_own(folder: pathlib.Path, kind: Kind, resume: bool | None, overwrite: bool) -> None:
    """Raises InputError if a run without `overwrite` would replace what is not its own."""
    if overwrite:
        return
    result = folder / kind.result
    with explain_os_errors(folder, "cannot be read"):
        paths = list(folder.iterdir()) if os.path.lexists(folder) else []
        is_finished = result.exists() and result.stat().st_size > 0
    names = {path.name for path in paths if not path.name.endswith(UNFINISHED)}
    links = {path.name for path in paths if path.is_symlink()}  # no run leaves one
    is_run = OWN_FILES in names - links
    own = set(kind.files) - links if is_run else set()
    others = sorted(names - own - {LOCK, OWN_FILES})
    if others and not (resume and is_run):
        raise InputError(
            f"{folder}: holds {', '.join(map(quote_name, others[:3]))}"
            f"{' and more' * (len(others) > 3)}, which no {kind.word} wrote; allowed: a new or an "
            f"empty folder, or --overwrite, which replaces files with names of a {kind.word}'s only"
        )
    if is_finished and not resume and not checkpoint.exists(folder / CHECKPOINT):
        raise InputError(
            f"{result}: of a finished {kind.word}; allowed: another --workdir, or --overwrite"
        )


@contextlib.contextmanager
def _make_folder(link: pathlib.Path) -> Iterator[pathlib.Path]:
    """Makes a folder whose name is the time, beside `link`, and lets the link point to it.

    If the body is refused or interrupted before anything was computed, all is as it was before.
    """
    with explain_os_errors(RUNS, "cannot be written"):
        RUNS.mkdir(exist_ok=True)
        now = time.strftime("%Y-%m-%d_%H-%M-%S")
        for count in itertools.count(1):
            folder = RUNS / (now if count == 1 else f"{now}_{count}")
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
                break
    before = os.readlink(link) if link.is_symlink() else None
    _point_to(link, folder.name)
    try:
        yield folder
    except (InputError, KeyboardInterrupt, Terminated):
        paths = list(folder.iterdir())
        early = {LOCK, OWN_FILES, "command.txt"}
        if all(
            path.is_file() and (path.name in early or not path.stat().st_size) for path in paths
        ):
            for path in paths:
                path.unlink()
            folder.rmdir()
            if link.is_symlink() and os.readlink(link) == folder.name:
                link.unlink()
                if before is not None:
                    _point_to(link, before)
        raise


def _point_to(link: pathlib.Path, name: str) -> None:
    """Makes a link to the folder `name` beside it; says in one line if it cannot be made."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}{UNFINISHED}")
    try:
        if os.path.lexists(link) and not link.is_symlink():
            raise FileExistsError(0, "it is not a link")
        temporary.symlink_to(name)
        temporary.replace(link)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        console.print(f"{link}: does not link to {name} ({error.strerror})", soft_wrap=True)
