"""What a sweep goes over: fields and their values, as runs and as groups that share a program."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from apq_jax import hardware
from apq_jax.compression import converters
from apq_jax.config import Config, Limits, Objective, allowed, from_config_dict
from apq_jax.hardware import Accelerator
from apq_jax.mapping import schemes
from apq_jax.network.capture import Network
from apq_jax.pipeline import prepare
from apq_jax.system.errors import InputError

SECTION = ("over", "kind", "samples", "seed", "side_by_side")
KINDS = ("grid", "list", "random")
MAX_POINTS = 100_000  # points
_SHARED = ("data", "model", "training", "finetune", "cache_dir")  # one network for all


class Point(NamedTuple):
    """One search of a sweep."""

    values: dict[str, Any]  # of the fields that are swept
    accelerator: Accelerator
    config: Config


def get_base_config(tree: ConfigDict) -> Config:
    """The configuration of the network: a sweep's without what it goes over."""
    return from_config_dict(ConfigDict(_drop_sweep(tree)))


def _drop_sweep(tree: ConfigDict) -> dict[str, Any]:
    return {name: value for name, value in tree.to_dict().items() if name != "sweep"}


def get_side_by_side(tree: ConfigDict) -> int:
    """How many searches a device has at a time: `sweep.side_by_side`, 1 where it is not given.

    Raises:
      InputError: it is no whole number from 1 to 4096.
    """
    found = tree.sweep.get("side_by_side", 1)
    if type(found) is not int or not 1 <= found <= 4096:
        raise InputError(f"config.sweep.side_by_side: {found!r}; allowed: 1 to 4096")
    return found


def list_points(tree: ConfigDict) -> list[Point]:
    """The searches of a sweep, in order.

    Args:
      tree: the fields of a `Config`, and `sweep`: `over`, which holds fields of a `Config` and,
        below `accelerator`, of an `Accelerator`, each with its values; `kind`, "grid" for all
        combinations, "list" for the first values together, then the second, ..., "random" for
        `samples` combinations, drawn with `seed` from the grid without repetition;
        `side_by_side`, as `side_by_side_of` has it.

    Raises:
      InputError: a field that is none, a value that is not allowed, lists of different lengths.
    """
    fields, given = _drop_sweep(tree), tree.to_dict().get("sweep")
    if not isinstance(given, dict) or {*given, "side_by_side"} != set(SECTION):
        raise InputError(f"config.sweep: allowed: a section with {', '.join(SECTION)}")
    get_side_by_side(tree)  # refuses before the rest
    base, sweep = ConfigDict(fields), ConfigDict(given)
    over = dict(_flatten(given["over"]))
    if not over:
        raise InputError("config.sweep.over: empty; allowed: fields and lists of values")
    for name, values in over.items():
        if not isinstance(values, list | tuple) or not values:
            raise InputError(f"config.sweep.over.{name}: {values!r}; allowed: a list of values")
    usual = from_config_dict(base)
    accelerator = hardware.load(usual.accelerator)
    return [
        _build_point(dict(zip(over, values, strict=True)), base, accelerator)
        for values in _list_combinations(sweep, list(over.values()))
    ]


def _flatten(tree: Any, *walked: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, dict):
        yield ".".join(walked), tree
        return
    for name, value in tree.items():
        yield from _flatten(value, *walked, name)


def _list_combinations(sweep: ConfigDict, values: list[Any]) -> list[tuple[Any, ...]]:
    if sweep.kind not in KINDS:
        raise InputError(f"config.sweep.kind: {sweep.kind!r}; allowed: {', '.join(KINDS)}")
    if sweep.kind == "list":
        lengths = sorted({len(one) for one in values})
        if len(lengths) > 1:
            raise InputError(
                f"config.sweep.over: lists of {lengths[0]} and {lengths[-1]} values; allowed: as "
                'many of each where config.sweep.kind is "list"'
            )
        return list(zip(*values, strict=True))
    count = int(np.prod([len(one) for one in values], dtype=object))
    wanted = count if sweep.kind == "grid" else sweep.samples
    if type(wanted) is not int or not 1 <= wanted <= min(count, MAX_POINTS):
        field = "samples" if sweep.kind == "random" else "over"
        raise InputError(
            f"config.sweep.{field}: {wanted!r} searches; allowed: 1 to {min(count, MAX_POINTS):,}"
        )
    if sweep.kind == "grid":
        return list(itertools.product(*values))
    if type(sweep.seed) is not int or sweep.seed < 0:
        raise InputError(f"config.sweep.seed: {sweep.seed!r}; allowed: a whole number, 0 or more")
    drawn = np.random.default_rng(sweep.seed).choice(count, wanted, replace=False)
    places = np.unravel_index(np.sort(drawn), [len(one) for one in values])
    return [
        tuple(one[k] for one, k in zip(values, at, strict=True)) for at in zip(*places, strict=True)
    ]


def _build_point(values: dict[str, Any], base: ConfigDict, accelerator: Accelerator) -> Point:
    changes, tree = {}, ConfigDict(base.to_dict())
    for name, value in values.items():
        section, _, field = name.partition(".")
        if section == "accelerator" and field:
            if field not in {one.name for one in dataclasses.fields(Accelerator)} - {"components"}:
                raise InputError(
                    f"config.sweep.over.{name}: unknown; allowed: accelerator's fields"
                )
            changes[field] = value
        elif section in _SHARED:
            raise InputError(
                f"config.sweep.over.{name}: a sweep is of one network; allowed: fields of none of "
                f"{', '.join(_SHARED)}"
            )
        elif allowed(name).startswith("a section"):
            raise InputError(f"config.sweep.over.{name}: {value!r}; allowed: {allowed(name)}")
        else:
            tree.update_from_flattened_dict({name: value})
    config = from_config_dict(tree)
    if config.search.goal == "front":
        raise InputError("config.search.goal: 'front' in a sweep; allowed: cost, accuracy")
    if config.search.seeds > 1 or config.search.tuned:
        raise InputError(
            "config.search.seeds, config.search.tuned: a sweep's searches have a seed each, that "
            "config.sweep.over.seed varies, and are not fine-tuned; allowed: 1 and 0"
        )
    if tree.accelerator != base.accelerator:
        accelerator = hardware.load(config.accelerator)
    return Point(values, dataclasses.replace(accelerator, **changes), config)


def group_points(network: Network, points: list[Point]) -> list[list[int]]:
    """Places of points whose searches share a Plan and a compiled program, in order.

    They may differ in limits, objective, seed, and in whatever of the accelerator changes prices
    alone: a group for each height of operation units, and where cells or DACs hold other bits.

    Raises:
      InputError: what `preparation.space_of` says.
    """
    found: dict[Any, list[int]] = {}
    for at, (_, accelerator, config) in enumerate(points):
        space = prepare.space_of(config, accelerator)
        cells = converters.deciding(converters.cells_of(accelerator), bool(space.adc_bits))
        blocks = schemes.build_blocks(network.layers, config.scheme, accelerator)
        search = dataclasses.replace(config.search, max_accuracy_drop=0.0)
        same = dataclasses.replace(
            config,
            seed=0,
            accelerator="",
            limits=Limits(),
            objective=Objective(),
            search=search,
            training=dataclasses.replace(config.training, seed=0),
        )
        found.setdefault((space, cells, blocks, same), []).append(at)
    return list(found.values())
