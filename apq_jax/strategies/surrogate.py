"""What is known of a policy before it is evaluated: all of its reward but the divergence.

Policies are places among the choices (`environment.between`) and may lie between two of them, so
that the actor's gradients pass.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apq_jax import metrics
from apq_jax.agent import interpolate
from apq_jax.problem import environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.types import Evaluation


class Choices(NamedTuple):
    """What is known of every choice of every layer before anything is evaluated."""

    log_error: jax.Array  # [L, K, B], ln of the output error that keep ratio and weight bits cause
    log_input_error: jax.Array  # [L, A]
    # [L, K, B, A, M], each metric over the dense network's; exact but for the area of an
    # accelerator in whole tiles, which is no sum over layers: there both are in proportion.
    costs: jax.Array
    # Where the converters' bits are searched, [L, K, B, A, ADC bits]: ln of the output error that
    # they cause, and the energy that they save over the dense network's.
    log_adc_error: jax.Array | None = None
    adc_saved: jax.Array | None = None


def look_up_choices(problem: Problem, space: Space) -> Choices:
    """The problem's tables at the space's choices."""
    weight, inputs = np.asarray(space.weight_bits) - 1, np.asarray(space.input_bits) - 1
    least = 1e-7  # an error that is none
    found = Choices(
        jnp.log(problem.error[:, :, weight] + least),
        jnp.log(problem.input_error[:, inputs] + least),
        problem.costs[:, :, weight][:, :, :, inputs],
    )
    if not space.adc_bits:
        return found
    assert problem.conversions is not None
    saved, error = (
        x[:, :, weight][:, :, :, inputs][..., np.asarray(space.adc_bits) - 1]
        for x in problem.conversions[:2]
    )
    return found._replace(log_adc_error=jnp.log(error + least), adc_saved=saved)


def interpolate_log_errors(known: Choices, places: jax.Array) -> jax.Array:
    """ln errors of the layers' weights, inputs and searched converters, [L, D - 1], at [L, D]."""
    of_weights = jax.vmap(interpolate)(known.log_error, places[:, :2])
    found = [of_weights, jax.vmap(interpolate)(known.log_input_error, places[:, 2:3])]
    if known.log_adc_error is not None:
        found.append(jax.vmap(interpolate)(known.log_adc_error, places))
    return jnp.stack(found, axis=1)


def predict_evaluation(
    problem: Problem, known: Choices, places: jax.Array, divergence: jax.Array
) -> Evaluation:
    """The evaluation of places [L, D] if the divergence [] were this; accuracy the expected one."""
    at_metrics = jax.vmap(interpolate, (-1, None))  # [M]
    shares = jax.vmap(at_metrics)(known.costs, places[:, :3]).sum(axis=0)
    if known.adc_saved is not None:
        saved = jax.vmap(interpolate)(known.adc_saved, places).sum()
        shares = shares.at[metrics.METRICS.index("energy_nj")].add(-saved)
    found = Evaluation(divergence, divergence, *(len(metrics.METRICS) * (divergence,)))
    costs = dict(zip(metrics.METRICS, problem.dense * shares, strict=True))
    return found._replace(accuracy=environment.expected_accuracy(problem, found), **costs)


def predict_reward(
    problem: Problem, known: Choices, places: jax.Array, log_divergence: jax.Array
) -> jax.Array:
    """The reward of places [L, D] if the ln divergence [] were this: []."""
    return environment.reward(
        problem, predict_evaluation(problem, known, places, jnp.exp(log_divergence))
    )
