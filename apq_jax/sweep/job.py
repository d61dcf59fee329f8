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
from apq_jax.system.exit_status import OK
from apq_jax.run.network import train
from apq_jax.strategies.loop import Carry, Record
from apq_jax.sweep import group as groups_
from apq_jax.sweep import processes
from apq_jax.sweep.folder import SweepFolder
from apq_jax.sweep.group import build_unreachable_row, run_group, split_record, start_group
from apq_jax.sweep.mesh import Mesh, make_mesh
from apq_jax.sweep.points import Point, get_base_config, get_side_by_side, group_points, list_points
from apq_jax.system.cache import open_cache
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
        with processes.fail_together():
            points, config = list_points(tree), get_base_config(tree)
            cache = open_cache(config.cache_dir)
            dataset = data.load(config.data.path, config.data.name)
            dataset = data.limited(dataset, config.data.search_images, config.data.select_images)
            if jax.process_index() == 0:
                held.enter_context(locked(workdir))
            kept = SweepFolder(workdir, points, tree, dataset, resume)
        mesh, total = make_mesh(), sum(point.config.search.episodes for point in points)
        console.print(
            f"{kept.what}: {len(points):,} searches of {total:,} policies in all, "
            f"on {mesh.size} device{'s' if mesh.size > 1 else ''}, into {kept.table}.",
            soft_wrap=True,
        )
        # The network is that of the configuration's own seed: swept seeds are the searches'.
        with processes.take_turns():  # the others find what it has kept
            apply_fn, params = train(dataset, config, cache)
        network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
        with processes.fail_together():
            kept.need_network(network, params)
        groups = group_points(network, points)
        there = [at in kept.rows for at in range(len(points))]
        done = processes.broadcast_from_first(np.asarray(there, np.int32))
        console.print(f"{len(groups)} groups that share a program each")
        with bar("sweep", total) as advance, processes.watch_signals() as stops:
            sweep = _Sweep(points, network, params, dataset, mesh, cache, kept, stops, advance)
            for number, places in enumerate(groups):
                if done[places].all():
                    advance(sum(points[at].config.search.episodes for at in places))
                else:
                    sweep.group(number, places, get_side_by_side(tree))
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
    kept: SweepFolder
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
        with processes.fail_together():
            carry, record, before = kept.restored(number, start_group(prepared), nothing, levels)
        carry, records = processes.broadcast_from_first(carry), [processes.broadcast_rows(record)]
        self.advance(len(record.reward))

        def seconds() -> float:
            return before + time.perf_counter() - start

        def save(stands: Carry) -> None:
            kept.save(number, seconds(), stands, stages.joined(records))

        with processes.fail_together():
            save(carry)
        for stands, found in run_group(prepared, self.mesh, carry, side_by_side):
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
        with processes.take_turns():
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
                self.kept.rows[at] = build_unreachable_row(point, error)
                self.advance(point.config.search.episodes)
        return able, prepared

    def _rows(
        self, places: list[int], prepared: list[Prepared], record: Record, seconds: float
    ) -> None:
        """Of the searches at these places, those that are still to be made: one a process."""
        kept, each = self.kept, split_record(record, len(places))
        there = processes.broadcast_from_first(np.asarray([at in kept.rows for at in places], np.int32))
        missing = np.flatnonzero(there == 0)
        count, own = jax.process_count(), jax.process_index()
        for some in (missing[at : at + count] for at in range(0, len(missing), count)):
            row = None
            if own < len(some):
                at = int(some[own])
                point = self.points[places[at]]
                row = groups_.build_row(
                    point, prepared[at], each[at], self.dataset, seconds / len(places)
                )
            found = processes.gather_from_all(row)
            for at, row_there in zip((places[one] for one in some), found, strict=False):
                kept.rows[at] = row_there | self.points[at].values
            if kept.due:
                kept.write()
            self._stop_after(kept.write)
