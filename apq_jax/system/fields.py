"""Fields of options: a default and, beside it, the values that are allowed."""

import dataclasses
from typing import Any

Allowed = tuple[float, float] | tuple[str, ...]  # least and largest number; or the choices


def ranged(default: float, least: float, largest: float) -> Any:
    """A dataclass field whose number is from `least` to `largest`."""
    return dataclasses.field(default=default, metadata={"allowed": (least, largest)})


def choice(default: str, choices: tuple[str, ...]) -> Any:
    """A dataclass field whose text is one of `choices`."""
    return dataclasses.field(default=default, metadata={"allowed": choices})


def allowed(options: type, name: str) -> Allowed | None:
    """The values that a field of a dataclass allows; None if its type decides alone."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    return fields[name].metadata.get("allowed")


def admits(values: Allowed | None, value: Any) -> bool:
    """Whether a value is among those that are allowed; NaN is in no range."""
    if values is None:
        return True
    return value in values if _is_choice(values) else bool(values[0] <= value <= values[1])


def words(values: Allowed | None, kind: type) -> str:
    """Says in words which values a field of a kind allows: "a whole number, 1 to 10"."""
    if values is None:
        return {bool: "True or False", str: "text"}[kind]
    if _is_choice(values):
        return ", ".join(map(str, values))
    least, largest = (f"{end:g}" if end < 1e6 else f"{end:,.0f}" for end in values)  # type: ignore[operator]
    return f"{'a whole number' if kind is int else 'a number'}, {least} to {largest}"


def _is_choice(values: Allowed) -> bool:
    return isinstance(values[0], str)
