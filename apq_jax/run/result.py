"""What result.json says of a run: figures, costs and their ratios."""

import dataclasses
from typing import Any

import jax
import numpy as np

from apq_jax import config, crossbar, metrics
from apq_jax.data import Dataset
from apq_jax.hardware import Accelerator, adc, build_matching_isaac
from apq_jax.mapping import schemes
from apq_jax.pipeline import stages
from apq_jax.pipeline.choose import Choice
from apq_jax.pipeline.judge import Judged, find_knee, judge
from apq_jax.pipeline.measure import Measured
from apq_jax.pipeline.prepared import Prepared, limits_of, quotient
from apq_jax.pipeline.prove import AdcPoint, Proof
from apq_jax.problem import pareto
from apq_jax.run.read import SCHEMA
from apq_jax.strategies.loop import Record
from apq_jax.system.versions import versions
from apq_jax.types import Policy


def keep_ratios(prepared: Prepared, policy: Policy) -> np.ndarray:
    """The keep ratios of a policy's levels, [..., L]."""
    keep = np.stack([np.asarray(layer.keep) for layer in prepared.subject.plan])
    return keep[np.arange(len(keep)), np.asarray(policy.level)]


def dense_cost(prepared: Prepared, bits: int) -> dict[str, Any]:
    """The unpruned network's cost at `bits`-bit weights and inputs on the same accelerator."""
    return _dense(prepared, prepared.accelerator, bits)


def _dense(prepared: Prepared, accelerator: Accelerator, bits: int) -> dict[str, Any]:
    layers = prepared.network.layers
    all_bits = np.full(len(layers), bits)
    counts = crossbar.count_dense(layers, all_bits, accelerator.chip())
    return _cost(prepared, accelerator, counts, all_bits)


def _cost(
    prepared: Prepared,
    accelerator: Accelerator,
    counts: crossbar.Counts,
    input_bits: np.ndarray,
    adc_bits: np.ndarray | None = None,
) -> dict[str, Any]:
    """Every figure of a network's cost, exact where it is a count."""
    layers, chip = prepared.network.layers, accelerator.chip()
    layer_costs = crossbar.compute_layer_costs(layers, counts, chip, input_bits, adc_bits)
    cost = crossbar.sum_costs(layer_costs, chip)
    found = {name: value.item() for name, value in cost._asdict().items()}
    energy = crossbar.compute_energy(layers, counts, chip, input_bits, adc_bits)
    # Operations of the dense network: what is pruned is never taken off the work done.
    operations = 2 * sum(layer.positions * layer.weights for layer in layers)
    return found | {
        "bottleneck": layers[found["bottleneck"]].name,
        "units": int(counts.units.sum()),
        "activations": int(crossbar.count_activations(layers, counts, chip, input_bits).sum()),
        "gops_per_mm2": operations / (found["period_us"] * 1e3) / found["area_mm2"],
        "gops_per_w": operations / found["energy_nj"],
        "energy_by_component_nj": {name: float(value.sum()) for name, value in energy.items()},
        "area_by_component_mm2": _area(accelerator, cost, float(layer_costs.memory_um2.sum())),
    }


def _area(accelerator: Accelerator, cost: crossbar.Cost, memory_um2: float) -> dict[str, float]:
    """What `area_mm2` is the sum of."""
    each, tile = accelerator.crossbars_per_ima, accelerator.imas_per_tile
    imas = cost.crossbars / each
    tiles = imas / tile
    if accelerator.round_hierarchy:
        tiles = crossbar.ceil_div(cost.allocated // each, tile)
        imas = tiles * tile
    parts = accelerator.area_um2(imas * each, imas, tiles) | {"index_memory": memory_um2}
    return {name: float(um2) * 1e-6 for name, um2 in parts.items()}


def policy_json(prepared: Prepared, policy: Policy) -> dict[str, list]:
    """A policy as it stands in result.json and policy.json."""
    return {
        "keep": [float(f"{keep:.6g}") for keep in keep_ratios(prepared, policy)],
        **{name: [int(one) for one in bits] for name, bits in bits_of(policy).items()},
    }


def bits_of(policy: Policy) -> dict[str, Any]:
    """A policy's bits by name, those that it has."""
    fields = policy._asdict().items()
    return {name: bits for name, bits in fields if name != "level" and bits is not None}


def result(
    prepared: Prepared,
    dataset: Dataset,
    record: Record,
    choice: Choice,
    measured: Measured,
    seconds: float,
    command: str,
    interrupted: bool,
    proof: Proof,
    curve: list[AdcPoint],
) -> dict[str, Any]:
    """result.json; docs/result.md describes it."""
    accelerator, options = prepared.accelerator, prepared.config.search
    policy = jax.tree.map(lambda field: np.asarray(field, np.int64), choice.policy)
    chip = accelerator.chip()
    counts = crossbar.look_up_counts(prepared.tables, chip, policy.level, policy.weight_bits)
    cost = _cost(prepared, accelerator, counts, policy.input_bits, policy.adc_bits)
    dense = {bits: dense_cost(prepared, int(bits)) for bits in ("8", "16")}
    beside = build_matching_isaac(accelerator)
    isaac = {bits: _dense(prepared, beside, int(bits)) for bits in ("8", "16")}
    judged = judge(prepared, record)
    scored = len(dataset.search_labels)
    return {
        "schema": SCHEMA,
        "command": command,
        "config": config.to_config_dict(prepared.config).to_dict(),
        "versions": versions(),
        "seed": prepared.config.seed,
        "interrupted": interrupted,
        "data": {
            "name": dataset.name,
            **{
                split: len(getattr(dataset, f"{split}_labels"))
                for split in ("train", "search", "select", "test")
            },
        },
        "float": {
            "validation_accuracy": choice.float_accuracy,
            "search_accuracy": float(quotient(prepared.problem.float_accuracy, scored)),
            "test_accuracy": measured.float_accuracy,
        },
        "goal": options.goal,
        "limits": limits_of(prepared.config),
        "best": {
            "policy": policy_json(prepared, policy),
            "evaluation": choice.number + 1,
            "seed": prepared.config.seed + int(record.search[choice.number]),
            "validation_accuracy": choice.accuracy,
            "search_accuracy": choice.search_accuracy,
            "expected_accuracy": float(judged.expected_accuracy[choice.number]),
            "test_accuracy": measured.accuracy,
            "test_difference": {
                "mean": measured.difference,
                "low": measured.low,
                "high": measured.high,
            },
            "fine_tuned": choice.fine_tuned,
            "meets_limit": choice.meets_limit,
            "misses": [miss._asdict() for miss in choice.misses],
            **cost,
        },
        "dense": dense,
        "dense_isaac": isaac,
        "ratios": {
            metric.ratio: {
                f"{over}_{bits}": costs[bits][metric.field] / cost[metric.field]
                for over, costs in (("dense", dense), ("isaac", isaac))
                for bits in costs
                if (over, metric.ratio) != ("isaac", "slots")  # ISAAC's unit is a whole crossbar
            }
            for metric in metrics.COSTS.values()
            if metric.ratio
        },
        "adc_laws": _laws(prepared, counts, policy),
        "accelerator": accelerator.name,
        "notes": accelerator.notes(),
        "mapping": {
            "bit_exact": proof.mismatches == 0 and proof.scales_agree and proof.counts_agree,
            **proof._asdict(),
            "crossbars": cost["crossbars"],
            "index_bits": cost["index_bits"],
        },
        "adc_curve": [point._asdict() for point in curve],
        "layers": _layers(prepared, policy, counts),
        "search": {
            "strategy": options.strategy,
            "evaluations": len(record.reward),
            "distinct": len(pareto.find_distinct(record.policy)),
            "seconds": seconds,
            "evaluations_per_second": len(record.reward) / max(seconds, 1e-9),
            "finalists": choice.finalists,
            "drops": list(stages.drops_of(prepared.config)),
            "drop_per_nat": float(prepared.problem.drop_per_nat),
            "seeds": _seeds(prepared, record, judged),
        },
        "finetune": _finetune(prepared, record, judged, choice),
        "front": _front(record, judged),
        "pareto": _pareto(record, judged),
    }


def _laws(
    prepared: Prepared, counts: crossbar.Counts, policy: Policy
) -> dict[str, dict[str, float]]:
    """The ratio of energy and area over dense at 8 bits, were the converters' law another."""
    found: dict[str, dict[str, float]] = {}
    for law in adc.LAWS:
        one = dataclasses.replace(prepared.accelerator, adc_law=law)
        isaac = build_matching_isaac(one)
        cost = _cost(prepared, one, counts, policy.input_bits, policy.adc_bits)
        found[law] = {
            f"{metric.ratio}_over_{over}_8": (
                _dense(prepared, other, 8)[metric.field] / cost[metric.field]
            )
            for over, other in (("dense", one), ("isaac", isaac))
            for metric in (metrics.COSTS["energy_nj"], metrics.COSTS["area_mm2"])
        }
    return found


def _layers(prepared: Prepared, policy: Policy, counts: crossbar.Counts) -> list[dict[str, Any]]:
    layers, chip = prepared.network.layers, prepared.accelerator.chip()
    eight = np.full(len(layers), 8)
    dense = crossbar.count_dense(layers, eight, chip)
    energy = crossbar.compute_energy(layers, counts, chip, policy.input_bits, policy.adc_bits)
    actions = crossbar.count_actions(layers, counts, chip, policy.input_bits)
    costs = crossbar.compute_layer_costs(layers, counts, chip, policy.input_bits, policy.adc_bits)
    dense_costs = crossbar.compute_layer_costs(layers, dense, chip, eight)
    area = crossbar.compute_area(costs, chip)
    activations = crossbar.count_activations(layers, counts, chip, policy.input_bits)
    use = schemes.compute_utilisation(layers, counts, policy.weight_bits, prepared.accelerator)
    chosen = policy_json(prepared, policy)
    return [
        {
            "name": layer.name,
            "rows": layer.rows,
            "columns": layer.columns,
            "groups": layer.groups,
            "positions": layer.positions,
            **{field: values[at] for field, values in chosen.items()},
            **{
                name: int(getattr(costs, name)[at]) for name in ("crossbars", "slots", "index_bits")
            },
            "allocated": int(costs.imas[at]) * prepared.accelerator.crossbars_per_ima,
            "units": int(counts.units[at]),
            "activations": int(activations[at]),
            "area_pro_rata_mm2": float(area[at]),
            "latency_us": float(costs.latency_us[at]),
            "energy_nj": float(costs.energy_nj[at]),
            "energy_by_component_nj": {name: float(nj[at]) for name, nj in energy.items()},
            "actions": {name: int(number[at]) for name, number in actions.items()},
            "utilisation": {name: value[at].item() for name, value in use.items()},
            "dense_8": {
                "crossbars": int(dense_costs.crossbars[at]),
                "slots": int(dense_costs.slots[at]),
                "energy_nj": float(dense_costs.energy_nj[at]),
            },
        }
        for at, layer in enumerate(layers)
    ]


def _front(record: Record, judged: Judged) -> dict[str, Any]:
    """The front in all dimensions, and what is said of the one of two in a number or a point."""
    gain, lost = judged.gain, judged.points_lost
    costs = [np.asarray(getattr(record.evaluation, name)) for name in metrics.METRICS]
    front = pareto.find_non_dominated(-np.stack([lost, *costs], axis=1))
    least, most = pareto.MIN_GAIN, pareto.MAX_LOST
    return {
        "hypervolume": pareto.hypervolume(gain, -lost, least, -most),
        "reference": {"gain": least, "points_lost": most},
        "knee": find_knee(judged) + 1,
        "non_dominated": (front + 1).tolist(),
    }


def _finetune(
    prepared: Prepared, record: Record, judged: Judged, choice: Choice
) -> list[dict[str, Any]]:
    """A row a policy that was fine-tuned, in that order."""
    dense = dense_cost(prepared, 8)
    return [
        {
            "evaluation": one.number + 1,
            "slots_over_dense_8": dense["slots"] / float(record.evaluation.slots[one.number]),
            "expected_accuracy": float(judged.expected_accuracy[one.number]),
            "loss_before": one.loss_before,
            "loss": one.loss,
            "steps": one.steps,
            "seconds": one.seconds,
            "validation_accuracy": one.accuracy,
            "meets_limit": one.meets_limit,
        }
        for one in choice.tuned
    ]


def _seeds(prepared: Prepared, record: Record, judged: Judged) -> dict[str, Any]:
    """The best that each seed found within the limits, and their spread.

    Of the front, which has no limit, the hypervolume.
    """
    goal = prepared.config.search.goal
    gain, expected, lost, meets = judged
    each: list[dict[str, Any]] = []
    for number, seed in enumerate(stages.seeds_of(prepared.config)):
        own = record.search == number
        best = None
        if goal == "front":
            least, most = pareto.MIN_GAIN, pareto.MAX_LOST
            best = pareto.hypervolume(gain[own], -lost[own], least, -most)
        elif (own & meets).any():
            best = float((expected if goal == "accuracy" else gain)[own & meets].max())
        each.append({"seed": seed, "evaluations": int(own.sum()), "best": best})
    found = [one["best"] for one in each if one["best"] is not None]
    spread = {"least": 0.0, "median": 0.5, "most": 1.0}
    return {
        "batch": stages.batch_of(prepared.config),
        "of": {"cost": "objective", "accuracy": "expected accuracy", "front": "hypervolume"}[goal],
        "each": each,
        **{
            name: float(np.quantile(found, part)) if found else None
            for name, part in spread.items()
        },
    }


def _pareto(record: Record, judged: Judged) -> list[dict[str, Any]]:
    """Policies that none beats in both the objective and the expected accuracy."""
    gain, expected = judged.gain, judged.expected_accuracy
    front = pareto.find_pareto_front(gain, expected)
    names = ("accuracy", *metrics.METRICS)
    return [
        {
            "evaluation": int(number) + 1,
            "gain": float(gain[number]),
            "expected_accuracy": float(expected[number]),
            **{name: getattr(record.evaluation, name)[number].item() for name in names},
        }
        for number in front
    ]
