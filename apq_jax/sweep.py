"""Searches over many accelerators, limits, strategies and seeds, on all devices.

    python -m apq_jax.sweep --config=configs/sweep_ou.py [--workdir=runs/sweep] [--devices=8]

Searches that share a network, a height of operation units and a strategy run as one compiled
program, spread over the devices (apq_jax/sharded.py); what one finds is the same on any number.
Writes sweep.csv to the work folder, a row a search: the fields that were swept, what the best
policy costs and how that compares with the unpruned network at 8 bits on the same accelerator; and
report.html, which says which accelerators are best and which fields matter.

A configuration file returns the fields of apq_jax/config.py and a section `sweep`: docs/scaling.md.
Each can be set on the command line, as --config.search.episodes=100. --devices is how many devices
the processors of this machine are taken as, one a core if not set; others are all used.

Several processes share the work, each started with the same command and

    --coordinator=HOST:PORT --num-processes=2 --process-id=0    of the first of two
    --coordinator=auto                                          on Slurm, GKE or a TPU pod

The first alone writes. They should see the same cache folder; otherwise each trains and plans.

Exit status: 0 done; 2 input that cannot be used; 130 interrupted (what was done is written).
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from apq_jax import (
    caching,
    command_line,
    data,
    pipeline,
    preparation,
    processes,
    search,
    sharded,
    sweep_flags,
    sweep_group,
)
from apq_jax.capture import Network, Params, capture
from apq_jax.config import Limits
from apq_jax.data import Dataset
from apq_jax.files import InputError, in_one_line, locked
from apq_jax.interruption import Terminated, terminable
from apq_jax.loop import Carry, Record
from apq_jax.preparation import LimitError, Prepared
from apq_jax.progress import bar, console
from apq_jax.search import BAD_INPUT, INTERRUPTED, OK
from apq_jax.sharded import Mesh
from apq_jax.sweep_flags import Options
from apq_jax.sweep_kept import Kept
from apq_jax.sweep_points import Point, base_of, grouped, points_of, side_by_side_of


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv[1:] for flag in ("--help", "-h", "-help")):
        print((__doc__ or "").strip())
        return OK
    try:
        tree, options = sweep_flags.parse(argv)
        command = [flag for flag in argv[1:] if not command_line.is_resume(flag)]
        _connect(options)
        # Of several processes, JAX itself takes SIGTERM, and tells all of them.
        with contextlib.nullcontext() if options.coordinator else terminable():
            return run(tree, options.workdir, options.resume)
    except Terminated:
        if jax.process_index() == 0:
            said = shlex.join(["python", "-m", "apq_jax.sweep", *command, "--resume"])
            print("SIGTERM: saved. Resume with", said, sep="\n", flush=True)
        return OK
    except InputError as error:
        print(f"apq_jax.sweep: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print(
            "apq_jax.sweep: interrupted; what was done is kept, --resume goes on", file=sys.stderr
        )
        return INTERRUPTED


def _connect(options: Options) -> None:
    """Joins the other processes, before any device is looked for.

    Raises:
      InputError: they cannot be reached, or the cluster's environment says nothing of them.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    jax.config.update("jax_num_cpu_devices", options.devices or cores)
    if not options.coordinator:
        return
    given: dict[str, Any] = {
        "coordinator_address": options.coordinator,
        "num_processes": options.num_processes,
        "process_id": options.process_id,
    }
    try:
        jax.distributed.initialize(**({} if options.coordinator == "auto" else given))
        sharded.meet()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--coordinator={options.coordinator}: {in_one_line(error)}") from error
    console.quiet = jax.process_index() > 0


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
            cache = caching.opened(config.cache_dir)
            dataset = data.load(config.data.path, config.data.name)
            dataset = data.limited(dataset, config.data.search_images, config.data.select_images)
            if jax.process_index() == 0:
                held.enter_context(locked(workdir))
            kept = Kept(workdir, points, tree, dataset, resume)
        mesh, total = sharded.mesh_of(), sum(point.config.search.episodes for point in points)
        console.print(
            f"{kept.what}: {len(points):,} searches of {total:,} policies in all, "
            f"on {mesh.size} device{'s' if mesh.size > 1 else ''}, into {kept.table}.",
            soft_wrap=True,
        )
        # The network is that of the configuration's own seed: swept seeds are the searches'.
        with processes.first_alone():  # the others find what it has kept
            apply_fn, params = search.train(dataset, config, cache)
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
        nothing, levels = pipeline.nothing(first), first.space.levels
        with processes.failing_together():
            carry, record, before = kept.restored(
                number, sweep_group.started(prepared), nothing, levels
            )
        carry, records = processes.from_the_first(carry), [processes.rows_of_the_first(record)]
        self.advance(len(record.reward))

        def seconds() -> float:
            return before + time.perf_counter() - start

        def save(stands: Carry) -> None:
            kept.save(number, seconds(), stands, pipeline.joined(records))

        with processes.failing_together():
            save(carry)
        for stands, found in sweep_group.go_on(prepared, self.mesh, carry, side_by_side):
            records.append(found)
            self.advance(len(found.reward))
            if kept.due or not stands.left.any():  # rows are made of what was kept
                save(stands)
            self._stop_after(functools.partial(save, stands))
        self._rows(places, prepared, pipeline.joined(records), seconds())
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
            first = preparation.prepare(
                self.network, self.params, self.dataset, one.accelerator, free, self.cache
            )
        able, prepared = [], []
        for at in places:
            point = self.points[at]
            try:
                prepared.append(preparation.aim(first, point.accelerator, point.config))
                able.append(at)
            except LimitError as error:
                self.kept.rows[at] = sweep_group.unreachable(point, error)
                self.advance(point.config.search.episodes)
        return able, prepared

    def _rows(
        self, places: list[int], prepared: list[Prepared], record: Record, seconds: float
    ) -> None:
        """Of the searches at these places, those that are still to be made: one a process."""
        kept, each = self.kept, sweep_group.apart(record, len(places))
        there = processes.from_the_first(np.asarray([at in kept.rows for at in places], np.int32))
        missing = np.flatnonzero(there == 0)
        count, own = jax.process_count(), jax.process_index()
        for some in (missing[at : at + count] for at in range(0, len(missing), count)):
            row = None
            if own < len(some):
                at = int(some[own])
                point = self.points[places[at]]
                row = sweep_group.row(
                    point, prepared[at], each[at], self.dataset, seconds / len(places)
                )
            found = processes.of_every_process(row)
            for at, row_there in zip((places[one] for one in some), found, strict=False):
                kept.rows[at] = row_there | self.points[at].values
            if kept.due:
                kept.write()
            self._stop_after(kept.write)


if __name__ == "__main__":
    sys.exit(main(sys.argv))
