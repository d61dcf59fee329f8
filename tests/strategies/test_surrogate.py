"""What is known of a policy before it is evaluated."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from helpers.problems import PROPERTY, SPACE, evaluate

from apq_jax import agent as agents
from apq_jax.problem import environment
from apq_jax.problem.environment import Problem
from apq_jax.strategies import surrogate
from apq_jax.types import Policy


@hypothesis.given(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3))
@PROPERTY
def test_an_action_lies_beside_the_choice_that_it_decodes_to(action: list[float]) -> None:
    place = np.asarray(environment.locate_actions(SPACE, jnp.asarray(action)))
    policy = environment.decode(SPACE, jnp.asarray(action))
    assert np.abs(place - np.asarray(environment.encode_places(SPACE, policy))).max() <= 0.5 + 1e-5
    whole = environment.locate_actions(SPACE, environment.encode(SPACE, policy))
    np.testing.assert_allclose(whole, environment.encode_places(SPACE, policy), atol=1e-5)


def test_interpolation_by_hand() -> None:
    table = jnp.asarray([[0.0, 2.0], [4.0, 10.0]])
    for place, expected in (((0, 1), 2), ((0.5, 0), 2), ((0.5, 0.5), 4), ((-1, 5), 2)):
        assert agents.interpolate(table, jnp.asarray(place, jnp.float32)) == expected
    # The slope to the right; at the last entry and beyond it the one to the left.
    slope = jax.grad(lambda x: agents.interpolate(jnp.asarray([5.0, 3.0, 2.0, -1.0]), x[None]))
    assert [float(slope(x)) for x in (0.0, 1.5, 2.0, 3.0, 3.4)] == [-2, -1, -3, -3, -3]


def test_an_imagined_evaluation_is_the_one_that_follows(problem: Problem) -> None:
    """Given its divergence: costs and reward of a policy, from the tables alone."""
    policy = Policy(*map(jnp.asarray, ([1, 4, 0], [2, 6, 7], [3, 5, 6])))
    evaluation = evaluate(problem, policy)
    known = surrogate.look_up_choices(problem, SPACE)
    places = environment.encode_places(SPACE, policy).astype(jnp.float32)
    imagined = surrogate.predict_evaluation(problem, known, places, evaluation.divergence)
    for name in ("divergence", "slots", "energy_nj"):
        np.testing.assert_allclose(getattr(imagined, name), getattr(evaluation, name), rtol=0.02)
    expected = environment.reward(problem, evaluation)
    np.testing.assert_allclose(environment.reward(problem, imagined), expected, atol=0.02)
    errors = surrogate.interpolate_log_errors(known, places)
    of_weights = problem.error[jnp.arange(3), policy.level, policy.weight_bits - 1]
    np.testing.assert_allclose(jnp.exp(errors[:, 0]), of_weights, atol=2e-7)
    of_inputs = problem.input_error[jnp.arange(3), policy.input_bits - 1]
    np.testing.assert_allclose(jnp.exp(errors[:, 1]), of_inputs, atol=2e-7)
