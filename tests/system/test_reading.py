"""Every reader takes files only, of a size that it knows, whose headers and nesting are bounded."""

import os
import pathlib
import socket
import tracemalloc
import zipfile
from collections.abc import Callable
from typing import Any

import pytest

from apq_jax import data, hardware, mapping
from apq_jax.models.onnx import file as onnx_file
from apq_jax.run import checkpoint, read
from apq_jax.sweep import table
from apq_jax.system import pytrees
from apq_jax.system.errors import InputError

READERS: dict[str, Callable[[pathlib.Path], Any]] = {
    "a.npz": lambda path: data.load(str(path)),
    "a.onnx": onnx_file.read,
    "a.toml": lambda path: hardware.load(str(path)),
    "checkpoint.safetensors": checkpoint.read,
    "data_batch_1.bin": lambda path: data.load(str(path.parent)),
    "mapping.safetensors": mapping.load,
    "params.safetensors": pytrees.read,
    "result.json": read.read_result,
    "sweep.csv": lambda path: table.read_rows(path, []),
    "train-images-idx3-ubyte.gz": lambda path: data.load(str(path.parent)),
}


@pytest.mark.parametrize("kind", ["pipe", "device", "socket", "folder"])
@pytest.mark.parametrize("name", READERS)
def test_what_is_no_file_is_refused_unread(
    name: str, kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    if kind == "pipe":
        os.mkfifo(path)  # to open it would wait for a writer
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(name)
    if kind == "folder":
        says = "Is a directory|No such file or directory"  # a folder may be a data set
    else:
        says = f"{name}: is a pipe, device or socket"
    with pytest.raises(InputError, match=says):
        READERS[name](path)


def _measure_peak(reader: Callable[[], Any]) -> int:
    """Returns the bytes that a refused input took at most."""
    tracemalloc.start()
    with pytest.raises(InputError):
        reader()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_an_array_header_of_any_length_is_not_unpacked(tmp_path: pathlib.Path) -> None:
    header = b"\x93NUMPY\x02\x00" + (1 << 26).to_bytes(4, "little") + b" " * (1 << 26)
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("images.npy", "labels.npy"):
            archive.writestr(name, header)
    assert _measure_peak(lambda: data.load(str(tmp_path / "a.npz"))) < 1 << 22


def test_an_archive_of_any_number_of_members_is_not_listed(tmp_path: pathlib.Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        for index in range(4000):
            archive.writestr(f"{index:0300}", b"")
    assert _measure_peak(lambda: data.load(str(tmp_path / "a.npz"))) < 1 << 19


@pytest.mark.parametrize(
    "text", ["x" + ".x" * 20_000 + " = 1", "[" + "x." * 20_000 + "x]", "x = " + "[" * 20_000]
)
def test_toml_is_nested_only_so_deep(text: str) -> None:
    assert _measure_peak(lambda: hardware.loads(text, "a.toml")) < 1 << 22


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": ' + "1" * 5000 + "}", "\ud800", "NaN"])
def test_results_of_any_nesting_and_numbers_are_refused(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "result.json").write_text(text, errors="surrogatepass")
    with pytest.raises(InputError, match=r"result\.json: ") as caught:
        read.read_result(tmp_path / "result.json")
    assert len(str(caught.value)) < 400


def test_a_field_of_a_megabyte_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "search.csv").write_text("reward\n" + "1" * (1 << 20))
    with pytest.raises(InputError, match=r"search\.csv: is not a table of numbers \(field larger"):
        read._read_rows(tmp_path / "search.csv")
