"""Compares all strategies at the same budget on the same networks: what they find, and how soon.

Every seed of LeNet-5 trains its own network; the seeds of VGG-8 search the same one. Every strategy
searches each once. The work folder keeps every run's results, so the benchmark may be stopped and
resumed, also by several processes at once; tables and picture are made from these files alone. Runs
of different networks are refused, because another processor trains other networks.

    python benchmarks/strategies.py [--network vgg8] [--seeds 3] [--strategies a b]
    python benchmarks/strategies.py --table [--picture docs/images/strategies.png]

A strategy may be named with options that differ, "joint agent.walks=0"; --ablation compares joint
with each of its parts changed.
"""

import argparse
import ast
import dataclasses
import itertools
import json
import pathlib
import runpy
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.stats
from harness import change, parse

from apq_jax import data, hardware
from apq_jax.config import STRATEGIES, from_config_dict
from apq_jax.models.create import build_trained
from apq_jax.network.capture import capture
from apq_jax.pipeline import judge, prepare, stages
from apq_jax.pipeline.choose import choose
from apq_jax.pipeline.prepared import Prepared
from apq_jax.problem import pareto
from apq_jax.run import checkpoint
from apq_jax.system.cache import open_cache
from apq_jax.system.files import write_whole

Runs = dict[str, list[dict[str, Any]]]  # by strategy, in the order of the seeds

RESULTS = pathlib.Path(__file__).parent / "results"
EVALUATIONS = {"lenet5": 600, "vgg8": 300}
CONFIGS = {"lenet5": "lenet_mnist.py", "vgg8": "vgg8_fashion.py"}
ABLATION = (
    "joint",
    "joint agent.imagined=1",
    "joint agent.imagined=16",
    "joint agent.imagined=256",
    "joint agent.walks=0",
    "joint agent.walks=1",
    "joint agent.actor_updates=0",
    "joint agent.networks.members=1",
    "joint agent.networks.tables=False",
    "joint agent.networks.perceptron=False",
    "joint agent.updates=16",
    "joint agent.warmup=1",
)


def main() -> int:
    """Runs the missing searches, or prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=CONFIGS, default="lenet5")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--workdir", type=pathlib.Path, default=RESULTS / "strategies")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--picture", type=pathlib.Path)
    options = parse(parser, seeds=1, strategies=["uniform", "random"])
    if options.smoke:
        options.picture = options.workdir / "strategies.png"
    strategies = ABLATION if options.ablation else options.strategies
    workdir = options.workdir / options.network
    if not options.table:
        _run_missing(options, strategies, workdir)
    if options.table or options.smoke:
        runs = {name: _read(workdir, name, options.seeds) for name in strategies}
        _check_same_networks(runs)
        _print(runs)
        if options.picture:
            _draw(runs, options.picture)
    return 0


def _run_missing(
    options: argparse.Namespace, strategies: Sequence[str], workdir: pathlib.Path
) -> None:
    cache = open_cache()
    for seed in range(options.seeds):
        missing = [name for name in strategies if not _path(workdir, name, seed).exists()]
        if not missing:
            continue
        prepared, dataset = prepare_network(seed, cache, options.network, options.fields)
        network = _identify(prepared)
        for path in sorted(workdir.glob(f"*/{seed}.json")):
            if json.loads(path.read_text()).get("network") != network:
                raise SystemExit(f"{path}: a search of another network; take another --workdir")
        for name in missing:
            results = _run(prepared, dataset, name)
            write_whole(_path(workdir, name, seed), json.dumps(results) + "\n")
            print(f"{name}, seed {seed}: {results['seconds']:.0f} s", file=sys.stderr, flush=True)


def _identify(prepared: Prepared) -> str:
    """Returns a hash of the network's weights."""
    return checkpoint.identify_weights(prepared.subject.params)["weights"][:16]


def _path(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    return workdir / name.replace(" ", ",") / f"{seed}.json"


def prepare_network(
    seed: int, cache: pathlib.Path, network: str, fields: dict[str, Any]
) -> tuple[Prepared, data.Dataset]:
    """Prepares a network for the search; `seed` trains LeNet-5, VGG-8 is always the same.

    `fields` of the configuration are changed, see `harness.change`.
    """
    path = pathlib.Path(__file__).parents[1] / "configs" / CONFIGS[network]
    tree = runpy.run_path(str(path))["get_config"]()
    tree.search.episodes = EVALUATIONS[network]
    tree.search.tuned = 0  # strategies are compared, not what training on wins back
    if network == "lenet5":
        tree.seed = seed
    config = change(from_config_dict(tree), fields)
    dataset = data.load(config.data.path, config.data.name)
    dataset = data.limit_images(dataset, config.data.search_images, config.data.select_images)
    apply_fn, params, _ = build_trained(config.model, config.training, dataset, cache)
    captured = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    prepared = prepare.prepare(captured, params, dataset, hardware.load(config.accelerator), config)
    return prepared._replace(config=dataclasses.replace(config, seed=seed)), dataset


def _run(prepared: Prepared, dataset: data.Dataset, strategy: str) -> dict[str, Any]:
    """Searches once; returns the best objective so far within the limit, and the other results."""
    name, *options = strategy.split(" ")
    fields: dict[str, Any] = {"search.strategy": name}
    for option in options:
        field, value = option.split("=")
        fields[field] = ast.literal_eval(value)
    prepared = prepared._replace(config=change(prepared.config, fields))
    start = time.perf_counter()
    record = stages.joined(stages.search_policies(prepared))
    seconds = time.perf_counter() - start
    gain, expected, _, _ = judge.judge(prepared, record)
    limit, full = (
        float(getattr(prepared.problem, name)) for name in ("min_accuracy", "float_accuracy")
    )
    best = np.maximum.accumulate(np.where(expected >= limit, gain, -np.inf))
    better = np.flatnonzero(np.diff(best, prepend=-np.inf) > 0)
    choice = choose(prepared, record, dataset)
    return {
        "network": _identify(prepared),
        "best": [
            [int(index) + 1, float(best[index])] for index in better
        ],  # from which evaluation on
        "hypervolume": pareto.hypervolume(
            gain, 100 * (expected - full), pareto.MIN_GAIN, -pareto.MAX_LOST
        ),
        "chosen": float(gain[choice.place]),
        "meets_limit": choice.meets_limit,
        "lost": 100 * (choice.float_accuracy - choice.accuracy),
        "evaluations": len(gain),
        "budget": prepared.config.search.episodes,
        "seconds": seconds,
    }


def _read(workdir: pathlib.Path, name: str, seeds: int) -> list[dict[str, Any]]:
    paths = [_path(workdir, name, seed) for seed in range(seeds)]
    if not all(path.exists() for path in paths):
        raise SystemExit(f"{workdir / name}: not all of {seeds} seeds; run without --table first")
    return [json.loads(path.read_text()) for path in paths]


def _check_same_networks(runs: Runs) -> None:
    """Refuses to compare runs of different networks."""
    for seed, of_seed in enumerate(zip(*runs.values(), strict=True)):
        if len({run.get("network") for run in of_seed}) > 1:
            raise SystemExit(f"seed {seed}: not all strategies searched the same network")


def _trace_best(runs: list[dict[str, Any]]) -> np.ndarray:
    """Returns the best so far [seeds, evaluations]; -inf until a policy meets the limit."""
    best = np.full((len(runs), max(run["budget"] for run in runs)), -np.inf)
    for row, run in zip(best, runs, strict=True):
        for evaluation, value in run["best"]:
            row[evaluation - 1 :] = value
    return best


def _format_quartiles(values: Any, form: str) -> str:
    low, middle, high = (format(x, form) for x in np.quantile(values, (0.25, 0.5, 0.75)))
    return f"{middle} ({low} to {high})"


def _print(runs: Runs) -> None:
    """Prints a row for every strategy, the best first; ratios are e^objective."""
    curves = {name: _trace_best(of_name) for name, of_name in runs.items()}
    order = sorted(runs, key=lambda name: -np.median(curves[name][:, -1]))
    first, budget = curves[order[0]], curves[order[0]].shape[1]
    few = min(100, budget)
    print(
        f"| strategy | over dense 8, {few} evaluations | {budget} evaluations | chosen on the "
        "selection half, those that meet the limit | hypervolume | seconds | p against the first, "
        f"at {few} and {budget} |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in order:
        of_name, best = runs[name], curves[name]
        chosen = np.exp([run["chosen"] for run in of_name])
        meets = sum(run["meets_limit"] for run in of_name)
        tests = [_test(first[:, count - 1], best[:, count - 1]) for count in (few, budget)]
        print(
            f"| `{name}` | {_format_quartiles(np.exp(best[:, few - 1]), '.2f')} | "
            f"{_format_quartiles(np.exp(best[:, -1]), '.2f')} | "
            f"{_format_quartiles(chosen, '.2f')}, {meets} of {len(of_name)} | "
            f"{_format_quartiles([run['hypervolume'] for run in of_name], '.2f')} | "
            f"{np.median([run['seconds'] for run in of_name]):.0f} | "
            f"{', '.join(tests) if name != order[0] else ''} |"
        )


def _test(first: np.ndarray, second: np.ndarray) -> str:
    """Returns p of a two-sided Wilcoxon signed-rank test over the networks, the same for both."""
    if np.array_equal(first, second):  # which SciPy refuses of a single network
        return "1"
    return f"{scipy.stats.wilcoxon(first, second).pvalue:.2g}"


def _draw(runs: Runs, path: pathlib.Path) -> None:
    """Draws medians and quartiles of the best so far over the evaluations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axis = figure.subplots()
    curves = {name: _trace_best(of_name) for name, of_name in runs.items()}
    order = sorted(runs, key=lambda name: -np.median(curves[name][:, -1]))
    colours = [
        "#0072B2",
        "#D55E00",
        "#009E73",
        "#CC79A7",
        "#E69F00",
        "#56B4E9",
        "#000000",
        "#999999",
    ]
    evaluations = np.arange(1, curves[order[0]].shape[1] + 1)
    for name, colour in zip(order, itertools.cycle(colours)):
        low, middle, high = np.quantile(np.exp(curves[name]), (0.25, 0.5, 0.75), axis=0)
        axis.plot(evaluations, middle, color=colour, label=name)
        axis.fill_between(evaluations, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.set_xlabel("evaluations")
    axis.set_ylabel("best that meets the limit, cost over dense 8 (x)")
    axis.legend(fontsize=8, ncols=2, loc="lower right")
    axis.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
