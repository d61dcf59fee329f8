"""Forms a `Problem` on the host: what a strategy may know of a network and an accelerator."""

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
    """The problem of a network on an accelerator.

    Args:
      prices: of every choice, on the host, up to 8 and 8 bits.
      cells: static; from `conversion.cells_of`.
      objective: metric's name (of METRICS) to its weight; divided by their sum. Where it is
        empty, closed forms pay for the metrics that are limited, all alike.
      quality: what accuracy counts.
      limits: metric's name to the most that is allowed of it.
      float_accuracy: of the uncompressed network on the scored images, a fraction of 1.
      max_drop: accuracy that may be lost, a fraction of 1; inf where there is no limit.
      drop_per_nat: from `fit_drop_per_nat`.
      penalty: of missing a limit.
    """
    count, levels = len(layers), space.levels
    full = np.full(count, 8)
    dense = crossbar.compute_cost(
        layers, crossbar.count_dense(layers, full, prices.chip), prices.chip, full
    )
    dense_values = np.asarray([getattr(dense, name) for name in METRICS], np.float64)
    weights, limited = (
        np.asarray([part.get(name, 0.0) for name in METRICS], np.float64)
        for part in (objective, dict.fromkeys(limits, 1.0))
    )
    weights /= max(weights.sum(), 1e-30)
    paid = weights if weights.any() else limited / max(limited.sum(), 1e-30)
    of_layers = unflatten(prices)  # [L, K, 8, 8] each
    metrics = (
        of_layers.slots,
        of_layers.crossbars,
        crossbar.compute_area(of_layers, prices.chip),
        of_layers.energy_nj,
        of_layers.latency_us,
    )
    whole = dense._replace(area_mm2=dense.area_pro_rata_mm2)  # layers have no whole tiles
    costs = np.stack(
        [m / getattr(whole, name) for name, m in zip(METRICS, metrics, strict=True)], axis=-1
    )
    share = costs @ paid

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
                # What the accelerator charges at half the keep levels, or half the bits.
                *(np.log(at[index] / dense_share[index]) for at in halved),
                *(np.log10(error[index, curve, -1] + 1e-6) / 6 + 1),
            ]
            for index, layer in enumerate(layers)
        ]
    )
    inputs = np.stack([np.asarray(layer.input_error) for layer in statistics])
    return Problem(
        features=jnp.asarray(features, jnp.float32),
        error=jnp.asarray(error, jnp.float32),
        input_error=jnp.asarray(inputs, jnp.float32),
        lamp=jnp.asarray([_score_lamp(layer) for layer in plan], jnp.float32),
        share=jnp.asarray(share, jnp.float32),
        costs=jnp.asarray(costs, jnp.float32),
        weights=jnp.asarray(weights, jnp.float32),
        quality=jnp.asarray(quality, jnp.float32),
        dense=jnp.asarray(dense_values, jnp.float32),
        max_cost=jnp.asarray([limits.get(name, np.inf) for name in METRICS], jnp.float32),
        float_accuracy=jnp.asarray(float_accuracy, jnp.float32),
        min_accuracy=jnp.asarray(float_accuracy - max_drop, jnp.float32),
        drop_per_nat=jnp.asarray(drop_per_nat, jnp.float32),
        penalty=jnp.asarray(penalty, jnp.float32),
        phase=jnp.zeros((), jnp.float32),
        conversions=_tabulate_conversions(
            of_layers.adc_nj / dense.energy_nj, paid, prices.chip, plan, statistics, cells
        )
        if space.adc_bits
        else None,
    )


def find_min_costs(prices: Prices, space: Space) -> dict[str, float]:
    """The least of each metric that any policy of the space can have.

    Each layer's least apart: it is not always at the last keep level and the fewest bits, for
    one crossbar is read longer than each of two.

    Args:
      prices: of every choice, on the host, up to 8 and 8 bits.
      space: static.
    """
    chosen = np.ix_(np.asarray(space.weight_bits) - 1, np.asarray(space.input_bits) - 1)
    of_layers = unflatten(prices)
    if space.adc_bits:
        most = prices.chip.adc_saved[np.asarray(space.adc_bits) - 1].max()
        energy_nj = of_layers.energy_nj - most * of_layers.adc_nj
        of_layers = of_layers._replace(energy_nj=energy_nj)
    least = crossbar.LayerCost(*(field[:, :, *chosen].min(axis=(1, 2, 3)) for field in of_layers))
    cost = crossbar.sum_costs(least, prices.chip)
    return {name: getattr(cost, name).item() for name in METRICS}


def fit_drop_per_nat(float_accuracy: float, accuracy: np.ndarray, divergence: np.ndarray) -> float:
    """Σ drop / Σ divergence over evaluated policies, as far as they lose at most 20 points.

    Args:
      float_accuracy: of the uncompressed network on the same images.
      accuracy: [N], measured.
      divergence: [N], nats.

    Returns:
      At least 0.05: where nothing is lost by measure the limit must still bind in the end.
    """
    drop = float_accuracy - np.asarray(accuracy, np.float64)
    near = drop <= 0.2
    total = np.asarray(divergence, np.float64)[near].sum()
    return max(float(drop[near].sum() / total) if total > 0 else 0.0, 0.05)


def _tabulate_conversions(
    share: np.ndarray,
    paid: np.ndarray,
    chip: Chip,
    plan: Plan,
    statistics: Statistics,
    cells: Cells,
) -> Conversions:
    """What stopping early saves and costs, at every choice of every layer.

    A sum of whole numbers that is rounded to a step Δ is off by (Δ² - 1) / 12 in the mean square;
    in an output each sum counts 2^(c s + d t) of slice s and step t.

    Args:
      share: [L, K, 8, 8], the conversions' energy over the dense network's.
      paid: [M].
    """
    bits = np.arange(1, len(chip.adc_saved) + 1)
    # A converter that has no more to give than its resolution.
    steps = 4.0 ** (cells.lossless_bits - np.minimum(bits, cells.resolution))
    each = 4.0 ** np.arange(quantization.MAX_BITS)
    of_values = np.arange(1, quantization.MAX_BITS + 1)  # bits of a weight or an input
    input_steps = crossbar.ceil_div(of_values, cells.dac_bits)
    of_steps = np.asarray([np.sum(each[:n] ** cells.dac_bits) for n in input_steps])
    slices = crossbar.count_slices(of_values, chip) // (1 + cells.differential)
    of_slices = np.asarray([np.sum(each[:n] ** cells.cell_bits) for n in slices])
    # Differential pairs are two sums; a one-bit offset weight counts twice its cell.
    of_slices *= np.where(of_values == 1, 4.0, 1.0) if not cells.differential else 2.0
    errors = []
    for layer, seen in zip(plan, statistics, strict=True):
        sums = np.asarray(layer.mask, np.float64).sum(axis=2)  # [K, γ, C] row groups that add up
        weight = np.asarray(layer.scale, np.float64) ** 2  # [K, Q, γ, C]
        scale = np.einsum("kgc,kqgc->kq", sums, weight) * of_slices
        inputs = np.asarray(seen.input_scale, np.float64) ** 2 * of_steps
        power = np.sum(np.asarray(seen.output_deviation, np.float64) ** 2)
        errors.append(scale[:, :, None] * inputs / max(power, 1e-30))
    return Conversions(
        jnp.asarray(share[..., None] * chip.adc_saved, jnp.float32),
        jnp.asarray(np.stack(errors)[..., None] * (steps - 1.0) / 12.0, jnp.float32),
        jnp.asarray(paid[METRICS.index("energy_nj")], jnp.float32),
    )


def _score_lamp(layer: LayerPlan) -> np.ndarray:
    """A survivor's energy over that of all blocks no weaker, for the weakest of each level: [K].

    By magnitude, whatever the plan's own score is; from Lee et al., ICLR 2021, arXiv 2010.07611.
    """
    unpruned = np.asarray(layer.weights[0], np.float64)
    blocks = pruning.cut(unpruned, layer.block)
    energy = np.sort(np.square(blocks).sum(axis=(2, 4)), axis=None)[::-1]
    kept = np.maximum(np.round(np.asarray(layer.keep, np.float64) * energy.size), 1).astype(int)
    return energy[kept - 1] / np.maximum(np.cumsum(energy)[kept - 1], 1e-30)
