"""Supervised training of a classifier, its accuracy, and its weights on disk.

B is the number of images in a batch, N in a data set; images are [N, H, W, C] float32.
A model is a function `apply_fn(params, images) -> logits [B, classes]`. It is a static
argument of the jitted functions here: pass an equal object again and nothing is recompiled.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
import safetensors.numpy
from absl import logging
from jax.typing import ArrayLike

from apq_jax.data import Dataset
from apq_jax.files import InputError, write_whole

Params: TypeAlias = Any  # a pytree of arrays
ApplyFn: TypeAlias = Callable[[Params, jax.Array], Any]

RANGES = {
    "epochs": (1, 10_000),
    "batch_size": (1, 100_000),
    "learning_rate": (0.0, 10.0),
    "weight_decay": (0.0, 10.0),
    "max_shift": (0, 100),
    "seed": (0, 2**31 - 1),
}
CHUNK = 500  # images a forward pass of `accuracy`


@dataclasses.dataclass(frozen=True)
class Training:
    """How a model is trained.

    Attributes:
      epochs: passes over the training images.
      batch_size: images a step; what is left over in an epoch is skipped.
      learning_rate: of AdamW, at the start of a cosine decay to zero.
      weight_decay: of AdamW, a step, in units of the learning rate.
      max_shift: pixels; images are shifted by up to this many, each way and at random.
      seed: of the shuffles and shifts.
    """

    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    max_shift: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises InputError where a field is out of range."""
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(f"training.{name}: {value}; allowed: {low:g} to {high:g}")


def random_shifts(key: jax.Array, images: jax.Array, max_shift: int) -> jax.Array:
    """Shifts each image [B, H, W, C] by up to `max_shift` pixels each way; zeros move in."""
    if max_shift == 0:
        return images
    margin = ((max_shift, max_shift), (max_shift, max_shift), (0, 0))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * max_shift + 1)

    def shift(image: jax.Array, corner: jax.Array) -> jax.Array:
        padded = jnp.pad(image, margin)
        return jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), image.shape)

    return jax.vmap(shift)(images, corners)


def train(
    apply_fn: ApplyFn,
    params: Params,
    dataset: Dataset,
    options: Training,
    key: jax.Array,
    *,
    on_epoch: Callable[[int, float], None] | None = None,
) -> Params:
    """Trains `params` with AdamW on the cross entropy of the training split.

    Args:
      on_epoch: called with the epoch from 1 and its mean loss in nats.

    Raises:
      InputError: the loss stopped being finite.
    """
    images, labels = jnp.asarray(dataset.train_images), jnp.asarray(dataset.train_labels)
    batch_size = min(options.batch_size, len(labels))
    steps = len(labels) // batch_size
    rates = (options.learning_rate, options.weight_decay)
    state = _optimizer(*rates, steps * options.epochs).init(params)
    for epoch, epoch_key in enumerate(jax.random.split(key, options.epochs), start=1):
        shuffle_key, shift_key = jax.random.split(epoch_key)
        order = jax.random.permutation(shuffle_key, len(labels))[: steps * batch_size]
        losses = []
        for batch, step_key in zip(
            order.reshape(steps, batch_size), jax.random.split(shift_key, steps), strict=True
        ):
            params, state, loss = _step(
                apply_fn,
                params,
                state,
                images[batch],
                labels[batch],
                rates=rates,
                key=step_key,
                max_shift=options.max_shift,
                steps=steps * options.epochs,
            )
            losses.append(loss)
        mean_loss = float(np.mean(jax.device_get(losses)))
        if not np.isfinite(mean_loss):
            raise InputError(
                f"training.learning_rate: {options.learning_rate}; the loss is {mean_loss} in "
                f"epoch {epoch}, so that a smaller rate is needed"
            )
        if on_epoch is not None:
            on_epoch(epoch, mean_loss)
    return params


def _optimizer(
    learning_rate: ArrayLike, weight_decay: ArrayLike, steps: int
) -> optax.GradientTransformation:
    """AdamW with cosine decay to zero over `steps`; both rates may be traced."""
    return optax.adamw(optax.cosine_decay_schedule(learning_rate, steps), weight_decay=weight_decay)


# A step is jitted, not a scan over steps: inside a loop XLA's CPU convolutions run four times
# slower (LeNet-5, batch of 64: 40 ms a step against 9 ms), and elsewhere dispatch is hidden.
@functools.partial(jax.jit, static_argnames=("apply_fn", "max_shift", "steps"))
def _step(
    apply_fn: ApplyFn,
    params: Params,
    state: optax.OptState,
    images: jax.Array,
    labels: jax.Array,
    *,
    rates: tuple[ArrayLike, ArrayLike],
    key: jax.Array,
    max_shift: int,
    steps: int,
) -> tuple[Params, optax.OptState, jax.Array]:
    """One of `steps` steps on images [B, H, W, C]; returns params, optimizer state and loss.

    `rates` are the learning rate and the weight decay.
    """
    shifted = random_shifts(key, images, max_shift)

    def mean_loss(params: Params) -> jax.Array:
        logits = apply_fn(params, shifted)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    loss, grads = jax.value_and_grad(mean_loss)(params)
    updates, state = _optimizer(*rates, steps).update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


@functools.partial(jax.jit, static_argnums=0)
def _correct(apply_fn: ApplyFn, params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """How many of the images [B, H, W, C] get the class of `labels` [B]."""
    logits = apply_fn(params, images)
    # argmax takes a NaN for the largest: logits that are not numbers are no answer.
    answered = ~jnp.isnan(logits).any(-1)
    return jnp.sum(answered & (logits.argmax(-1) == labels))


def accuracy(apply_fn: ApplyFn, params: Params, images: ArrayLike, labels: ArrayLike) -> float:
    """Fraction in 0..1 of the images [N, H, W, C] that get the class of `labels` [N]."""
    images, labels = np.asarray(images), np.asarray(labels)
    count, chunk = len(labels), min(CHUNK, len(labels))
    # The last chunk is filled up with images of class -1, so that one shape is compiled.
    fill = -count % chunk
    images = np.concatenate([images, np.zeros((fill, *images.shape[1:]), images.dtype)])
    labels = np.concatenate([labels, np.full(fill, -1, labels.dtype)])
    correct = [
        _correct(apply_fn, params, images[i : i + chunk], labels[i : i + chunk])
        for i in range(0, count, chunk)
    ]
    return sum(map(int, jax.device_get(correct))) / count


def save_params(path: str | os.PathLike[str], params: Params, metadata: Mapping[str, str]) -> None:
    """Writes a pytree of arrays as a safetensors file, with `metadata` in its header.

    Raises:
      InputError: the file cannot be written.
    """
    tensors = {name: np.asarray(leaf, order="C") for name, leaf in _leaves(params).items()}
    write_whole(path, safetensors.numpy.save(tensors, dict(metadata)))


def load_params(path: str | os.PathLike[str], like: Params) -> Params:
    """Reads the pytree of arrays that `save_params` wrote.

    Args:
      like: a pytree of arrays or ShapeDtypeStructs with the names, shapes and dtypes expected.

    Raises:
      InputError: the file cannot be read, or holds other tensors than `like`, or values that
        are not finite.
    """
    expected = _leaves(like)
    try:
        # The library checks that the header's shapes, dtypes and offsets fit the file's size.
        with safetensors.safe_open(path, framework="np") as file:
            found = set(file.keys())
            for name in sorted(found ^ expected.keys()):
                wrong = "missing" if name in expected else "unknown tensor"
                raise InputError(f"{path}: {name}: {wrong}; {', '.join(expected)} are needed")
            leaves = [
                _checked(path, name, file.get_tensor(name), leaf) for name, leaf in expected.items()
            ]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (safetensors.SafetensorError, TypeError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: not a safetensors file ({reason})") from error
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _checked(path: str | os.PathLike[str], name: str, tensor: np.ndarray, like: Any) -> jax.Array:
    """Returns `tensor` if it has the shape and dtype of `like` and is finite."""
    if tensor.shape != like.shape or tensor.dtype != like.dtype:
        raise InputError(
            f"{path}: {name}: {tensor.dtype} of shape {tensor.shape}; "
            f"{like.dtype} of shape {tuple(like.shape)} is needed"
        )
    if not np.isfinite(tensor).all():
        raise InputError(f"{path}: {name}: holds NaN or infinity; values must be finite")
    return jnp.asarray(tensor)


def _leaves(tree: Params) -> dict[str, Any]:
    """The leaves of a pytree under names such as "params/conv1/kernel"."""
    paths = jax.tree_util.tree_flatten_with_path(tree)[0]
    leaves = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in paths}
    if len(leaves) != len(paths):
        raise InputError("params: two leaves have one name; a key may not hold a slash")
    return leaves


def trained(
    model_name: str,
    apply_fn: ApplyFn,
    init_params: Params,
    dataset: Dataset,
    options: Training,
    cache_dir: str | os.PathLike[str],
    on_epoch: Callable[[int, float], None] | None = None,
) -> tuple[Params, bool]:
    """Trained params, from the cache if this training has been run before, and whether it has.

    A cache file stands for the model's name, the initial params (names, shapes and values), the
    data, the options and the versions of jax, optax and flax. The model's code is not part of it:
    give a changed model a new name.

    Raises:
      InputError: as `train`, or the cache cannot be written.
    """
    metadata = {
        "model": model_name,
        "init": _digest(init_params),
        "dataset": dataset.fingerprint(),
        "options": repr(options),
        **{name: importlib.metadata.version(name) for name in ("jax", "optax", "flax")},
    }
    digest = hashlib.sha256(repr(metadata).encode()).hexdigest()[:32]
    path = pathlib.Path(cache_dir, f"{digest}.safetensors")
    if path.exists():
        try:
            return load_params(path, init_params), True
        except InputError as error:
            logging.warning("%s; trained again", error)
    key = jax.random.key(options.seed)
    params = train(apply_fn, init_params, dataset, options, key, on_epoch=on_epoch)
    save_params(path, params, metadata)
    return params, False


def _digest(params: Params) -> str:
    """SHA-256 (hex) over the names, shapes, dtypes and values of a pytree's leaves."""
    digest = hashlib.sha256()
    for name, leaf in _leaves(params).items():
        array = np.asarray(leaf, order="C")
        digest.update(f";{name}{array.shape}{array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
