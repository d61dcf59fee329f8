"""Builds the integer network of a policy, and measures it on images that no search has seen."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.compression import converters
from apq_jax.compression.compressed import Compressed, apply, compress
from apq_jax.compression.evaluator import Subject
from apq_jax.compression.options import Recovery
from apq_jax.data.scoring import is_right, run_in_chunks
from apq_jax.network.capture import Network
from apq_jax.pipeline.prepared import Prepared, choose_chunk, get_cells, run_float
from apq_jax.types import Policy


class Measured(NamedTuple):
    """A compressed network against the float network, on the same images."""

    accuracy: float  # of the compressed network, a fraction of 1
    float_accuracy: float
    difference: float  # percentage points, compressed minus float
    low: float  # ends of the 95 % interval of the paired difference, percentage points
    high: float


def compressed(prepared: Prepared, policy: Policy) -> Compressed:
    """Compresses the network as a policy of [L] fields says: one `CompressedLayer` a layer."""
    run = _compile_compress(prepared.network, get_cells(prepared), prepared.config.recovery)
    return run(prepared.subject, jax.tree.map(jnp.asarray, policy))


@functools.lru_cache(maxsize=16)
def _compile_compress(
    network: Network, cells: converters.Cells, recovery: Recovery
) -> Callable[[Subject, Policy], Compressed]:
    @jax.jit
    def run(subject: Subject, policy: Policy) -> Compressed:
        return compress(
            network,
            subject.params,
            subject.plan,
            subject.statistics,
            subject.moment_images,
            cells,
            recovery,
            policy,
        )

    return run


def measure(
    prepared: Prepared, compressed: Compressed, images: np.ndarray, labels: np.ndarray
) -> Measured:
    """Measures a compressed network's accuracy and its difference to the float network's.

    The interval is that of the mean of paired differences, normally distributed.

    Args:
      prepared: as it was searched.
      compressed: from `compressed`, or of the `Choice` that `choose` returns.
      images: [N, ...], used neither to train nor to search nor to choose.
      labels: [N] int.
    """
    right = is_right(compute_logits(prepared, compressed, images), labels)
    reference = run_float(prepared.network, prepared.subject.params, images, labels)[2]
    float_right = is_right(reference, labels)
    change = 100.0 * (right.astype(float) - float_right)
    half = 1.96 * change.std() / np.sqrt(len(change))
    mean = float(change.mean())
    return Measured(float(right.mean()), float(float_right.mean()), mean, mean - half, mean + half)


def compute_logits(prepared: Prepared, compressed: Compressed, images: np.ndarray) -> np.ndarray:
    """Computes a compressed network's logits [N, classes]."""
    forward = _compile_apply(prepared.network)
    params = prepared.subject.params
    return run_in_chunks(
        lambda chunk: forward(params, compressed, jnp.asarray(chunk)),
        images,
        choose_chunk(prepared),
    )


@functools.lru_cache(maxsize=16)
def _compile_apply(network: Network) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(apply, network))
