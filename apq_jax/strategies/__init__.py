"""Strategies that propose policies, behind one interface, and the loop that drives them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from apq_jax.problem.environment import Problem
from apq_jax.types import Evaluation, Policy


class Outcome(NamedTuple):
    """E proposed policies with their evaluations.

    If a policy is not valid, its evaluation is all zeros: `ask` did not propose it, or the budget
    ended before it.
    """

    policies: Policy  # [E, L]
    valid: jax.Array  # [E] bool
    evaluations: Evaluation  # [E]


class Strategy(NamedTuple):
    """Three pure functions that are traced. Their state is any pytree, and E is fixed.

    init(key, problem) -> state.
    ask(key, state, problem) -> (policies [E, L], valid [E] bool, state). An invalid policy fills a
    row for which the strategy has no proposal.
    tell(key, state, problem, outcome) -> state.
    transferable: a search may begin with the state of a search of the same network and space for
    other limits, goals and accelerators, if no converter rounds.
    """

    init: Callable[[jax.Array, Problem], Any]
    ask: Callable[[jax.Array, Any, Problem], tuple[Policy, jax.Array, Any]]
    tell: Callable[[jax.Array, Any, Problem, Outcome], Any]
    transferable: bool = False
