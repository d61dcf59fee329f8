"""Checks the float network before the search, because a fault of it would surface much later."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.compression import evaluator
from apq_jax.compression.calibration import Statistics
from apq_jax.data import Dataset
from apq_jax.data.scoring import run_in_chunks
from apq_jax.network.capture import Network, compute_float_logits, forward
from apq_jax.network.jaxpr import Params
from apq_jax.network.products import Product
from apq_jax.system.errors import InputError

_CHUNK = 500  # images at a time, at most


def check_logits(
    network: Network, params: Params, dataset: Dataset, train_images: int, name: str
) -> None:
    """Runs the float network on the images of every split, and looks at its logits.

    Args:
      network, params: the model.
      dataset: images.
      train_images: the first so many training images are looked at.
      name: of the network, for the message.

    Raises:
      InputError: a logit is NaN or infinite; names the split and the first such picture.
    """
    splits = {
        split: getattr(dataset, f"{split}_images")
        for split in ("train", "search", "select", "test")
    }
    splits["train"] = splits["train"][:train_images]
    size = min(_CHUNK, evaluator.compute_chunk_size(network), *map(len, splits.values()))

    def is_finite(images: np.ndarray) -> np.ndarray:
        # Filled up to one size, so that one program serves all splits.
        padded = np.resize(images, (size, *images.shape[1:]))
        logits = np.asarray(compute_float_logits(network, params, jnp.asarray(padded)))
        return np.isfinite(logits).all(axis=1)[: len(images)]

    for split, images in splits.items():
        finite = run_in_chunks(is_finite, images, size)
        if not finite.all():
            raise _build_error(name, split, int(finite.argmin()), images, "its logits")


def check_statistics(
    network: Network, params: Params, statistics: Statistics, images: np.ndarray, name: str
) -> None:
    """Looks at the statistics of calibration on training images.

    Raises:
      InputError: one is NaN or infinite, although no logit is; names the first picture at which a
        layer's input is.
    """
    if all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(statistics)):
        return
    for index in range(len(images)):
        if not _has_finite_inputs(network, params, jnp.asarray(images[index : index + 1])):
            raise _build_error(name, "train", index, images, "a layer's input")
    raise InputError(f"{name}: statistics of the training images overflow; allowed: smaller values")


@functools.partial(jax.jit, static_argnums=0)
def _has_finite_inputs(network: Network, params: Params, image: jax.Array) -> jax.Array:
    finite = []

    def replace(index: int, product: Product, x: jax.Array, weight: jax.Array) -> jax.Array:
        finite.append(jnp.isfinite(x).all())
        return product.fold(product.convolve(x, product.to_matrix(weight)))

    forward(network, params, image, replace)
    return jnp.stack(finite).all()


def _build_error(name: str, split: str, index: int, images: np.ndarray, place: str) -> InputError:
    low, high = images[index].min(), images[index].max()
    return InputError(
        f"{name}: {place} of picture {index} of split {split}, whose pixels are {low:g} to "
        f"{high:g}, are NaN or infinite; allowed: a network that is finite on every picture"
    )


def find_doubts(
    float_accuracy: float, labels: np.ndarray, accuracy: float | None = None
) -> list[str]:
    """Finds reasons to doubt that the float network is run as it was trained.

    Args:
      float_accuracy: of the float network on the images of `labels`, a fraction of 1.
      labels: [N] int.
      accuracy: of the compressed network on the same images; None before there is one.

    Returns:
      A sentence a reason: the float network is no better than the largest class's share by two
      standard errors, or the compressed network is better than the float one by three.
    """
    doubts, count = [], len(labels)
    share = np.bincount(labels).max() / count
    causes = "the scale of the pixels, their layout or the normalisation may be another in training"
    if float_accuracy <= share + 2 * np.sqrt(share * (1 - share) / count):
        doubts.append(
            f"The float network gets {100 * float_accuracy:.1f} % of {count:,} images right, no "
            f"more than always naming the largest class would ({100 * share:.1f} %): {causes}."
        )
    if accuracy is not None:
        variance = sum(p * (1 - p) for p in (float_accuracy, accuracy)) / count
        if accuracy > float_accuracy + 3 * np.sqrt(variance):
            doubts.append(
                f"The compressed network is {100 * (accuracy - float_accuracy):.1f} points better "
                f"than the float network: {causes}."
            )
    return doubts
