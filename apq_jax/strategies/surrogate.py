"""Predicts the reward of a policy before its evaluation, given only its divergence.

Policies are given by places (`environment.locate_actions`), which may lie between two choices, so
that gradients reach the actor.
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
    """Errors and costs of every choice of every layer, known before any evaluation."""

    log_error: jax.Array  # [L, K, B], ln of the output error of pruning and rounding the weights
    log_input_error: jax.Array  # [L, A], ln of the output error of rounding the inputs
    # [L, K, B, A, M], each metric over the dense network's. All are exact except the area of an
    # accelerator in whole tiles, which is taken in proportion, because it is no sum over layers.
    costs: jax.Array
    # [L, K, B, A, ADC bits] each, only if the converters' bits are searched: ln of the output error
    # that they cause, and the energy that they save, over the dense network's energy.
    log_adc_error: jax.Array | None = None
    adc_saved: jax.Array | None = None


def look_up_choices(problem: Problem, space: Space) -> Choices:
    """Looks up the problem's errors and costs at the choices of the space."""
    weight, inputs = np.asarray(space.weight_bits) - 1, np.asarray(space.input_bits) - 1
    offset = 1e-7  # keeps ln finite where an error is 0
    choices = Choices(
        jnp.log(problem.error[:, :, weight] + offset),
        jnp.log(problem.input_error[:, inputs] + offset),
        problem.costs[:, :, weight][:, :, :, inputs],
    )
    if not space.adc_bits:
        return choices
    assert problem.conversions is not None
    saved, error = (
        x[:, :, weight][:, :, :, inputs][..., np.asarray(space.adc_bits) - 1]
        for x in problem.conversions[:2]
    )
    return choices._replace(log_adc_error=jnp.log(error + offset), adc_saved=saved)


def interpolate_log_errors(choices: Choices, places: jax.Array) -> jax.Array:
    """Interpolates ln output errors at places [L, D]: [L, D - 1].

    The columns are the errors of weights, inputs and, if their bits are searched, converters.
    """
    errors = [
        jax.vmap(interpolate)(choices.log_error, places[:, :2]),
        jax.vmap(interpolate)(choices.log_input_error, places[:, 2:3]),
    ]
    if choices.log_adc_error is not None:
        errors.append(jax.vmap(interpolate)(choices.log_adc_error, places))
    return jnp.stack(errors, axis=1)


def predict_evaluation(
    problem: Problem, choices: Choices, places: jax.Array, divergence: jax.Array
) -> Evaluation:
    """Predicts the evaluation of places [L, D] with divergence []; accuracy is the expected one."""
    interpolate_metrics = jax.vmap(interpolate, (-1, None))  # [M]
    shares = jax.vmap(interpolate_metrics)(choices.costs, places[:, :3]).sum(axis=0)
    if choices.adc_saved is not None:
        saved = jax.vmap(interpolate)(choices.adc_saved, places).sum()
        shares = shares.at[metrics.METRICS.index("energy_nj")].add(-saved)
    evaluation = Evaluation(divergence, divergence, *(len(metrics.METRICS) * (divergence,)))
    costs = dict(zip(metrics.METRICS, problem.dense * shares, strict=True))
    accuracy = environment.expected_accuracy(problem, evaluation)
    return evaluation._replace(accuracy=accuracy, **costs)


def predict_reward(
    problem: Problem, choices: Choices, places: jax.Array, log_divergence: jax.Array
) -> jax.Array:
    """Predicts the reward of places [L, D] with ln divergence []: []."""
    evaluation = predict_evaluation(problem, choices, places, jnp.exp(log_divergence))
    return environment.reward(problem, evaluation)
