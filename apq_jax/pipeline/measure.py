"""Runs a policy's integer network on images that no search has seen."""

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
from apq_jax.pipeline.prepared import Prepared, images_at_once, scored
from apq_jax.types import Policy


class Measured(NamedTuple):
    """A policy against the float network on the same images, which neither has seen."""

    accuracy: float
    float_accuracy: float
    difference: float  # percentage points, policy minus float
    low: float  # 95% interval of the paired difference
    high: float


def compressed(prepared: Prepared, policy: Policy) -> Compressed:
    """A policy's integer network: of [L] fields, a `CompressedLayer` each."""
    config, subject = prepared.config, prepared.subject
    cells = converters.cells_of(prepared.accelerator)
    cells = converters.deciding(cells, bool(prepared.space.adc_bits))
    run = _compressor(prepared.network, cells, config.recovery)
    return run(subject, jax.tree.map(jnp.asarray, policy))


@functools.lru_cache(maxsize=16)
def _compressor(
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
    prepared: Prepared, network: Compressed, images: np.ndarray, labels: np.ndarray
) -> Measured:
    """A compressed network's accuracy and the paired interval of its difference to float.

    Args:
      prepared: as it was searched.
      network: from `compressed`, or the `network` that `choose` found.
      images: [N, ...], none of which trained, searched or chose.
      labels: [N] int.
    """
    right = is_right(logits_of(prepared, network, images), labels)
    reference = scored(prepared.network, prepared.subject.params, images, labels)[2]
    float_right = is_right(reference, labels)
    change = 100.0 * (right.astype(float) - float_right)
    half = 1.96 * change.std() / np.sqrt(len(change))
    mean = float(change.mean())
    return Measured(float(right.mean()), float(float_right.mean()), mean, mean - half, mean + half)


def logits_of(prepared: Prepared, network: Compressed, images: np.ndarray) -> np.ndarray:
    """A compressed network's logits [N, classes]."""
    forward = _forward(prepared.network)
    params = prepared.subject.params
    return run_in_chunks(
        lambda chunk: forward(params, network, jnp.asarray(chunk)), images, images_at_once(prepared)
    )


@functools.lru_cache(maxsize=16)
def _forward(network: Network) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(apply, network))
