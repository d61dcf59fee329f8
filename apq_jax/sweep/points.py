"""The searches of a sweep: a configuration's combinations of values, and their groups."""

import dataclasses
import functools
import itertools
import operator
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from apq_jax import hardware
from apq_jax.config import Config, Limits, Objective, describe_allowed, from_config_dict
from apq_jax.hardware import Accelerator
from apq_jax.mapping import schemes
from apq_jax.network.capture import Network
from apq_jax.pipeline import prepare
from apq_jax.pipeline.prepared import get_cells
from apq_jax.system.errors import InputError

SECTION = ("over", "kind", "samples", "seed", "side_by_side")
KINDS = ("grid", "list", "random")
MAX_POINTS = 100_000
_SHARED = ("data", "model", "training", "finetune", "cache_dir")  # sections that all searches share


class Point(NamedTuple):
    """One search of a sweep."""

    values: dict[str, Any]  # of the swept fields, by dotted name, such as "limits.slots"
    accelerator: Accelerator  # with the accelerator's swept fields
    config: Config  # with the other swept fields


def get_base_config(tree: ConfigDict) -> Config:
    """Returns a sweep's configuration without its section `sweep`, checked.

    Raises:
      InputError: as `from_config_dict`.
    """
    fields = tree.to_dict()
    fields.pop("sweep", None)
    return from_config_dict(ConfigDict(fields))


def get_side_by_side(tree: ConfigDict) -> int:
    """Returns how many searches a device runs at a time: `sweep.side_by_side`, or 1 if missing.

    Raises:
      InputError: it is not a whole number from 1 to 4096.
    """
    count = tree.sweep.get("side_by_side", 1)
    if type(count) is not int or not 1 <= count <= 4096:
        raise InputError(f"config.sweep.side_by_side: {count!r}; allowed: 1 to 4096")
    return count


def list_points(tree: ConfigDict) -> list[Point]:
    """Lists the searches of a sweep; the last field of `over` varies fastest in a grid.

    Args:
      tree: the fields of a `Config`, and a section `sweep` of
        `over`: fields of a `Config` and, below `accelerator`, of an `Accelerator`, with a list of
          values each;
        `kind`: "grid" for all combinations; "list" for the first values of all fields together,
          then the second, and so on; "random" for a sample of the grid without repetition, in the
          grid's order;
        `samples`, `seed`: size and seed of the sample; needed but unused for other kinds;
        `side_by_side`: optional, see `get_side_by_side`.

    Raises:
      InputError: a field is unknown or shared by all searches, a value is not allowed, a list is
        empty, lists of the kind "list" differ in length, a grid or sample has more than MAX_POINTS
        searches, or a search asks for the goal front, several seeds or fine-tuning.
    """
    fields = tree.to_dict()
    sweep = fields.pop("sweep", None)
    if not isinstance(sweep, dict) or {*sweep, "side_by_side"} != set(SECTION):
        raise InputError(f"config.sweep: allowed: a section with {', '.join(SECTION)}")
    get_side_by_side(tree)  # raises early if the value is wrong
    base, over = ConfigDict(fields), sweep["over"]
    over = flatten_dict(over, sep=".") if isinstance(over, dict) else {}
    if not over:
        raise InputError("config.sweep.over: empty; allowed: fields and lists of values")
    for name, values in over.items():
        if not isinstance(values, list | tuple) or not values:
            raise InputError(f"config.sweep.over.{name}: {values!r}; allowed: a list of values")
    accelerator = hardware.load(from_config_dict(base).accelerator)
    return [
        _build_point(dict(zip(over, values, strict=True)), base, accelerator)
        for values in _list_combinations(tree.sweep, list(over.values()))
    ]


def _list_combinations(sweep: ConfigDict, values: list[Any]) -> list[tuple[Any, ...]]:
    """Lists the combinations of the fields' values that a sweep's `kind` asks for."""
    if sweep.kind not in KINDS:
        raise InputError(f"config.sweep.kind: {sweep.kind!r}; allowed: {', '.join(KINDS)}")
    if sweep.kind == "list":
        lengths = sorted({len(of_field) for of_field in values})
        if len(lengths) > 1:
            raise InputError(
                f"config.sweep.over: lists of {lengths[0]} and {lengths[-1]} values; allowed: as "
                'many of each where config.sweep.kind is "list"'
            )
        return list(zip(*values, strict=True))
    shape = [len(of_field) for of_field in values]  # of the grid
    size = int(np.prod(shape, dtype=object))
    count = size if sweep.kind == "grid" else sweep.samples
    if type(count) is not int or not 1 <= count <= min(size, MAX_POINTS):
        field = "samples" if sweep.kind == "random" else "over"
        raise InputError(
            f"config.sweep.{field}: {count!r} searches; allowed: 1 to {min(size, MAX_POINTS):,}"
        )
    if sweep.kind == "grid":
        return list(itertools.product(*values))
    if type(sweep.seed) is not int or sweep.seed < 0:
        raise InputError(f"config.sweep.seed: {sweep.seed!r}; allowed: a whole number, 0 or more")
    sample = np.sort(np.random.default_rng(sweep.seed).choice(size, count, replace=False))
    indices = np.stack(np.unravel_index(sample, shape), axis=1)  # [samples, fields]
    return [tuple(map(operator.getitem, values, combination)) for combination in indices]


def _build_point(values: dict[str, Any], base: ConfigDict, accelerator: Accelerator) -> Point:
    """Builds the search that has these values of swept fields, and the base's otherwise."""
    changes, tree = dict[str, Any](), base.to_dict()
    accelerator_fields = {field.name for field in dataclasses.fields(Accelerator)} - {"components"}
    for name, value in values.items():
        section, _, field = name.partition(".")
        if section == "accelerator" and field:
            if field not in accelerator_fields:
                raise InputError(
                    f"config.sweep.over.{name}: unknown; allowed: accelerator's fields"
                )
            changes[field] = value
        elif section in _SHARED:
            raise InputError(
                f"config.sweep.over.{name}: a sweep is of one network; allowed: fields of none of "
                f"{', '.join(_SHARED)}"
            )
        elif describe_allowed(name).startswith("a section"):
            raise InputError(
                f"config.sweep.over.{name}: {value!r}; allowed: {describe_allowed(name)}"
            )
        else:
            *sections, field = name.split(".")
            node = functools.reduce(lambda node, key: node.setdefault(key, {}), sections, tree)
            node[field] = value  # of any type, because `from_config_dict` says what is allowed
    config = from_config_dict(ConfigDict(tree))
    if config.search.goal == "front":
        raise InputError("config.search.goal: 'front' in a sweep; allowed: cost, accuracy")
    if config.search.seeds > 1 or config.search.tuned:
        raise InputError(
            "config.search.seeds, config.search.tuned: a sweep's searches have a seed each, that "
            "config.sweep.over.seed varies, and are not fine-tuned; allowed: 1 and 0"
        )
    if "accelerator" in values:
        accelerator = hardware.load(config.accelerator)
    return Point(values, dataclasses.replace(accelerator, **changes), config)


def group_points(network: Network, points: list[Point]) -> list[list[int]]:
    """Groups points whose searches share a Plan and a compiled program.

    Points of a group may differ in limits, objective, seed, and in parts of the accelerator that
    only change prices. Other heights of operation units, or other bits of cells or DACs, need a
    group of their own.

    Returns:
      The indices of each group's points, rising; groups are in the order of their first points.

    Raises:
      InputError: as `pipeline.prepare.build_space`.
    """
    groups: dict[Any, list[int]] = {}
    for index, (_, accelerator, config) in enumerate(points):
        space = prepare.build_space(config, accelerator)
        cells = get_cells(accelerator, space)
        blocks = schemes.build_blocks(network.layers, config.scheme, accelerator)
        search = dataclasses.replace(config.search, max_accuracy_drop=0.0)
        training = dataclasses.replace(config.training, seed=0)
        shared = dataclasses.replace(config, search=search, training=training, seed=0)
        shared = dataclasses.replace(shared, limits=Limits(), objective=Objective(), accelerator="")
        groups.setdefault((space, cells, blocks, shared), []).append(index)
    return list(groups.values())
