"""Searches of a sweep that share a program: run together over a mesh, each as it is alone."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from apq_jax import metrics
from apq_jax.data import Dataset
from apq_jax.pipeline.choose import best_finalist
from apq_jax.pipeline.prepared import LimitError, Prepared, evaluator
from apq_jax.pipeline.stages import joined, strategy_of
from apq_jax.pipeline.stages import stages as stages_of
from apq_jax.run import result
from apq_jax.strategies import loop
from apq_jax.strategies.loop import Carry, Record
from apq_jax.sweep import mesh as meshes
from apq_jax.sweep.mesh import Mesh, PerSearch, stack_trees
from apq_jax.sweep.points import Point
from apq_jax.sweep.table import Row

CHUNK = 2  # batches of policies of a search between two looks from the host


def search_group(
    prepared: list[Prepared],
    mesh: Mesh,
    advance: Callable[[int], Any] = lambda count: None,
    side_by_side: int = 1,
) -> list[Record]:
    """Searches of a group (`sweep_points.grouped`), all at once: a record each.

    Bit for bit what `pipeline.search_policies` finds for each of them alone, but where devices have
    several side by side.
    """
    records = []
    for _, record in run_group(prepared, mesh, start_group(prepared), side_by_side):
        records.append(record)
        advance(len(record.reward))
    return split_record(joined(records), len(prepared))


def start_group(prepared: list[Prepared]) -> Carry:
    """The searches of a group at their beginning: on the host, keys as their words."""
    strategy = strategy_of(prepared[0])
    stages = [stages_of(one)[0] for one in prepared]
    carries = [loop.start(strategy, of.problem, of.keys, of.budget) for of in stages]
    return stack_trees([jax.tree.map(lambda x: x[0], carry) for carry in carries])


def run_group(
    prepared: list[Prepared], mesh: Mesh, carry: Carry, side_by_side: int = 1
) -> Iterator[tuple[Carry, Record]]:
    """Runs the searches of a group from where they stand: `sharded.go_on`."""
    own = [PerSearch(one.subject.prices, stages_of(one)[0].problem) for one in prepared]
    first = prepared[0]
    return meshes.run_chunks(
        strategy_of(first),
        evaluator(_share_memory(first, mesh)),
        first.subject,
        stack_trees(own),
        carry,
        CHUNK,
        mesh,
        side_by_side,
    )


def _share_memory(prepared: Prepared, mesh: Mesh) -> Prepared:
    """Processors taken as several devices have one memory for their activations."""
    sharing = len(mesh.local_devices) if jax.default_backend() == "cpu" else 1
    config = prepared.config
    search = dataclasses.replace(config.search, memory_mb=config.search.memory_mb // sharing)
    return prepared._replace(config=dataclasses.replace(config, search=search))


def split_record(record: Record, count: int) -> list[Record]:
    """A group's record as one for each of its searches."""
    parts = (record.search == at for at in range(count))
    alone = [jax.tree.map(lambda x, at=at: x[at], record) for at in parts]
    return [one._replace(search=np.zeros_like(one.search)) for one in alone]


def build_row(point: Point, prepared: Prepared, record: Record, dataset: Dataset, seconds: float) -> Row:
    """A search as a row of the table; ratios are over the dense network on its accelerator."""
    best = best_finalist(prepared, record, dataset)
    policy, found = jax.tree.map(lambda x: x[best.number], (record.policy, record.evaluation))
    told = {**point.values, "meets_limits": int(not best.misses)}
    told["selection_accuracy"] = best.accuracy
    told["points_lost"] = 100.0 * (best.float_accuracy - best.accuracy)
    dense = result.dense_cost(prepared, 8)
    for name in metrics.METRICS:
        value = getattr(found, name).item()
        told |= {name: value, f"{name}_times_less_than_dense_8": dense[name] / value}
    keep = result.keep_ratios(prepared, policy)
    told["keep"] = " ".join(f"{x:.4g}" for x in keep)
    for name in ("weight_bits", "input_bits", "adc_bits"):
        bits = getattr(policy, name)
        if bits is not None:
            told[name] = " ".join(map(str, bits))
    return told | {"evaluations": len(record.reward), "seconds": round(seconds, 3)}


def build_unreachable_row(point: Point, error: LimitError) -> Row:
    """A row for a limit that no policy can meet on its accelerator."""
    return {**point.values, "meets_limits": 0, "evaluations": 0, "note": str(error)}
