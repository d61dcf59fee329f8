"""Every strategy at the same budget on the same networks: what each finds, how soon, how surely.

LeNet-5: a network a seed, trained apart. VGG-8: one network, a search a seed. Every strategy
searches each once. What a run gave is kept in the work folder, so that the benchmark may be stopped
and gone on with, also by several processes at once; tables are printed, and a picture drawn, from
those files alone. Another processor trains other networks: runs of such are not mixed.

    python benchmarks/strategies.py [--network vgg8] [--seeds 3] [--strategies a b]
    python benchmarks/strategies.py --table [--picture docs/images/strategies.png]

A strategy may stand with other options than the usual, "joint agent.walks=0"; --ablation stands
for joint with each of its parts changed.
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
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.stats

from apq_jax import data, hardware
from apq_jax.config import STRATEGIES, from_config_dict, to_config_dict
from apq_jax.models.create import build_trained
from apq_jax.network.capture import capture
from apq_jax.pipeline import judge, prepare, stages
from apq_jax.pipeline.choose import choose
from apq_jax.pipeline.prepared import Prepared
from apq_jax.problem import pareto
from apq_jax.run import checkpoint
from apq_jax.system.cache import open_cache
from apq_jax.system.files import write_whole

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
    """Runs what is missing, or prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=CONFIGS, default="lenet5")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--strategies", nargs="+", default=STRATEGIES)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--workdir", type=pathlib.Path, default=RESULTS / "strategies")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--picture", type=pathlib.Path)
    options = parser.parse_args()
    strategies = ABLATION if options.ablation else options.strategies
    workdir = options.workdir / options.network
    if options.table:
        found = {name: _read(workdir, name, options.seeds) for name in strategies}
        _same_networks(found)
        _print(found)
        if options.picture:
            _draw(found, options.picture)
        return 0
    cache = open_cache()
    for seed in range(options.seeds):
        missing = [name for name in strategies if not _path(workdir, name, seed).exists()]
        if not missing:
            continue
        prepared, dataset = prepared_of(seed, cache, options.network)
        network = _network(prepared)
        for path in sorted(workdir.glob(f"*/{seed}.json")):
            if json.loads(path.read_text()).get("network") != network:
                raise SystemExit(f"{path}: a search of another network; take another --workdir")
        for name in missing:
            found = _run(prepared, dataset, name)
            write_whole(_path(workdir, name, seed), json.dumps(found) + "\n")
            print(f"{name}, seed {seed}: {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    return 0


def _network(prepared: Prepared) -> str:
    """Tells networks apart by their weights."""
    return checkpoint.identify_weights(prepared.subject.params)["weights"][:16]


def _path(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
    return workdir / name.replace(" ", ",") / f"{seed}.json"


def prepared_of(
    seed: int, cache: pathlib.Path, network: str = "lenet5"
) -> tuple[Prepared, data.Dataset]:
    """A network, trained with this seed but for VGG-8, ready to be searched."""
    path = pathlib.Path(__file__).parents[1] / "configs" / CONFIGS[network]
    tree = runpy.run_path(str(path))["get_config"]()
    tree.search.episodes = EVALUATIONS[network]
    tree.search.tuned = 0  # strategies are compared, not what training on wins back
    if network == "lenet5":
        tree.seed = seed
    config = from_config_dict(tree)
    dataset = data.load(config.data.path, config.data.name)
    dataset = data.limit_images(dataset, config.data.search_images, config.data.select_images)
    apply_fn, params, _ = build_trained(config.model, config.training, dataset, cache)
    captured = capture(apply_fn, params, jnp.asarray(dataset.train_images[:2]))
    prepared = prepare.prepare(captured, params, dataset, hardware.load(config.accelerator), config)
    return prepared._replace(config=dataclasses.replace(config, seed=seed)), dataset


def _run(prepared: Prepared, dataset: data.Dataset, strategy: str) -> dict[str, Any]:
    """One search: the objective of the best policy so far that meets the limit, and the rest."""
    name, *changes = strategy.split(" ")
    tree = to_config_dict(prepared.config)
    tree.search.strategy = name
    for change in changes:
        field, value = change.split("=")
        tree.update_from_flattened_dict({field: ast.literal_eval(value)})
    prepared = prepared._replace(config=from_config_dict(tree))
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
        "network": _network(prepared),
        "best": [[int(at) + 1, float(best[at])] for at in better],  # from which evaluation on
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


def _same_networks(found: dict[str, list[dict[str, Any]]]) -> None:
    """Refuses to compare runs of different networks."""
    for seed, runs in enumerate(zip(*found.values(), strict=True)):
        if len({run.get("network") for run in runs}) > 1:
            raise SystemExit(f"seed {seed}: not all strategies searched the same network")


def _best(runs: list[dict[str, Any]]) -> np.ndarray:
    """[seeds, evaluations], -inf before the first policy that meets the limit."""
    best = np.full((len(runs), max(run["budget"] for run in runs)), -np.inf)
    for row, run in zip(best, runs, strict=True):
        for evaluation, value in run["best"]:
            row[evaluation - 1 :] = value
    return best


def _quartiles(values: Any, form: str) -> str:
    low, middle, high = (format(x, form) for x in np.quantile(values, (0.25, 0.5, 0.75)))
    return f"{middle} ({low} to {high})"


def _print(found: dict[str, list[dict[str, Any]]]) -> None:
    """A row a strategy, the best first; ratios are e^objective."""
    curves = {name: _best(runs) for name, runs in found.items()}
    order = sorted(found, key=lambda name: -np.median(curves[name][:, -1]))
    first, few, budget = curves[order[0]], 100, curves[order[0]].shape[1]
    print(
        f"| strategy | over dense 8, {few} evaluations | {budget} evaluations | chosen on the "
        "selection half, those that meet the limit | hypervolume | seconds | p against the first, "
        f"at {few} and {budget} |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name in order:
        runs, best = found[name], curves[name]
        chosen = np.exp([run["chosen"] for run in runs])
        meets = sum(run["meets_limit"] for run in runs)
        tests = [_p(first[:, at - 1], best[:, at - 1]) for at in (few, budget)]
        print(
            f"| `{name}` | {_quartiles(np.exp(best[:, few - 1]), '.2f')} | "
            f"{_quartiles(np.exp(best[:, -1]), '.2f')} | "
            f"{_quartiles(chosen, '.2f')}, {meets} of {len(runs)} | "
            f"{_quartiles([run['hypervolume'] for run in runs], '.2f')} | "
            f"{np.median([run['seconds'] for run in runs]):.0f} | "
            f"{', '.join(tests) if name != order[0] else ''} |"
        )


def _p(first: np.ndarray, second: np.ndarray) -> str:
    """Two-sided Wilcoxon signed-rank test over the networks, which are the same for both."""
    return f"{scipy.stats.wilcoxon(first, second).pvalue:.2g}"


def _draw(found: dict[str, list[dict[str, Any]]], path: pathlib.Path) -> None:
    """Medians and quartiles of the best over evaluations."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.2), dpi=150, layout="constrained")
    axis = figure.subplots()
    order = sorted(found, key=lambda name: -np.median(_best(found[name])[:, -1]))
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
    evaluations = np.arange(1, _best(found[order[0]]).shape[1] + 1)
    for name, colour in zip(order, itertools.cycle(colours)):
        low, middle, high = np.quantile(np.exp(_best(found[name])), (0.25, 0.5, 0.75), axis=0)
        axis.plot(evaluations, middle, color=colour, label=name)
        axis.fill_between(evaluations, low, high, color=colour, alpha=0.12, linewidth=0)
    axis.set_xlabel("evaluations")
    axis.set_ylabel("best that meets the limit, cost over dense 8 (x)")
    axis.legend(fontsize=8, ncols=2, loc="lower right")
    axis.grid(alpha=0.3)
    figure.savefig(path)


if __name__ == "__main__":
    sys.exit(main())
