"""Builds a `Problem` on the host from a network's plan, its statistics and its prices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax import crossbar
from apq_jax.compression import pruning, quantization
from apq_jax.compression.calibration import Statistics
from apq_jax.compression.converters import Cells
from apq_jax.compression.plan import LayerPlan, Plan
from apq_jax.compression.prices import Prices, unflatten
from apq_jax.hardware import Chip
from apq_jax.metrics import METRICS
from apq_jax.problem.environment import Conversions, Problem, Space
from apq_jax.types import Layer


def build_problem(
    layers: tuple[Layer, ...],
    plan: Plan,
    statistics: Statistics,
    prices: Prices,
    cells: Cells,
    space: Space,
    objective: dict[str, float],
    quality: float,
    limits: dict[str, float],
    float_accuracy: float,
    max_drop: float,
    drop_per_nat: float,
    penalty: float,
) -> Problem:
    """Builds the problem of a network on an accelerator.

    Args:
      layers, plan, statistics: of the network.
      prices: of every choice up to 8-bit weights and 8-bit inputs, on the host.
      cells: static; from `converters.get_cells`.
      objective: weights by metric (of METRICS), which are divided by their sum. If it is empty,
        closed forms pay for all limited metrics alike.
      quality: weight of accuracy in the reward.
      limits: largest allowed value by metric.
      float_accuracy: of the float network on the scored images, a fraction of 1.
      max_drop: accuracy that may be lost, a fraction of 1; inf if accuracy is not limited.
      drop_per_nat: from `fit_drop_per_nat`.
      penalty: weight of missed limits in the reward.
    """
    count, levels = len(layers), space.levels
    full = np.full(count, 8)
    counts = crossbar.count_dense(layers, full, prices.chip)
    dense = crossbar.compute_cost(layers, counts, prices.chip, full)
    dense_values = np.asarray([getattr(dense, name) for name in METRICS], np.float64)
    weights = np.asarray([objective.get(name, 0.0) for name in METRICS], np.float64)
    limited = np.asarray([name in limits for name in METRICS], np.float64)
    weights /= max(weights.sum(), 1e-30)
    share_weights = weights if weights.any() else limited / max(limited.sum(), 1e-30)
    layer_costs = unflatten(prices)  # [L, K, 8, 8] each
    # The area of a layer is in proportion, because a layer does not fill whole tiles.
    metrics = layer_costs._asdict() | {"area_mm2": crossbar.compute_area(layer_costs, prices.chip)}
    whole = dense._replace(area_mm2=dense.area_pro_rata_mm2)
    costs = np.stack([metrics[name] / getattr(whole, name) for name in METRICS], axis=-1)
    share = costs @ share_weights

    error = np.stack([np.asarray(layer.error) for layer in plan])
    dense_share = share[:, 0, -1, -1]
    halved = share[:, levels // 2, -1, -1], share[:, 0, 3, -1], share[:, 0, -1, 3]
    curve = np.linspace(0, levels - 1, 5).round().astype(int)
    features = np.asarray(
        [
            [
                index / max(count - 1, 1),
                float(bool(layer.kernel)),
                np.log10(layer.rows) / 4,
                np.log10(layer.columns) / 4,
                np.log10(layer.positions) / 4,
                np.log10(layer.groups) / 4,
                dense_share[index] / dense_share.sum(),
                # The layer's cost at half the keep levels, weight bits or input bits.
                *(np.log(halved_share[index] / dense_share[index]) for halved_share in halved),
                *(np.log10(error[index, curve, -1] + 1e-6) / 6 + 1),
            ]
            for index, layer in enumerate(layers)
        ]
    )
    inputs = np.stack([np.asarray(layer.input_error) for layer in statistics])
    conversions = None
    if space.adc_bits:
        adc_share = layer_costs.adc_nj / dense.energy_nj
        weight = share_weights[METRICS.index("energy_nj")]
        conversions = _tabulate_conversions(adc_share, weight, prices.chip, plan, statistics, cells)
    return Problem(
        features=_to_device(features),
        error=_to_device(error),
        input_error=_to_device(inputs),
        lamp=_to_device([_score_lamp(layer) for layer in plan]),
        share=_to_device(share),
        costs=_to_device(costs),
        weights=_to_device(weights),
        quality=_to_device(quality),
        dense=_to_device(dense_values),
        max_cost=_to_device([limits.get(name, np.inf) for name in METRICS]),
        float_accuracy=_to_device(float_accuracy),
        min_accuracy=_to_device(float_accuracy - max_drop),
        drop_per_nat=_to_device(drop_per_nat),
        penalty=_to_device(penalty),
        phase=jnp.zeros((), jnp.float32),
        conversions=conversions,
    )


def find_min_costs(prices: Prices, space: Space) -> dict[str, float]:
    """Finds a value of each metric that no policy of the space falls below.

    It is the sum of each layer's least cost. A layer's minimum is taken over all its choices: the
    last keep level with the fewest bits is not always the cheapest, because one crossbar is read
    longer than each of two. A policy reaches the value, except where the least memory, IMAs and
    crossbars of a layer, from which the area is computed, belong to different choices.

    Args:
      prices: of every choice up to 8-bit weights and 8-bit inputs, on the host.
      space: has the bits; keep levels are all levels of the prices.

    Returns:
      The values by metric.
    """
    bits = np.ix_(np.asarray(space.weight_bits) - 1, np.asarray(space.input_bits) - 1)
    layer_costs = unflatten(prices)
    if space.adc_bits:
        max_saved = prices.chip.adc_saved[np.asarray(space.adc_bits) - 1].max()
        energy_nj = layer_costs.energy_nj - max_saved * layer_costs.adc_nj
        layer_costs = layer_costs._replace(energy_nj=energy_nj)
    least = crossbar.LayerCost(*(field[:, :, *bits].min(axis=(1, 2, 3)) for field in layer_costs))
    cost = crossbar.sum_costs(least, prices.chip)
    return {name: getattr(cost, name).item() for name in METRICS}


def fit_drop_per_nat(float_accuracy: float, accuracy: np.ndarray, divergence: np.ndarray) -> float:
    """Fits Σ drop / Σ divergence over the evaluated policies that lose at most 20 points.

    Args:
      float_accuracy: of the float network on the same images.
      accuracy: [N], measured.
      divergence: [N], nats.

    Returns:
      Accuracy lost per nat, at least 0.05, because the limit must bind in the end even if no
      measured policy lost anything.
    """
    drop = float_accuracy - np.asarray(accuracy, np.float64)
    near = drop <= 0.2
    total = np.asarray(divergence, np.float64)[near].sum()
    return max(float(drop[near].sum() / total) if total > 0 else 0.0, 0.05)


def _tabulate_conversions(
    share: np.ndarray,
    energy_weight: float,
    chip: Chip,
    plan: Plan,
    statistics: Statistics,
    cells: Cells,
) -> Conversions:
    """Tabulates what converters that stop early save and lose, at every choice of every layer.

    Rounding a sum of whole numbers to a step Δ has a mean square error of (Δ² - 1) / 12. In an
    output, the sum of slice s and step t has the factor 2^(c s + d t), with c bits per cell and d
    bits per input step.

    Args:
      share: [L, K, 8, 8], the conversions' energy over the dense network's energy.
      energy_weight: weight of energy in the share of a layer.
    """
    bits = np.arange(1, len(chip.adc_saved) + 1)
    # Δ² of each number of bits; bits beyond a converter's resolution change nothing.
    squares = 4.0 ** (cells.lossless_bits - np.minimum(bits, cells.resolution))
    powers = 4.0 ** np.arange(quantization.MAX_BITS)
    value_bits = np.arange(1, quantization.MAX_BITS + 1)  # of a weight or an input
    steps = crossbar.ceil_div(value_bits, cells.dac_bits)
    step_powers = np.asarray([np.sum(powers[:count] ** cells.dac_bits) for count in steps])
    slices = crossbar.count_slices(value_bits, chip) // (1 + cells.differential)
    slice_powers = np.asarray([np.sum(powers[:count] ** cells.cell_bits) for count in slices])
    # Differential pairs are two sums; a one-bit offset weight counts twice its cell.
    slice_powers *= np.where(value_bits == 1, 4.0, 1.0) if not cells.differential else 2.0
    errors = []
    for layer, measured in zip(plan, statistics, strict=True):
        survivors = np.asarray(layer.mask, np.float64).sum(axis=2)  # [K, γ, C] row groups
        weight = np.asarray(layer.scale, np.float64) ** 2  # [K, Q, γ, C]
        scale = np.einsum("kgc,kqgc->kq", survivors, weight) * slice_powers
        inputs = np.asarray(measured.input_scale, np.float64) ** 2 * step_powers
        power = np.sum(np.asarray(measured.output_deviation, np.float64) ** 2)
        errors.append(scale[:, :, None] * inputs / max(power, 1e-30))
    return Conversions(
        _to_device(share[..., None] * chip.adc_saved),
        _to_device(np.stack(errors)[..., None] * (squares - 1.0) / 12.0),
        _to_device(energy_weight),
    )


def _to_device(values: Any) -> jax.Array:
    """Moves numbers to the device as float32; `jnp.asarray` would compile a program a shape."""
    return jax.device_put(np.asarray(values, np.float32))


def _score_lamp(layer: LayerPlan) -> np.ndarray:
    """Scores the weakest survivor of each keep level by LAMP: [K].

    The score is a block's energy over the energy of all blocks that are no weaker (Lee et al., ICLR
    2021, arXiv 2010.07611). Blocks rank by magnitude, whatever score the plan used.
    """
    unpruned = np.asarray(np.asarray(layer.weights)[0], np.float64)
    blocks = pruning.cut_into_blocks(unpruned, layer.block)
    energy = np.sort(np.square(blocks).sum(axis=(2, 4)), axis=None)[::-1]
    counts = np.maximum(np.round(np.asarray(layer.keep, np.float64) * energy.size), 1).astype(int)
    return energy[counts - 1] / np.maximum(np.cumsum(energy)[counts - 1], 1e-30)
