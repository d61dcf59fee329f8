"""Changes valid files at random: their bytes, or what they hold, which is then signed anew.

Bytes are set, cut out, copied or inserted, runs are overwritten by the largest numbers, the end is
cut off. A digest refuses nearly all of that. The code behind the digest is reached by files whose
trees and arrays are changed, and whose digests are those of the changed contents.
"""

import contextlib
import copy
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from apq_jax.run import read
from apq_jax.system import pytrees
from apq_jax.system.files import hash_file

# Changes the file at a path, or one of the files of the folder.
Change: TypeAlias = Callable[[pathlib.Path, np.random.Generator], None]

_BYTES = (0, 1, 2, 0x7F, 0x80, 0xFF)
_NUMBERS = (0, -1, 1, 0.5, 255, 2**31, 2**63, 10**30, 1e-300, 1e300, math.inf, -math.inf, math.nan)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "text",
        "2 3",
        "\x1b[31m\n\u202e",
        "x" * 10_000,
        "/dev/zero",
        "\ud800",
    ),
    *([], [[]], [None] * 1000, {}, {"text": {}}, [[[[[[[[[[]]]]]]]]]], "1" * 5000),
)
_DTYPES = ("bool", "int8", "uint8", "int32", "int64", "float16", "float32", "float64")


def damage(content: bytes, rng: np.random.Generator) -> bytes:
    """Returns a file's bytes after one to eight changes."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        place, length = int(rng.integers(0, len(changed) + 1)), int(2 ** rng.uniform(0, 6))
        match rng.integers(0, 7):
            case 0:
                changed[place : place + 1] = bytes([int(rng.integers(0, 256))])
            case 1:
                changed[place : place + 1] = bytes([int(rng.choice(_BYTES))])
            case 2:
                del changed[place : place + length]
            case 3:
                start = int(rng.integers(0, len(changed) + 1))
                changed[place:place] = changed[start : start + length]
            case 4:
                changed[place:place] = rng.bytes(length)
            case 5:
                changed[place : place + length] = b"\xff" * length
            case 6 if rng.random() < 0.1:
                del changed[place:]
    return bytes(changed)


def change_tree(tree: Any, rng: np.random.Generator) -> Any:
    """Returns a JSON tree after one to four changes: values of other types, moved or missing."""
    root = [tree]
    for _ in range(rng.integers(1, 5)):
        node, key = _draw_place(root, rng)
        other, its_key = _draw_place(root, rng)
        value = node[key]
        match rng.integers(0, 6):
            case 0 if node is not root:
                del node[key]
            case 1:
                node[key] = copy.deepcopy(other[its_key])
            case 2 if isinstance(value, list) and value:
                value.append(copy.deepcopy(_draw(tuple(value), rng)))
            case 3 if isinstance(value, str):
                node[key] = damage(value.encode(errors="replace"), rng).decode(errors="replace")
            case 3 if isinstance(value, int | float):
                node[key] = value * _draw(_NUMBERS, rng)
            case 4:
                node[key] = _draw(_NUMBERS, rng)
            case _:
                node[key] = copy.deepcopy(_draw(_VALUES, rng))
    return root[0]


def _draw(values: tuple[Any, ...], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]


def _draw_place(root: list[Any], rng: np.random.Generator) -> tuple[Any, Any]:
    """Draws a value of a tree: what holds it, and its key or index there."""
    node: Any = root
    while True:
        key = _draw(tuple(node) if isinstance(node, dict) else tuple(range(len(node))), rng)
        child = node[key]
        is_last = node is not root and rng.random() < 0.2
        if is_last or not isinstance(child, dict | list) or not child:
            return node, key
        node = child


def _change_tensors(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Changes the arrays and the metadata of a safetensors file."""
    tensors, metadata = pytrees.read_tensors(path)
    for _ in range(rng.integers(0, 4)):
        name = _draw(tuple(tensors), rng)
        value = tensors[name]
        with np.errstate(all="ignore"):
            fill = np.float64(_draw(_NUMBERS, rng)).astype(value.dtype)
            match rng.integers(0, 7):
                case 0 if len(tensors) > 1:
                    del tensors[name]
                case 1:
                    tensors[_draw((f"{name}x", "\x1b", *tensors), rng)] = value
                case 2:
                    tensors[name] = _draw((value.reshape(-1), value.T, value[..., None]), rng)
                case 3 if value.ndim:
                    tensors[name] = _draw((value[:-1], value[:0], value[::-1]), rng)
                case 4:
                    tensors[name] = value.astype(_draw(_DTYPES, rng))
                case 5:
                    tensors[name] = np.full_like(value, fill)
                case _ if value.size:
                    tensors[name] = value.copy()
                    tensors[name].reshape(-1)[rng.integers(value.size)] = fill
    for name, text in metadata.items():
        if rng.random() < 0.5:
            with contextlib.suppress(ValueError):
                metadata[name] = json.dumps(change_tree(json.loads(text), rng))
    native = {name: np.array(value, order="C") for name, value in tensors.items()}
    pytrees.write_tensors(path, native, metadata)


def _change_header(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Changes the header of a safetensors file: names, shapes, dtypes and offsets."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(change_tree(json.loads(content[8:end]), rng)).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def _change_json(path: pathlib.Path, rng: np.random.Generator) -> None:
    path.write_text(json.dumps(change_tree(json.loads(path.read_text()), rng)))


def _damage_one(path: pathlib.Path, rng: np.random.Generator) -> None:
    path.write_bytes(damage(path.read_bytes(), rng))


def list_files(path: pathlib.Path) -> list[pathlib.Path]:
    """Lists the files of a folder, or the one at the path."""
    return sorted(path.iterdir()) if path.is_dir() else [path]


def _draw_file(path: pathlib.Path, rng: np.random.Generator) -> pathlib.Path:
    return _draw(tuple(list_files(path)), rng)


def damage_file(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Changes bytes."""
    _damage_one(_draw_file(path, rng), rng)


def change_signed(path: pathlib.Path, rng: np.random.Generator) -> None:
    """Changes bytes, a tree or arrays, and signs the file and the run that it is of anew."""
    file = _draw_file(path, rng)
    changes: dict[str, tuple[Change, ...]] = {
        ".json": (_damage_one, _change_json, _change_json),
        ".safetensors": (_damage_one, _change_header, _change_tensors, _change_tensors),
    }
    _draw(changes.get(file.suffix, (_damage_one,)), rng)(file, rng)
    # What cannot be read cannot be signed, and is left for the reader to refuse.
    with contextlib.suppress(Exception):
        if file.suffix == ".safetensors":
            _sign_tensors(file)
    with contextlib.suppress(Exception):
        _sign_result(path / "result.json" if path.is_dir() else file)


def _sign_tensors(path: pathlib.Path) -> None:
    tensors, metadata = pytrees.read_tensors(path)
    metadata.pop("sha256", None)
    description = metadata["description"] if "format" in metadata else None  # of a mapping
    if description is None:
        description = json.dumps(metadata, sort_keys=True)
    digest = pytrees.compute_digest(tensors, description)
    pytrees.write_tensors(path, tensors, metadata | {"sha256": digest})


def _sign_result(path: pathlib.Path) -> None:
    """Signs a run's result, and those of the run's files that it names and that lie beside it."""
    if path.name != "result.json" or not path.exists():
        return
    tree = json.loads(path.read_text())
    if isinstance(tree.get("files"), dict):
        for name in tree["files"]:
            if (path.parent / name).is_file():
                tree["files"][name] = hash_file(path.parent / name)
    path.write_text(json.dumps(tree | {"sha256": read.hash_result(tree)}))
