"""What the layers see on training images: input ranges, Gram matrices, output moments."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax import products, quantization
from apq_jax.capture import Network, Params, forward

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
    gram: jax.Array
    mean: jax.Array
    low: jax.Array
    high: jax.Array


def calibrate(
    network: Network,
    params: Params,
    weights: tuple[jax.Array, ...],
    images: jax.Array,
    chunk: int = 100,
) -> Statistics:
    """Runs the float model over training images.

    Args:
      network, params: the model.
      weights: its matrices, [γ, R, C] a layer.
      images: [N, ...]; a remainder of fewer than `chunk` is left out.
      chunk: images at a time.
    """
    chunk = min(chunk, images.shape[0])
    count = images.shape[0] // chunk
    chunks = images[: count * chunk].reshape(count, chunk, *images.shape[1:])

    def run(x: jax.Array) -> tuple[list[_Sums], list[jax.Array]]:
        sums: dict[int, _Sums] = {}
        samples: dict[int, jax.Array] = {}

        def observe(
            index: int, product: products.Product, x: jax.Array, weight: jax.Array
        ) -> jax.Array:
            del weight
            x = x.astype(jnp.float32)
            rows = product.unfold(x)
            gram = jnp.einsum("gmr,gms->grs", rows, rows) / rows.shape[1]
            seen = _Sums(gram, rows.mean(axis=1), x.min(), x.max())
            drawn = _draw(x, -(-_SAMPLE // count))
            if index in sums:  # a weight that is used twice sees the inputs of both its uses
                seen, drawn = _pooled(sums[index], seen), jnp.append(samples[index], drawn)
            sums[index], samples[index] = seen, drawn
            return product.fold(rows @ weights[index])

        forward(network, params, x, observe)
        order = range(len(network.layers))
        return [sums[index] for index in order], [samples[index] for index in order]

    @jax.jit
    def calibrated(chunks: jax.Array) -> Statistics:
        shapes, _ = jax.eval_shape(run, chunks[0])
        most = jnp.asarray(jnp.inf)
        nothing = [
            _Sums(jnp.zeros(one.gram.shape), jnp.zeros(one.mean.shape), most, -most)
            for one in shapes
        ]

        def step(carry: list[_Sums], x: jax.Array) -> tuple[list[_Sums], list[jax.Array]]:
            seen, samples = run(x)
            return [
                _Sums(
                    a.gram + b.gram,
                    a.mean + b.mean,
                    jnp.minimum(a.low, b.low),
                    jnp.maximum(a.high, b.high),
                )
                for a, b in zip(carry, seen, strict=True)
            ], samples

        total, samples = lax.scan(step, nothing, chunks)
        bits = jnp.arange(1, quantization.MAX_BITS + 1)
        statistics = []
        for sums, sample, w in zip(total, samples, weights, strict=True):
            gram, mean = sums.gram / count, sums.mean / count
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

    return calibrated(chunks)


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
            y = product.multiply(x.astype(jnp.float32), weights[index])
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
    return _Sums((a.gram + b.gram) / 2, (a.mean + b.mean) / 2, low, high)


def centred(gram: jax.Array, mean: jax.Array) -> jax.Array:
    """Covariance of the input, E[x xᵀ] - E[x] E[x]ᵀ: [γ, R, R]."""
    return gram - mean[:, :, None] * mean[:, None, :]
