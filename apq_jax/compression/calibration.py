"""Measures each layer on training images: input range, Gram matrix, moments of the output."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.compression import quantization
from apq_jax.compression.gram import compute_gram_blocks, join_gram_blocks
from apq_jax.network.capture import Network, forward
from apq_jax.network.jaxpr import Params
from apq_jax.network.products import Product
from apq_jax.system.pytrees import Unfinished

WHOLE_PRODUCTS = 2**38  # a Gram matrix of at most so many multiplications takes all windows
_SAMPLE = 16384  # input values, drawn from all images, to which a layer's quantizer is fitted


class LayerStatistics(NamedTuple):
    """A layer's statistics over windows of the calibration images; x is a window, [γ, R]."""

    gram: jax.Array  # [γ, R, R] mean of x xᵀ
    mean: jax.Array  # [γ, R] mean of x
    output_mean: jax.Array  # [γ, C], before any bias
    output_deviation: jax.Array  # [γ, C], standard deviation
    input_scale: jax.Array  # [A] float32, A = 8: for 1 to 8 bits
    input_zero: jax.Array  # [A] float32, whole numbers
    input_error: jax.Array  # [A] output's mean square error from rounded inputs, over its variance


Statistics = tuple[LayerStatistics, ...]  # one a layer


class _Sums(NamedTuple):
    """A layer's statistics, summed over chunks of images; the range is over all of them."""

    gram: tuple[jax.Array, ...]  # lower blocks, as `compute_gram_blocks` returns them
    mean: jax.Array  # [γ, R]
    low: jax.Array  # [] least input
    high: jax.Array  # [] largest input


class _Progress(NamedTuple):
    """The state of a calibration between two chunks."""

    chunks: jax.Array  # [] int32, chunks done
    total: list[_Sums]  # one a layer
    samples: list[jax.Array]  # [count, S] float32 a layer; zeros for chunks to come


def calibrate(
    network: Network,
    params: Params,
    weights: tuple[jax.Array, ...],
    images: jax.Array,
    chunk: int = 100,
    windows: int = 64,
    unfinished: pathlib.Path | None = None,
) -> Statistics:
    """Runs the float model over training images and returns every layer's statistics.

    A layer has one window for each output position. The Gram matrix and mean cover all windows if
    that takes at most WHOLE_PRODUCTS multiplications; otherwise they cover a random sample. The
    output's moments follow from the two. A weight with several uses has the windows of every use.

    Args:
      network, params: the model.
      weights: the model's matrices, [γ, R, C] a layer.
      images: [N, ...]; a remainder of fewer than `chunk` images is left out.
      chunk: images at a time; all N if there are fewer.
      windows: a sample has at least `windows` * R windows, for R rows, or all if there are fewer;
        a value below 64 raised the Plan's errors (docs/pruning.md).
      unfinished: file for the state, written every `pytrees.SAVE_SECONDS` and not deleted at the
        end; None: nothing is written. Calibration resumes from an existing file, to the same
        result; the file must be of this very calibration. A damaged file starts it anew.

    Raises:
      InputError: `unfinished` cannot be written.
    """
    chunk = min(chunk, images.shape[0])
    count = images.shape[0] // chunk
    chunks = images[: count * chunk].reshape(count, chunk, *images.shape[1:])

    row_orders: dict[int, np.ndarray] = {}  # by layer: each row of `sums` as a row of the matrix

    def observe_chunk(x: jax.Array) -> tuple[list[_Sums], list[jax.Array]]:
        uses: dict[int, list[tuple[Product, jax.Array]]] = {}

        def collect(index: int, product: Product, x: jax.Array, _: jax.Array) -> jax.Array:
            x = x.astype(jnp.float32)
            uses.setdefault(index, []).append((product, x))
            return product.fold(product.convolve(x, weights[index]))

        forward(network, params, x, collect)
        observed = [observe(index, uses[index]) for index in range(len(network.layers))]
        return [sums for sums, _ in observed], [sample for _, sample in observed]

    def observe(index: int, uses: list[tuple[Product, jax.Array]]) -> tuple[_Sums, jax.Array]:
        """Sums up the inputs of a layer's uses, whose windows all count alike."""
        (product, x), *others = uses
        if others:  # in the matrix's own order of rows, which all uses share
            rows = jnp.concatenate([product.unfold(x) for product, x in uses], axis=1)
            x = jnp.concatenate([x.ravel() for _, x in uses])
            row_orders[index], inside = np.arange(rows.shape[2]), np.ones((1, 1), bool)
        else:
            rows = product.extract_windows(x)
            row_orders[index], inside = (
                product.locate_rows(rows.shape[2]),
                product.mask_taps(x.shape),
            )
        chosen = _choose_windows(rows.shape, windows, count)
        rows = rows if len(chosen) == rows.shape[1] else rows[:, chosen]
        blocks = compute_gram_blocks(rows, inside[chosen % len(inside)])
        means = tuple(block / len(chosen) for block in blocks)
        sums = _Sums(means, rows.mean(axis=1), x.min(), x.max())
        return sums, _draw_sample(x, -(-_SAMPLE // count))

    # A jitted step in a Python loop, because XLA's convolutions are slower inside a scan.
    @functools.partial(jax.jit, donate_argnums=0)
    def add_chunk(progress: _Progress, x: jax.Array) -> _Progress:
        sums, samples = observe_chunk(x)
        total = [_add_sums(a, b) for a, b in zip(progress.total, sums, strict=True)]
        drawn = [
            lax.dynamic_update_index_in_dim(a, b, progress.chunks, axis=0)
            for a, b in zip(progress.samples, samples, strict=True)
        ]
        return _Progress(progress.chunks + 1, total, drawn)

    @jax.jit
    def compute_statistics(progress: _Progress) -> Statistics:
        bits = jnp.arange(1, quantization.MAX_BITS + 1)
        statistics = []
        for index, w in enumerate(weights):
            sums, sample = progress.total[index], progress.samples[index]
            gram, mean = join_gram_blocks(sums.gram) / count, sums.mean / count
            order = np.argsort(row_orders[index])
            gram, mean = gram[:, order][:, :, order], mean[:, order]
            # The output is linear in the input, so its moments follow from the input's.
            output_mean = jnp.einsum("gr,grc->gc", mean, w)
            variance = jnp.einsum("grc,grs,gsc->gc", w, compute_covariance(gram, mean), w)
            deviation = jnp.sqrt(jnp.maximum(variance, 0.0))
            scale, zero, error = quantization.fit_input(sample.ravel(), sums.low, sums.high, bits)
            # Independent roundings of mean square e move an output by e Σ w².
            noise = error * jnp.sum(w * w) / jnp.maximum(jnp.sum(variance), 1e-12)
            statistics.append(
                LayerStatistics(gram, mean, output_mean, deviation, scale, zero, noise)
            )
        return tuple(statistics)

    sums, samples = jax.eval_shape(observe_chunk, chunks[0])
    # Jitted, because `add_chunk` takes over the buffers and no two may be the same array.
    progress = jax.jit(lambda: _start_progress(sums, samples, count))()
    state_file = Unfinished(unfinished)
    progress = state_file.restore(progress)
    for index in range(int(progress.chunks), count):
        progress = jax.block_until_ready(add_chunk(progress, chunks[index]))
        if state_file.due:
            state_file.save(progress)
    return compute_statistics(progress)


def _start_progress(sums: list[_Sums], samples: list[jax.Array], count: int) -> _Progress:
    """Returns the state before the first of `count` chunks, given a chunk's results as shapes."""
    largest = jnp.asarray(jnp.finfo(jnp.float32).max)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), sums)
    total = [layer._replace(low=largest, high=-largest) for layer in zeros]
    drawn = [jnp.zeros((count, *x.shape)) for x in samples]
    return _Progress(jnp.zeros((), jnp.int32), total, drawn)


def _choose_windows(shape: tuple[int, ...], windows: int, count: int) -> np.ndarray:
    """Returns which of a chunk's M windows the Gram matrix takes: all, or some at fixed random.

    Args:
      shape: (γ, M, R) of the chunk's windows.
      windows: least number for each of the R rows, over all chunks.
      count: chunks.
    """
    groups, available, rows = shape
    wanted = -(-max(windows * rows, WHOLE_PRODUCTS // (groups * rows**2)) // count)
    if available <= wanted:
        return np.arange(available)
    return np.sort(np.random.default_rng(0).choice(available, wanted, replace=False))


def infer_statistics_shapes(weights: tuple[jax.Array, ...]) -> Statistics:
    """Returns ShapeDtypeStructs of what `calibrate` returns for matrices [γ, R, C]."""

    def floats(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    statistics = []
    for groups, rows, columns in (w.shape for w in weights):
        outputs, bits = floats(groups, columns), floats(quantization.MAX_BITS)
        inputs = floats(groups, rows, rows), floats(groups, rows)
        statistics.append(LayerStatistics(*inputs, outputs, outputs, bits, bits, bits))
    return tuple(statistics)


def match_images(
    network: Network,
    params: Params,
    weights: tuple[jax.Array, ...],
    statistics: Statistics,
    images: jax.Array,
) -> Statistics:
    """Returns the statistics with the output moments of `images` instead of all images' moments.

    If a compressed layer's moments are taken on the same images, the difference between these
    images and the rest cancels. Otherwise the mean of 256 images is off by 1/16 of a deviation. A
    weight with several uses has the moments over the outputs of every use.
    """

    @jax.jit
    def compute_moments(images: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        outputs: dict[int, list[jax.Array]] = {}

        def observe(index: int, product: Product, x: jax.Array, _: jax.Array) -> jax.Array:
            y = product.convolve(x.astype(jnp.float32), weights[index])
            outputs.setdefault(index, []).append(y)
            return product.fold(y)

        forward(network, params, images, observe)
        pooled = [jnp.concatenate(outputs[index], axis=1) for index in range(len(network.layers))]
        return [(y.mean(axis=1), y.std(axis=1)) for y in pooled]

    return tuple(
        layer._replace(output_mean=mean, output_deviation=deviation)
        for layer, (mean, deviation) in zip(statistics, compute_moments(images), strict=True)
    )


def _draw_sample(x: jax.Array, count: int) -> jax.Array:
    """Draws `count` values of x at fixed random places, because even strides hit few channels."""
    return x.reshape(-1)[np.random.default_rng(0).integers(x.size, size=count)]


def _add_sums(a: _Sums, b: _Sums) -> _Sums:
    """Adds up Gram matrices and means, and joins the ranges."""
    gram, mean = jax.tree.map(jnp.add, (a.gram, a.mean), (b.gram, b.mean))
    return _Sums(gram, mean, jnp.minimum(a.low, b.low), jnp.maximum(a.high, b.high))


def compute_covariance(gram: jax.Array, mean: jax.Array) -> jax.Array:
    """Returns the covariance of a layer's input, E[x xᵀ] - E[x] E[x]ᵀ: [γ, R, R]."""
    return gram - mean[:, :, None] * mean[:, None, :]
