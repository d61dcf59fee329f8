"""Fine-tuning of a compressed network under its masks and bits, from the float network's logits.

Quantization-aware: what runs forward is the integer network, what is learnt are real numbers that
round to its levels (straight-through estimator, Bengio et al., arXiv 1308.3432). Weights are learnt
in units of their scale, which the multiplier holds, so that scales are learnt with it (as in
learned step sizes, Esser et al., ICLR 2020, 1902.08153). Masks, bits and input quantizers stay, so
the result is mapped like any other.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from apq_jax import conversion, products, quantization
from apq_jax.capture import Network, Params, forward
from apq_jax.evaluation import Compressed, CompressedLayer


@dataclasses.dataclass(frozen=True)
class FinetuneOptions:
    """Static."""

    steps: int = 300
    batch: int = 128
    rate: float = 2e-2  # Adam's, in levels; falls to 0 by a cosine
    affine_rate: float = 2e-3  # of multipliers and offsets, in parts of each layer's largest


class Learnt(NamedTuple):
    """What is learnt of a layer."""

    weight: jax.Array  # [γ, R, C] float32, in levels
    multiplier: jax.Array  # [γ, C] float32, over the layer's largest at the start
    offset: jax.Array  # [γ, C] float32, likewise


class Fixed(NamedTuple):
    """What stays."""

    layer: CompressedLayer
    mask: jax.Array  # [γ, R, C] bool, survivors
    weight_bits: jax.Array  # [] int32
    units: tuple[jax.Array, jax.Array]  # [] each, largest multiplier and offset


def finetune(
    network: Network,
    params: Params,
    compressed: Compressed,
    masks: tuple[jax.Array, ...],
    weight_bits: jax.Array,
    images: jax.Array,
    reference: jax.Array,
    key: jax.Array,
    options: FinetuneOptions,
    scale_bits: int = 16,
) -> Compressed:
    """Learns to give the float network's outputs.

    Args:
      network, params: the model; parameters that no crossbar holds stay.
      compressed: from `evaluation.compress`.
      masks: [γ, R, C] bool a layer; a pruned weight stays 0.
      weight_bits: [L] int32.
      images: [N, ...] training images.
      reference: [N, classes] the float network's logits on them; no label is used.
      key: draws the batches.
      options: static.
      scale_bits: of the fixed-point multipliers and offsets, `Recovery.scale_bits`.

    Returns:
      A network of the same bits and masks, fixed point as before.
    """
    fixed, learnt = begin(compressed, masks, weight_bits)
    optimiser = _optimiser(options)

    def loss(learnt: tuple[Learnt, ...], x: jax.Array, target: jax.Array) -> jax.Array:
        logits = apply(network, params, fixed, learnt, x)
        return jnp.mean(optax.losses.kl_divergence(jax.nn.log_softmax(logits), target))

    def step(
        carry: tuple[tuple[Learnt, ...], optax.OptState], key: jax.Array
    ) -> tuple[tuple[tuple[Learnt, ...], optax.OptState], None]:
        learnt, state = carry
        at = jax.random.randint(key, (options.batch,), 0, images.shape[0])
        gradient = jax.grad(loss)(learnt, images[at], jax.nn.softmax(reference[at]))
        change, state = optimiser.update(gradient, state)
        return (optax.apply_updates(learnt, change), state), None

    carry = learnt, optimiser.init(learnt)
    (learnt, _), _ = lax.scan(step, carry, jax.random.split(key, options.steps))
    return tuple(_rounded(*layer, scale_bits) for layer in zip(fixed, learnt, strict=True))


def begin(
    compressed: Compressed, masks: tuple[jax.Array, ...], weight_bits: jax.Array
) -> tuple[tuple[Fixed, ...], tuple[Learnt, ...]]:
    """What stays and what is learnt, where learning begins: the compressed network itself."""
    fixed = tuple(
        Fixed(layer, mask, bits, (_largest(layer.multiplier), _largest(layer.offset)))
        for layer, mask, bits in zip(compressed, masks, weight_bits, strict=True)
    )
    learnt = tuple(
        Learnt(
            one.layer.levels.astype(jnp.float32),
            one.layer.multiplier / one.units[0],
            one.layer.offset / one.units[1],
        )
        for one in fixed
    )
    return fixed, learnt


def _largest(x: jax.Array) -> jax.Array:
    largest = jnp.abs(x).max()
    return jnp.where(largest > 0, largest, 1.0)


def _optimiser(options: FinetuneOptions) -> optax.GradientTransformation:
    def adam(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, options.steps))

    kinds: Any = "levels", "affine", "affine"
    return optax.multi_transform(
        {"levels": adam(options.rate), "affine": adam(options.affine_rate)},
        lambda learnt: tuple(Learnt(*kinds) for _ in learnt),
    )


def _through(exact: jax.Array, smooth: jax.Array) -> jax.Array:
    """`exact` forward, the gradient of `smooth` backward."""
    return smooth + lax.stop_gradient(exact - smooth)


def _levels(one: Fixed, weight: jax.Array) -> jax.Array:
    """Whole levels of weights in levels: [γ, R, C] float32."""
    unit = jnp.ones(weight.shape[::2])
    return quantization.quantize_weight(weight, one.mask, unit, one.weight_bits)


def apply(
    network: Network,
    params: Params,
    fixed: tuple[Fixed, ...],
    learnt: tuple[Learnt, ...],
    x: jax.Array,
) -> jax.Array:
    """Logits [B, classes], differentiable in what is learnt."""

    def replace(
        index: int, product: products.Product, x: jax.Array, weight: jax.Array
    ) -> jax.Array:
        del weight
        one, now = fixed[index], learnt[index]
        layer, limit = one.layer, quantization.weight_limit(one.weight_bits)
        scale, zero = layer.input_scale, layer.input_zero
        smooth = jnp.clip(x / scale + zero, 0, quantization.input_limit(layer.input_bits))
        u = _through(quantization.quantize_input(x, scale, zero, layer.input_bits), smooth)
        clipped = jnp.clip(now.weight, -limit, limit) * one.mask
        levels = _through(_levels(one, now.weight), clipped)
        sums = product.multiply(u, levels, pad=zero)
        if layer.reading is not None:  # what converters round away has no gradient
            windows = product.unfold(u, pad=zero).round().astype(jnp.int32)
            whole = levels.round().astype(jnp.int8), windows
            sums += conversion.lost(layer.reading, *whole, layer.input_bits).astype(jnp.float32)
        multiplier, offset = (
            part * unit for part, unit in zip((now.multiplier, now.offset), one.units, strict=True)
        )
        return product.fold(multiplier[:, None] * sums + offset[:, None])

    return forward(network, params, x, replace)


def _rounded(one: Fixed, now: Learnt, scale_bits: int) -> CompressedLayer:
    """What was learnt as a layer's integers and fixed-point numbers."""
    fixed_point = functools.partial(quantization.fixed_point, bits=scale_bits)
    return one.layer._replace(
        levels=_levels(one, now.weight).astype(jnp.int8),
        multiplier=fixed_point(now.multiplier * one.units[0]),
        offset=fixed_point(now.offset * one.units[1]),
    )
