"""Measures how near one evaluation comes to what the machine can do, and where the rest goes.

Counts the multiplications and additions of an evaluation with nothing remembered, moment images
included. Measures the rates of matrix products that XLA reaches here in float32, bfloat16 and int8,
and PyTorch's int8 (oneDNN) as the machine's own, if PyTorch is installed; the share of each rate
that the evaluation reaches; and a profile of its kernels by what they do.

    taskset -c 0 python benchmarks/limit.py [--networks lenet5 vgg16]

Writes benchmarks/results/limit/NETWORK.json.
"""

import argparse
import collections
import functools
import os
import pathlib
import re
import sys
import tempfile
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from harness import NO_TORCH, RESULTS, find_torch, measure_median, parse, write_results
from jax import lax
from speed import compile_evaluations, draw_policies, prepare_network

from apq_jax.pipeline.prepared import build_evaluator
from apq_jax.system import cache

SIDE = 2048  # of the square matrices
REPEATS = 5
POLICIES = {"lenet5": 16, "vgg16": 2}
KINDS = (  # of kernels, by a pattern in what they hold: the first that fits
    ("matrix products", r" dot\("),
    ("pooling, rescaling and rounding", r"reduce-window\("),
    ("windows of convolutions", r"concatenate\(|pad\("),
    ("sums for the moments", r" reduce\("),
    ("rescaling and rounding", r"round-nearest|convert\("),
    ("copies", r"copy\(|dynamic-update-slice\(|dynamic-slice\("),
)


def main() -> int:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--side", type=int, default=SIDE, help="rows and columns of the matrices")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS / "limit")
    options = parse(parser, networks=["lenet5"], side=64)
    if len(os.sched_getaffinity(0)) > 1 and not options.smoke:
        parser.error("more than one core; allowed: one, such as taskset -c 0 gives")
    cache.open_cache()
    rates = _measure_rates(options.side)
    for kind, rate in rates.items():
        print(f"{kind}: {rate / 1e9:.0f} G operations a second")
    for name in options.networks:
        results = _measure(name, options.fields) | {"rates": rates}
        results["share"] = {
            kind: results["operations"] / results["seconds"] / rate for kind, rate in rates.items()
        }
        _print(name, results)
        write_results(options.results / f"{name}.json", results)
    return 0


def _print(name: str, results: dict[str, Any]) -> None:
    print(
        f"\n{name}: {results['operations'] / 1e9:.1f} G operations, "
        f"{results['bytes'] / 1e9:.2f} GB read and written (XLA's count), "
        f"{results['seconds']:.3f} s an evaluation, "
        f"{results['compile_seconds']:.0f} s to trace and compile, "
        f"{results['temporary_bytes'] / 1e6:.0f} MB beside the arguments"
    )
    for kind, share in results["share"].items():
        print(f"  {100 * share:.0f} % of {kind}")
    for kind, seconds in results["profile"].items():
        print(f"  {100 * seconds / results['seconds']:5.1f} % {kind}")


def _measure_rates(side: int) -> dict[str, float]:
    """Returns multiplications and additions a second of products of two square matrices."""
    rng, operations = np.random.default_rng(0), 2 * side**3
    a, b = (rng.integers(-127, 128, (side, side)).astype(np.int8) for _ in range(2))
    rates = {}
    for kind in (jnp.float32, jnp.bfloat16, jnp.int8):
        out = jnp.int32 if kind == jnp.int8 else jnp.float32
        product = jax.jit(
            lambda a, b, out=out: lax.dot_general(
                a, b, (((1,), (0,)), ((), ())), preferred_element_type=out
            )
        )
        x, y = jnp.asarray(a, kind), jnp.asarray(b, kind)
        seconds = measure_median(functools.partial(product, x, y), REPEATS)
        rates[f"XLA's {jnp.dtype(kind).name} product"] = operations / seconds
    if not find_torch():
        print(f"PyTorch's product is left out: {NO_TORCH}", file=sys.stderr)
        return rates
    import torch

    torch.set_num_threads(1)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    seconds = measure_median(lambda: torch._int_mm(x, y), REPEATS)
    rates["PyTorch's int8 product"] = operations / seconds
    return rates


def _measure(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Returns operations, bytes, seconds and the profile of an evaluation."""
    prepared, _ = prepare_network(name, 0, fields)
    run = compile_evaluations(build_evaluator(prepared))
    policies = draw_policies(prepared, POLICIES[name])
    arguments, count = (prepared.subject, policies), len(policies.level)
    jax.config.update("jax_enable_compilation_cache", False)
    start = time.perf_counter()
    program = run.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    seconds = measure_median(lambda: program(*arguments), REPEATS) / count
    images = len(prepared.subject.images) + len(prepared.subject.moment_images)
    layers = prepared.network.layers
    analysis: Any = program.cost_analysis()
    memory = program.memory_analysis()
    return {
        "images": images,
        "operations": 2 * images * sum(layer.multiplications for layer in layers),
        "bytes": float(analysis["bytes accessed"]),  # XLA counts a loop's body once
        "temporary_bytes": int(memory.temp_size_in_bytes),
        "compile_seconds": compile_seconds,
        "seconds": seconds,
        "profile": _profile(program, arguments, count),
    }


def _profile(program: Any, arguments: tuple, count: int) -> dict[str, float]:
    """Returns seconds of an evaluation by kind of kernel, the dearest first."""
    text = program.as_text()
    bodies = dict(re.findall(r"^%?([\w.-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    called = dict(re.findall(r"%([\w.-]+) = [^\n]* calls=%([\w.-]+)", text))
    single = dict(re.findall(r"%([\w.-]+) = ([^\n]*)", text))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*arguments))
        (path,) = pathlib.Path(folder).glob("**/*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    durations: collections.Counter[str] = collections.Counter()  # ns
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                name = event.name
                if name in called:
                    body = bodies.get(called[name], "")
                elif name in single and not re.search(r" (while|conditional|call)\(", single[name]):
                    body = single[name]
                else:
                    continue
                kinds = (kind for kind, pattern in KINDS if re.search(pattern, body))
                durations[next(kinds, "other")] += event.duration_ns
    return {kind: ns / 1e9 / count for kind, ns in durations.most_common()}


if __name__ == "__main__":
    sys.exit(main())
