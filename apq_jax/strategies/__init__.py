"""Everything that proposes policies, behind one interface, and the loop that drives it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from apq_jax.problem.environment import Problem
from apq_jax.types import Evaluation, Policy


class Strategy(NamedTuple):
    """Pure functions, all traced; the state is a pytree and E, the policies a call, is fixed.

    init(key, problem) -> state.
    ask(key, state, problem) -> policies [E, L], valid [E] bool, state.
    tell(key, state, problem, policies, valid, evaluations [E]) -> state; `valid` may be fewer
    than were asked for, where the budget ends.
    transferable: what the state holds is true of the same network under any other limit, goal and
    accelerator of the same space whose converters round nothing, so that a search of one may begin
    with the state of another.
    """

    init: Callable[[jax.Array, Problem], Any]
    ask: Callable[[jax.Array, Any, Problem], tuple[Policy, jax.Array, Any]]
    tell: Callable[[jax.Array, Any, Problem, Policy, jax.Array, Evaluation], Any]
    transferable: bool = False
