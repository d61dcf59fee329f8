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
import csv
import dataclasses
import io
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.experimental import multihost_utils
from ml_collections import ConfigDict, config_flags

from apq_jax import (
    data,
    environment,
    loop,
    page,
    pipeline,
    preparation,
    results,
    search,
    sharded,
    sweep_report,
)
from apq_jax.capture import Network, Params, capture
from apq_jax.choice import best_finalist
from apq_jax.data import Dataset
from apq_jax.files import InputError, in_one_line, write_whole
from apq_jax.loop import Record
from apq_jax.preparation import Prepared
from apq_jax.search import BAD_INPUT, INTERRUPTED, OK, console
from apq_jax.sharded import Mesh
from apq_jax.sweep_points import Point, base_of, grouped, points_of

CHUNK = 4  # batches of policies of every search between two looks from the host
_NUMBERS = {"devices": (0, 4096), "num_processes": (0, 100_000), "process_id": (0, 99_999)}
_FLAGS = ("config", "workdir", "coordinator", *_NUMBERS)


class Options(NamedTuple):
    """The command line but for the configuration."""

    workdir: pathlib.Path
    devices: int  # that processors are taken as
    coordinator: str  # HOST:PORT, "auto", or "" for one process
    num_processes: int
    process_id: int


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv[1:] for flag in ("--help", "-h", "-help")):
        print((__doc__ or "").strip())
        return OK
    try:
        tree, options = _parse(argv)
        _connect(options)
        return run(tree, options.workdir)
    except InputError as error:
        print(f"apq_jax.sweep: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("apq_jax.sweep: interrupted", file=sys.stderr)
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
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--coordinator={options.coordinator}: {in_one_line(error)}") from error
    console.quiet = jax.process_index() > 0


def _parse(argv: list[str]) -> tuple[ConfigDict, Options]:
    argv = [_with_underscores(flag) for flag in argv]
    paths = [flag.partition("=")[2] for flag in argv[1:] if flag.startswith("--config=")]
    if len(paths) != 1:
        raise InputError("--config: allowed: once, as --config=configs/sweep_ou.py")
    for flag in argv[1:]:
        name, equals, _ = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or not equals or name.partition(".")[0] not in _FLAGS:
            words = (
                "--config=, --config.FIELD=, --workdir=, --devices=, --coordinator=, "
                "--num-processes=, --process-id=, --help"
            )
            raise InputError(f"{flag!r}: not a flag; allowed: {words}")
    arguments = [flag for flag in argv[1:] if not flag.startswith("--config=")]
    tree, values = search.config_file(paths[0]), flags.FlagValues()
    flags.DEFINE_string("workdir", "runs/sweep", "Folder of the sweep.", flag_values=values)
    flags.DEFINE_string("coordinator", "", "", flag_values=values)
    for name, bounds in _NUMBERS.items():
        flags.DEFINE_integer(name, 0, "", *bounds, flag_values=values)
    try:
        config_flags.DEFINE_config_dict("config", tree, flag_values=values, sys_argv=arguments)
        values([argv[0], *arguments])
    except (flags.Error, AttributeError, KeyError) as error:
        raise InputError(_said_of(error, arguments)) from error
    found: Any = {name: values[name].value for name in _FLAGS if name != "config"}
    options = Options(**found | {"workdir": pathlib.Path(found["workdir"])})
    number, count = options.process_id, options.num_processes
    if (options.coordinator not in ("", "auto")) != (count > 0) or number >= max(count, 1):
        raise InputError(
            f"--coordinator={options.coordinator} --num-processes={count} --process-id={number}; "
            "allowed: all three, process-id below num-processes; or --coordinator=auto alone"
        )
    return values["config"].value, options


def _said_of(error: Exception, arguments: list[str]) -> str:
    """What is wrong with the flags; a field that there is not raises without its section."""
    if isinstance(error, flags.Error):
        return re.sub(r"^flag ", "", in_one_line(error))
    name = re.findall(r"\w+", str(error))[0]
    field = next((flag for flag in arguments if f".{name}=" in flag), name)
    return f"{field}: there is no such field; allowed: those of the configuration file"


def _with_underscores(flag: str) -> str:
    """--num-processes=2 as --num_processes=2; other flags as they are."""
    name, equals, value = flag.removeprefix("--").partition("=")
    name = name.replace("-", "_")
    return f"--{name}{equals}{value}" if name in _NUMBERS else flag


def run(tree: ConfigDict, workdir: pathlib.Path) -> int:
    """The sweep, from data to table; returns the exit status.

    Args:
      tree: as `sweep_points.points_of` has it.
      workdir: its folder.

    Raises:
      InputError: input that cannot be used; the points are looked at before anything is computed.
    """
    points, config = points_of(tree), base_of(tree)
    cache = pathlib.Path(config.cache_dir) if config.cache_dir else search.cache_folder()
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    dataset = data.load(config.data.path, config.data.name)
    dataset = data.limited(dataset, config.data.search_images, config.data.select_images)
    writes, path = jax.process_index() == 0, workdir / "sweep.csv"
    if writes:
        if path.exists() and path.stat().st_size:
            raise InputError(f"{path}: is there already; allowed: another --workdir")
        write_whole(path, "")  # fails now rather than after the searches
    mesh, what = sharded.mesh_of(), f"{config.model} on {dataset.name}"
    total = sum(point.config.search.episodes for point in points)
    console.print(
        f"{what}: {len(points):,} searches of {total:,} policies in all, "
        f"on {mesh.size} device{'s' if mesh.size > 1 else ''}, into {path}.",
        soft_wrap=True,
    )
    # The network is that of the configuration's own seed: swept seeds are those of the searches.
    with _first_alone():  # the others find what it has kept
        apply_fn, params = search.train(dataset, config, cache)
    network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    groups, rows = grouped(network, points), dict[int, dict[str, Any]]()
    console.print(f"{len(groups)} groups that share a program each")
    with search.bar("sweep", total) as advance:
        for places in groups:
            group = [points[at] for at in places]
            found = _group(network, params, dataset, group, mesh, cache, advance)
            if writes:
                rows |= dict(zip(places, found, strict=True))
                so_far = [rows[at] for at in sorted(rows)]
                write_whole(path, table(so_far))
                told = sweep_report.told(so_far, list(points[0].values), what)
                write_whole(workdir / "report.html", page.written(told))
    console.print(f"The report: {workdir / 'report.html'}", soft_wrap=True)
    return OK


def _group(
    network: Network,
    params: Params,
    dataset: Dataset,
    points: list[Point],
    mesh: Mesh,
    cache: pathlib.Path,
    advance: Callable[[int], Any],
) -> list[dict[str, Any]]:
    """A row for each of the points, which share a program; none but in the first process."""
    start = time.perf_counter()
    with _first_alone():
        first = preparation.prepare(
            network, params, dataset, points[0].accelerator, points[0].config, cache
        )
    prepared = [preparation.aim(first, point.accelerator, point.config) for point in points]
    records = searched(prepared, mesh, advance)
    seconds = (time.perf_counter() - start) / len(points)
    if jax.process_index() > 0:
        return []
    return [_row(*three, dataset, seconds) for three in zip(points, prepared, records, strict=True)]


@contextlib.contextmanager
def _first_alone() -> Iterator[None]:
    """The first process, then the others."""
    if jax.process_index() > 0:
        multihost_utils.sync_global_devices("first")
    yield
    if jax.process_count() > 1 and jax.process_index() == 0:
        multihost_utils.sync_global_devices("first")


def searched(
    prepared: list[Prepared], mesh: Mesh, advance: Callable[[int], Any] = lambda count: None
) -> list[Record]:
    """Searches of a group (`sweep_points.grouped`), all at once: a record each.

    Bit for bit what `pipeline.search_policies` finds for each of them alone.
    """
    first = prepared[0]
    strategy = pipeline.strategy_of(first)
    stages = [pipeline.stages(one)[0] for one in prepared]
    carries = [
        jax.tree.map(lambda x: x[0], loop.start(strategy, of.problem, of.keys, of.budget))
        for of in stages
    ]
    own = [
        sharded.Own(one.subject.prices, of.problem)
        for one, of in zip(prepared, stages, strict=True)
    ]
    records = []
    for record in sharded.go_on(
        strategy,
        preparation.evaluator(_with_its_share(first, mesh)),
        first.subject,
        sharded.stacked(own),
        sharded.stacked(carries),
        CHUNK,
        mesh,
    ):
        records.append(record)
        advance(len(record.reward))
    whole = pipeline.joined(records)
    parts = (whole.search == at for at in range(len(prepared)))
    alone = [jax.tree.map(lambda x, at=at: x[at], whole) for at in parts]
    return [one._replace(search=np.zeros_like(one.search)) for one in alone]


def _with_its_share(prepared: Prepared, mesh: Mesh) -> Prepared:
    """Processors taken as several devices have one memory for their activations."""
    sharing = len(mesh.local_devices) if jax.default_backend() == "cpu" else 1
    config = prepared.config
    search = dataclasses.replace(config.search, memory_mb=config.search.memory_mb // sharing)
    return prepared._replace(config=dataclasses.replace(config, search=search))


def _row(
    point: Point, prepared: Prepared, record: Record, dataset: Dataset, seconds: float
) -> dict[str, Any]:
    """A search as a row of the table."""
    best = best_finalist(prepared, record, dataset)
    policy, found = jax.tree.map(lambda x: x[best.number], (record.policy, record.evaluation))
    row = {**point.values, "meets_limits": int(not best.misses)}
    row["selection_accuracy"] = best.accuracy
    row["points_lost"] = 100.0 * (best.float_accuracy - best.accuracy)
    dense = results.dense_cost(prepared, 8)
    for name in environment.METRICS:
        value = getattr(found, name).item()
        of_dense = dense[name if name in dense else "area_mm2"]
        row |= {name: value, f"{name}_times_less_than_dense_8": of_dense / value}
    keep = results.keep_ratios(prepared, policy)
    row["keep"] = " ".join(f"{x:.4g}" for x in keep)
    for name in ("weight_bits", "input_bits", "adc_bits"):
        bits = getattr(policy, name)
        if bits is not None:
            row[name] = " ".join(map(str, bits))
    return row | {"evaluations": len(record.reward), "seconds": round(seconds, 3)}


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as csv; a field that a row has not is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
