"""Searches over many accelerators, limits, strategies and seeds, on all devices.

    python -m apq_jax.sweep --config=configs/sweep_ou.py [--workdir=runs/sweep] [--devices=8]

Searches that share a network, a height of operation units and a strategy run as one compiled
program, spread over the devices (apq_jax/sharded.py); what one finds is the same on any number.
Writes sweep.csv to the work folder: a row a search, with the fields that were swept, what the best
policy costs and how that compares with the unpruned network at 8 bits on the same accelerator.

A configuration file returns the fields of apq_jax/config.py and a section `sweep`: docs/scaling.md.
Each can be set on the command line, as --config.search.episodes=100. --devices is how many devices
the processors of this machine are taken as, one a core if not set; others are all used.

Exit status: 0 done; 2 input that cannot be used; 130 interrupted (what was done is written).
"""

import csv
import io
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from apq_jax import data, environment, loop, pipeline, preparation, results, search, sharded
from apq_jax.capture import Network, Params, capture
from apq_jax.choice import best_finalist
from apq_jax.data import Dataset
from apq_jax.files import InputError, in_one_line, write_whole
from apq_jax.loop import Record
from apq_jax.preparation import Prepared
from apq_jax.search import BAD_INPUT, INTERRUPTED, OK, console
from apq_jax.sharded import Mesh
from apq_jax.sweep_points import Point, grouped, points_of

CHUNK = 4  # batches of policies of every search between two looks from the host
_FLAGS = ("config", "workdir", "devices")


class Answer(NamedTuple):
    """What a search found."""

    point: Point
    prepared: Prepared
    record: Record
    row: dict[str, Any]


def main(argv: list[str]) -> int:
    """Runs the command line; returns the exit status."""
    if any(flag in argv[1:] for flag in ("--help", "-h", "-help")):
        print((__doc__ or "").strip())
        return OK
    try:
        tree, workdir, devices = _parse(argv)
        if devices:
            jax.config.update("jax_num_cpu_devices", devices)
        return run(tree, workdir)
    except InputError as error:
        print(f"apq_jax.sweep: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("apq_jax.sweep: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parse(argv: list[str]) -> tuple[ConfigDict, pathlib.Path, int]:
    paths = [flag.partition("=")[2] for flag in argv[1:] if flag.startswith("--config=")]
    if len(paths) != 1:
        raise InputError("--config: allowed: once, as --config=configs/sweep_ou.py")
    for flag in argv[1:]:
        name, equals, _ = flag.removeprefix("--").partition("=")
        if not flag.startswith("--") or not equals or name.partition(".")[0] not in _FLAGS:
            words = "--config=, --config.FIELD=, --workdir=, --devices=, --help"
            raise InputError(f"{flag!r}: not a flag; allowed: {words}")
    arguments = [flag for flag in argv[1:] if not flag.startswith("--config=")]
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict(
        "config", search.config_file(paths[0]), flag_values=values, sys_argv=arguments
    )
    flags.DEFINE_string("workdir", "runs/sweep", "Folder of the sweep.", flag_values=values)
    usual = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    flags.DEFINE_integer("devices", usual, "", 1, 4096, flag_values=values)
    try:
        values([argv[0], *arguments])
    except (flags.Error, AttributeError, KeyError) as error:
        raise InputError(re.sub(r"^flag ", "", in_one_line(error))) from error
    workdir = pathlib.Path(str(values["workdir"].value))
    devices: Any = values["devices"].value
    return values["config"].value, workdir, devices


def run(tree: ConfigDict, workdir: pathlib.Path) -> int:
    """The sweep, from data to table; returns the exit status.

    Args:
      tree: as `sweep_points.points_of` has it.
      workdir: its folder.

    Raises:
      InputError: input that cannot be used; the points are looked at before anything is computed.
    """
    points = points_of(tree)
    config = points[0].config
    cache = pathlib.Path(config.cache_dir) if config.cache_dir else search.cache_folder()
    jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    dataset = data.load(config.data.path, config.data.name)
    dataset = data.limited(dataset, config.data.search_images, config.data.select_images)
    mesh = sharded.mesh_of()
    total = sum(point.config.search.episodes for point in points)
    console.print(
        f"{config.model} on {dataset.name}: {len(points):,} searches of {total:,} policies in all, "
        f"on {mesh.size} device{'s' if mesh.size > 1 else ''}, into {workdir / 'sweep.csv'}.",
        soft_wrap=True,
    )
    write_whole(workdir / "sweep.csv", "")  # fails now rather than after the searches
    # The network is that of the configuration's own seed: swept seeds are those of the searches.
    apply_fn, params = search.train(dataset, config, cache)
    network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    groups, answers = grouped(network, points), dict[int, Answer]()
    console.print(f"{len(groups)} groups that share a program each")
    with search.bar("sweep", total) as advance:
        for places in groups:
            group = [points[at] for at in places]
            found = _group(network, params, dataset, group, mesh, cache, advance)
            answers |= dict(zip(places, found, strict=True))
            rows = [answers[at].row for at in sorted(answers)]
            if jax.process_index() == 0:
                write_whole(workdir / "sweep.csv", table(rows))
    return OK


def _group(
    network: Network,
    params: Params,
    dataset: Dataset,
    points: list[Point],
    mesh: Mesh,
    cache: pathlib.Path,
    advance: Callable[[int], Any],
) -> list[Answer]:
    """The searches of points that share a program."""
    start = time.perf_counter()
    first = preparation.prepare(
        network, params, dataset, points[0].accelerator, points[0].config, cache
    )
    prepared = [preparation.aim(first, point.accelerator, point.config) for point in points]
    records = searched(prepared, mesh, advance)
    seconds = (time.perf_counter() - start) / len(points)
    rows = [_row(*three, dataset, seconds) for three in zip(points, prepared, records, strict=True)]
    return [Answer(*four) for four in zip(points, prepared, records, rows, strict=True)]


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
    for _, record in sharded.go_on(
        strategy,
        preparation.evaluator(first),
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
