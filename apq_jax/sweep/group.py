"""A group of a sweep: searches that share a compiled program and run together over a mesh."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from apq_jax import metrics
from apq_jax.data import Dataset
from apq_jax.pipeline import stages
from apq_jax.pipeline.choose import find_best_finalist
from apq_jax.pipeline.prepared import LimitError, Prepared, build_evaluator
from apq_jax.run import result
from apq_jax.strategies.loop import Carry, Record
from apq_jax.sweep.mesh import Mesh, PerSearch, run_chunks, stack_trees
from apq_jax.sweep.points import Point
from apq_jax.sweep.table import Row

CHUNK = 2  # batches of policies that a search evaluates before the host sees the results


def search_group(
    prepared: list[Prepared],
    mesh: Mesh,
    advance: Callable[[int], Any] = lambda count: None,
    side_by_side: int = 1,
) -> list[Record]:
    """Runs the searches of a group from their beginning to their end; returns a record for each.

    A record is bit for bit the one that `pipeline.stages.search_policies` gives for the search
    alone, unless `side_by_side` is more than 1, because sums are then rounded differently.

    Args:
      prepared: the searches of one group of `points.group_points`.
      mesh: from `make_mesh`.
      advance: called after each chunk with the number of policies that it evaluated.
      side_by_side: searches that a device runs at a time.
    """
    records = []
    for _, record in run_group(prepared, mesh, start_group(prepared), side_by_side):
        records.append(record)
        advance(len(record.reward))
    return split_record(stages.joined(records), len(prepared))


def start_group(prepared: list[Prepared]) -> Carry:
    """Builds the state of a group's S searches before their first chunk: host arrays [S, ...].

    Random keys are key data, as `mesh.run_chunks` takes them.
    """
    strategy = stages.build_strategy(prepared[0])
    carries = [stages.start(search, strategy).carry for search in prepared]  # [1, ...] each
    return stack_trees([jax.tree.map(lambda x: x[0], carry) for carry in carries])


def run_group(
    prepared: list[Prepared], mesh: Mesh, carry: Carry, side_by_side: int = 1
) -> Iterator[tuple[Carry, Record]]:
    """Runs the searches of a group from `carry` to their end; yields as `mesh.run_chunks` does.

    Args:
      prepared: the searches.
      mesh: from `make_mesh`.
      carry: the searches' state, from `start_group` or a checkpoint.
      side_by_side: searches that a device runs at a time.
    """
    problems = [stages.build_stages(search)[0].problem for search in prepared]
    prices = [search.subject.prices for search in prepared]
    own, first = stack_trees(list(map(PerSearch, prices, problems))), prepared[0]
    strategy = stages.build_strategy(first)
    evaluate = build_evaluator(_share_memory(first, mesh))
    return run_chunks(strategy, evaluate, first.subject, own, carry, CHUNK, mesh, side_by_side)


def _share_memory(prepared: Prepared, mesh: Mesh) -> Prepared:
    """Divides the memory for activations by the CPU devices, because they share it."""
    devices = len(mesh.local_devices) if jax.default_backend() == "cpu" else 1
    config = prepared.config
    search = dataclasses.replace(config.search, memory_mb=config.search.memory_mb // devices)
    return prepared._replace(config=dataclasses.replace(config, search=search))


def split_record(record: Record, count: int) -> list[Record]:
    """Splits a group's record into one for each of its `count` searches, whose `search` is 0."""
    masks = (record.search == index for index in range(count))
    parts = [jax.tree.map(lambda x, mask=mask: x[mask], record) for mask in masks]
    return [part._replace(search=np.zeros_like(part.search)) for part in parts]


def build_row(
    point: Point, prepared: Prepared, record: Record, dataset: Dataset, seconds: float
) -> Row:
    """Builds a finished search's row of the table, which describes its best finalist.

    Ratios compare with the dense network at 8 bits on the same accelerator.

    Args:
      point: the search.
      prepared: its network and accelerator.
      record: its evaluations.
      dataset: the selection images measure the finalists.
      seconds: its share of the seconds that its group took.
    """
    best = find_best_finalist(prepared, record, dataset)
    policy, costs = jax.tree.map(lambda x: x[best.place], (record.policy, record.evaluation))
    row = {**point.values, "meets_limits": int(not best.misses)}
    row["selection_accuracy"] = best.accuracy
    row["points_lost"] = 100.0 * (best.float_accuracy - best.accuracy)
    dense = result.compute_dense_cost(prepared, 8)
    for name in metrics.METRICS:
        value = getattr(costs, name).item()
        row |= {name: value, f"{name}_times_less_than_dense_8": dense[name] / value}
    keep = result.look_up_keep_ratios(prepared, policy)
    row["keep"] = " ".join(f"{x:.4g}" for x in keep)
    for name, bits in result.list_bits(policy).items():
        row[name] = " ".join(map(str, bits))
    return row | {"evaluations": len(record.reward), "seconds": round(seconds, 3)}


def build_unreachable_row(point: Point, error: LimitError) -> Row:
    """Builds the row of a point that is not searched, because no policy can meet its limit."""
    return {**point.values, "meets_limits": 0, "evaluations": 0, "note": str(error)}
