"""How near one evaluation comes to what the machine can do, and where the rest goes.

For a network: the multiplications and additions of an evaluation with nothing remembered, moment
images included; the rates of matrix products that XLA reaches here in float32, bfloat16 and int8,
and PyTorch's int8 (oneDNN) as the machine's own, where PyTorch is installed; the shares of them
that the evaluation reaches; and a profile of its kernels by what they do.

    taskset -c 0 python benchmarks/limit.py [--networks lenet5 vgg16]

Written is benchmarks/results/limit/NETWORK.json.
"""

import argparse
import collections
import os
import pathlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from speed import compiled, drawn, prepared_of, write

from apq_jax.pipeline.prepared import build_evaluator
from apq_jax.system import cache

RESULTS = pathlib.Path(__file__).parent / "results/limit"
SIDE = 2048  # of the square matrices
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
    asked = parser.parse_args()
    if len(os.sched_getaffinity(0)) > 1:
        parser.error("more than one core; allowed: one, such as taskset -c 0 gives")
    cache.open_cache()
    rates = _rates()
    for kind, rate in rates.items():
        print(f"{kind}: {rate / 1e9:.0f} G operations a second")
    for name in asked.networks:
        found = _measured(name) | {"rates": rates}
        found["share"] = {
            kind: found["operations"] / found["seconds"] / rate for kind, rate in rates.items()
        }
        _print(name, found)
        write(RESULTS / f"{name}.json", found)
    return 0


def _print(name: str, found: dict[str, Any]) -> None:
    print(
        f"\n{name}: {found['operations'] / 1e9:.1f} G operations, {found['bytes'] / 1e9:.2f} GB "
        f"read and written (XLA's count), {found['seconds']:.3f} s an evaluation, "
        f"{found['compile_seconds']:.0f} s to trace and compile, "
        f"{found['temporary_bytes'] / 1e6:.0f} MB beside the arguments"
    )
    for kind, share in found["share"].items():
        print(f"  {100 * share:.0f} % of {kind}")
    for kind, seconds in found["profile"].items():
        print(f"  {100 * seconds / found['seconds']:5.1f} % {kind}")


def _median(run: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of a call."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _rates() -> dict[str, float]:
    """Multiplications and additions a second of a product of two square matrices."""
    rng, operations = np.random.default_rng(0), 2 * SIDE**3
    a, b = (rng.integers(-127, 128, (SIDE, SIDE)).astype(np.int8) for _ in range(2))
    found = {}
    for kind in (jnp.float32, jnp.bfloat16, jnp.int8):
        out = jnp.int32 if kind == jnp.int8 else jnp.float32
        product = jax.jit(
            lambda a, b, out=out: lax.dot_general(
                a, b, (((1,), (0,)), ((), ())), preferred_element_type=out
            )
        )
        x, y = jnp.asarray(a, kind), jnp.asarray(b, kind)

        def run(product: Any = product, x: jax.Array = x, y: jax.Array = y) -> None:
            product(x, y).block_until_ready()

        found[f"XLA's {jnp.dtype(kind).name} product"] = operations / _median(run)
    try:
        import torch
    except ImportError:
        return found
    torch.set_num_threads(1)
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    found["PyTorch's int8 product"] = operations / _median(lambda: torch._int_mm(x, y))
    return found


def _measured(name: str) -> dict[str, Any]:
    prepared, _ = prepared_of(name, 0)
    run = compiled(build_evaluator(prepared))
    policies = drawn(prepared, POLICIES[name])
    arguments, count = (prepared.subject, policies), len(policies.level)
    jax.config.update("jax_enable_compilation_cache", False)
    start = time.perf_counter()
    program = run.lower(*arguments).compile()
    compile_seconds = time.perf_counter() - start
    seconds = _median(lambda: jax.block_until_ready(program(*arguments))) / count
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
    """Seconds of an evaluation by kind of kernel, the dearest first."""
    text = program.as_text()
    bodies = dict(re.findall(r"^%?([\w.-]+) [^\n]*\{\n(.*?)^\}", text, re.M | re.S))
    called = dict(re.findall(r"%([\w.-]+) = [^\n]* calls=%([\w.-]+)", text))
    single = dict(re.findall(r"%([\w.-]+) = ([^\n]*)", text))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*arguments))
        (path,) = pathlib.Path(folder).glob("**/*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(path))
    found: collections.Counter[str] = collections.Counter()
    for plane in data.planes:
        for line in plane.lines:
            for event in line.events:
                name = event.name
                if name in called:
                    held = bodies.get(called[name], "")
                elif name in single and not re.search(r" (while|conditional|call)\(", single[name]):
                    held = single[name]
                else:
                    continue
                kinds = (kind for kind, pattern in KINDS if re.search(pattern, held))
                found[next(kinds, "other")] += event.duration_ns
    return {kind: ns / 1e9 / count for kind, ns in found.most_common()}


if __name__ == "__main__":
    sys.exit(main())
