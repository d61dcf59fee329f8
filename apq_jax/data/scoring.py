"""Runs a network on many images in chunks, and counts how often it is right."""

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
    """Tells for each of the logits [N, classes] whether it is largest at its label [N]: [N] bool.

    Logits with NaN are never right, because argmax takes NaN for the largest.
    """
    logits = np.asarray(logits)
    return (logits.argmax(axis=-1) == np.asarray(labels)) & ~np.isnan(logits).any(axis=-1)


def compute_accuracy(logits: ArrayLike, labels: ArrayLike) -> float:
    """Returns the fraction of logits [N, classes] that are largest at their label [N]."""
    return float(np.mean(is_right(logits, labels)))
