"""Defines fields of options that have a default and allowed values; the values are not enforced."""

import dataclasses
from typing import Any

Allowed = tuple[float, float] | tuple[str, ...]  # least and largest number, or the choices


def define_range(default: float, least: float, largest: float) -> Any:
    """Defines a dataclass field for a number from `least` to `largest`."""
    return dataclasses.field(default=default, metadata={"allowed": (least, largest)})


def define_choice(default: str, choices: tuple[str, ...]) -> Any:
    """Defines a dataclass field for a text that is one of `choices`."""
    return dataclasses.field(default=default, metadata={"allowed": choices})


def get_allowed(options: type, name: str) -> Allowed | None:
    """Returns the values that field `name` of the dataclass `options` allows; None: all values."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    return fields[name].metadata.get("allowed")


def is_allowed(values: Allowed | None, value: Any) -> bool:
    """Returns whether a value is among the allowed ones; NaN is in no range."""
    if values is None:
        return True
    return value in values if _is_choice(values) else bool(values[0] <= value <= values[1])


def describe_allowed(values: Allowed | None, kind: type) -> str:
    """Returns a message's words for the allowed values: "a whole number, 1 to 10", "front, cost".

    Args:
      values: from `get_allowed`.
      kind: the field's type; without `values` it is bool or str.
    """
    if values is None:
        return {bool: "True or False", str: "text"}[kind]
    if _is_choice(values):
        return ", ".join(map(str, values))
    least, largest = (f"{end:g}" if end < 1e6 else f"{end:,.0f}" for end in values)  # type: ignore[operator]
    return f"{'a whole number' if kind is int else 'a number'}, {least} to {largest}"


def _is_choice(values: Allowed) -> bool:
    return isinstance(values[0], str)
