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
from apq_jax.strategies import loop
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
    """Runs the searches of a group; returns a record for each.

    A record is bit for bit the one that `pipeline.stages.search_policies` gives for the search
    alone. Rounding differs where `side_by_side` is more than 1.

    Args:
      prepared: the searches of one group of `points.group_points`.
      mesh: from `make_mesh`.
      advance: gets the number of policies that each chunk evaluated.
      side_by_side: searches that a device runs at a time.
    """
    records = []
    for _, record in run_group(prepared, mesh, start_group(prepared), side_by_side):
        records.append(record)
        advance(len(record.reward))
    return split_record(stages.joined(records), len(prepared))


def start_group(prepared: list[Prepared]) -> Carry:
    """Returns the state of a group's searches before the first chunk, as `stack_trees` gives it."""
    strategy = stages.build_strategy(prepared[0])
    carries = []
    for search in prepared:
        stage = stages.build_stages(search)[0]
        carries.append(loop.start(strategy, stage.problem, stage.keys, stage.budget))
    return stack_trees([jax.tree.map(lambda x: x[0], carry) for carry in carries])


def run_group(
    prepared: list[Prepared], mesh: Mesh, carry: Carry, side_by_side: int = 1
) -> Iterator[tuple[Carry, Record]]:
    """Runs the searches of a group until their budgets are spent; yields like `mesh.run_chunks`.

    Args:
      prepared: the searches.
      mesh: from `make_mesh`.
      carry: the searches' state, from `start_group` or a checkpoint.
      side_by_side: searches that a device runs at a time.
    """
    own = [
        PerSearch(each.subject.prices, stages.build_stages(each)[0].problem) for each in prepared
    ]
    first = prepared[0]
    return run_chunks(
        stages.build_strategy(first),
        build_evaluator(_share_memory(first, mesh)),
        first.subject,
        stack_trees(own),
        carry,
        CHUNK,
        mesh,
        side_by_side,
    )


def _share_memory(prepared: Prepared, mesh: Mesh) -> Prepared:
    """Divides the memory for activations by the CPU devices, because they share it."""
    devices = len(mesh.local_devices) if jax.default_backend() == "cpu" else 1
    config = prepared.config
    search = dataclasses.replace(config.search, memory_mb=config.search.memory_mb // devices)
    return prepared._replace(config=dataclasses.replace(config, search=search))


def split_record(record: Record, count: int) -> list[Record]:
    """Splits a group's record into one for each of its `count` searches."""
    masks = (record.search == index for index in range(count))
    parts = [jax.tree.map(lambda x, mask=mask: x[mask], record) for mask in masks]
    return [part._replace(search=np.zeros_like(part.search)) for part in parts]


def build_row(
    point: Point, prepared: Prepared, record: Record, dataset: Dataset, seconds: float
) -> Row:
    """Returns a search's row of the table, which describes the search's best policy.

    Ratios compare with the dense network at 8 bits on the same accelerator.
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
    for name in ("weight_bits", "input_bits", "adc_bits"):
        bits = getattr(policy, name)
        if bits is not None:
            row[name] = " ".join(map(str, bits))
    return row | {"evaluations": len(record.reward), "seconds": round(seconds, 3)}


def build_unreachable_row(point: Point, error: LimitError) -> Row:
    """Returns the row of a point whose limit no policy can meet on its accelerator."""
    return {**point.values, "meets_limits": 0, "evaluations": 0, "note": str(error)}
