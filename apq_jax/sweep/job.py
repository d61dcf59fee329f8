"""Runs a sweep from data to table: groups of searches, one after the other."""

import contextlib
import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from apq_jax.config import Limits
from apq_jax.data import Dataset
from apq_jax.network.capture import Network
from apq_jax.network.jaxpr import Params
from apq_jax.pipeline import prepare, stages
from apq_jax.pipeline.prepared import LimitError, Prepared
from apq_jax.run.folder import RUNS, SWEEP, list_resume_flags, open_folder
from apq_jax.run.network import load_dataset, load_network
from apq_jax.strategies.loop import Carry, Record
from apq_jax.sweep import group, processes
from apq_jax.sweep.folder import SweepFolder, build_identity
from apq_jax.sweep.mesh import Mesh, make_mesh
from apq_jax.sweep.points import Point, get_base_config, get_side_by_side, group_points, list_points
from apq_jax.system.cache import open_cache
from apq_jax.system.exit_status import OK
from apq_jax.system.process import explain_stop
from apq_jax.system.terminal import console, show_bar


def run(
    tree: ConfigDict,
    workdir: pathlib.Path | None,
    resume: bool | None = None,
    overwrite: bool = False,
) -> int:
    """Runs a sweep, and writes its table, report and checkpoints; returns OK.

    Args:
      tree: the configuration that `points.list_points` describes.
      workdir: the sweep's folder; created if it is missing, and locked while the sweep works. None
        makes a new one, to which runs/latest-sweep links, or resumes that one.
      resume: True resumes the sweep in the folder, if there is an unfinished one; False begins
        anew; None begins anew, but refuses to delete an unfinished one.
      overwrite: whether the folder may hold a finished sweep, or files that no sweep wrote.

    Raises:
      InputError: the input cannot be used; all points are checked before anything is computed.
      KeyboardInterrupt, Terminated: a signal came; finished searches and a checkpoint of the others
        are written.
    """
    with contextlib.ExitStack() as held:
        with processes.fail_together():
            points, config = list_points(tree), get_base_config(tree)
            cache, dataset = open_cache(config.cache_dir), load_dataset(config)
            identity = build_identity(tree, points, dataset)
        processes.require_same(identity)
        with processes.fail_together():
            path = workdir or RUNS
            if jax.process_index() == 0:
                path = held.enter_context(open_folder(workdir, SWEEP, resume, overwrite))
            title = f"{config.model} on {dataset.name}"
            folder = SweepFolder(path, points, title, identity, resume)
        flags = list_resume_flags(workdir, path)
        held.enter_context(explain_stop(folder.describe_kept, flags))
        done = _find_done(folder, range(len(points)))
        if done.all():
            folder.finish()
            console.print(f"{folder.table}: the sweep is finished; its report is beside it")
            return OK
        mesh, total = make_mesh(), sum(point.config.search.episodes for point in points)
        console.print(
            f"{folder.title}: {len(points):,} searches of {total:,} policies in all, "
            f"on {mesh.size} device{'s' if mesh.size > 1 else ''}, into {folder.table}.",
            soft_wrap=True,
        )
        # Swept seeds are the searches' only. The network keeps the configuration's own seed.
        with processes.take_turns():  # so that the others load the network that the first trained
            network, params = load_network(dataset, config, cache)
        with processes.fail_together():
            folder.require_network(network, params)
        groups = group_points(network, points)
        console.print(f"{len(groups)} groups that share a program each")
        with show_bar("sweep", total) as advance, processes.watch_signals() as check:
            sweep = _Sweep(points, network, params, dataset, mesh, cache, folder, check, advance)
            for place, indices in enumerate(groups):
                if done[indices].all():
                    advance(sum(points[index].config.search.episodes for index in indices))
                else:
                    sweep.search_group(place, indices, get_side_by_side(tree))
                    jax.clear_caches()  # because Linux limits the programs that a process maps
        folder.finish()
    console.print(f"The report: {folder.table.with_name('report.html')}", soft_wrap=True)
    return OK


def _find_done(folder: SweepFolder, indices: Iterable[int]) -> np.ndarray:
    """Returns for each of N points whether the first process's table has its row: [N], 0 or 1."""
    done = [index in folder.rows for index in indices]
    return processes.broadcast_from_first(np.asarray(done, np.int32))


class _Sweep(NamedTuple):
    """The parts of a sweep that all groups share."""

    points: list[Point]
    network: Network
    params: Params
    dataset: Dataset
    mesh: Mesh
    cache: pathlib.Path
    folder: SweepFolder
    check_signals: Callable[[], None]  # from `processes.watch_signals`
    advance: Callable[[int], Any]  # gets the number of policies that were evaluated

    def search_group(self, place: int, indices: list[int], side_by_side: int) -> None:
        """Searches the points of a group, the sweep's group at `place`, and writes their rows."""
        folder, start = self.folder, time.perf_counter()
        indices, prepared = self._prepare(indices)
        if not indices:
            folder.write_table(with_report=True)
            return
        first = prepared[0]
        empty, levels = stages.build_empty_record(first), first.space.levels
        with processes.fail_together():
            initial = group.start_group(prepared)
            initial, record, before = folder.restore_group(place, initial, empty, levels)
        initial = processes.broadcast_from_first(initial)
        records = [processes.broadcast_rows(record)]
        self.advance(len(records[0].reward))

        def measure_seconds() -> float:
            return before + time.perf_counter() - start

        def save(carry: Carry) -> None:
            folder.save_checkpoint(place, measure_seconds(), carry, stages.joined(records))

        with processes.fail_together():
            save(initial)
        for carry, record in group.run_group(prepared, self.mesh, initial, side_by_side):
            records.append(record)
            self.advance(len(record.reward))
            # The last state is always saved, because the rows must be of saved evaluations.
            if folder.is_due or not carry.left.any():
                save(carry)
            self._stop_after(functools.partial(save, carry))
        self._add_rows(indices, prepared, stages.joined(records), measure_seconds())
        folder.write_table(with_report=True)

    def _stop_after(self, save: Callable[[], None]) -> None:
        """Saves and raises if a signal asks for an end."""
        try:
            self.check_signals()
        except BaseException:
            save()
            raise

    def _prepare(self, indices: list[int]) -> tuple[list[int], list[Prepared]]:
        """Prepares a group; returns the points that can meet their limits, and what they prepare.

        The other points get their rows at once.
        """
        point = self.points[indices[0]]
        # Limits are dropped, because one point's unreachable limit must not stop the group's Plan.
        config = dataclasses.replace(point.config, limits=Limits())
        with processes.take_turns():
            first = prepare.prepare(
                self.network, self.params, self.dataset, point.accelerator, config, self.cache
            )
        reachable, prepared = [], []
        for index in indices:
            point = self.points[index]
            try:
                prepared.append(prepare.aim(first, point.accelerator, point.config))
                reachable.append(index)
            except LimitError as error:
                self.folder.rows[index] = group.build_unreachable_row(point, error)
                self.advance(point.config.search.episodes)
        return reachable, prepared

    def _add_rows(
        self, indices: list[int], prepared: list[Prepared], record: Record, seconds: float
    ) -> None:
        """Adds the rows that a group's points still lack; each process builds one at a time."""
        folder, records = self.folder, group.split_record(record, len(indices))
        missing = np.flatnonzero(_find_done(folder, indices) == 0)
        each, count, own = seconds / len(indices), jax.process_count(), jax.process_index()
        for start in range(0, len(missing), count):
            batch = missing[start : start + count]  # a search for each process
            row = None
            if own < len(batch):
                search = int(batch[own])
                point = self.points[indices[search]]
                row = group.build_row(point, prepared[search], records[search], self.dataset, each)
            rows = processes.gather_from_all(row)
            for search, values in zip(batch, rows, strict=False):
                index = indices[search]
                folder.rows[index] = values | self.points[index].values
            if folder.is_due:
                folder.write_table()
            self._stop_after(folder.write_table)
