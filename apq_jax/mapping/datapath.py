"""Executes a mapping as the accelerator would: bit planes, units, converters, shift-and-add.

One bank of inputs at a time is what the hardware does; here all banks are one batched product, but
every analogue sum is formed, goes through its converter and is accumulated by its own indices, so
that a wrong cell or index gives a wrong number.
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
from apq_jax.compression.compressed import Compressed, CompressedLayer, accumulate, scaled
from apq_jax.compression.converters import Converter, convert, converter
from apq_jax.crossbar import ceil_div
from apq_jax.hardware import Accelerator
from apq_jax.mapping.units import (
    NONE,
    LayerMap,
    compute_bitline_weights,
    compute_offset,
    read_cells,
)
from apq_jax.network import products
from apq_jax.network.capture import Network, forward
from apq_jax.network.jaxpr import Params

_RANDOM = 64  # windows of random levels that a check adds
_VALUES = 1 << 22  # analogue sums held at a time


class Banks(NamedTuple):
    """A layer's units by the bank that feeds them; what is not used is 0 or a spare place."""

    inputs: jax.Array  # [K, h] int32, rows of the layer; γ R is a row that is always 0
    cells: jax.Array  # [K, N, h] float32, as programmed
    outputs: jax.Array  # [K, N] int32, columns of the layer; γ C is a spare
    weights: jax.Array  # [K, N] int32, of a bitline's sum
    corrected: jax.Array  # [K, N] int32, what comes off for each unit of input
    flipped: jax.Array  # [K, N] bool


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Datapath:
    """What of an accelerator the data path is compiled for. Static."""

    rows: int  # γ R
    columns: int  # γ C
    steps: int  # ⌈a/d⌉
    dac_bits: int
    cell_bits: int
    adc_bits: int


def build_datapath(found: LayerMap, accelerator: Accelerator) -> Datapath:
    """The static part of a layer's data path."""
    layer = found.layer
    return Datapath(
        layer.groups * layer.rows,
        layer.groups * layer.columns,
        ceil_div(found.input_bits, accelerator.dac_bits),
        accelerator.dac_bits,
        accelerator.cell_bits,
        found.adc_bits or accelerator.adc_resolution,
    )


def build_banks(found: LayerMap, accelerator: Accelerator) -> Banks:
    """Sorts a layer's units by bank; on the host."""
    units, layer = found.units, found.layer
    used, bank = np.unique(units.bank, return_inverse=True)
    order = np.argsort(bank, kind="stable")
    sizes = np.bincount(bank, minlength=len(used))
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    most = int(sizes.max(initial=0))
    h, w = found.banks.shape[1], units.outputs.shape[1]
    weights = compute_bitline_weights(units.slices, units.outputs, found.weight_bits, accelerator)
    offset = compute_offset(found.weight_bits, accelerator)
    filled = units.outputs != NONE
    corrected = np.where(filled & (units.slices == 0), offset, 0)

    def sorted_(values: np.ndarray, spare: Any) -> np.ndarray:
        table = np.full((len(used), most, *values.shape[1:]), spare, values.dtype)
        table[bank[order], place] = values[order]
        return table

    inputs = found.banks[used]
    cells = sorted_(read_cells(found).transpose(0, 2, 1), 0).reshape(len(used), most * w, h)
    spare = layer.groups * layer.columns
    flat = (
        sorted_(values, empty).reshape(len(used), most * w)
        for values, empty in (
            (np.where(filled, units.outputs, spare), spare),
            (weights, 0),
            (corrected, 0),
            (units.flipped, False),
        )
    )
    return Banks(
        jnp.asarray(np.where(inputs == NONE, layer.groups * layer.rows, inputs), jnp.int32),
        jnp.asarray(cells, jnp.float32),
        *(jnp.asarray(x, x.dtype if x.dtype == bool else jnp.int32) for x in flat),
    )


@functools.partial(jax.jit, static_argnums=0)
def execute(path: Datapath, banks: Banks, adc: Converter, levels: jax.Array) -> jax.Array:
    """Σ u w of every window, as the accelerator forms it.

    Args:
      path: static.
      banks: from `banks_of`.
      adc: from `conversion.converter`.
      levels: [M, γ R] int32, unsigned input levels u of M windows.

    Returns:
      [M, γ C] int32.
    """
    count = levels.shape[0]
    width = max(_VALUES // max(banks.outputs.size, 1), 1)
    width = min(width, count)
    chunks = ceil_div(count, width)
    padded = jnp.pad(levels, ((0, chunks * width - count), (0, 1)))  # the last row is always 0
    outputs = lax.map(
        functools.partial(_windows, path, banks, adc), padded.reshape(chunks, width, path.rows + 1)
    )
    return outputs.reshape(chunks * width, path.columns)[:count]


def _windows(path: Datapath, banks: Banks, adc: Converter, levels: jax.Array) -> jax.Array:
    x = levels.T[banks.inputs]  # [K, h, M]
    top = 2**path.cell_bits - 1

    def step(number: int, total: jax.Array) -> jax.Array:
        plane = (x >> (path.dac_bits * number)) & (2**path.dac_bits - 1)
        # Whole numbers below 2^24: exact in float32 at the highest precision.
        sums = jnp.matmul(banks.cells, plane.astype(jnp.float32), precision=lax.Precision.HIGHEST)
        digital = convert(adc, sums).astype(jnp.int32)
        counted = plane.sum(axis=1)[:, None, :]  # the population count of the bank's inputs
        digital = jnp.where(banks.flipped[:, :, None], top * counted - digital, digital)
        digital = digital * banks.weights[:, :, None] - counted * banks.corrected[:, :, None]
        return total + (digital << (path.dac_bits * number))

    shape = (*banks.outputs.shape, x.shape[2])
    total = lax.fori_loop(0, path.steps, step, jnp.zeros(shape, jnp.int32))
    found = jnp.zeros((path.columns + 1, x.shape[2]), jnp.int32)
    return found.at[banks.outputs.reshape(-1)].add(total.reshape(-1, x.shape[2]))[:-1].T


def count_performed_actions(found: LayerMap, accelerator: Accelerator) -> dict[str, int]:
    """Actions of one inference, counted as `execute` goes: step by step, read by read.

    Of the components between an input and its partial sum; names as in the component table.
    """
    units, inputs = found.units, found.banks[found.units.bank]
    wordlines, filled = (inputs != NONE).sum(axis=1), units.outputs != NONE
    bitlines, begins = filled.sum(axis=1), (filled & (units.slices == 0)).sum(axis=1)
    flipping = accelerator.flipped_columns
    offset = compute_offset(found.weight_bits, accelerator) > 0
    names = ("array", "dac", "sample_hold", "adc", "shift_add", "input_register")
    done = dict.fromkeys((*names, "input_count", "output_register"), 0)
    left = found.input_bits
    while left > 0:
        bits = min(accelerator.dac_bits, left)
        left -= bits
        done["dac"] += int(wordlines.sum())
        done["input_register"] += int(bits * wordlines.sum())
        done["array"] += int((wordlines * bitlines).sum())
        done["sample_hold"] += int(bitlines.sum())
        done["adc"] += int(bitlines.sum())
        done["shift_add"] += int(bitlines.sum())
        done["input_count"] += len(np.unique(units.bank)) if offset else 0
    # Once a window: a bitline that may be flipped is turned back, an offset comes off, and the
    # sum of a weight's slices, which waits while the bank's units are read, goes to its register.
    done["shift_add"] += flipping * int(bitlines.sum()) + offset * int(begins.sum())
    done["output_register"] += int(begins.sum())
    return {name: found.layer.positions * count for name, count in done.items()}


class Check(NamedTuple):
    """A layer's data path against the quantized network's accumulators."""

    mismatches: int  # accumulators that differ
    compared: int


Parts = tuple[tuple[Datapath, Banks], ...]  # one a layer


def build_parts(maps: tuple[LayerMap, ...], accelerator: Accelerator) -> Parts:
    """What `check` and `apply` execute."""
    return tuple((build_datapath(one, accelerator), build_banks(one, accelerator)) for one in maps)


@functools.partial(jax.jit, static_argnums=1)
def quantize_windows(layer: CompressedLayer, product: products.Product, x: jax.Array) -> jax.Array:
    """The unsigned input levels of a layer's windows, [M, γ R] int32."""
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

    Each layer is given the levels that the quantized network gives it, and random ones of its whole
    range: inputs that are 0 on all images would hide a wrong cell. Converters are the mapping's.

    Args:
      network, params: the model.
      compressed: its integer form.
      parts: from `prepare`.
      accelerator: that of the mapping.
      images: [B, ...].
    """
    # Not compiled as a whole: fused with the layer before, the two sides would each round x anew,
    # and a tie of rounding would look like a wrong cell. A layer's steps are a program each.
    found: dict[int, Check] = {}

    def replace(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        del weight
        layer, (path, banks) = compressed[index], parts[index]
        sums = _accumulated(layer, product, x)
        anything, of_any = _anything(layer, index)
        adc = converter(accelerator, path.adc_bits)
        mismatches, compared = found.get(index, Check(0, 0))
        for levels, right in (
            (quantize_windows(layer, product, x), _side_by_side(sums)),
            (anything, of_any),
        ):
            executed = execute(path, banks, adc, levels)
            mismatches += _differing(executed, right)
            compared += right.size
        found[index] = Check(mismatches, compared)
        return _rescaled(layer, product, sums)

    forward(network, params, images, replace)
    return [found[index] for index in range(len(parts))]


_accumulated = jax.jit(accumulate, static_argnums=1)


@functools.partial(jax.jit, static_argnums=1)
def _rescaled(layer: CompressedLayer, product: products.Product, sums: jax.Array) -> jax.Array:
    """What the layer hands on, of accumulators [γ, M, C]."""
    return product.fold(scaled(layer, sums))


@jax.jit
def _anything(layer: CompressedLayer, seed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Windows of random levels of the layer's whole range, and their right accumulators.

    [M, γ R] and [M, γ C] int32.
    """
    groups, rows, _ = layer.levels.shape
    end = quantization.input_limit(layer.input_bits).astype(jnp.int32) + 1
    windows = jax.random.randint(jax.random.key(seed), (_RANDOM, groups * rows), 0, end)
    apart = jnp.moveaxis(windows.reshape(_RANDOM, groups, rows), 1, 0)
    sums = jnp.matmul(apart, layer.levels.astype(jnp.int32))
    if layer.reading is not None:
        sums += converters.lost(layer.reading, layer.levels, apart, layer.input_bits)
    return windows, _side_by_side(sums)


@jax.jit
def _side_by_side(sums: jax.Array) -> jax.Array:
    """[γ, M, C] to [M, γ C]."""
    return jnp.moveaxis(sums, 0, 1).reshape(sums.shape[1], -1)


@functools.partial(jax.jit, static_argnums=1)
def _grouped(sums: jax.Array, groups: int) -> jax.Array:
    """[M, γ C] to [γ, M, C]."""
    return jnp.moveaxis(sums.reshape(sums.shape[0], groups, -1), 1, 0)


def _differing(a: ArrayLike, b: ArrayLike) -> int:
    return int(np.count_nonzero(np.asarray(a) != np.asarray(b)))


class EndToEnd(NamedTuple):
    """The executed network against the quantized one, each from its own inputs on.

    Rescaling between layers is in floating point and may round a tie differently in two programs.
    """

    same_class: int  # images of which both give the same class
    images: int
    levels_differ: int  # input levels of all layers that differ
    levels: int


def compare_end_to_end(
    network: Network,
    params: Params,
    compressed: Compressed,
    parts: Parts,
    accelerator: Accelerator,
    images: jax.Array,
) -> EndToEnd:
    """Runs both networks; arguments as of `check`."""

    def run(executes: bool) -> tuple[jax.Array, list[jax.Array]]:
        seen = []

        def replace(
            index: int, product: products.Product, x: jax.Array, weight: jax.Array
        ) -> jax.Array:
            del weight
            layer, (path, banks) = compressed[index], parts[index]
            u = quantize_windows(layer, product, x)
            seen.append(u)
            if not executes:
                return _rescaled(layer, product, _accumulated(layer, product, x))
            sums = execute(path, banks, converter(accelerator, path.adc_bits), u)
            return _rescaled(layer, product, _grouped(sums, len(layer.multiplier)))

        return forward(network, params, images, replace), seen

    (logits, levels), (right, expected) = run(True), run(False)
    of_both = (np.asarray(x).argmax(axis=-1) for x in (logits, right))
    return EndToEnd(
        len(images) - _differing(*of_both),
        len(images),
        sum(_differing(a, b) for a, b in zip(levels, expected, strict=True)),
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
    """Logits [B, classes] with every mapped layer executed, digital operations as written.

    Args:
      network, params: the model.
      compressed: its integer form, of which only the scales are used.
      parts: from `prepare`.
      adc: from `conversion.converter`, of all layers.
      x: [B, ...].
    """

    def replace(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        del weight
        layer, (path, banks) = compressed[index], parts[index]
        sums = execute(path, banks, adc, quantize_windows(layer, product, x))
        return _rescaled(layer, product, _grouped(sums, len(layer.multiplier)))

    return forward(network, params, x, replace)
