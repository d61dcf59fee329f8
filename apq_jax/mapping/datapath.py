"""Executes a mapping as the accelerator would: bit planes, units, converters, shift-and-add.

The hardware drives one bank of inputs at a time; here all banks are one batched product. Each
analogue sum is still formed, converted and added at its own index, so a wrong cell or index gives a
wrong number.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike

from apq_jax.compression import converters, quantization
from apq_jax.compression.compressed import Compressed, CompressedLayer, accumulate, rescale
from apq_jax.compression.converters import Converter, build_converter, convert
from apq_jax.hardware import Accelerator
from apq_jax.hardware.chip import ceil_div
from apq_jax.mapping.units import NONE, LayerMap
from apq_jax.network.capture import Network, forward
from apq_jax.network.jaxpr import Params
from apq_jax.network.products import Product

_RANDOM_WINDOWS = 64  # windows of random levels that a check adds
_MAX_SUMS = 1 << 22  # analogue sums in memory at a time


class Banks(NamedTuple):
    """A layer's bitlines by the bank that feeds them: K banks, N bitlines a bank at most.

    Padding bitlines have cells of 0 and write to the spare column, which is dropped. Padding
    wordlines read the spare row, which is 0.
    """

    inputs: jax.Array  # [K, h] int32, rows of the layer; the spare row γ R is always 0
    cells: jax.Array  # [K, N, h] float32, as programmed
    outputs: jax.Array  # [K, N] int32, columns of the layer; the spare column γ C is dropped
    weights: jax.Array  # [K, N] int32, factor of a bitline's sum in its output
    corrected: jax.Array  # [K, N] int32, offset; times Σ inputs of the bank it is subtracted
    flipped: jax.Array  # [K, N] bool


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Datapath:
    """The sizes that a layer's data path is compiled for. Static."""

    rows: int  # γ R
    columns: int  # γ C
    steps: int  # ⌈a/d⌉
    dac_bits: int
    cell_bits: int
    adc_bits: int


def build_datapath(layer_map: LayerMap, accelerator: Accelerator) -> Datapath:
    """Builds the static part of a layer's data path."""
    layer = layer_map.layer
    return Datapath(
        layer.groups * layer.rows,
        layer.groups * layer.columns,
        ceil_div(layer_map.input_bits, accelerator.dac_bits),
        accelerator.dac_bits,
        accelerator.cell_bits,
        layer_map.adc_bits or accelerator.adc_resolution,
    )


def build_banks(layer_map: LayerMap, accelerator: Accelerator) -> Banks:
    """Gathers a layer's bitlines by the bank that feeds them, padded to equal length."""
    units, layer = layer_map.units, layer_map.layer
    used, bank = np.unique(units.bank, return_inverse=True)
    order = np.argsort(bank, kind="stable")
    sizes = np.bincount(bank, minlength=len(used))
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    max_units = int(sizes.max(initial=0))  # of a bank
    w = units.outputs.shape[1]
    corrected = np.where(units.starts, layer_map.compute_offset(accelerator), 0)

    def sort(values: np.ndarray, padding: Any) -> np.ndarray:
        """Sorts [U, w, ...] by bank to [K, N, ...]."""
        table = np.full((len(used), max_units, *values.shape[1:]), padding, values.dtype)
        table[bank[order], place] = values[order]
        return table.reshape(len(used), max_units * w, *values.shape[2:])

    def to_int32(values: np.ndarray) -> jax.Array:
        return jax.device_put(values.astype(np.int32))  # without a program, unlike `jnp.asarray`

    inputs = layer_map.banks[used]
    cells = sort(layer_map.read_cells().transpose(0, 2, 1), 0)
    spare = layer.groups * layer.columns
    return Banks(
        to_int32(np.where(inputs == NONE, layer.groups * layer.rows, inputs)),
        jax.device_put(cells.astype(np.float32)),
        to_int32(sort(np.where(units.filled, units.outputs, spare), spare)),
        to_int32(sort(layer_map.compute_bitline_weights(accelerator), 0)),
        to_int32(sort(corrected, 0)),
        jax.device_put(sort(units.flipped, False)),
    )


@functools.partial(jax.jit, static_argnums=0)
def execute(path: Datapath, banks: Banks, adc: Converter, levels: jax.Array) -> jax.Array:
    """Computes Σ u w of every window as the accelerator does, with its converters' rounding.

    Args:
      path: static.
      banks: from `build_banks`.
      adc: from `converters.build_converter`.
      levels: [M, γ R] int32, unsigned input levels u of M windows.

    Returns:
      [M, γ C] int32.
    """
    count = levels.shape[0]
    width = min(max(_MAX_SUMS // max(banks.outputs.size, 1), 1), count)
    chunks = ceil_div(count, width)
    padded = jnp.pad(levels, ((0, chunks * width - count), (0, 1)))  # with the spare row
    outputs = lax.map(
        functools.partial(_execute_chunk, path, banks, adc),
        padded.reshape(chunks, width, path.rows + 1),
    )
    return outputs.reshape(chunks * width, path.columns)[:count]


def _execute_chunk(path: Datapath, banks: Banks, adc: Converter, levels: jax.Array) -> jax.Array:
    x = levels.T[banks.inputs]  # [K, h, M]
    top = 2**path.cell_bits - 1

    def add_step(step: int, total: jax.Array) -> jax.Array:
        plane = (x >> (path.dac_bits * step)) & (2**path.dac_bits - 1)
        # Sums are whole numbers below 2^24, so float32 at the highest precision is exact.
        sums = jnp.matmul(banks.cells, plane.astype(jnp.float32), precision=lax.Precision.HIGHEST)
        digital = convert(adc, sums).astype(jnp.int32)
        inputs = plane.sum(axis=1)[:, None, :]  # the population count of the bank's inputs
        digital = jnp.where(banks.flipped[:, :, None], top * inputs - digital, digital)
        digital = digital * banks.weights[:, :, None] - inputs * banks.corrected[:, :, None]
        return total + (digital << (path.dac_bits * step))

    shape = (*banks.outputs.shape, x.shape[2])
    total = lax.fori_loop(0, path.steps, add_step, jnp.zeros(shape, jnp.int32))
    outputs = jnp.zeros((path.columns + 1, x.shape[2]), jnp.int32)  # with the spare column
    return outputs.at[banks.outputs.reshape(-1)].add(total.reshape(-1, x.shape[2]))[:-1].T


def count_performed_actions(layer_map: LayerMap, accelerator: Accelerator) -> dict[str, int]:
    """Counts the actions of one inference from a layer's units, by component.

    The keys name the `Components` that lie between an input and its partial sum.
    Flips and offsets are counted once a window, although `execute` corrects each step.
    """
    wordlines, bitlines = layer_map.count_lines()
    driven, sums = int(wordlines.sum()), int(bitlines.sum())
    outputs = int(layer_map.units.starts.sum())
    banks = len(np.unique(layer_map.units.bank))
    has_offset = layer_map.compute_offset(accelerator) > 0
    steps = ceil_div(layer_map.input_bits, accelerator.dac_bits)
    counts = {
        "array": steps * int((wordlines * bitlines).sum()),
        "dac": steps * driven,
        "sample_hold": steps * sums,
        "adc": steps * sums,
        # Once per window: flipped bitlines are turned back and offsets are subtracted.
        "shift_add": (steps + accelerator.flipped_columns) * sums + has_offset * outputs,
        "input_register": layer_map.input_bits * driven,
        "input_count": steps * banks * has_offset,
        # Once per window, after the last step; until then the shift-and-add holds the sum.
        "output_register": outputs,
    }
    return {name: layer_map.layer.positions * count for name, count in counts.items()}


class Check(NamedTuple):
    """A comparison of a layer's data path with the quantized network's accumulators."""

    mismatches: int  # accumulators that differ
    compared: int


Parts = tuple[tuple[Datapath, Banks], ...]  # one per layer


def build_parts(maps: tuple[LayerMap, ...], accelerator: Accelerator) -> Parts:
    """Builds every layer's data path and banks, which `check_layers` and `apply` execute."""
    return tuple((build_datapath(m, accelerator), build_banks(m, accelerator)) for m in maps)


@functools.partial(jax.jit, static_argnums=1)
def quantize_windows(layer: CompressedLayer, product: Product, x: jax.Array) -> jax.Array:
    """Quantizes a layer's inputs; returns the unsigned levels of its windows, [M, γ R] int32."""
    u = quantization.quantize_input(x, layer.input_scale, layer.input_zero, layer.input_bits)
    rows = product.unfold(u.astype(jnp.int32), pad=layer.input_zero.astype(jnp.int32))
    return jnp.moveaxis(rows, 0, 1).reshape(rows.shape[1], -1)


def check_layers(
    network: Network,
    params: Params,
    compressed: Compressed,
    parts: Parts,
    accelerator: Accelerator,
    images: jax.Array,
) -> list[Check]:
    """Compares every layer's data path with the quantized network, bit for bit.

    Each layer gets the levels that the quantized network gives it. It also gets random levels of
    its whole range, because an input that is 0 on all images would hide a wrong cell.

    Args:
      network, params: the model.
      compressed: its integer form.
      parts: from `build_parts`.
      accelerator: the mapping's, whose converters are used, with each layer's own ADC bits.
      images: [B, ...].

    Returns:
      One check a layer; a layer that is used twice counts the accumulators of both uses.
    """
    # Each step of a layer is a program of its own. In one program, XLA would fuse the layer before
    # into both sides, each would round x anew, and a tie would look like a wrong cell.
    checks: dict[int, Check] = {}

    def replace(index: int, product: Product, x: jax.Array, _: jax.Array) -> jax.Array:
        layer, (path, banks) = compressed[index], parts[index]
        sums, joined = _accumulate(layer, product, x)
        adc = build_converter(accelerator, path.adc_bits)
        mismatches, compared = checks.get(index, Check(0, 0))
        for levels, expected in (
            (quantize_windows(layer, product, x), joined),
            _draw_windows(layer, index),
        ):
            executed = execute(path, banks, adc, levels)
            mismatches += _count_differing(executed, expected)
            compared += expected.size
        checks[index] = Check(mismatches, compared)
        return _compute_outputs(layer, product, sums)

    forward(network, params, images, replace)
    return [checks[index] for index in range(len(parts))]


@functools.partial(jax.jit, static_argnums=1)
def _accumulate(
    layer: CompressedLayer, product: Product, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Computes a layer's accumulators, [γ, M, C], and the same as [M, γ C]."""
    sums = accumulate(layer, product, x)
    return sums, _join_groups(sums)


@functools.partial(jax.jit, static_argnums=1)
def _compute_outputs(layer: CompressedLayer, product: Product, sums: jax.Array) -> jax.Array:
    """Turns accumulators [γ, M, C] into the layer's outputs."""
    return product.fold(rescale(layer, sums))


@jax.jit
def _draw_windows(layer: CompressedLayer, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draws windows of random levels, [M, γ R] int32; returns their accumulators, [M, γ C], too."""
    groups, rows, _ = layer.levels.shape
    end = quantization.get_max_input_level(layer.input_bits).astype(jnp.int32) + 1
    windows = jax.random.randint(jax.random.key(seed), (_RANDOM_WINDOWS, groups * rows), 0, end)
    apart = jnp.moveaxis(windows.reshape(_RANDOM_WINDOWS, groups, rows), 1, 0)
    sums = jnp.matmul(apart, layer.levels.astype(jnp.int32))
    if layer.reading is not None:
        sums += converters.compute_conversion_errors(
            layer.reading, layer.levels, apart, layer.input_bits
        )
    return windows, _join_groups(sums)


def _join_groups(sums: jax.Array) -> jax.Array:
    """Joins the groups' sums, [γ, M, C] to [M, γ C]."""
    return jnp.moveaxis(sums, 0, 1).reshape(sums.shape[1], -1)


@functools.partial(jax.jit, static_argnums=1)
def _fold_executed(layer: CompressedLayer, product: Product, sums: jax.Array) -> jax.Array:
    """Turns executed sums, [M, γ C], into the layer's outputs."""
    apart = sums.reshape(len(sums), len(layer.multiplier), -1)
    return product.fold(rescale(layer, jnp.moveaxis(apart, 1, 0)))


def _count_differing(a: ArrayLike, b: ArrayLike) -> int:
    return int(np.count_nonzero(np.asarray(a) != np.asarray(b)))


class EndToEnd(NamedTuple):
    """A comparison of the executed and the quantized network, each run from the images on.

    Some input levels may differ without an error, because layers are rescaled in floating point
    and two programs may round a tie differently.
    """

    same_class: int  # images that both put in the same class
    images: int
    levels_differ: int  # input levels of all layers that differ
    levels: int  # input levels of all layers


def compare_end_to_end(
    network: Network,
    params: Params,
    compressed: Compressed,
    parts: Parts,
    accelerator: Accelerator,
    images: jax.Array,
) -> EndToEnd:
    """Compares the executed network with the quantized one; arguments as of `check_layers`."""

    def run(executes: bool) -> tuple[jax.Array, list[jax.Array]]:
        seen = []

        def replace(index: int, product: Product, x: jax.Array, _: jax.Array) -> jax.Array:
            layer, (path, banks) = compressed[index], parts[index]
            u = quantize_windows(layer, product, x)
            seen.append(u)
            if not executes:
                return _compute_outputs(layer, product, _accumulate(layer, product, x)[0])
            sums = execute(path, banks, build_converter(accelerator, path.adc_bits), u)
            return _fold_executed(layer, product, sums)

        return forward(network, params, images, replace), seen

    (logits, levels), (expected_logits, expected_levels) = run(True), run(False)
    classes, expected_classes = (np.asarray(x).argmax(axis=-1) for x in (logits, expected_logits))
    return EndToEnd(
        len(images) - _count_differing(classes, expected_classes),
        len(images),
        sum(_count_differing(a, b) for a, b in zip(levels, expected_levels, strict=True)),
        sum(a.size for a in levels),
    )


def apply(
    network: Network,
    params: Params,
    compressed: Compressed,
    parts: Parts,
    adc: Converter,
    x: jax.Array,
) -> jax.Array:
    """Computes logits [B, classes]; mapped layers are executed, digital operations run as written.

    Args:
      network, params: the model.
      compressed: its integer form; `levels`, `weight_scale` and `reading` are unused.
      parts: from `build_parts`.
      adc: from `converters.build_converter`, for all layers whatever their own `adc_bits`.
      x: [B, ...].
    """

    def replace(index: int, product: Product, x: jax.Array, _: jax.Array) -> jax.Array:
        layer, (path, banks) = compressed[index], parts[index]
        sums = execute(path, banks, adc, quantize_windows(layer, product, x))
        return _fold_executed(layer, product, sums)

    return forward(network, params, x, replace)
