"""The folder of a run: new, or a run's own; nothing that no run wrote is lost."""

import pathlib
from collections.abc import Callable

import pytest
from helpers.runs import CONFIG, Done

from apq_jax.run import write
from apq_jax.run.folder import (
    OWN_FILES,
    RUN,
    RUNS,
    SWEEP,
    list_resume_flags,
    open_folder,
    read_finished,
    write_finished,
)
from apq_jax.system.errors import InputError
from apq_jax.system.files import LOCK


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def leave(folder: pathlib.Path | None, *names: str, resume: bool | None = None) -> pathlib.Path:
    """Opens a folder as a run does that leaves these files there."""
    with open_folder(folder, RUN, resume, overwrite=False) as opened:
        for name in names:
            (opened / name).write_text(name)
    return opened


def refuse(folder: pathlib.Path, says: str, resume: bool | None = None) -> None:
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=says), open_folder(folder, RUN, resume, overwrite=False):
        pass
    assert sorted(folder.iterdir()) == before


def test_every_run_has_a_new_folder_and_latest_is_the_last(tmp_path: pathlib.Path) -> None:
    first, second = leave(None, "result.json"), leave(None, "result.json")
    assert first.parent == second.parent == RUNS
    assert first != second
    assert (RUNS / "latest").resolve() == tmp_path / second
    assert leave(None, resume=True) == second
    with open_folder(None, SWEEP, resume=None, overwrite=False) as sweep:
        assert (RUNS / "latest-sweep").resolve() == tmp_path / sweep
    assert (RUNS / "latest").resolve() == tmp_path / second
    assert len(list(RUNS.iterdir())) == 5


def test_without_a_latest_one_a_resumed_run_begins() -> None:
    assert leave(None, resume=True).parent == RUNS


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
def test_a_run_that_is_refused_leaves_no_folder_and_one_that_began_does(
    error: type[BaseException],
) -> None:
    first = leave(None, "result.json")

    def fail(*names: str) -> None:
        with open_folder(None, RUN, None, overwrite=False) as folder:
            for name in ("command.txt", *names):
                (folder / name).write_text(name)
            raise error

    with pytest.raises(error):
        fail()
    assert set(RUNS.iterdir()) == {first, RUNS / "latest"}
    assert (RUNS / "latest").readlink() == pathlib.Path(first.name)
    with pytest.raises(error):
        fail(write.CHECKPOINT)
    assert (RUNS / "latest" / write.CHECKPOINT).exists()


def test_a_run_that_is_stopped_goes_on_in_its_own_folder(tmp_path: pathlib.Path) -> None:
    """Also where a newer one has become the latest."""
    folder = leave(None, write.CHECKPOINT)
    leave(None, write.CHECKPOINT)
    assert list_resume_flags(None, folder) == f"--workdir={folder} --resume"
    assert leave(folder, resume=True) == folder
    assert list_resume_flags(tmp_path, tmp_path) == "--resume"  # the command has it


def test_a_finished_run_is_told_from_another(tmp_path: pathlib.Path) -> None:
    result, identity = tmp_path / "result.json", {"data": "a", "network": "b"}
    write_finished(result, identity)
    assert read_finished(result, identity) is None  # there is no result
    result.write_text("{}")
    assert read_finished(result, {"data": "a"}) == identity
    with pytest.raises(InputError, match=r"json: data: a there, c here; allowed: the same, .*; or"):
        read_finished(result, {"data": "c"})
    (tmp_path / write.FINISHED).unlink()
    with pytest.raises(InputError, match=r"result\.json: it is not known of what .*--overwrite"):
        read_finished(result, identity)


def test_a_latest_that_is_no_link_stays(capsys: pytest.CaptureFixture[str]) -> None:
    (RUNS / "latest").mkdir(parents=True)
    folder = leave(None)
    said = f"runs/latest: does not link to {folder.name} (it is not a link)\n"
    assert capsys.readouterr().out == said


def test_a_folder_that_is_no_runs_is_refused(tmp_path: pathlib.Path) -> None:
    """Whatever the names in it; a link is no run's, either."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.md").write_text("mine")
    for resume in (None, True, False):
        refuse(mine, r"holds report\.md, which no run wrote; allowed: a new or an empty", resume)
    run = leave(tmp_path / "run", "report.md")
    leave(run, "report.md")
    (run / "policy.png").symlink_to(mine / "report.md")
    refuse(run, r"holds policy\.png, which")
    with open_folder(run, RUN, None, overwrite=True):
        write.clear(run)
    assert {path.name for path in run.iterdir()} == {LOCK, OWN_FILES}
    assert (mine / "report.md").read_text() == "mine"


def test_the_users_files_beside_a_run(tmp_path: pathlib.Path) -> None:
    """They are named, a resumed run may go on beside them, and no run deletes them."""
    run = leave(tmp_path / "run", "search.csv")
    names = "a\x1b[2J\nb", "notes.txt", ".mine.unfinished", "tensorboard/events.out.tfevents.1.me"
    (run / "tensorboard").mkdir()
    for name in names:
        (run / name).write_text("mine")
    refuse(run, r"run: holds 'a\\x1b\[2J\\nb', notes\.txt, which no run wrote")
    assert leave(run, resume=True) == run
    with open_folder(run, RUN, None, overwrite=True):
        write.clear(run)
    assert [(run / name).read_text() for name in names] == ["mine"] * 4
    assert not (run / "search.csv").exists()


def test_a_finished_run_is_kept_and_an_unfinished_one_is_asked_about(
    tmp_path: pathlib.Path,
) -> None:
    run = leave(tmp_path / "run", "result.json")
    for resume in (None, False):
        refuse(
            run, r"result\.json: of a finished run; allowed: another --workdir, or --over", resume
        )
    leave(run, resume=True)
    (run / write.CHECKPOINT).touch()  # it was interrupted
    leave(run)


@pytest.mark.parametrize("kind", ["link", "hard", "file", "folder"])
def test_a_lock_that_is_not_ours(tmp_path: pathlib.Path, kind: str) -> None:
    (tmp_path / "mine").write_text("mine")
    run, lock = tmp_path / "run", tmp_path / "run" / LOCK
    run.mkdir()
    if kind == "link":
        lock.symlink_to(tmp_path / "mine")
    elif kind == "hard":
        lock.hardlink_to(tmp_path / "mine")
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.write_text("mine")
    refuse(run, r"\.lock: is no lock of a run; allowed: another --workdir|which no run wrote")
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_empty_name_is_refused(run_here: Callable[..., Done]) -> None:
    done = run_here(CONFIG, "--workdir=")
    assert done.returncode == 2
    assert "--workdir=: is empty; allowed: a folder, or no --workdir for a new one" in done.stderr
