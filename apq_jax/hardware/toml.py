"""Reads accelerators from TOML files, and writes them."""

import dataclasses
import json
import pathlib
import tomllib
from typing import Any

from apq_jax.hardware.accelerator import Accelerator, is_name
from apq_jax.hardware.components import Component, Components
from apq_jax.hardware.presets import PRESETS, preset
from apq_jax.system.errors import InputError, quote_name

_LARGEST = 1 << 20  # bytes


def load(name: str) -> Accelerator:
    """Returns a preset by its name, or reads an accelerator from the path of a TOML file.

    A file states its differences from the preset that its `base` names (isaac_ou by default). If a
    unit of the base is as high as a crossbar, the unit's rows follow the crossbar's unless the file
    states them; so do its columns.

    Raises:
      InputError: there is no such preset; the file cannot be read, is too large or is not TOML; or
        it has an unknown key, a wrong type or a bad value.
    """
    if not name.endswith(".toml"):
        if name in PRESETS:
            return PRESETS[name]
        raise InputError(f"accelerator: {name!r}; allowed: {', '.join(PRESETS)}, or a .toml file")
    path = pathlib.Path(name)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise InputError(f"{path}: larger than {_LARGEST} bytes")
        text = content.decode()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not TOML ({error})") from error
    return loads(text, name, path.stem if is_name(path.stem) else "mine")


def loads(text: str, path: str, name: str = "mine") -> Accelerator:
    """Reads an accelerator from a TOML text, as `load` does.

    Args:
      text: the TOML.
      path: what messages call the text.
      name: the accelerator's name, unless the text states one.
    """
    try:
        tree = tomllib.loads(text)
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{path}: is not TOML ({error})") from error
    try:
        large = _has_large_integer(tree)
    except RecursionError as error:
        raise InputError(f"{path}: is nested too deeply") from error
    if large:
        raise InputError(f"{path}: is not TOML (a whole number of more than 64 bits)")
    return _build_accelerator(path, tree, name)


def _has_large_integer(tree: Any) -> bool:
    """Returns whether a tree has an integer beyond TOML's 64 bits, which Python might not print."""
    if isinstance(tree, dict | list):
        return any(map(_has_large_integer, tree.values() if isinstance(tree, dict) else tree))
    return type(tree) is int and not -(2**63) <= tree < 2**63


def _build_accelerator(path: str, tree: dict[str, Any], name: str) -> Accelerator:
    base = tree.pop("base", "isaac_ou")
    if not isinstance(base, str) or base not in PRESETS:
        raise InputError(f"{path}: base: {base!r}; allowed: {', '.join(PRESETS)}")
    start = preset(base)
    changes: dict[str, Any] = {"name": name}
    for side in ("rows", "columns"):
        if getattr(start, f"unit_{side}") == getattr(start, f"crossbar_{side}"):
            changes[f"unit_{side}"] = tree.get(f"crossbar_{side}", getattr(start, f"unit_{side}"))
    for key, value in tree.items():
        if key == "components":
            changes[key] = _build_components(path, start.components, value)
            continue
        fields = [field.name for field in dataclasses.fields(Accelerator)]
        if key not in fields:
            raise InputError(
                f"{path}: {quote_name(key)}: unknown; allowed: base, {', '.join(fields)}"
            )
        # A file may write 1 for 1.0.
        whole = isinstance(getattr(start, key), float) and type(value) is int
        changes[key] = float(value) if whole else value
    try:
        return dataclasses.replace(start, **changes)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('accelerator.')}") from error


def _build_components(path: str, start: Components, tree: Any) -> Components:
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
    lines = [
        "# An accelerator for apq_jax; a line that you delete falls back to the preset `base`."
    ]
    lines += ['base = "isaac_ou"']
    for field in dataclasses.fields(accelerator):
        if field.name != "components":
            lines.append(f"{field.name} = {_format_value(getattr(accelerator, field.name))}")
    for part in dataclasses.fields(accelerator.components):
        component = getattr(accelerator.components, part.name)
        lines += ["", f"[components.{part.name}]"]
        lines += [
            f"{key} = {_format_value(value)}"
            for key, value in dataclasses.asdict(component).items()
        ]
    return "\n".join(lines) + "\n"


def _format_value(value: Any) -> str:
    return json.dumps(value)  # JSON writes texts, numbers and truth values as TOML does
