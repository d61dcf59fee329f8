"""Builds the integer network of a policy, and compares it with the float network."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax.compression.compressed import Compressed, apply, compress
from apq_jax.compression.converters import Cells
from apq_jax.compression.evaluator import Subject
from apq_jax.compression.options import Recovery
from apq_jax.data.scoring import compute_accuracy, is_right, run_in_chunks
from apq_jax.network.capture import Network
from apq_jax.pipeline.prepared import Prepared, choose_chunk, get_cells, run_float
from apq_jax.types import Policy


class Measured(NamedTuple):
    """The accuracies of a compressed and the float network on the same images, fractions of 1.

    The difference and its interval are in percentage points.
    """

    accuracy: float  # of the compressed network
    float_accuracy: float
    difference: float  # compressed minus float
    low: float  # ends of the 95 % interval of the paired difference
    high: float


def compressed(prepared: Prepared, policy: Policy) -> Compressed:
    """Prunes, compensates and quantizes the network by one policy; fine-tunes nothing.

    Args:
      prepared: from `prepare`.
      policy: [L] fields.

    Returns:
      One `CompressedLayer` a layer.
    """
    cells = get_cells(prepared.accelerator, prepared.space)
    recovery, on_device = prepared.config.recovery, jax.device_put(policy)
    return _compress(prepared.network, cells, recovery, prepared.subject, on_device)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compress(
    network: Network, cells: Cells, recovery: Recovery, subject: Subject, policy: Policy
) -> Compressed:
    params, plan, statistics, _, moment_images, *_ = subject
    return compress(network, params, plan, statistics, moment_images, cells, recovery, policy)


def measure(
    prepared: Prepared, compressed: Compressed, images: np.ndarray, labels: np.ndarray
) -> Measured:
    """Measures the accuracies of the compressed and the float network, and their difference.

    The interval is the difference's mean over the images, plus and minus 1.96 standard errors.

    Args:
      prepared: from `prepare`.
      compressed: what the function `compressed` returns, or a `Choice`'s field of that name.
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


def measure_dense(prepared: Prepared, bits: int, images: np.ndarray, labels: np.ndarray) -> float:
    """Measures the accuracy of the unpruned network with weights and inputs of so many bits."""
    count = len(prepared.network.layers)
    unpruned, all_bits = np.zeros(count, np.int32), np.full(count, bits, np.int32)
    adc_bits = None
    if prepared.space.adc_bits:
        adc_bits = np.full(count, prepared.accelerator.adc_resolution, np.int32)
    network = compressed(prepared, Policy(unpruned, all_bits, all_bits, adc_bits))
    return compute_accuracy(compute_logits(prepared, network, images), labels)


_apply = jax.jit(apply, static_argnums=0)


def compute_logits(prepared: Prepared, compressed: Compressed, images: np.ndarray) -> np.ndarray:
    """Computes a compressed network's logits of images [N, ...]: a NumPy array [N, classes]."""

    def forward(chunk: np.ndarray) -> jax.Array:
        return _apply(prepared.network, prepared.subject.params, compressed, jnp.asarray(chunk))

    return run_in_chunks(forward, images, choose_chunk(prepared))
