"""A sweep from data to table: groups of searches, one after the other."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from apq_jax import data
from apq_jax.config import Limits
from apq_jax.data import Dataset
from apq_jax.network.capture import Network, capture
from apq_jax.network.jaxpr import Params
from apq_jax.pipeline import prepare, stages
from apq_jax.pipeline.prepared import LimitError, Prepared
from apq_jax.run.job import OK
from apq_jax.run.network import train
from apq_jax.strategies.loop import Carry, Record
from apq_jax.sweep import group as groups_
from apq_jax.sweep import processes
from apq_jax.sweep.folder import Kept
from apq_jax.sweep.group import apart, go_on, started, unreachable
from apq_jax.sweep.mesh import Mesh, mesh_of
from apq_jax.sweep.points import Point, base_of, grouped, points_of, side_by_side_of
from apq_jax.system.cache import opened
from apq_jax.system.files import locked
from apq_jax.system.terminal import bar, console


def run(tree: ConfigDict, workdir: pathlib.Path, resume: bool | None = None) -> int:
    """The sweep, from data to table; returns the exit status.

    Args:
      tree: as `sweep_points.points_of` has it.
      workdir: its folder.
      resume: go on from the folder's checkpoint; or begin anew; None refuses to choose.

    Raises:
      InputError: input that cannot be used; the points are looked at before anything is computed.
      KeyboardInterrupt, Terminated: a signal; what was done is kept.
    """
    with contextlib.ExitStack() as held:
        with processes.failing_together():
            points, config = points_of(tree), base_of(tree)
            cache = opened(config.cache_dir)
            dataset = data.load(config.data.path, config.data.name)
            dataset = data.limited(dataset, config.data.search_images, config.data.select_images)
            if jax.process_index() == 0:
                held.enter_context(locked(workdir))
            kept = Kept(workdir, points, tree, dataset, resume)
        mesh, total = mesh_of(), sum(point.config.search.episodes for point in points)
        console.print(
            f"{kept.what}: {len(points):,} searches of {total:,} policies in all, "
            f"on {mesh.size} device{'s' if mesh.size > 1 else ''}, into {kept.table}.",
            soft_wrap=True,
        )
        # The network is that of the configuration's own seed: swept seeds are the searches'.
        with processes.first_alone():  # the others find what it has kept
            apply_fn, params = train(dataset, config, cache)
        network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
        with processes.failing_together():
            kept.need_network(network, params)
        groups = grouped(network, points)
        there = [at in kept.rows for at in range(len(points))]
        done = processes.from_the_first(np.asarray(there, np.int32))
        console.print(f"{len(groups)} groups that share a program each")
        with bar("sweep", total) as advance, processes.stops() as stops:
            sweep = _Sweep(points, network, params, dataset, mesh, cache, kept, stops, advance)
            for number, places in enumerate(groups):
                if done[places].all():
                    advance(sum(points[at].config.search.episodes for at in places))
                else:
                    sweep.group(number, places, side_by_side_of(tree))
                    jax.clear_caches()  # Linux lets a process map only so many programs
        kept.finish()
    console.print(f"The report: {workdir / 'report.html'}", soft_wrap=True)
    return OK


class _Sweep(NamedTuple):
    """What all groups share."""

    points: list[Point]
    network: Network
    params: Params
    dataset: Dataset
    mesh: Mesh
    cache: pathlib.Path
    kept: Kept
    stops: Callable[[], None]  # raises where a signal asks for an end; all processes call it alike
    advance: Callable[[int], Any]

    def group(self, number: int, places: list[int], side_by_side: int) -> None:
        """Searches the points at these places, which share a program, and writes their rows."""
        kept, start = self.kept, time.perf_counter()
        places, prepared = self._prepared(places)
        if not places:
            kept.write(report=True)
            return
        first = prepared[0]
        nothing, levels = stages.nothing(first), first.space.levels
        with processes.failing_together():
            carry, record, before = kept.restored(number, started(prepared), nothing, levels)
        carry, records = processes.from_the_first(carry), [processes.rows_of_the_first(record)]
        self.advance(len(record.reward))

        def seconds() -> float:
            return before + time.perf_counter() - start

        def save(stands: Carry) -> None:
            kept.save(number, seconds(), stands, stages.joined(records))

        with processes.failing_together():
            save(carry)
        for stands, found in go_on(prepared, self.mesh, carry, side_by_side):
            records.append(found)
            self.advance(len(found.reward))
            if kept.due or not stands.left.any():  # rows are made of what was kept
                save(stands)
            self._stop_after(functools.partial(save, stands))
        self._rows(places, prepared, stages.joined(records), seconds())
        kept.write(report=True)

    def _stop_after(self, save: Callable[[], None]) -> None:
        try:
            self.stops()
        except BaseException:
            save()
            raise

    def _prepared(self, places: list[int]) -> tuple[list[int], list[Prepared]]:
        """Those that can meet their limits, and the others as rows."""
        one = self.points[places[0]]
        # Limits are each point's own: none may keep the group from its Plan.
        free = dataclasses.replace(one.config, limits=Limits())
        with processes.first_alone():
            first = prepare.prepare(
                self.network, self.params, self.dataset, one.accelerator, free, self.cache
            )
        able, prepared = [], []
        for at in places:
            point = self.points[at]
            try:
                prepared.append(prepare.aim(first, point.accelerator, point.config))
                able.append(at)
            except LimitError as error:
                self.kept.rows[at] = unreachable(point, error)
                self.advance(point.config.search.episodes)
        return able, prepared

    def _rows(
        self, places: list[int], prepared: list[Prepared], record: Record, seconds: float
    ) -> None:
        """Of the searches at these places, those that are still to be made: one a process."""
        kept, each = self.kept, apart(record, len(places))
        there = processes.from_the_first(np.asarray([at in kept.rows for at in places], np.int32))
        missing = np.flatnonzero(there == 0)
        count, own = jax.process_count(), jax.process_index()
        for some in (missing[at : at + count] for at in range(0, len(missing), count)):
            row = None
            if own < len(some):
                at = int(some[own])
                point = self.points[places[at]]
                row = groups_.row(
                    point, prepared[at], each[at], self.dataset, seconds / len(places)
                )
            found = processes.of_every_process(row)
            for at, row_there in zip((places[one] for one in some), found, strict=False):
                kept.rows[at] = row_there | self.points[at].values
            if kept.due:
                kept.write()
            self._stop_after(kept.write)
