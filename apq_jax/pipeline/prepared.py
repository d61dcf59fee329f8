"""Holds a network ready to be searched, and evaluates its policies."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from apq_jax import crossbar
from apq_jax.compression import converters, evaluator
from apq_jax.compression.evaluator import Evaluator, Subject
from apq_jax.config import Config
from apq_jax.data.scoring import compute_accuracy, run_in_chunks
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
    """Returns the limits that the result of a run must meet, by name as in `problem.pareto`.

    With goal cost, `accuracy_drop` is among them, in percentage points. Metrics whose limit is 0
    are left out.
    """
    limits = {name: limit for name, limit in dataclasses.asdict(config.limits).items() if limit}
    if config.search.goal == "cost":
        return {"accuracy_drop": config.search.max_accuracy_drop} | limits
    return limits


def remove_headroom(prepared: Prepared) -> Problem:
    """Returns the search's problem, with the limits of the result in place of the search's.

    They differ only in the least accuracy, which the search may miss by `search.headroom`.
    """
    problem = prepared.problem
    drop = collect_limits(prepared.config).get("accuracy_drop", np.inf) / 100.0
    min_accuracy = jnp.maximum(problem.float_accuracy - drop, problem.min_accuracy)
    return problem._replace(min_accuracy=min_accuracy)


def run_float(
    network: Network, params: Params, images: np.ndarray, labels: np.ndarray
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Runs the float network; returns its images, labels [N] and logits [N, classes] as JAX arrays.

    These are the fields `images`, `labels` and `reference` of a `Subject`.
    """

    def forward(chunk: np.ndarray) -> jax.Array:
        return compute_float_logits(network, params, jnp.asarray(chunk))

    logits = run_in_chunks(forward, images, evaluator.compute_chunk_size(network))
    return jax.device_put((images, labels, logits))


def restore_fractions(accuracy: ArrayLike, count: int) -> np.ndarray:
    """Returns float32 accuracies on `count` images as the nearest fractions k / count, in float64.

    They then equal accuracies that were computed in float64.
    """
    return np.round(np.asarray(accuracy, np.float64) * count) / count


def build_evaluator(prepared: Prepared, images: int | None = None) -> Evaluator:
    """Builds the function that evaluates one policy, (subject, policy) -> Evaluation.

    Args:
      prepared: the network, accelerator and options.
      images: how many images the subject will have, which decides for how many layers the memory
        suffices; None: as many as the search has.
    """
    network, subject = prepared.network, prepared.subject
    count = (len(subject.images) if images is None else images) + len(subject.moment_images)
    max_bytes = prepared.config.search.memory_mb * 2**20
    cuts = evaluator.place_cuts(network, subject.params, count, max_bytes)
    cells = get_cells(prepared.accelerator, prepared.space)
    return Evaluator(network, cells, prepared.config.recovery, choose_chunk(prepared), cuts)


def get_cells(accelerator: Accelerator, space: Space) -> converters.Cells:
    """Returns what evaluations know of an accelerator; equal where they give equal accuracies."""
    return converters.simplify_cells(converters.get_cells(accelerator), bool(space.adc_bits))


def choose_chunk(prepared: Prepared) -> int:
    """Returns how many images are scored at a time: `search.chunk`, or what memory allows if 0."""
    return prepared.config.search.chunk or evaluator.compute_chunk_size(prepared.network)


def evaluate_many(
    prepared: Prepared, policies: Policy, images: np.ndarray, labels: np.ndarray
) -> tuple[Evaluation, float]:
    """Evaluates policies one by one on images other than the search's.

    Args:
      prepared: the network.
      policies: [N, L] fields.
      images: [M, ...].
      labels: [M] int.

    Returns:
      The evaluations, [N] fields on the host, and the float network's accuracy on the images.
    """
    scored = run_float(prepared.network, prepared.subject.params, images, labels)
    subject = prepared.subject._replace(images=scored[0], labels=scored[1], reference=scored[2])
    evaluate, policies = build_evaluator(prepared, len(images)), jax.device_put(policies)
    evaluations = evaluator.score_policies(evaluate, subject, policies)
    return jax.tree.map(np.asarray, evaluations), compute_accuracy(scored[2], labels)
