"""Runs a network on many images in chunks, and computes the accuracy of its logits."""

from collections.abc import Callable

import numpy as np
from jax.typing import ArrayLike


def run_in_chunks(
    forward: Callable[[np.ndarray], ArrayLike], images: np.ndarray, chunk: int
) -> np.ndarray:
    """Runs `forward` on `chunk` images at a time, so that memory does not grow with their number.

    Args:
      forward: images [B, ...] to outputs [B, ...].
      images: [N, ...], N at least 1.
      chunk: B; the last chunk may be smaller.

    Returns:
      The outputs [N, ...], on the host.
    """
    starts = range(0, len(images), chunk)
    return np.concatenate([np.asarray(forward(images[i : i + chunk])) for i in starts])


def is_right(logits: ArrayLike, labels: ArrayLike) -> np.ndarray:
    """Returns whether each row of logits [N, classes] is largest at its label [N], as [N] bool.

    Of equal logits the first counts as the largest. A row with NaN is never right, because argmax
    takes NaN for the largest.
    """
    logits = np.asarray(logits)
    return (logits.argmax(axis=-1) == np.asarray(labels)) & ~np.isnan(logits).any(axis=-1)


def compute_accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Returns the fraction of the N logits for which `is_right` holds."""
    return float(np.mean(is_right(logits, labels)))
