"""Files that are written, and names in messages."""

import os
import pathlib
import stat
import subprocess

import pytest

from apq_jax.system.command_line import join_command
from apq_jax.system.errors import InputError, make_plain
from apq_jax.system.files import lock_folder, write_new, write_whole
from apq_jax.system.terminal import console


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_follow_the_umask(tmp_path: pathlib.Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "new" / "file", "a")
        with lock_folder(tmp_path, ()):
            pass
    finally:
        os.umask(before)
    for name in ("new/file", ".lock"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_a_link_is_replaced_and_not_followed(tmp_path: pathlib.Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    write_whole(tmp_path / "link", "new \udcff")  # as in the name of a file that is not UTF-8
    assert (tmp_path / "mine").read_text() == "mine"
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "link").read_text() == "new \\udcff"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_of_other_contents_is_replaced_when_asked_for(tmp_path: pathlib.Path) -> None:
    mine, new = tmp_path / "mine", tmp_path / "a" / "new"
    mine.write_text("mine")
    for contents in ({new: "a", mine: "x"}, {new: "a", tmp_path: b"x"}):
        with pytest.raises(InputError, match="is there already; allowed: a new file, or --overw"):
            write_new(contents, overwrite=False)
        assert mine.read_text() == "mine"
        assert not new.exists()
    write_new({new: "\udcff", mine: b"mine"}, overwrite=False)
    write_new({new: "\udcff", mine: "mine"}, overwrite=False)  # the same again
    write_new({mine: "new"}, overwrite=True)
    assert mine.read_text() == "new"


def test_a_name_of_255_letters_can_be_written(tmp_path: pathlib.Path) -> None:
    write_whole(tmp_path / ("x" * 255), "a")
    with pytest.raises(InputError, match=r"x{80}\.\.\.x{79}: cannot be written \(File name too"):
        write_whole("x" * 256, "a")


def test_messages_are_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "a\x1b[31m\n\r\u202e\udcff'\"b"
    plain = "a\\x1b[31m\\n\\r\\u202e\\udcff'\"b"
    assert str(InputError(f"{hostile}: no")) == f"{plain}: no"
    assert make_plain(make_plain(hostile)) == plain
    console.print(hostile, soft_wrap=True)
    assert capsys.readouterr().out == f"{plain}\n"
    assert make_plain("x" * 256) == "x" * 80 + "..." + "x" * 80
    line = make_plain(f"start {'long ' * 1000}end")
    assert line.startswith("start")
    assert line.endswith("end")
    assert len(line) == 2000


def test_a_command_is_one_printable_line_that_the_shell_reads() -> None:
    words = ["python", "a b", "c'd\"", "é\x1b[2J\n'\\"]
    line = join_command(words)
    assert line.isprintable()
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], check=True, capture_output=True)
    assert read.stdout.decode().split("\0")[:-1] == words
