"""Trains a classifier on labelled images.

B is the number of images in a batch, N in a data set; images are [N, H, W, C] float32.
A model is a function `apply_fn(params, images) -> logits [B, classes]`. It is a static
argument of the jitted functions here: pass an equal object again and nothing is recompiled.
A model that behaves differently in training, for instance by batch normalisation, comes with a
second function, `train_fn(params, images) -> logits, updated`. `updated` replaces top-level entries
of the params, such as {"batch_stats": ...}, as in Flax's `apply(..., mutable=["batch_stats"])`.
"""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from apq_jax.data import Dataset
from apq_jax.models.options import Training
from apq_jax.network.gradients import accelerate
from apq_jax.system.errors import InputError
from apq_jax.system.pytrees import Unfinished

Params: TypeAlias = Any  # a pytree of arrays
ApplyFn: TypeAlias = Callable[[Params, jax.Array], Any]
TrainFn: TypeAlias = Callable[[Params, jax.Array], tuple[Any, Mapping[str, Any]]]
Progress: TypeAlias = Callable[[float, float], None]  # epochs done, mean loss in nats
_REPORT = 50  # steps between two reports of progress


def shift_randomly(key: jax.Array, images: jax.Array, max_shift: int) -> jax.Array:
    """Shifts each image of [B, H, W, C] at random, by up to `max_shift` pixels along H and W.

    Zeros fill the pixels that no image pixel moves to. A shift of 0 returns the images themselves.
    """
    if max_shift == 0:
        return images
    margin = ((max_shift, max_shift), (max_shift, max_shift), (0, 0))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * max_shift + 1)

    def shift(image: jax.Array, corner: jax.Array) -> jax.Array:
        padded = jnp.pad(image, margin)
        return jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)

    return jax.vmap(shift)(images, corners)


def mirror_randomly(key: jax.Array, images: jax.Array) -> jax.Array:
    """Mirrors images [B, H, W, C] left to right, each with probability one half."""
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def augment(key: jax.Array, images: jax.Array, max_shift: int, flip: bool) -> jax.Array:
    """Shifts images [B, H, W, C] at random, then mirrors half of them at random if `flip`."""
    shifted = shift_randomly(key, images, max_shift)
    return mirror_randomly(jax.random.fold_in(key, 1), shifted) if flip else shifted


def train(
    apply_fn: ApplyFn,
    params: Params,
    dataset: Dataset,
    options: Training,
    key: jax.Array,
    *,
    train_fn: TrainFn | None = None,
    on_progress: Progress | None = None,
    unfinished: pathlib.Path | None = None,
) -> Params:
    """Trains `params` with AdamW on the cross entropy of the training split, and returns them.

    Args:
      apply_fn: the model; not called in training if there is a `train_fn`.
      params: where training starts.
      dataset: its training split is used.
      options: `options.seed` is not used, because `key` stands for it.
      key: decides the order of images, shifts and flips.
      train_fn: the model in training, if it differs from `apply_fn`.
      on_progress: called with the epochs done and the mean loss of the epoch so far, every 50
        steps and at the end of every epoch.
      unfinished: file of the training's state, written after every epoch but the last, and after a
        step whenever `pytrees.SAVE_SECONDS` have passed. Training continues from an existing file
        and gives the same result. The file must belong to a training with the same arguments,
        which is not checked. An unreadable file is ignored with a warning.

    Raises:
      InputError: an epoch's mean loss is not finite, or `unfinished` cannot be written.
    """
    images, labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    batch_size = min(options.batch_size, len(labels))
    steps = len(labels) // batch_size
    init = jax.jit(build_optimizer(options.learning_rate, options.weight_decay, steps).init)
    state = init(params)

    def check(saved: tuple[Params, Any, _Position]) -> None:
        for name, limit in (("epochs", options.all_epochs), ("steps", steps)):
            if not 0 <= (count := getattr(saved[2], name)) < limit:
                raise InputError(f"{unfinished}: {count} {name} done; allowed: 0 to {limit - 1}")

    keeper = Unfinished(unfinished)
    params, state, position = keeper.restore((params, state, _record_position(0, [], steps)), check)
    done, losses = int(position.epochs), list(np.asarray(position.losses)[: position.steps])
    for epoch in range(done + 1, options.all_epochs + 1):
        restarted = epoch > options.epochs
        rates = options.learning_rate / (2 if restarted else 1), options.weight_decay
        if epoch == options.epochs + 1 and not losses:
            state = init(params)
        order, keys = _shuffle(key, epoch, options, len(labels), steps)
        for step in range(len(losses), steps):
            params, state, loss = take_step(
                apply_fn,
                params,
                state,
                images,
                labels,
                order,
                keys,
                step,
                rates=rates,
                train_fn=train_fn,
                max_shift=options.max_shift,
                flip=options.flip,
                steps=steps * (options.restart_epochs if restarted else options.epochs),
            )
            losses.append(loss)
            if unfinished is not None and len(losses) < steps:
                # Python queues steps ahead of the device. The wait for the last step but one makes
                # `due` count the time of computed steps, not of queued ones.
                jax.block_until_ready(losses[-2:-1])
                if keeper.due:
                    keeper.save((params, state, _record_position(epoch - 1, losses, steps)))
            if on_progress is not None and len(losses) % _REPORT == 0 and len(losses) < steps:
                on_progress(epoch - 1 + len(losses) / steps, float(np.mean(jax.device_get(losses))))
        mean_loss = float(np.mean(jax.device_get(losses)))
        if not np.isfinite(mean_loss):
            raise InputError(
                f"training.learning_rate: {options.learning_rate}; the loss is {mean_loss} in "
                f"epoch {epoch}, so that a smaller rate is needed"
            )
        if epoch < options.all_epochs:
            keeper.save((params, state, _record_position(epoch, [], steps)))
        if on_progress is not None:
            on_progress(epoch, mean_loss)
        losses = []
    return params


@functools.partial(jax.jit, static_argnums=(2, 3, 4))
def _shuffle(
    key: jax.Array, epoch: ArrayLike, options: Training, count: int, steps: int
) -> tuple[jax.Array, jax.Array]:
    """Returns the images of each step of an epoch, [steps, B], and the steps' keys, [steps].

    Args:
      key: of the training.
      epoch: [], from 1.
      options: static; its epochs before and after the restart have keys.
      count: N images.
      steps: of the epoch.
    """
    first = jax.random.split(key, options.epochs)
    later = jax.random.split(jax.random.fold_in(key, 1), options.restart_epochs)
    shuffle_key, shift_key = jax.random.split(jnp.concatenate([first, later])[epoch - 1])
    size = min(options.batch_size, count)
    order = jax.random.permutation(shuffle_key, count)[: steps * size]
    return order.reshape(steps, size), jax.random.split(shift_key, steps)


class _Position(NamedTuple):
    """Tells how far a training has got. The names of its fields are in files."""

    epochs: np.ndarray  # [] int32, whole epochs done
    steps: np.ndarray  # [] int32, steps done of the next epoch
    losses: np.ndarray  # [steps of an epoch] float32, of these steps; 0 after them


def _record_position(epochs: int, losses: list[Any], steps: int) -> _Position:
    padded = np.zeros(steps, np.float32)
    padded[: len(losses)] = jax.device_get(losses)
    return _Position(np.asarray(epochs, np.int32), np.asarray(len(losses), np.int32), padded)


def build_optimizer(
    learning_rate: ArrayLike, weight_decay: ArrayLike, steps: int
) -> optax.GradientTransformation:
    """Returns AdamW with a cosine decay to zero over `steps`; both rates may be traced."""
    return optax.adamw(optax.cosine_decay_schedule(learning_rate, steps), weight_decay=weight_decay)


# Each step is jitted, not a scan over steps, because XLA's CPU convolutions run four times slower
# inside a loop (LeNet-5, batch of 64: 40 ms a step against 9 ms); elsewhere dispatch is hidden.
@functools.partial(jax.jit, static_argnames=("apply_fn", "train_fn", "max_shift", "flip", "steps"))
def take_step(
    apply_fn: ApplyFn,
    params: Params,
    state: optax.OptState,
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    keys: jax.Array,
    step: ArrayLike,
    *,
    rates: tuple[ArrayLike, ArrayLike],
    train_fn: TrainFn | None,
    max_shift: int,
    flip: bool,
    steps: int,
) -> tuple[Params, optax.OptState, jax.Array]:
    """Takes a step of an epoch; returns params, optimizer state and mean loss.

    Args:
      images, labels: [N, H, W, C] and [N].
      order: [steps, B] int32, the images of each step of the epoch.
      keys: [steps], the random keys of their augmentation.
      step: [] of the epoch.
      rates: learning rate and weight decay.
      steps: length of the cosine decay.
    """
    batch = order[step]
    # Without the barrier XLA repeats the augmentation for every use of a pixel.
    seen = jax.lax.optimization_barrier(augment(keys[step], images[batch], max_shift, flip))

    def mean_loss(params: Params) -> tuple[jax.Array, Mapping[str, Any]]:
        model = accelerate(train_fn or apply_fn)
        logits, updated = model(params, seen) if train_fn else (model(params, seen), {})
        return optax.softmax_cross_entropy_with_integer_labels(
            logits, labels[batch]
        ).mean(), updated

    (loss, updated), grads = jax.value_and_grad(mean_loss, has_aux=True)(params)
    updates, state = build_optimizer(*rates, steps).update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return {**params, **updated} if updated else params, state, loss
