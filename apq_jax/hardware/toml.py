"""Reads accelerators from TOML files, and writes them."""

import dataclasses
import json
import pathlib
import tomllib
from typing import Any

from apq_jax.hardware.accelerator import Accelerator, is_name
from apq_jax.hardware.components import Component, Components
from apq_jax.hardware.presets import PRESETS
from apq_jax.system.errors import InputError, make_one_line, quote_name
from apq_jax.system.files import read_text

_MAX_BYTES = 1 << 20
_MAX_DOTS = 100  # in a line, because the parser's time and memory grow with their square


def load(name: str) -> Accelerator:
    """Returns the preset `name`, or reads an accelerator from a TOML file at the path `name`.

    A name that ends in .toml is a path. A file states its differences from the preset that its
    `base` names (isaac_ou by default). If the base's units have as many rows as its crossbars,
    `unit_rows` follows the file's `crossbar_rows`, unless the file states it; likewise for columns.
    The accelerator's name is the file's `name`; without one, the path's stem if `is_name` allows
    it, else "mine".

    Raises:
      InputError: there is no such preset; the file cannot be read, is larger than 1 MiB, has a line
        of more than 100 dots or is not TOML; or it has an unknown key, a wrong type or a bad value.
    """
    if not name.lower().endswith(".toml"):
        if name in PRESETS:
            return PRESETS[name]
        raise InputError(f"accelerator: {name!r}; allowed: {', '.join(PRESETS)}, or a .toml file")
    path = pathlib.Path(name)
    text = read_text(path, _MAX_BYTES)
    return loads(text, name, path.stem if is_name(path.stem) else "mine")


def loads(text: str, path: str, name: str = "mine") -> Accelerator:
    """Reads an accelerator from a TOML text, as `load` does from a file.

    Args:
      text: the TOML.
      path: the text's name in messages.
      name: the accelerator's name, unless the text states one.

    Raises:
      InputError: as `load`.
    """
    if (dots := max(line.count(".") for line in text.split("\n"))) > _MAX_DOTS:
        raise InputError(f"{path}: a line with {dots} dots; allowed: up to {_MAX_DOTS}")
    try:
        tree = tomllib.loads(text)
        is_too_large = _has_large_integer(tree)
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{path}: is not TOML ({make_one_line(error)})") from error
    if is_too_large:
        raise InputError(f"{path}: is not TOML (a whole number of more than 64 bits)")
    return _build_accelerator(path, tree, name)


def _has_large_integer(tree: Any) -> bool:
    """Returns whether a tree has an integer beyond TOML's 64 bits, which Python might not print."""
    if isinstance(tree, dict | list):
        return any(map(_has_large_integer, tree.values() if isinstance(tree, dict) else tree))
    return type(tree) is int and not -(2**63) <= tree < 2**63


def _build_accelerator(path: str, tree: dict[str, Any], name: str) -> Accelerator:
    """Builds the accelerator that a TOML file's tree describes; see `load` and `loads`."""
    base = tree.pop("base", "isaac_ou")
    if not isinstance(base, str) or base not in PRESETS:
        raise InputError(f"{path}: base: {base!r}; allowed: {', '.join(PRESETS)}")
    start = PRESETS[base]
    changes: dict[str, Any] = {"name": name}
    for side in ("rows", "columns"):
        if getattr(start, f"unit_{side}") == getattr(start, f"crossbar_{side}"):
            changes[f"unit_{side}"] = tree.get(f"crossbar_{side}", getattr(start, f"unit_{side}"))
    names = [field.name for field in dataclasses.fields(Accelerator)]
    for key, value in tree.items():
        if key not in names:
            raise InputError(
                f"{path}: {quote_name(key)}: unknown; allowed: base, {', '.join(names)}"
            )
        if key == "components":
            value = _build_components(path, start.components, value)
        elif isinstance(getattr(start, key), float) and type(value) is int:
            value = float(value)  # a file may write 1 for 1.0
        changes[key] = value
    try:
        return dataclasses.replace(start, **changes)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('accelerator.')}") from error


def _build_components(path: str, start: Components, tree: Any) -> Components:
    """Returns `start` with the changes of a file's `components` table."""
    names = [field.name for field in dataclasses.fields(Components)]
    fields = [field.name for field in dataclasses.fields(Component)]
    if not isinstance(tree, dict):
        raise InputError(f"{path}: components: {tree!r}; allowed: tables, one a component")
    changes = {}
    for name, values in tree.items():
        where = f"{path}: components.{quote_name(name)}"
        if name not in names:
            raise InputError(f"{where}: unknown; allowed: {', '.join(names)}")
        if not isinstance(values, dict):
            raise InputError(f"{where}: {values!r}; allowed: a table with {', '.join(fields)}")
        for field in values:
            if field not in fields:
                raise InputError(
                    f"{where}.{quote_name(field)}: unknown; allowed: {', '.join(fields)}"
                )
        try:
            changes[name] = dataclasses.replace(getattr(start, name), **values)
        except InputError as error:
            raise InputError(f"{where}.{error}") from error
    return dataclasses.replace(start, **changes)


def dumps(accelerator: Accelerator) -> str:
    """Returns the text of a TOML file that `load` reads back as the same accelerator."""
    top = dataclasses.asdict(accelerator)
    components = top.pop("components")
    lines = [
        "# An accelerator for apq_jax; a line that you delete falls back to the preset `base`.",
        'base = "isaac_ou"',
    ]
    # JSON writes texts, numbers and truth values as TOML does.
    lines += [f"{key} = {json.dumps(value)}" for key, value in top.items()]
    for name, fields in components.items():
        lines += ["", f"[components.{name}]"]
        lines += [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(lines) + "\n"
