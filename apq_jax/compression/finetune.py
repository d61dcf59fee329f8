"""Fine-tuning of a compressed network under its masks and bits, from the float network's logits.

Quantization-aware: what runs forward is the integer network, what is learnt are real numbers that
round to its levels (straight-through estimator, Bengio et al., arXiv 1308.3432). Weights are learnt
in units of their scale, which the multiplier holds, so that scales are learnt with it (as in
learned step sizes, Esser et al., ICLR 2020, 1902.08153). Masks, bits and input quantizers stay, so
the result is mapped like any other. The target is the float network's logits on the same augmented
images (distillation, Hinton et al., arXiv 1503.02531), beside the labels.
"""

import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from apq_jax.compression import compressed as integer
from apq_jax.compression import converters, quantization
from apq_jax.compression.compressed import Compressed, CompressedLayer
from apq_jax.compression.options import FinetuneOptions
from apq_jax.network import products
from apq_jax.network.capture import Network, compute_float_logits, forward, forward_float
from apq_jax.network.jaxpr import Params
from apq_jax.system.pytrees import Unfinished

_CHUNK = 500  # validation images at a time
Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (key, images) -> images


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


class Images(NamedTuple):
    """What is learnt from, or looked at."""

    images: jax.Array  # [N, ...]
    labels: jax.Array  # [N] int32


class Tuning(NamedTuple):
    """Where fine-tuning stands between two looks; all that is needed to go on."""

    learnt: tuple[Learnt, ...]
    state: optax.OptState
    best: tuple[Learnt, ...]
    loss: np.ndarray  # [] float32, of the best on the validation images
    before: np.ndarray  # [] float32, of the network as it was
    step: np.ndarray  # [] int32
    stale: np.ndarray  # [] int32, looks since the best


def finetune(
    network: Network,
    params: Params,
    compressed: Compressed,
    masks: tuple[jax.Array, ...],
    weight_bits: jax.Array,
    train: Images,
    validate: Images,
    key: jax.Array,
    options: FinetuneOptions,
    *,
    scale_bits: int = 16,
    augment: Augment | None = None,
    optimiser: optax.GradientTransformation | None = None,
    on_progress: Callable[[int, float], bool] | None = None,
    path: pathlib.Path | None = None,
) -> tuple[Compressed, Tuning]:
    """Learns to give the float network's outputs, and the labels.

    Args:
      network, params: the model; parameters that no crossbar holds stay.
      compressed: from `evaluation.compress`.
      masks: [γ, R, C] bool a layer; a pruned weight stays 0.
      weight_bits: [L] int32.
      train: what is learnt from.
      validate: the best state is that of the least loss here, and no gain here ends it.
      key: draws the batches and what `augment` does.
      options: static.
      scale_bits: of the fixed-point multipliers and offsets, `Recovery.scale_bits`.
      augment: changes a batch of training images; static: the same object compiles once.
      optimiser: of a tuple of `Learnt`, static likewise; None: Adam with the options' rates.
      on_progress: called after every look with the steps done and the loss of the best; where it
        returns True, fine-tuning ends without being finished.
      path: where it stands is kept in this file, and taken up from it; what it ended with, too.
        The file must belong to these very arguments.

    Returns:
      The network of the best state, of the same bits and masks, fixed point as before; and where
      fine-tuning stands.

    Raises:
      InputError: the file cannot be written.
    """
    fixed, learnt = begin(compressed, masks, weight_bits)
    optimiser = usual_optimiser(options) if optimiser is None else optimiser
    static: Any = network, options, augment, optimiser
    chunks = [
        (part, compute_float_logits(network, params, part.images)) for part in _chunks(validate)
    ]

    def look(learnt: tuple[Learnt, ...]) -> np.ndarray:
        losses = [
            _validation_loss(network, scale_bits, options, params, fixed, learnt, *chunk)
            for chunk in chunks
        ]
        return np.asarray(sum(losses) / len(validate.labels), np.float32)

    before, zero = look(learnt), np.asarray(0, np.int32)
    tuning = Tuning(learnt, jax.jit(optimiser.init)(learnt), learnt, before, before, zero, zero)
    keeper = Unfinished(path)
    tuning = keeper.restore(tuning)
    start = time.monotonic()
    while not finished(tuning, options):
        learnt, state, step = tuning.learnt, tuning.state, int(tuning.step)
        until = min(step + options.look, options.steps)
        for number in range(step, until):
            at = jax.random.fold_in(key, number)
            learnt, state = _step(*static, params, fixed, learnt, state, train, at)
        loss = look(learnt)
        better = bool(loss < tuning.loss)
        best, least = (learnt, loss) if better else (tuning.best, tuning.loss)
        stale = np.asarray(0 if better else tuning.stale + 1, np.int32)
        if options.seconds and time.monotonic() - start >= options.seconds:
            stale = np.asarray(options.patience, np.int32)
        tuning = Tuning(
            learnt, state, best, least, tuning.before, np.asarray(until, np.int32), stale
        )
        done = finished(tuning, options)
        if done or keeper.due:
            keeper.save(tuning)
        if on_progress is not None and on_progress(until, float(least)) and not done:
            break
    return _delivered(scale_bits, fixed, tuning.best), tuning


def _chunks(images: Images) -> list[Images]:
    starts = range(0, len(images.labels), _CHUNK)
    return [jax.tree.map(lambda x, i=i: x[i : i + _CHUNK], images) for i in starts]


def finished(tuning: Tuning, options: FinetuneOptions) -> bool:
    """Whether no step is left to do."""
    return bool(tuning.step >= options.steps or tuning.stale >= options.patience)


@jax.jit
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


@functools.lru_cache(maxsize=16)  # the same object for the same options: compiled once
def usual_optimiser(options: FinetuneOptions) -> optax.GradientTransformation:
    """Adam, its rates falling by a cosine; one for levels, one for multipliers and offsets."""

    def adam(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, options.steps))

    kinds: Any = "levels", "affine", "affine"
    return optax.multi_transform(
        {"levels": adam(options.rate), "affine": adam(options.affine_rate)},
        lambda learnt: tuple(Learnt(*kinds) for _ in learnt),
    )


def _loss(
    logits: jax.Array, reference: jax.Array, labels: jax.Array, options: FinetuneOptions
) -> jax.Array:
    """Of each of B images, [B], in nats; logits are [B, classes].

    (1 - w) T² KL(softmax(reference / T) || softmax(logits / T)) + w CE(labels, logits); with T
    above 1 an image that both are sure of teaches, too (Hinton et al., section 2).
    """
    t, weight = options.temperature, options.label_weight
    gap = optax.losses.kl_divergence(jax.nn.log_softmax(logits / t), jax.nn.softmax(reference / t))
    wrong = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (1 - weight) * t**2 * gap + weight * wrong


# A jitted step in a Python loop, as in training.py: inside a scan XLA's convolutions are slower.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _step(
    network: Network,
    options: FinetuneOptions,
    augment: Augment | None,
    optimiser: optax.GradientTransformation,
    params: Params,
    fixed: tuple[Fixed, ...],
    learnt: tuple[Learnt, ...],
    state: optax.OptState,
    train: Images,
    key: jax.Array,
) -> tuple[tuple[Learnt, ...], optax.OptState]:
    draw_key, augment_key = jax.random.split(key)
    at = jax.random.randint(draw_key, (options.batch,), 0, train.labels.shape[0])
    x, labels = train.images[at], train.labels[at]
    # Else what augments is fused into the first layer and done anew for every use of a pixel.
    x = jax.lax.optimization_barrier(x if augment is None else augment(augment_key, x))
    reference = forward_float(network, params, x)

    def loss(learnt: tuple[Learnt, ...]) -> jax.Array:
        logits = apply(network, params, fixed, learnt, x)
        return _loss(logits, reference, labels, options).mean()

    change, state = optimiser.update(jax.grad(loss)(learnt), state, learnt)
    return optax.apply_updates(learnt, change), state


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _validation_loss(
    network: Network,
    scale_bits: int,
    options: FinetuneOptions,
    params: Params,
    fixed: tuple[Fixed, ...],
    learnt: tuple[Learnt, ...],
    validate: Images,
    reference: jax.Array,
) -> jax.Array:
    """Sum over images, of the integer network that would be delivered."""
    tuned = _delivered(scale_bits, fixed, learnt)
    logits = integer.apply(network, params, tuned, validate.images)
    return _loss(logits, reference, validate.labels, options).sum()


def _through(exact: jax.Array, smooth: jax.Array) -> jax.Array:
    """`exact` forward, the gradient of `smooth` backward."""
    return smooth + jax.lax.stop_gradient(exact - smooth)


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
        # What lies outside the input is its zero: whole numbers below 2^24, so exact in float32.
        sums = product.convolve(u - zero, levels) + zero * levels.sum(axis=1, keepdims=True)
        if layer.reading is not None:  # what converters round away has no gradient
            windows = product.unfold(u, pad=zero).round().astype(jnp.int32)
            whole = levels.round().astype(jnp.int8), windows
            sums += converters.lost(layer.reading, *whole, layer.input_bits).astype(jnp.float32)
        multiplier, offset = (
            part * unit for part, unit in zip((now.multiplier, now.offset), one.units, strict=True)
        )
        return product.fold(multiplier[:, None] * sums + offset[:, None])

    return forward(network, params, x, replace)


@functools.partial(jax.jit, static_argnums=0)
def _delivered(scale_bits: int, fixed: tuple[Fixed, ...], learnt: tuple[Learnt, ...]) -> Compressed:
    """What was learnt as integers and fixed-point numbers."""
    return tuple(_rounded(*layer, scale_bits) for layer in zip(fixed, learnt, strict=True))


def _rounded(one: Fixed, now: Learnt, scale_bits: int) -> CompressedLayer:
    fixed_point = functools.partial(quantization.fixed_point, bits=scale_bits)
    return one.layer._replace(
        levels=_levels(one, now.weight).astype(jnp.int8),
        multiplier=fixed_point(now.multiplier * one.units[0]),
        offset=fixed_point(now.offset * one.units[1]),
    )
