"""Mapping files: round trips, and every hostile file refused in one line."""

import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from helpers.mappings import built, executed, product, rewritten

from apq_jax import mapping
from apq_jax.mapping.__main__ import main
from apq_jax.mapping.units import NONE
from apq_jax.system.errors import InputError


def test_a_round_trip_is_the_identity(path: pathlib.Path) -> None:
    loaded, expected = mapping.load(path), built("resnet")[3]
    assert loaded.accelerator == expected.accelerator
    assert loaded.scheme == "column_vector"
    for layer_map, other in zip(loaded.maps, expected.maps, strict=True):
        assert layer_map[:3] == other[:3]
        jax.tree.map(np.testing.assert_array_equal, layer_map[3:], other[3:])
    jax.tree.map(np.testing.assert_array_equal, loaded.scales, expected.scales)
    assert sorted(loaded.digital) == ["columns", "params/Dense_0/bias"]
    np.testing.assert_array_equal(loaded.digital["columns"], [[0, 3], [1, 4], [2, 5]])


def test_a_file_that_was_read_is_executed(path: pathlib.Path) -> None:
    """Its cells, indices and scales alone, on the levels of random windows."""
    loaded = mapping.load(path)
    compressed = built("resnet")[2]
    for layer_map, scales, layer in zip(loaded.maps, loaded.scales, compressed, strict=True):
        inputs = np.random.default_rng(0).integers(
            0, 2**layer_map.input_bits, (3, layer_map.layer.groups * layer_map.layer.rows)
        )
        sums = executed(layer_map, loaded.accelerator, inputs).reshape(
            3, layer_map.layer.groups, -1
        )
        levels = np.asarray(layer.levels, np.int64)
        expected = product(layer_map.layer, inputs, levels).reshape(sums.shape)
        np.testing.assert_array_equal(
            scales.multiplier * sums + scales.offset,
            np.asarray(layer.multiplier) * expected + np.asarray(layer.offset),
        )


def test_the_hash_by_hand(path: pathlib.Path) -> None:
    with safetensors.safe_open(path, framework="np") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    text = metadata["description"].encode()
    for name in sorted(tensors):
        value = tensors[name]
        text += f";{name}{value.shape}{value.dtype}".encode() + value.tobytes()
    assert metadata["sha256"] == hashlib.sha256(text).hexdigest()


def test_files_are_written_whole(path: pathlib.Path, monkeypatch: Any) -> None:
    before, loaded = path.read_bytes(), mapping.load(path)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(InputError, match="cannot be written"):
        mapping.save(path, loaded._replace(digital={}))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_could_not_be_read_is_not_written(tmp_path: pathlib.Path) -> None:
    whole = built("resnet")[3]
    wrong = whole.scales[0]._replace(offset=np.full_like(whole.scales[0].offset, np.nan))
    with pytest.raises(InputError, match="layer 0: offset: NaN"):
        mapping.save(tmp_path / "x", whole._replace(scales=(wrong, *whole.scales[1:])))
    assert not (tmp_path / "x").exists()


def described(**changes: Any) -> Any:
    def change(tensors: Any, metadata: dict[str, str]) -> None:
        tree = json.loads(metadata["description"])
        for name, value in changes.items():
            if name in tree:
                tree[name] = value
            else:
                tree["layers"][0][name] = value
        metadata["description"] = json.dumps(tree)

    return change


def put(name: str, place: Any, value: Any) -> Any:
    def change(tensors: dict[str, np.ndarray], metadata: Any) -> None:
        tensors[name] = tensors[name].copy()
        tensors[name][place] = value

    return change


def drop(name: str) -> Any:
    return lambda tensors, metadata: tensors.pop(name)


def other_group(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    outputs = tensors["1/outputs"]
    tensors["1/outputs"] = np.where(outputs == NONE, NONE, (outputs + 2) % 4).astype(np.int32)


def lost_slice(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    unit = int((tensors["0/outputs"] != NONE).any(axis=1).argmax())
    last = int((tensors["0/outputs"][unit] != NONE).sum()) - 1
    tensors["0/outputs"] = tensors["0/outputs"].copy()
    tensors["0/outputs"][unit, last] = NONE


def same_rows(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    tensors["0/banks"] = np.repeat(tensors["0/banks"][:1], len(tensors["0/banks"]), axis=0)


def several_groups(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    tensors["1/banks"] = tensors["1/banks"].copy()
    tensors["1/banks"][0, 0] = tensors["1/banks"].max()


def idle_crossbar(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    cells = tensors["0/cells"]
    tensors["0/cells"] = np.concatenate([cells, np.zeros_like(cells[:1])])


def together(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    tensors["0/read"] = np.zeros_like(tensors["0/read"])


def overlap(tensors: dict[str, np.ndarray], metadata: Any) -> None:
    for name in ("crossbar", "wordline", "bitline"):
        tensors[f"0/{name}"] = tensors[f"0/{name}"].copy()
        tensors[f"0/{name}"][1] = tensors[f"0/{name}"][0]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t, m: m.update(format="gif"), "format: 'gif'; allowed: 'apq_jax mapping'"),
        (lambda t, m: m.update(version="2"), "version: '2'; allowed: 1"),
        (lambda t, m: m.update(note="hello"), "metadata: other keys; allowed: description"),
        (lambda t, m: m.update(description='{"a": 1, "a": 2}'), "description: is not JSON"),
        (lambda t, m: m.update(description="{"), "description: is not JSON"),
        (lambda t, m: m.update(description="[" * 10**5), "description: is not JSON"),
        (lambda t, m: m.update(description="[]"), "description: other fields; allowed: acc"),
        (described(accelerator=3), "accelerator: not text"),
        (described(accelerator="unit_rows = 0"), "accelerator: unit_rows: 0; allowed"),
        (described(accelerator="a." * 5000 + "a = 1"), "accelerator: a line with 5000"),
        (described(accelerator='"a\\nb" = 1'), "accelerator: 'a\\nb': unknown"),
        (described(accelerator="mapping = 'mnsim'"), "accelerator.mapping: mnsim; allowed: isaac"),
        (described(scheme="sre_weights"), "scheme: 'sre_weights'; allowed: dense"),
        (described(scheme=["dense"]), "scheme: ['dense']; allowed: dense"),
        (described(layers=[]), "layers: none; allowed"),
        (described(layers=[3] * 7), "layer 0: fields"),
        (described(layers=[0] * 10**5), "layers: 100000; allowed: up to 7, for so many arrays"),
        (described(rows=0), "layer 0: rows: 0; allowed: a whole number"),
        (described(rows=True), "layer 0: rows: True; allowed: a whole number"),
        (described(columns=10**30), "layer 0: columns: 1000000"),
        (described(columns=5), "layer 0: weight_scale: shape (1, 4); allowed: shape (1, 5)"),
        (described(weight_bits=9), "layer 0: weight_bits: 9; allowed: a whole number, 1 to 8"),
        (described(kernel="3x3"), "layer 0: kernel: '3x3'; allowed: a list"),
        (described(kernel=[2**24] * 8), "layer 0: kernel: [16777216, "),
        (described(kernel=[7, 7]), "layer 0: kernel: [7, 7]; allowed: a window that divides 27"),
        (described(stride=[1]), "layer 0: stride: [1]; allowed: as many numbers"),
        (
            described(rows=27 * 2**13, weight_bits=8, input_bits=8),
            "layer 0: rows: 221184; allowed: so few that sums stay",
        ),
        (described(name="a\n\x1b[31m"), "layer 0: name: 'a\\n\\x1b[31m'; allowed: printable"),
        (described(name="\ud800"), "layer 0: name: "),
        (lambda t, m: t.update({"a\nb\x1b[2J": np.zeros(3)}), "a b\\x1b[2J: unknown"),
        (
            lambda t, m: t.update({"digital/b": np.zeros(1, ml_dtypes.float8_e5m2)}),
            "not a safetensors",
        ),
        (drop("1/cells"), "1/cells: missing"),
        (lambda t, m: t.update(extra=np.zeros(3)), "extra: unknown"),
        (lambda t, m: t.update({"digital/b": np.asarray([np.nan])}), "digital/b: NaN"),
        (lambda t, m: t.update({"0/bank": t["0/bank"].astype(np.int64)}), "layer 0: bank: int64"),
        (lambda t, m: t.update({"0/bank": t["0/bank"][:-1]}), "layer 0: read: shape"),
        (lambda t, m: t.update({"0/bank": np.asarray(3, np.int32)}), "layer 0: "),
        (put("0/cells", (0, 0, 0), 4), "layer 0: cells: 4; allowed: 0 to 3"),
        (put("0/cells", (0, 127, 127), 1), "layer 0: cells: not 0 outside the units"),
        (put("0/banks", (0, 0), 10**6), "layer 0: banks: 1000000; allowed: -1 to 26"),
        (put("0/banks", (0, 0), NONE), "layer 0: banks: a gap"),
        (put("0/bank", 0, -1), "layer 0: bank: -1; allowed: 0 to"),
        (put("0/crossbar", 0, 7), "layer 0: crossbar: 7; allowed: 0 to 0"),
        (put("0/read", 0, 1), "layer 0: read: out of order; allowed: 0, 1, .."),
        (put("0/read", 1, 0), "layer 0: read: of units that are not on a diagonal"),
        (together, "layer 0: read: of units that are not on a diagonal; allowed: one"),
        (put("0/wordline", 0, 127), "layer 0: wordline: 136; allowed: inside its crossbar"),
        (put("0/bitline", 0, 127), "layer 0: bitline: "),
        (put("0/outputs", (0, 0), 4), "layer 0: outputs: 4; allowed: -1 to 3"),
        (other_group, "layer 1: outputs: of another group"),
        (put("0/slices", (0, 0), 200), "layer 0: slices: 200; allowed: 0 to"),
        (put("0/flipped", (0, 0), 1), "layer 0: flipped: 1; allowed: 0 to 0"),
        (put("0/slices", (0, 1), 0), "layer 0: slices: held twice; allowed: once each"),
        (lost_slice, "layer 0: slices: missing of a weight; allowed: all"),
        (same_rows, "layer 0: banks: a row held twice for an output; allowed: once"),
        (several_groups, "layer 1: banks: inputs of several groups; allowed: of one"),
        (idle_crossbar, "layer 0: cells: a crossbar without units; allowed: none"),
        (put("0/input_scale", (), -1), "layer 0: input_scale: -1.0; allowed: above 0"),
        (put("0/weight_scale", (0, 0), 0), "layer 0: weight_scale: not positive"),
        (put("0/multiplier", (0, 0), np.inf), "layer 0: multiplier: NaN or infinity"),
        (put("0/input_zero", (), 0.5), "layer 0: input_zero: 0.5; allowed: a whole number"),
        (overlap, "layer 0: units: two on one cell"),
    ],
)
def test_hostile_files_are_one_line(
    change: Any, says: str, path: pathlib.Path, capsys: Any
) -> None:
    rewritten(path, change)
    assert main(["inspect", str(path)]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert printed.startswith(f"apq_jax.mapping: {path}: {says}"), printed


def test_changed_contents_are_seen_by_the_hash(path: pathlib.Path) -> None:
    """A cell of a unit, within its range: nothing else could tell."""
    layer_map = mapping.load(path).maps[0]
    unit = layer_map.units
    place = unit.crossbar[0], unit.wordline[0], unit.bitline[0]
    rewritten(path, put("0/cells", place, layer_map.cells[place] ^ 1), seal=False)
    with pytest.raises(InputError, match="sha256: not that of the contents"):
        mapping.load(path)


@pytest.mark.parametrize("content", [b"", b"no", b"\xff" * 100, b"\x10" + b"\0" * 7 + b"{" * 16])
def test_files_that_are_something_else(content: bytes, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.safetensors: not a safetensors file"):
        mapping.load(path)
    with pytest.raises(InputError, match=r"none\.safetensors: cannot be read"):
        mapping.load(tmp_path / "none.safetensors")


def test_truncated_files(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InputError, match="not a safetensors file"):
        mapping.load(path)


def test_inspect_prints_and_draws(path: pathlib.Path, capsys: Any) -> None:
    assert main(["inspect", str(path), "--layer", "1"]) == 0
    printed = capsys.readouterr().out
    loaded = mapping.load(path)
    lines = printed.splitlines()[2:]
    for line, layer_map in zip(lines, loaded.maps, strict=False):
        counts = mapping.count_layer_map(layer_map, "column_vector", loaded.accelerator)
        assert line.startswith(layer_map.layer.name)
        assert line.split()[-1] == f"{counts['index_bits']:,}"
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    rewritten(path, described(name="$\\frac{$"))
    assert main(["inspect", str(path)]) == 0
    assert main(["inspect", str(path), "--layer", "99"]) == 2
    assert "--layer: 99; allowed: 0 to 6" in capsys.readouterr().err
    assert main(["inspect", str(path), "--crossbar", "-1"]) == 2
    assert "--crossbar: -1; allowed: 0 to 0" in capsys.readouterr().err
    before = path.read_bytes()
    assert main(["inspect", str(path), f"--picture={path}"]) == 2
    assert "is the mapping; allowed: another file" in capsys.readouterr().err
    assert path.read_bytes() == before
