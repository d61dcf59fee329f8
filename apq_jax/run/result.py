"""Builds result.json: the figures of a run, its costs and their ratios."""

import dataclasses
from typing import Any

import jax
import numpy as np

from apq_jax import config, crossbar, metrics
from apq_jax.data import Dataset
from apq_jax.hardware import Accelerator, adc, build_matching_isaac
from apq_jax.mapping import schemes
from apq_jax.pipeline import measure, stages
from apq_jax.pipeline.choose import Choice
from apq_jax.pipeline.float_checks import find_doubts
from apq_jax.pipeline.judge import Judged, find_knee, judge
from apq_jax.pipeline.measure import Measured
from apq_jax.pipeline.prepared import Prepared, collect_limits, restore_fractions
from apq_jax.pipeline.prove import AdcPoint, Proof
from apq_jax.problem import pareto
from apq_jax.run.read import SCHEMA
from apq_jax.strategies.loop import Record
from apq_jax.system.versions import read_versions
from apq_jax.types import Evaluation, Policy


def look_up_keep_ratios(prepared: Prepared, policy: Policy) -> np.ndarray:
    """Looks up a policy's keep ratios, each layer's fraction of blocks that stay: [..., L]."""
    keep = np.stack([np.asarray(layer.keep) for layer in prepared.subject.plan])
    return keep[np.arange(len(keep)), np.asarray(policy.level)]


def compute_dense_cost(
    prepared: Prepared, bits: int, accelerator: Accelerator | None = None
) -> dict[str, Any]:
    """Computes the unpruned network's cost by name: all that result.json's `dense` holds at `bits`.

    Args:
      prepared: the network.
      bits: of every weight and input; ADC bits are the accelerator's.
      accelerator: None takes the one of `prepared`.
    """
    accelerator, layers = accelerator or prepared.accelerator, prepared.network.layers
    all_bits = np.full(len(layers), bits)
    counts = crossbar.count_dense(layers, all_bits, accelerator.chip())
    return _compute_cost(prepared, accelerator, counts, all_bits)


def _compute_cost(
    prepared: Prepared,
    accelerator: Accelerator,
    counts: crossbar.Counts,
    input_bits: np.ndarray,
    adc_bits: np.ndarray | None = None,
) -> dict[str, Any]:
    """Computes every figure of a network's cost, by name; counts are exact."""
    layers, chip = prepared.network.layers, accelerator.chip()
    layer_costs = crossbar.compute_layer_costs(layers, counts, chip, input_bits, adc_bits)
    cost = crossbar.sum_costs(layer_costs, chip)
    figures = {name: value.item() for name, value in cost._asdict().items()}
    energy = crossbar.compute_energy(layers, counts, chip, input_bits, adc_bits)
    # Operations of the dense network, because pruned work counts as done.
    operations = 2 * sum(layer.positions * layer.weights for layer in layers)
    return figures | {
        "bottleneck": layers[figures["bottleneck"]].name,
        "units": int(counts.units.sum()),
        "activations": int(crossbar.count_activations(layers, counts, chip, input_bits).sum()),
        "gops_per_mm2": operations / (figures["period_us"] * 1e3) / figures["area_mm2"],
        "gops_per_w": operations / figures["energy_nj"],
        "energy_by_component_nj": {name: float(value.sum()) for name, value in energy.items()},
        "area_by_component_mm2": _compute_area(
            accelerator, cost, float(layer_costs.memory_um2.sum())
        ),
    }


def _compute_area(
    accelerator: Accelerator, cost: crossbar.Cost, memory_um2: float
) -> dict[str, float]:
    """Computes the area of every component in mm2; the sum is `area_mm2`."""
    crossbars_per_ima, imas_per_tile = accelerator.crossbars_per_ima, accelerator.imas_per_tile
    imas = cost.crossbars / crossbars_per_ima
    tiles = imas / imas_per_tile
    if accelerator.round_hierarchy:
        tiles = crossbar.ceil_div(cost.allocated // crossbars_per_ima, imas_per_tile)
        imas = tiles * imas_per_tile
    crossbars = imas * crossbars_per_ima
    parts = accelerator.area_um2(crossbars, imas, tiles) | {"index_memory": memory_um2}
    return {name: float(um2) * 1e-6 for name, um2 in parts.items()}


def describe_policy(prepared: Prepared, policy: Policy) -> dict[str, list]:
    """Returns one policy as lists [L] by name: `keep`, the ratios to six digits, and the bits.

    policy.json and result.json hold a policy in this form.
    """
    return {
        "keep": [float(f"{keep:.6g}") for keep in look_up_keep_ratios(prepared, policy)],
        **{name: [int(count) for count in bits] for name, bits in list_bits(policy).items()},
    }


def list_bits(policy: Policy) -> dict[str, Any]:
    """Returns the arrays of bits [..., L] by field name; no `adc_bits` if they are not searched."""
    fields = policy._asdict().items()
    return {name: bits for name, bits in fields if name != "level" and bits is not None}


def build_result(
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
    """Builds the contents of result.json, which docs/result.md describes.

    Args:
      prepared: the searched network.
      dataset: all images of the run.
      record: every evaluation of the searches.
      choice: from `choose`.
      measured: the choice on test images.
      seconds: duration of the searches.
      command: the command line that repeats the run.
      interrupted: whether Ctrl-C ended the search or the fine-tuning.
      proof: from `prove`.
      curve: from `measure_adc_curve`.
    """
    accelerator, options = prepared.accelerator, prepared.config.search
    policy = jax.tree.map(lambda field: np.asarray(field, np.int64), choice.policy)
    chip = accelerator.chip()
    counts = crossbar.look_up_counts(prepared.tables, chip, policy.level, policy.weight_bits)
    cost = _compute_cost(prepared, accelerator, counts, policy.input_bits, policy.adc_bits)
    dense = {bits: compute_dense_cost(prepared, int(bits)) for bits in ("8", "16")}
    matching_isaac = build_matching_isaac(accelerator)
    isaac = {bits: compute_dense_cost(prepared, int(bits), matching_isaac) for bits in ("8", "16")}
    selection = dataset.select_images, dataset.select_labels
    dense["8"]["validation_accuracy"] = measure.measure_dense(prepared, 8, *selection)
    judged = judge(prepared, record)
    splits = "train", "search", "select", "test"
    images = {split: len(getattr(dataset, f"{split}_labels")) for split in splits}
    float_search_accuracy = restore_fractions(prepared.problem.float_accuracy, images["search"])
    difference = {"mean": measured.difference, "low": measured.low, "high": measured.high}
    return {
        "schema": SCHEMA,
        "command": command,
        "config": config.to_config_dict(prepared.config).to_dict(),
        "versions": read_versions(),
        "seed": prepared.config.seed,
        "interrupted": interrupted,
        "data": {"name": dataset.name, **images},
        "network": _describe_network(prepared),
        "float": {
            "validation_accuracy": choice.float_accuracy,
            "search_accuracy": float(float_search_accuracy),
            "test_accuracy": measured.float_accuracy,
        },
        "goal": options.goal,
        "limits": collect_limits(prepared.config),
        "best": {
            "policy": describe_policy(prepared, policy),
            "evaluation": choice.place + 1,
            "seed": prepared.config.seed + int(record.search[choice.place]),
            "validation_accuracy": choice.accuracy,
            "search_accuracy": choice.search_accuracy,
            "expected_accuracy": float(judged.expected_accuracy[choice.place]),
            "test_accuracy": measured.accuracy,
            "test_difference": difference,
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
        "adc_laws": _compare_adc_laws(prepared, counts, policy),
        "accelerator": accelerator.name,
        "notes": [
            *accelerator.notes(),
            *find_doubts(choice.float_accuracy, dataset.select_labels, choice.accuracy),
        ],
        "mapping": {
            "bit_exact": proof.mismatches == 0 and proof.scales_agree and proof.counts_agree,
            **proof._asdict(),
            "crossbars": cost["crossbars"],
            "index_bits": cost["index_bits"],
        },
        "adc_curve": [point._asdict() for point in curve],
        "layers": _build_layers(prepared, policy, counts),
        "search": {
            "strategy": options.strategy,
            "evaluations": len(record.reward),
            "distinct": len(pareto.find_distinct(record.policy)),
            "seconds": seconds,
            "evaluations_per_second": len(record.reward) / max(seconds, 1e-9),
            "finalists": choice.finalists,
            "drops": list(stages.list_drops(prepared.config)),
            "drop_per_nat": float(prepared.problem.drop_per_nat),
            "seeds": _build_seeds(prepared, record, judged),
        },
        "finetune": _build_finetune(prepared, record, judged, choice),
        "front": _build_front(record, judged),
        "pareto": _build_pareto(record, judged),
    }


def _describe_network(prepared: Prepared) -> dict[str, Any]:
    """Returns the network's name, its mapped multiplications, and all that is not mapped."""
    network = prepared.network
    return {
        "name": str(prepared.config.model),
        "multiplications": sum(layer.multiplications for layer in network.layers),
        "not_mapped": [
            dataclasses.asdict(operation)
            for operation in network.operations
            if operation.status != "mapped"
        ],
    }


def _compare_adc_laws(
    prepared: Prepared, counts: crossbar.Counts, policy: Policy
) -> dict[str, dict[str, float]]:
    """Computes the ratios of energy and area over dense at 8 bits, under every ADC law."""
    ratios: dict[str, dict[str, float]] = {}
    for law in adc.LAWS:
        accelerator = dataclasses.replace(prepared.accelerator, adc_law=law)
        isaac = build_matching_isaac(accelerator)
        cost = _compute_cost(prepared, accelerator, counts, policy.input_bits, policy.adc_bits)
        ratios[law] = {
            f"{metric.ratio}_over_{over}_8": (
                compute_dense_cost(prepared, 8, base)[metric.field] / cost[metric.field]
            )
            for over, base in (("dense", accelerator), ("isaac", isaac))
            for metric in (metrics.COSTS["energy_nj"], metrics.COSTS["area_mm2"])
        }
    return ratios


def _build_layers(
    prepared: Prepared, policy: Policy, counts: crossbar.Counts
) -> list[dict[str, Any]]:
    """Builds a row for every layer: shape, policy, cost, and cost at dense 8 bits."""
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
    chosen = describe_policy(prepared, policy)
    return [
        {
            "name": layer.name,
            "rows": layer.rows,
            "columns": layer.columns,
            "groups": layer.groups,
            "positions": layer.positions,
            **{field: values[index] for field, values in chosen.items()},
            **_pick(costs, index, "crossbars", "slots", "index_bits"),
            "allocated": int(costs.imas[index]) * prepared.accelerator.crossbars_per_ima,
            "units": int(counts.units[index]),
            "activations": int(activations[index]),
            "area_pro_rata_mm2": float(area[index]),
            **_pick(costs, index, "latency_us", "energy_nj"),
            "energy_by_component_nj": {name: float(nj[index]) for name, nj in energy.items()},
            "actions": {name: int(count[index]) for name, count in actions.items()},
            "utilisation": {name: value[index].item() for name, value in use.items()},
            "dense_8": _pick(dense_costs, index, "crossbars", "slots", "energy_nj"),
        }
        for index, layer in enumerate(layers)
    ]


def _pick(values: crossbar.LayerCost | Evaluation, index: int, *names: str) -> dict[str, Any]:
    """Returns the numbers at `index` of the named fields [N], by name."""
    return {name: getattr(values, name)[index].item() for name in names}


def _build_front(record: Record, judged: Judged) -> dict[str, Any]:
    """Builds the front of all costs and points lost, and the hypervolume and knee of `pareto`."""
    gain, lost = judged.gain, judged.points_lost
    costs = [np.asarray(getattr(record.evaluation, name)) for name in metrics.METRICS]
    front = pareto.find_non_dominated(-np.stack([lost, *costs], axis=1))
    return {
        "hypervolume": _compute_hypervolume(gain, lost),
        "reference": {"gain": pareto.MIN_GAIN, "points_lost": pareto.MAX_LOST},
        "knee": find_knee(judged) + 1,
        "non_dominated": (front + 1).tolist(),
    }


def _build_finetune(
    prepared: Prepared, record: Record, judged: Judged, choice: Choice
) -> list[dict[str, Any]]:
    """Builds a row for every fine-tuned policy, in order."""
    dense = compute_dense_cost(prepared, 8)
    return [
        {
            "evaluation": tuned.place + 1,
            "slots_over_dense_8": dense["slots"] / float(record.evaluation.slots[tuned.place]),
            "expected_accuracy": float(judged.expected_accuracy[tuned.place]),
            "loss_before": tuned.loss_before,
            "loss": tuned.loss,
            "steps": tuned.steps,
            "seconds": tuned.seconds,
            "validation_accuracy": tuned.accuracy,
            "meets_limit": tuned.meets_limit,
        }
        for tuned in choice.tuned
    ]


def _build_seeds(prepared: Prepared, record: Record, judged: Judged) -> dict[str, Any]:
    """Builds the best value within the limits of every seed, and the spread of these values.

    The value is the objective, the expected accuracy or, of a front, the hypervolume.
    """
    goal = prepared.config.search.goal
    gain, expected, lost, feasible = judged
    rows: list[dict[str, Any]] = []
    for index, seed in enumerate(stages.list_seeds(prepared.config)):
        own = record.search == index
        best = None
        if goal == "front":
            best = _compute_hypervolume(gain[own], lost[own])
        elif (own & feasible).any():
            best = float((expected if goal == "accuracy" else gain)[own & feasible].max())
        rows.append({"seed": seed, "evaluations": int(own.sum()), "best": best})
    values = [row["best"] for row in rows if row["best"] is not None]
    spread = {"least": 0.0, "median": 0.5, "most": 1.0}
    return {
        "batch": stages.choose_batch(prepared.config),
        "of": {"cost": "objective", "accuracy": "expected accuracy", "front": "hypervolume"}[goal],
        "each": rows,
        **{
            name: float(np.quantile(values, quantile)) if values else None
            for name, quantile in spread.items()
        },
    }


def _compute_hypervolume(gain: np.ndarray, lost: np.ndarray) -> float:
    return pareto.hypervolume(gain, -lost, pareto.MIN_GAIN, -pareto.MAX_LOST)


def _build_pareto(record: Record, judged: Judged) -> list[dict[str, Any]]:
    """Builds a row for every policy that none beats in both objective and expected accuracy."""
    gain, expected = judged.gain, judged.expected_accuracy
    front = pareto.find_pareto_front(gain, expected)
    return [
        {
            "evaluation": int(place) + 1,
            "gain": float(gain[place]),
            "expected_accuracy": float(expected[place]),
            **_pick(record.evaluation, place, "accuracy", *metrics.METRICS),
        }
        for place in front
    ]
