"""Holds a network ready to be searched, and evaluates its policies."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from apq_jax import crossbar
from apq_jax.compression import converters
from apq_jax.compression.evaluator import (
    Evaluator,
    Subject,
    compute_chunk_size,
    place_cuts,
    score_policies,
)
from apq_jax.config import Config
from apq_jax.data.scoring import run_in_chunks
from apq_jax.hardware import Accelerator
from apq_jax.network.capture import Network, compute_float_logits
from apq_jax.network.jaxpr import Params
from apq_jax.problem.environment import Problem, Space
from apq_jax.system.errors import InputError
from apq_jax.types import Evaluation, Policy


class LimitError(InputError):
    """A limit lies below the least value that any policy has on the accelerator."""


class Prepared(NamedTuple):
    """A network of L layers, ready to be searched."""

    network: Network
    accelerator: Accelerator
    space: Space
    config: Config
    subject: Subject  # with the images of the search
    problem: Problem  # with the limits of the search
    tables: crossbar.Counts  # [L, K, S], on the host: K keep levels, up to S bit slices


def collect_limits(config: Config) -> dict[str, float]:
    """Returns the limits of a run's result by name, as `pareto.shortfall` takes them."""
    limits = {name: limit for name, limit in dataclasses.asdict(config.limits).items() if limit}
    if config.search.goal == "cost":
        return {"accuracy_drop": config.search.max_accuracy_drop} | limits
    return limits


def remove_headroom(prepared: Prepared) -> Problem:
    """Returns the problem with the limits of the result, which allow no headroom."""
    problem = prepared.problem
    drop = collect_limits(prepared.config).get("accuracy_drop", np.inf) / 100.0
    min_accuracy = jnp.maximum(problem.float_accuracy - drop, problem.min_accuracy)
    return problem._replace(min_accuracy=min_accuracy)


def run_float(
    network: Network, params: Params, images: np.ndarray, labels: np.ndarray
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Runs the float network; returns images, labels [N] and its logits [N, classes]."""
    logits = run_in_chunks(
        lambda chunk: compute_float_logits(network, params, jnp.asarray(chunk)),
        images,
        compute_chunk_size(network),
    )
    return jnp.asarray(images), jnp.asarray(labels), jnp.asarray(logits)


def restore_fractions(accuracy: ArrayLike, count: int) -> np.ndarray:
    """Returns the exact fractions of `count` images that float32 accuracies were rounded from."""
    return np.round(np.asarray(accuracy, np.float64) * count) / count


def build_evaluator(prepared: Prepared, images: int | None = None) -> Evaluator:
    """Returns the evaluator of one policy on `images` images; None: as many as the search has."""
    network, subject, search = prepared.network, prepared.subject, prepared.config.search
    count = len(subject.images) if images is None else images
    cuts = place_cuts(
        network, subject.params, count + len(subject.moment_images), search.memory_mb * 2**20
    )
    cells, recovery = get_cells(prepared), prepared.config.recovery
    return Evaluator(network, cells, recovery, choose_chunk(prepared), cuts)


def get_cells(prepared: Prepared) -> converters.Cells:
    """Returns the cells that converters read; equal for all accelerators that compute alike."""
    cells = converters.get_cells(prepared.accelerator)
    return converters.simplify_cells(cells, bool(prepared.space.adc_bits))


def choose_chunk(prepared: Prepared) -> int:
    """Chooses how many images are scored at a time."""
    return prepared.config.search.chunk or compute_chunk_size(prepared.network)


def evaluate_many(
    prepared: Prepared,
    policies: Policy,
    images: jax.Array,
    labels: jax.Array,
    reference: jax.Array,
) -> Evaluation:
    """Evaluates policies [N, L] one by one on images that are not the search's: [N] fields.

    Args:
      prepared: the network.
      policies: [N, L] fields.
      images, labels, reference: from `run_float`.
    """
    evaluate = build_evaluator(prepared, len(images))
    subject = prepared.subject._replace(images=images, labels=labels, reference=reference)
    return jax.tree.map(
        np.asarray, score_policies(evaluate, subject, jax.tree.map(jnp.asarray, policies))
    )
