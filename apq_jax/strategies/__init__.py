"""Strategies that propose policies, behind one interface, and the loop that drives them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from apq_jax.problem.environment import Problem
from apq_jax.types import Evaluation, Policy


class Strategy(NamedTuple):
    """Three pure functions that are traced; their state is a pytree, and E is fixed.

    init(key, problem) -> state.
    ask(key, state, problem) -> policies [E, L], valid [E] bool, state.
    tell(key, state, problem, policies, valid, evaluations [E]) -> state. Where the budget ends,
    fewer policies are `valid` here than `ask` gave.
    transferable: a search may begin with the state of another search, because the state also holds
    under other limits, goals and accelerators of the same network and space, if the converters
    round nothing.
    """

    init: Callable[[jax.Array, Problem], Any]
    ask: Callable[[jax.Array, Any, Problem], tuple[Policy, jax.Array, Any]]
    tell: Callable[[jax.Array, Any, Problem, Policy, jax.Array, Evaluation], Any]
    transferable: bool = False
