"""Measures sweeps over more devices and processes, and estimates what limits 256 devices.

    python benchmarks/scaling.py                          # measures the missing runs
    python benchmarks/scaling.py --write docs/scaling.md  # writes the tables from the file kept

Searches LeNet-5 on accelerators of one unit height, as configs/sweep_ou.py has them, on 1, 2, 4 and
8 virtual devices, which are this machine's processors, and in two processes; then several searches
side by side. Each way has processes of its own, which search twice: the first time compiles, the
second is timed. All ways are measured in turn, several times, so that other work on the machine
slows them alike; figures are medians.

The figures tell what dividing the work costs, not what more hardware gives, because virtual devices
share the cores. Writes benchmarks/results/scaling/scaling.json.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import socket
import statistics
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
from harness import RESULTS, change, parse

from apq_jax import data
from apq_jax.config import Config, SearchOptions
from apq_jax.hardware import PRESETS
from apq_jax.pipeline import prepare, stages
from apq_jax.run.network import load_network
from apq_jax.sweep import group
from apq_jax.sweep.mesh import connect_processes, make_mesh
from apq_jax.sweep.points import Point
from apq_jax.system.cache import open_cache
from apq_jax.system.files import write_whole
from apq_jax.system.terminal import console

START, END = "<!-- measured by benchmarks/scaling.py -->\n", "<!-- end -->\n"
COLUMNS, ROWS = (4, 8, 16, 32), (128, 256)  # of operation units, of crossbars: a search each
WAYS = [  # processes, devices of each, searches side by side on one
    (1, 1, 1),
    (1, 2, 1),
    (1, 4, 1),
    (1, 8, 1),
    (2, 1, 1),
    (2, 4, 1),
    (1, 1, 2),
    (1, 1, 4),
]
# The machine on paper.
DEVICES, A_HOST = 256, 8
BYTES_S = 12.5e9  # into a host: 100 Gb/s
LATENCY_S = 1e-3  # of a gathering over the hosts
HIGHEST = 2.8  # standard deviations that the largest of 256 normal numbers is above the mean


def main() -> int:
    """Measures the missing runs, or writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "scaling")
    parser.add_argument("--write", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parse(parser, repeats=1, episodes=16)
    if options.worker:
        print(json.dumps(_search(options, **options.worker)))
        return 0
    path = options.results / "scaling.json"
    if not options.write:
        _measure_missing(path, options)
    if options.smoke:
        print(build_tables(json.loads(path.read_text())))
    elif options.write:
        head, rest = options.write.read_text(encoding="utf-8").split(START)
        text = build_tables(json.loads(path.read_text()))
        write_whole(options.write, head + START + text + END + rest.split(END)[1])
    return 0


def _measure_missing(path: pathlib.Path, options: argparse.Namespace) -> None:
    """Measures all ways, or resumes after those in the file."""
    results: dict[str, Any] = {"episodes": options.episodes, "runs": []}
    if path.exists() and json.loads(path.read_text())["episodes"] == options.episodes:
        results = json.loads(path.read_text())
    ways = (WAYS[:1] if options.smoke else WAYS) * options.repeats
    for processes, devices, side_by_side in ways[len(results["runs"]) :]:
        results["runs"].append(_measure(processes, devices, side_by_side, options))
        write_whole(path, json.dumps(results) + "\n")


def _measure(
    processes: int, devices: int, side_by_side: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Returns the results of the first process of a way."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for index in range(processes):
        worker = {"processes": processes, "devices": devices, "side_by_side": side_by_side}
        worker |= {"port": port, "index": index}
        command = [sys.executable, __file__, "--worker", json.dumps(worker)]
        command += ["--episodes", str(options.episodes), *["--smoke"] * options.smoke]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    outputs = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        raise SystemExit("a process failed")
    results = json.loads(outputs[0].splitlines()[-1])
    rate = results["policies"] / results["seconds"]
    print(f"{processes} x {devices}, {side_by_side} side by side: {rate:.1f} a second", flush=True)
    return results


def _search(
    flags: argparse.Namespace,
    processes: int,
    devices: int,
    side_by_side: int,
    port: int,
    index: int,
) -> dict[str, Any]:
    """Searches twice as one of the processes of a way; returns its results."""
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, index)
        connect_processes()
    console.quiet = True
    options = SearchOptions(tuned=0, finalists=8)
    fields = {**flags.fields, "search.episodes": flags.episodes}
    config, cache = change(Config(search=options), fields), open_cache()
    dataset = data.load(config.data.path, config.data.name)
    network, params = load_network(dataset, config, cache)
    usual = PRESETS[config.accelerator]
    accelerators = [
        dataclasses.replace(usual, unit_columns=columns, crossbar_rows=rows)
        for columns in (COLUMNS[:1] if flags.smoke else COLUMNS)
        for rows in ROWS
    ]
    start = time.perf_counter()
    first = prepare.prepare(network, params, dataset, accelerators[0], config, cache)
    prepared = [prepare.aim(first, accelerator, config) for accelerator in accelerators]
    took: dict[str, Any] = {"prepare": time.perf_counter() - start}
    mesh = make_mesh()
    for name in ("first", "seconds"):
        start = last = time.perf_counter()
        records, chunks = [], []
        stands = group.start_group(prepared)
        for _, record in group.run_group(prepared, mesh, stands, side_by_side):
            records.append(record)
            chunks.append(time.perf_counter() - last)
            last = time.perf_counter()
        took[name] = time.perf_counter() - start
    results = took | {"processes": processes, "devices": devices, "side_by_side": side_by_side}
    results |= {"policies": sum(len(record.reward) for record in records), "chunks": chunks}
    results["searches"] = len(prepared)
    each = group.split_record(stages.joined(records), len(prepared))
    rows = []
    for accelerator, aimed, record in zip(accelerators, prepared, each, strict=True):
        start = time.perf_counter()
        group.build_row(Point({}, accelerator, config), aimed, record, dataset, 0.0)
        rows.append(time.perf_counter() - start)
    results["row_seconds"] = statistics.median(rows)  # the first compiles
    results["carry_bytes"] = sum(x.nbytes for x in jax.tree.leaves(stands)) / len(prepared)
    size = sum(x.nbytes for x in jax.tree.leaves(each[0]))
    results["policy_bytes"] = size / len(each[0].reward)
    return results


def build_tables(results: dict[str, Any]) -> str:
    """Builds the tables as Markdown."""
    runs, episodes = results["runs"], results["episodes"]
    by_way: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for run in runs:
        by_way.setdefault((run["processes"], run["devices"], run["side_by_side"]), []).append(run)
    rates = {
        way: [run["policies"] / run["seconds"] for run in these] for way, these in by_way.items()
    }
    usual = by_way[1, 1, 1]
    base = statistics.median(rates[1, 1, 1])
    text = [
        f"\nLeNet-5, {usual[0]['searches']} searches of {episodes} policies, on two cores; "
        f"medians of {len(usual)} (least to most):\n",
        "| processes | devices of each | side by side | policies a second | over one device |",
        "|--:|--:|--:|--:|--:|",
    ]
    for way, these in rates.items():
        middle = statistics.median(these)
        text.append(
            f"| {way[0]} | {way[1]} | {way[2]} | {middle:.1f} ({min(these):.1f} to "
            f"{max(these):.1f}) | {middle / base:.2f} |"
        )
    return "\n".join(text) + "\n" + _estimate(usual, episodes)


def _estimate(usual: list[dict[str, Any]], episodes: int) -> str:
    """Estimates a search's seconds on a machine of DEVICES devices from those on one device."""

    def compute_median(name: str) -> float:
        return statistics.median(run[name] for run in usual)

    chunks = np.concatenate([run["chunks"] for run in usual])
    chunk, deviation = float(np.median(chunks)), _estimate_deviation(chunks)
    a_chunk = len(usual[0]["chunks"]) / usual[0]["searches"]  # chunks a search
    hosts = math.ceil(DEVICES / A_HOST)
    policies = episodes / a_chunk
    size = DEVICES * (compute_median("carry_bytes") + policies * compute_median("policy_bytes"))
    work = compute_median("seconds") / usual[0]["searches"]
    parts = {
        "searching": work / DEVICES,
        "waiting for the slowest of a chunk": HIGHEST * deviation * a_chunk / DEVICES,
        "gathering, by bytes": size / BYTES_S * a_chunk / DEVICES,
        "gathering, by latency": LATENCY_S * a_chunk / DEVICES,
        "rows, on every host's first device": compute_median("row_seconds") / hosts,
    }
    whole = sum(parts.values())
    text = [
        f"\nOn paper, {DEVICES} devices like the one here in {hosts} hosts, "
        f"{BYTES_S * 8 / 1e9:.0f} Gb/s into each, {1e3 * LATENCY_S:g} ms a gathering. One device "
        f"takes {work:.2f} s a search, in {a_chunk:.3g} chunks of {chunk:.2f} s (a deviation of "
        f"{deviation:.3f} s); a search's state is {compute_median('carry_bytes') / 1e3:.0f} kB, "
        f"a policy's record {compute_median('policy_bytes'):.0f} bytes; a row takes "
        f"{compute_median('row_seconds'):.2f} s. Of a sweep of many searches, a search then takes:"
        "\n",
        "| part | ms | share |",
        "|---|--:|--:|",
    ]
    text += [f"| {name} | {1e3 * s:.2f} | {100 * s / whole:.0f} % |" for name, s in parts.items()]
    once = compute_median("prepare") + compute_median("first") - compute_median("seconds")
    text.append(
        f"\nThat is {work / whole:.0f} times one device. Planning and compiling, {once:.0f} s a "
        f"group with the Plan and programs kept, are as long as {once / whole:,.0f} searches: "
        "small groups are what is to be avoided first."
    )
    return "\n".join(text) + "\n"


def _estimate_deviation(values: np.ndarray) -> float:
    """Estimates the standard deviation by the middle half, which other work hardly moves."""
    low, high = np.percentile(values, (25, 75))
    return float(high - low) / 1.349


if __name__ == "__main__":
    sys.exit(main())
