"""What the layers see on training images: input ranges, Gram matrices, output moments."""

import functools
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.compression import quantization
from apq_jax.compression.gram import gram_blocks, whole_gram
from apq_jax.network import products
from apq_jax.network.capture import Network, forward
from apq_jax.network.jaxpr import Params
from apq_jax.system.pytrees import Unfinished

WHOLE_PRODUCTS = 2**38  # multiplications of a layer's Gram matrix that are always made
_SAMPLE = 16384  # input values of a layer, drawn from all images, that its quantizer is fitted to


class LayerStatistics(NamedTuple):
    """Of one layer, over the calibration images and all output positions."""

    gram: jax.Array  # [γ, R, R] mean of x xᵀ
    mean: jax.Array  # [γ, R] mean of x
    output_mean: jax.Array  # [γ, C], before any bias
    output_deviation: jax.Array  # [γ, C]
    input_scale: jax.Array  # [A] float32, A = 8: for 1 to 8 bits
    input_zero: jax.Array  # [A] float32, whole numbers
    input_error: jax.Array  # [A] output error of rounding the input, over output variance


Statistics = tuple[LayerStatistics, ...]  # one a layer


class _Sums(NamedTuple):
    gram: tuple[jax.Array, ...]  # in blocks
    mean: jax.Array
    low: jax.Array
    high: jax.Array


class _Seen(NamedTuple):
    """Where a calibration stands."""

    chunks: jax.Array  # [] int32, done
    total: list[_Sums]  # one a layer
    samples: list[jax.Array]  # [count, S] float32 a layer, zeros of what is to come


def calibrate(
    network: Network,
    params: Params,
    weights: tuple[jax.Array, ...],
    images: jax.Array,
    chunk: int = 100,
    windows: int = 64,
    unfinished: pathlib.Path | None = None,
) -> Statistics:
    """Runs the float model over training images.

    A layer's Gram matrix and mean are of all its windows (an image's output positions) where that
    takes at most WHOLE_PRODUCTS multiplications; of a larger layer, of so many at random.

    Args:
      network, params: the model.
      weights: its matrices, [γ, R, C] a layer.
      images: [N, ...]; a remainder of fewer than `chunk` is left out.
      chunk: images at a time.
      windows: of a larger layer, at least so many for each of its R rows; fewer than 64 were seen
        to raise the Plan's errors (docs/pruning.md).
      unfinished: written whenever `trees.SAVE_SECONDS` have passed; where it is there, calibration
        goes on from it, to the same result. It must belong to this very calibration.

    Raises:
      InputError: `unfinished` cannot be written.
    """
    chunk = min(chunk, images.shape[0])
    count = images.shape[0] // chunk
    chunks = images[: count * chunk].reshape(count, chunk, *images.shape[1:])

    orders: dict[int, np.ndarray] = {}  # of a layer's rows in `sums`, their places

    def run(x: jax.Array) -> tuple[list[_Sums], list[jax.Array]]:
        sums: dict[int, _Sums] = {}
        samples: dict[int, jax.Array] = {}

        def observe(
            index: int, product: products.Product, x: jax.Array, weight: jax.Array
        ) -> jax.Array:
            del weight
            x = x.astype(jnp.float32)
            found = product.extract_windows(x)
            places = _places(found.shape, windows, count)
            inside = product.mask_taps(x.shape)
            some = found if len(places) == found.shape[1] else found[:, places]
            orders[index] = product.locate_rows(some.shape[2])
            blocks = gram_blocks(some, inside[places % len(inside)])
            means = tuple(block / len(places) for block in blocks)
            seen = _Sums(means, some.mean(axis=1), x.min(), x.max())
            drawn = _draw(x, -(-_SAMPLE // count))
            if index in sums:  # a weight that is used twice sees the inputs of both its uses
                seen, drawn = _pooled(sums[index], seen), jnp.append(samples[index], drawn)
            sums[index], samples[index] = seen, drawn
            return product.fold(product.convolve(x, weights[index]))

        forward(network, params, x, observe)
        order = range(len(network.layers))
        return [sums[index] for index in order], [samples[index] for index in order]

    # A jitted step in a Python loop: inside a scan XLA's convolutions are slower.
    @functools.partial(jax.jit, donate_argnums=0)
    def add(seen: _Seen, x: jax.Array) -> _Seen:
        sums, samples = run(x)
        total = [
            _Sums(
                jax.tree.map(jnp.add, a.gram, b.gram),
                a.mean + b.mean,
                jnp.minimum(a.low, b.low),
                jnp.maximum(a.high, b.high),
            )
            for a, b in zip(seen.total, sums, strict=True)
        ]
        drawn = [
            lax.dynamic_update_index_in_dim(a, b, seen.chunks, axis=0)
            for a, b in zip(seen.samples, samples, strict=True)
        ]
        return _Seen(seen.chunks + 1, total, drawn)

    @jax.jit
    def statistics_of(seen: _Seen) -> Statistics:
        bits = jnp.arange(1, quantization.MAX_BITS + 1)
        statistics = []
        for index, w in enumerate(weights):
            sums, sample = seen.total[index], seen.samples[index]
            gram, mean = whole_gram(sums.gram) / count, sums.mean / count
            places = np.argsort(orders[index])
            gram, mean = gram[:, places][:, :, places], mean[:, places]
            # The output is linear in the input, so its moments follow from the input's.
            output_mean = jnp.einsum("gr,grc->gc", mean, w)
            square = jnp.einsum("grc,grs,gsc->gc", w, centred(gram, mean), w)
            deviation = jnp.sqrt(jnp.maximum(square, 0.0))
            scale, zero, error = quantization.fit_input(sample.ravel(), sums.low, sums.high, bits)
            # Independent roundings of mean square e move an output by e Σ w².
            noise = error * jnp.sum(w * w) / jnp.maximum(jnp.sum(square), 1e-12)
            statistics.append(
                LayerStatistics(gram, mean, output_mean, deviation, scale, zero, noise)
            )
        return tuple(statistics)

    sums, samples = jax.eval_shape(run, chunks[0])
    # As a program: what is given away must not be one array twice.
    seen = jax.jit(lambda: _nothing(sums, samples, count))()
    keeper = Unfinished(unfinished)
    seen = keeper.restore(seen)
    for at in range(int(seen.chunks), count):
        seen = jax.block_until_ready(add(seen, chunks[at]))
        if keeper.due:
            keeper.save(seen)
    return statistics_of(seen)


def _nothing(sums: list[_Sums], samples: list[jax.Array], count: int) -> _Seen:
    """Before the first of `count` chunks that give such sums and samples."""
    most = jnp.asarray(jnp.finfo(jnp.float32).max)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), sums)
    total = [one._replace(low=most, high=-most) for one in zeros]
    return _Seen(jnp.zeros((), jnp.int32), total, [jnp.zeros((count, *x.shape)) for x in samples])


def _places(shape: tuple[int, ...], windows: int, count: int) -> np.ndarray:
    """Which of a chunk's windows, [γ, M, R], count: at random, but fixed."""
    groups, number, width = shape
    most = -(-max(windows * width, WHOLE_PRODUCTS // (groups * width**2)) // count)
    if number <= most:
        return np.arange(number)
    return np.sort(np.random.default_rng(0).choice(number, most, replace=False))


def shapes(weights: tuple[jax.Array, ...]) -> Statistics:
    """What `calibrate` gives for matrices [γ, R, C], as ShapeDtypeStructs."""

    def floats(*shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    found = []
    for groups, rows, columns in (w.shape for w in weights):
        outputs, bits = floats(groups, columns), floats(quantization.MAX_BITS)
        inputs = floats(groups, rows, rows), floats(groups, rows)
        found.append(LayerStatistics(*inputs, outputs, outputs, bits, bits, bits))
    return tuple(found)


def match_images(
    network: Network,
    params: Params,
    weights: tuple[jax.Array, ...],
    statistics: Statistics,
    images: jax.Array,
) -> Statistics:
    """Statistics with the output moments of these images in the place of those of all.

    A compressed layer's moments are taken on these images, too, so that what sets them apart
    from the rest cancels: the mean of 256 images is off by a sixteenth of a deviation.
    """

    @jax.jit
    def moments(images: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
        found: dict[int, tuple[jax.Array, jax.Array]] = {}

        def observe(
            index: int, product: products.Product, x: jax.Array, weight: jax.Array
        ) -> jax.Array:
            del weight
            y = product.convolve(x.astype(jnp.float32), weights[index])
            found.setdefault(index, (y.mean(axis=1), y.std(axis=1)))
            return product.fold(y)

        forward(network, params, images, observe)
        return [found[index] for index in range(len(network.layers))]

    return tuple(
        layer._replace(output_mean=mean, output_deviation=deviation)
        for layer, (mean, deviation) in zip(statistics, moments(images), strict=True)
    )


def _draw(x: jax.Array, count: int) -> jax.Array:
    """`count` values of x at fixed random places: at even strides they would share channels."""
    return x.reshape(-1)[np.random.default_rng(0).integers(x.size, size=count)]


def _pooled(a: _Sums, b: _Sums) -> _Sums:
    low, high = jnp.minimum(a.low, b.low), jnp.maximum(a.high, b.high)
    gram, mean = jax.tree.map(lambda x, y: (x + y) / 2, (a.gram, a.mean), (b.gram, b.mean))
    return _Sums(gram, mean, low, high)


def centred(gram: jax.Array, mean: jax.Array) -> jax.Array:
    """Covariance of the input, E[x xᵀ] - E[x] E[x]ᵀ: [γ, R, R]."""
    return gram - mean[:, :, None] * mean[:, None, :]
