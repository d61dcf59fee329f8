"""A network ready to be searched, and what a policy of it is worth."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from apq_jax import crossbar
from apq_jax.compression import converters
from apq_jax.compression.evaluator import Evaluator, Subject, chunk_of, cuts_of, many
from apq_jax.config import Config
from apq_jax.data.scoring import run_in_chunks
from apq_jax.hardware import Accelerator
from apq_jax.network.capture import Network, compute_float_logits
from apq_jax.network.jaxpr import Params
from apq_jax.problem.environment import Problem, Space
from apq_jax.system.errors import InputError
from apq_jax.types import Evaluation, Policy


class LimitError(InputError):
    """A limit below the least that any policy can have on the accelerator."""


class Prepared(NamedTuple):
    """A network ready to be searched."""

    network: Network
    accelerator: Accelerator
    space: Space
    config: Config
    subject: Subject  # scored on the search half of validation
    problem: Problem
    tables: crossbar.Counts  # [L, K, S], on the host


def limits_of(config: Config) -> dict[str, float]:
    """The limits of a run's result by name, as `archive` has them."""
    set_ = {name: most for name, most in dataclasses.asdict(config.limits).items() if most}
    drop = {"accuracy_drop": config.search.max_accuracy_drop}
    return (drop if config.search.goal == "cost" else {}) | set_


def asked(prepared: Prepared) -> Problem:
    """The problem with the limits of the run, without the headroom of the search."""
    drop = limits_of(prepared.config).get("accuracy_drop", np.inf) / 100.0
    of = prepared.problem
    return of._replace(min_accuracy=jnp.maximum(of.float_accuracy - drop, of.min_accuracy))


def scored(
    network: Network, params: Params, images: np.ndarray, labels: np.ndarray
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Images, labels and the float network's logits on them."""
    logits = run_in_chunks(
        lambda chunk: compute_float_logits(network, params, jnp.asarray(chunk)),
        images,
        chunk_of(network),
    )
    return jnp.asarray(images), jnp.asarray(labels), jnp.asarray(logits)


def quotient(accuracy: ArrayLike, count: int) -> np.ndarray:
    """The quotients of whole numbers that float32 accuracies on `count` images stand for."""
    return np.round(np.asarray(accuracy, np.float64) * count) / count


def evaluator(prepared: Prepared, images: int | None = None) -> Evaluator:
    """What tells a policy's worth on so many images, those of the search where None."""
    network, subject, search = prepared.network, prepared.subject, prepared.config.search
    count = len(subject.images) if images is None else images
    cells = converters.cells_of(prepared.accelerator)
    cells = converters.deciding(cells, bool(prepared.space.adc_bits))
    cuts = cuts_of(
        network, subject.params, count + len(subject.moment_images), search.memory_mb * 2**20
    )
    return Evaluator(network, cells, prepared.config.recovery, images_at_once(prepared), cuts)


def images_at_once(prepared: Prepared) -> int:
    """Scored images at a time."""
    return prepared.config.search.chunk or chunk_of(prepared.network)


def evaluate_many(
    prepared: Prepared,
    policies: Policy,
    images: jax.Array,
    labels: jax.Array,
    reference: jax.Array,
) -> Evaluation:
    """Policies [N, L] on other images than the search's, one after the other: [N] fields."""
    evaluate = evaluator(prepared, len(images))
    subject = prepared.subject._replace(images=images, labels=labels, reference=reference)
    return jax.tree.map(np.asarray, many(evaluate, subject, jax.tree.map(jnp.asarray, policies)))
