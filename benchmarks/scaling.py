"""Sweeps over more devices and processes: measured here, and on paper what limits 256 devices.

    python benchmarks/scaling.py                          # measures what is missing
    python benchmarks/scaling.py --write docs/scaling.md  # the tables, from the file kept

Searches of LeNet-5 on accelerators of one unit height, as configs/sweep_ou.py has them, are run on
1, 2, 4 and 8 devices that the processors of this machine are taken as, and by two processes; then
with several searches side by side. Each way is a process of its own that searches twice: the first
time compiles, the second is timed. Ways are gone through in turn, several times over, so that what
else the machine does is spread over all; figures are medians.

Virtual devices share the cores: what is measured is what dividing the work costs, not what more
hardware gives. Written is benchmarks/results/scaling/scaling.json.
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
import jax.numpy as jnp
import numpy as np

from apq_jax import data
from apq_jax.config import Config, SearchOptions
from apq_jax.hardware import PRESETS
from apq_jax.network.capture import capture
from apq_jax.pipeline import prepare, stages
from apq_jax.run.network import load_or_train
from apq_jax.sweep import group
from apq_jax.sweep.mesh import connect_processes, make_mesh
from apq_jax.sweep.points import Point
from apq_jax.system.cache import open_cache
from apq_jax.system.files import write_whole
from apq_jax.system.terminal import console

RESULT = pathlib.Path(__file__).parent / "results/scaling/scaling.json"
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=64)
    parser.add_argument("--write", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    found: dict[str, Any]
    if options.worker:
        print(json.dumps(_worker(options.episodes, **options.worker)))
    elif options.write:
        text = options.write.read_text(encoding="utf-8")
        head, rest = text.split(START)
        found = json.loads(RESULT.read_text())
        write_whole(options.write, head + START + tables(found) + END + rest.split(END)[1])
    else:
        found = {"episodes": options.episodes, "runs": []}
        if RESULT.exists() and json.loads(RESULT.read_text())["episodes"] == options.episodes:
            found = json.loads(RESULT.read_text())  # goes on
        ways = WAYS * options.repeats
        for processes, devices, side_by_side in ways[len(found["runs"]) :]:
            found["runs"].append(_way(processes, devices, side_by_side, options.episodes))
            write_whole(RESULT, json.dumps(found) + "\n")
    return 0


def _way(processes: int, devices: int, side_by_side: int, episodes: int) -> dict[str, Any]:
    """What the first process of a way measured."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for number in range(processes):
        worker = {"processes": processes, "devices": devices, "side_by_side": side_by_side}
        worker |= {"port": port, "number": number}
        command = [sys.executable, __file__, "--worker", json.dumps(worker)]
        command += ["--episodes", str(episodes)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    said = [one.communicate()[0] for one in started]
    if any(one.returncode for one in started):
        raise SystemExit("a process failed")
    found = json.loads(said[0].splitlines()[-1])
    rate = found["policies"] / found["seconds"]
    print(f"{processes} x {devices}, {side_by_side} side by side: {rate:.1f} a second", flush=True)
    return found


def _worker(
    episodes: int, processes: int, devices: int, side_by_side: int, port: int, number: int
) -> dict[str, Any]:
    jax.config.update("jax_num_cpu_devices", devices)
    if processes > 1:
        jax.distributed.initialize(f"127.0.0.1:{port}", processes, number)
        connect_processes()
    console.quiet = True
    options = SearchOptions(episodes=episodes, tuned=0, finalists=8)
    config, cache = Config(search=options), open_cache()
    dataset = data.load(config.data.path, config.data.name)
    apply_fn, params = load_or_train(dataset, config, cache)
    network = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    usual = PRESETS[config.accelerator]
    accelerators = [
        dataclasses.replace(usual, unit_columns=columns, crossbar_rows=rows)
        for columns in COLUMNS
        for rows in ROWS
    ]
    start = time.perf_counter()
    first = prepare.prepare(network, params, dataset, accelerators[0], config, cache)
    prepared = [prepare.aim(first, one, config) for one in accelerators]
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
    found = took | {"processes": processes, "devices": devices, "side_by_side": side_by_side}
    found |= {"policies": sum(len(one.reward) for one in records), "chunks": chunks}
    found["searches"] = len(prepared)
    each = group.split_record(stages.joined(records), len(prepared))
    rows = []
    for accelerator, one, record in zip(accelerators, prepared, each, strict=True):
        start = time.perf_counter()
        group.build_row(Point({}, accelerator, config), one, record, dataset, 0.0)
        rows.append(time.perf_counter() - start)
    found["row_seconds"] = statistics.median(rows)  # the first compiles
    found["carry_bytes"] = sum(x.nbytes for x in jax.tree.leaves(stands)) / len(prepared)
    found["policy_bytes"] = sum(x.nbytes for x in jax.tree.leaves(each[0])) / len(each[0].reward)
    return found


def tables(found: dict[str, Any]) -> str:
    """Markdown."""
    runs, episodes = found["runs"], found["episodes"]
    by_way: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for run in runs:
        by_way.setdefault((run["processes"], run["devices"], run["side_by_side"]), []).append(run)
    rates = {
        way: [one["policies"] / one["seconds"] for one in these] for way, these in by_way.items()
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
    return "\n".join(text) + "\n" + _paper(usual, episodes)


def _paper(usual: list[dict[str, Any]], episodes: int) -> str:
    """What a search takes of a machine of DEVICES devices, from what one device took."""

    def middle(name: str) -> float:
        return statistics.median(one[name] for one in usual)

    chunks = np.concatenate([one["chunks"] for one in usual])
    chunk, deviation = float(np.median(chunks)), _deviation(chunks)
    a_chunk = len(usual[0]["chunks"]) / usual[0]["searches"]  # chunks a search
    hosts = math.ceil(DEVICES / A_HOST)
    policies = episodes / a_chunk
    size = DEVICES * (middle("carry_bytes") + policies * middle("policy_bytes"))
    work = middle("seconds") / usual[0]["searches"]
    parts = {
        "searching": work / DEVICES,
        "waiting for the slowest of a chunk": HIGHEST * deviation * a_chunk / DEVICES,
        "gathering, by bytes": size / BYTES_S * a_chunk / DEVICES,
        "gathering, by latency": LATENCY_S * a_chunk / DEVICES,
        "rows, on every host's first device": middle("row_seconds") / hosts,
    }
    whole = sum(parts.values())
    text = [
        f"\nOn paper, {DEVICES} devices like the one here in {hosts} hosts, "
        f"{BYTES_S * 8 / 1e9:.0f} Gb/s into each, {1e3 * LATENCY_S:g} ms a gathering. One device "
        f"takes {work:.2f} s a search, in {a_chunk:.3g} chunks of {chunk:.2f} s (a deviation of "
        f"{deviation:.3f} s); a search's state is {middle('carry_bytes') / 1e3:.0f} kB, a policy's "
        f"record {middle('policy_bytes'):.0f} bytes; a row takes {middle('row_seconds'):.2f} s. Of "
        "a sweep of many searches, a search then takes:\n",
        "| part | ms | share |",
        "|---|--:|--:|",
    ]
    text += [f"| {name} | {1e3 * s:.2f} | {100 * s / whole:.0f} % |" for name, s in parts.items()]
    once = middle("prepare") + middle("first") - middle("seconds")
    text.append(
        f"\nThat is {work / whole:.0f} times one device. Planning and compiling, {once:.0f} s a "
        f"group with the Plan and programs kept, are as long as {once / whole:,.0f} searches: "
        "small groups are what is to be avoided first."
    )
    return "\n".join(text) + "\n"


def _deviation(values: np.ndarray) -> float:
    """Standard deviation by the middle half, which what else the machine does hardly moves."""
    low, high = np.percentile(values, (25, 75))
    return float(high - low) / 1.349


if __name__ == "__main__":
    sys.exit(main())
