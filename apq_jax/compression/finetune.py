"""Fine-tunes a compressed network under its masks and bits, towards the float network's logits.

Fine-tuning is quantization-aware: the integer network runs forward, and real numbers that round to
its levels are learnt (straight-through estimator, Bengio et al., arXiv 1308.3432). Weights are
learnt in units of their scale. The multiplier holds the scale, so scales are learnt with it (as in
learned step sizes, Esser et al., ICLR 2020, 1902.08153). Masks, bits and input quantizers stay, so
the result is mapped like any compressed network. The targets are the labels and the float network's
logits on the same augmented images (distillation, Hinton et al., arXiv 1503.02531).
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

from apq_jax.compression import converters, quantization
from apq_jax.compression.compressed import Compressed, CompressedLayer, apply
from apq_jax.compression.options import FinetuneOptions
from apq_jax.data.scoring import run_in_chunks
from apq_jax.network.capture import Network, compute_float_logits, forward, forward_float
from apq_jax.network.jaxpr import Params
from apq_jax.network.products import Product
from apq_jax.system.pytrees import Unfinished
from apq_jax.system.signals import Terminated

_CHUNK = 500  # validation images at a time
Augment = Callable[[jax.Array, jax.Array], jax.Array]  # (key, images) -> images


class Learnt(NamedTuple):
    """The learnt parameters of a layer."""

    weight: jax.Array  # [γ, R, C] float32, in levels
    multiplier: jax.Array  # [γ, C] float32, in units of the layer's largest at the start
    offset: jax.Array  # [γ, C] float32, likewise


class Fixed(NamedTuple):
    """The parts of a layer that stay."""

    layer: CompressedLayer
    mask: jax.Array  # [γ, R, C] bool, survivors
    weight_bits: jax.Array  # [] int32
    units: tuple[jax.Array, jax.Array]  # [] each, largest |multiplier| and |offset| at the start


class Images(NamedTuple):
    """Labelled images, for training or validation."""

    images: jax.Array  # [N, ...]
    labels: jax.Array  # [N] int32


class Tuning(NamedTuple):
    """The state of fine-tuning between two looks at the validation loss."""

    learnt: tuple[Learnt, ...]  # after the last step
    state: optax.OptState
    best: tuple[Learnt, ...]  # at the look with the least validation loss
    loss: np.ndarray  # [] float32, validation loss of `best`
    before: np.ndarray  # [] float32, validation loss before fine-tuning
    step: np.ndarray  # [] int32, steps done
    stale: np.ndarray  # [] int32, looks since the best; `patience` if time has run out


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
    """Trains a compressed network on the float network's logits and the labels.

    Args:
      network, params: the model; parameters that no crossbar holds stay.
      compressed: from `compressed.compress`.
      masks: [γ, R, C] bool a layer; a pruned weight stays 0.
      weight_bits: [L] int32.
      train: training images.
      validate: validation images; the state with the least loss on them is returned, and training
        ends after `options.patience` looks without gain.
      key: draws the batches and the augmentation.
      options: static.
      scale_bits: of the fixed-point multipliers and offsets, `Recovery.scale_bits`.
      augment: changes a batch of training images. Static: one object compiles once.
      optimiser: of a tuple of `Learnt`, static likewise; None: Adam with the options' rates.
      on_progress: called after every look with the steps done and the best loss; if it returns
        True, training stops, unfinished; its state is saved.
      path: file for the state, written every `pytrees.SAVE_SECONDS`, at the end, and when Ctrl-C or
        SIGTERM ends the call; None: nothing is written. If the file exists, training resumes from
        it, so the file must be of these very arguments.

    Returns:
      The compressed network of the best state, with the same masks, bits and fixed-point format;
      and the state in which training stopped.

    Raises:
      InputError: the file cannot be written.
    """
    fixed, learnt = split_learnt(compressed, masks, weight_bits)
    optimiser = build_optimiser(options) if optimiser is None else optimiser
    static: Any = network, options, augment, optimiser
    starts = range(0, len(validate.labels), _CHUNK)
    parts = [jax.tree.map(lambda x, i=i: x[i : i + _CHUNK], validate) for i in starts]
    chunks = [(part, compute_float_logits(network, params, part.images)) for part in parts]
    # Without augmentation every batch has images of which the float network's logits are known.
    teach = functools.partial(compute_float_logits, network, params)
    reference = (
        None if augment else jnp.asarray(run_in_chunks(teach, np.asarray(train.images), _CHUNK))
    )

    def compute_validation_loss(learnt: tuple[Learnt, ...]) -> np.ndarray:
        losses = [
            _sum_validation_loss(network, scale_bits, options, params, fixed, learnt, *chunk)
            for chunk in chunks
        ]
        return np.asarray(sum(losses) / len(validate.labels), np.float32)

    before, zero = compute_validation_loss(learnt), np.asarray(0, np.int32)
    tuning = Tuning(learnt, jax.jit(optimiser.init)(learnt), learnt, before, before, zero, zero)
    state_file = Unfinished(path)
    tuning = state_file.restore(tuning)
    start = time.monotonic()
    try:
        while not is_finished(tuning, options):
            learnt, state, step = tuning.learnt, tuning.state, int(tuning.step)
            until = min(step + options.look, options.steps)
            for index in range(step, until):
                learnt, state = take_step(
                    *static, params, fixed, learnt, state, train, reference, key, np.int32(index)
                )
            loss = compute_validation_loss(learnt)
            better = bool(loss < tuning.loss)
            best, best_loss = (learnt, loss) if better else (tuning.best, tuning.loss)
            stale = np.asarray(0 if better else tuning.stale + 1, np.int32)
            if options.seconds and time.monotonic() - start >= options.seconds:
                stale = np.asarray(options.patience, np.int32)
            tuning = Tuning(
                learnt, state, best, best_loss, tuning.before, np.asarray(until, np.int32), stale
            )
            done = is_finished(tuning, options)
            stopped = on_progress is not None and on_progress(until, float(best_loss)) and not done
            if done or stopped or state_file.due:
                state_file.save(tuning)
            if stopped:
                break
    except (KeyboardInterrupt, Terminated):
        state_file.save(tuning)
        raise
    return _round_all(scale_bits, fixed, tuning.best), tuning


def is_finished(tuning: Tuning, options: FinetuneOptions) -> bool:
    """Tells whether no step is left: all are done, or patience or time has run out.

    `options.seconds` count from the last call of `finetune`, so a resumed run has them anew.
    """
    return bool(tuning.step >= options.steps or tuning.stale >= options.patience)


@jax.jit
def split_learnt(
    compressed: Compressed, masks: tuple[jax.Array, ...], weight_bits: jax.Array
) -> tuple[tuple[Fixed, ...], tuple[Learnt, ...]]:
    """Splits a compressed network into its fixed parts and its learnt parameters."""
    fixed = tuple(
        Fixed(layer, mask, bits, (_find_largest(layer.multiplier), _find_largest(layer.offset)))
        for layer, mask, bits in zip(compressed, masks, weight_bits, strict=True)
    )
    learnt = tuple(
        Learnt(
            part.layer.levels.astype(jnp.float32),
            part.layer.multiplier / part.units[0],
            part.layer.offset / part.units[1],
        )
        for part in fixed
    )
    return fixed, learnt


def _find_largest(x: jax.Array) -> jax.Array:
    """Returns the largest magnitude in x, or 1 if all are 0."""
    largest = jnp.abs(x).max()
    return jnp.where(largest > 0, largest, 1.0)


@functools.lru_cache(maxsize=16)  # one object for the same options, so that it compiles once
def build_optimiser(options: FinetuneOptions) -> optax.GradientTransformation:
    """Builds Adam with `rate` for levels and `affine_rate` for multipliers and offsets.

    Both rates decay to 0 over `options.steps` by a cosine.
    """

    def adam(rate: float) -> optax.GradientTransformation:
        return optax.adam(optax.cosine_decay_schedule(rate, options.steps))

    kinds: Any = "levels", "affine", "affine"
    return optax.multi_transform(
        {"levels": adam(options.rate), "affine": adam(options.affine_rate)},
        lambda learnt: tuple(Learnt(*kinds) for _ in learnt),
    )


def _compute_loss(
    logits: jax.Array, reference: jax.Array, labels: jax.Array, options: FinetuneOptions
) -> jax.Array:
    """Computes the loss of B images, [B], in nats; logits are [B, classes].

    (1 - w) T² KL(softmax(reference / T) || softmax(logits / T)) + w CE(labels, logits). With T
    above 1, images that both networks are sure of teach, too (Hinton et al., section 2).
    """
    t, weight = options.temperature, options.label_weight
    kl = optax.losses.kl_divergence(jax.nn.log_softmax(logits / t), jax.nn.softmax(reference / t))
    label_loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (1 - weight) * t**2 * kl + weight * label_loss


# A jitted step in a Python loop, because XLA's convolutions are slower inside a scan.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def take_step(
    network: Network,
    options: FinetuneOptions,
    augment: Augment | None,
    optimiser: optax.GradientTransformation,
    params: Params,
    fixed: tuple[Fixed, ...],
    learnt: tuple[Learnt, ...],
    state: optax.OptState,
    train: Images,
    reference: jax.Array | None,
    key: jax.Array,
    step: jax.typing.ArrayLike,
) -> tuple[tuple[Learnt, ...], optax.OptState]:
    """Draws a batch and updates the learnt parameters and the optimiser's state.

    Args:
      network, options, augment, optimiser: static.
      params, fixed, learnt, state, train: as in `finetune`.
      reference: the float network's logits of all training images, [N, classes]; None: they are
        computed for the batch.
      key, step: draw the batch and its augmentation.
    """
    draw_key, augment_key = jax.random.split(jax.random.fold_in(key, step))
    batch = jax.random.randint(draw_key, (options.batch,), 0, train.labels.shape[0])
    x, labels = train.images[batch], train.labels[batch]
    # Without the barrier XLA fuses the augmentation into the first layer, which repeats it for
    # every use of a pixel.
    x = jax.lax.optimization_barrier(x if augment is None else augment(augment_key, x))
    taught = forward_float(network, params, x) if reference is None else reference[batch]

    def loss(learnt: tuple[Learnt, ...]) -> jax.Array:
        logits = apply_learnt(network, params, fixed, learnt, x)
        return _compute_loss(logits, taught, labels, options).mean()

    updates, state = optimiser.update(jax.grad(loss)(learnt), state, learnt)
    return optax.apply_updates(learnt, updates), state


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _sum_validation_loss(
    network: Network,
    scale_bits: int,
    options: FinetuneOptions,
    params: Params,
    fixed: tuple[Fixed, ...],
    learnt: tuple[Learnt, ...],
    validate: Images,
    reference: jax.Array,
) -> jax.Array:
    """Sums the loss of the rounded network over validation images."""
    compressed = _round_all(scale_bits, fixed, learnt)
    logits = apply(network, params, compressed, validate.images)
    return _compute_loss(logits, reference, validate.labels, options).sum()


def _pass_through(exact: jax.Array, smooth: jax.Array) -> jax.Array:
    """Returns `exact` forward, and passes the gradient to `smooth` backward."""
    return smooth + jax.lax.stop_gradient(exact - smooth)


def _round_to_levels(fixed: Fixed, weight: jax.Array) -> jax.Array:
    """Rounds a layer's learnt weights, in levels, to whole levels: [γ, R, C] float32."""
    scale = jnp.ones(weight.shape[::2])
    return quantization.quantize_weight(weight, fixed.mask, scale, fixed.weight_bits)


def apply_learnt(
    network: Network,
    params: Params,
    fixed: tuple[Fixed, ...],
    learnt: tuple[Learnt, ...],
    x: jax.Array,
) -> jax.Array:
    """Returns the compressed network's logits [B, classes], differentiable in `learnt`."""

    def replace(index: int, product: Product, x: jax.Array, _: jax.Array) -> jax.Array:
        fixed_part, learnt_part = fixed[index], learnt[index]
        layer, limit = fixed_part.layer, quantization.get_max_weight_level(fixed_part.weight_bits)
        scale, zero = layer.input_scale, layer.input_zero
        smooth = jnp.clip(x / scale + zero, 0, quantization.get_max_input_level(layer.input_bits))
        u = _pass_through(quantization.quantize_input(x, scale, zero, layer.input_bits), smooth)
        clipped = jnp.clip(learnt_part.weight, -limit, limit) * fixed_part.mask
        levels = _pass_through(_round_to_levels(fixed_part, learnt_part.weight), clipped)
        # Padding reads the zero point. Sums are whole numbers below 2^24, so exact in float32.
        sums = product.convolve(u - zero, levels) + zero * levels.sum(axis=1, keepdims=True)
        if layer.reading is not None:  # errors of converters have no gradient
            windows = product.unfold(u, pad=zero).round().astype(jnp.int32)
            whole = levels.round().astype(jnp.int8), windows
            sums += converters.compute_conversion_errors(
                layer.reading, *whole, layer.input_bits
            ).astype(jnp.float32)
        multiplier = learnt_part.multiplier * fixed_part.units[0]
        offset = learnt_part.offset * fixed_part.units[1]
        return product.fold(multiplier[:, None] * sums + offset[:, None])

    return forward(network, params, x, replace)


@functools.partial(jax.jit, static_argnums=0)
def _round_all(scale_bits: int, fixed: tuple[Fixed, ...], learnt: tuple[Learnt, ...]) -> Compressed:
    """Rounds the learnt parameters to a compressed network."""
    return tuple(_round_layer(*layer, scale_bits) for layer in zip(fixed, learnt, strict=True))


def _round_layer(fixed: Fixed, learnt: Learnt, scale_bits: int) -> CompressedLayer:
    multiplier, offset = learnt.multiplier * fixed.units[0], learnt.offset * fixed.units[1]
    return fixed.layer._replace(
        levels=_round_to_levels(fixed, learnt.weight).astype(jnp.int8),
        multiplier=quantization.round_to_fixed_point(multiplier, scale_bits),
        offset=quantization.round_to_fixed_point(offset, scale_bits),
    )
