"""Ask, evaluate, tell: one compiled scan, run in chunks; several searches in one program."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.compression.evaluator import Evaluator, zeros_of
from apq_jax.problem import environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Strategy
from apq_jax.types import Evaluation, Policy

# (arrays that evaluation needs, one policy) -> its evaluation
Evaluate = Callable[[Any, Policy], Evaluation]
Batch = Literal["map", "vmap"]


class Carry(NamedTuple):
    """S searches between two chunks; with it they go on as if never stopped."""

    key: jax.Array  # [S]
    state: Any  # the strategy's, [S, ...]
    left: jax.Array  # [S] int32, evaluations of the budget that are left


class Record(NamedTuple):
    """Policies in the order in which they were evaluated: N of them, on the host."""

    policy: Policy  # [N, L]
    evaluation: Evaluation  # [N]
    reward: np.ndarray  # [N]
    search: np.ndarray  # [N] int32, which of the S searches, from 0


@functools.lru_cache(maxsize=16)
def _compile(
    strategy: Strategy, evaluate: Evaluate, chunk: int, batch: Batch
) -> tuple[Callable, Callable]:
    """What is remembered at first, and a chunk of batches of every search: one program for all
    problems.
    """
    # Side by side, searches would take every branch: they evaluate in full.
    blank, search = build_search(strategy, evaluate, chunk, remembers=batch == "map")

    @functools.partial(jax.jit, donate_argnums=0)
    def searches(
        memory: Any, carry: Carry, subject: Any, problem: Problem
    ) -> tuple[Any, tuple[Carry, tuple]]:
        if batch == "vmap":
            return jax.vmap(search, (None, 0, None, None), (None, 0))(
                memory, carry, subject, problem
            )
        return lax.scan(lambda memory, one: search(memory, one, subject, problem), memory, carry)

    return jax.jit(blank), searches


def build_search(
    strategy: Strategy, evaluate: Evaluate, chunk: int, remembers: bool = True
) -> tuple[Callable, Callable]:
    """A search's chunk of batches as pure functions, to be mapped over searches.

    Returns:
      blank(subject) -> memory, of evaluations.
      search(memory, carry, subject, problem) -> memory, (carry, found), all without the axis S;
      found is policies, evaluations, rewards and which of them were wanted, [chunk, E] each.
    """
    if isinstance(evaluate, Evaluator) and remembers:
        blank, recall = evaluate.blank, evaluate.recall
    else:
        blank, recall = _without_memory(evaluate)

    def step(carry: Carry, memory: Any, subject: Any, problem: Problem) -> tuple[Carry, Any, tuple]:
        key, ask_key, tell_key = jax.random.split(carry.key, 3)
        policies, valid, state = strategy.ask(ask_key, carry.state, problem)
        valid &= jnp.cumsum(valid) <= carry.left

        def one(memory: Any, item: tuple[Policy, jax.Array]) -> tuple[Any, Evaluation]:
            return recall(memory, subject, *item)

        memory, evaluations = lax.scan(one, memory, (policies, valid))
        state = strategy.tell(tell_key, state, problem, policies, valid, evaluations)
        rewards = jax.vmap(environment.reward, (None, 0))(problem, evaluations)
        left = carry.left - valid.sum(dtype=jnp.int32)
        return Carry(key, state, left), memory, (policies, evaluations, rewards, valid)

    def search(
        memory: Any, carry: Carry, subject: Any, problem: Problem
    ) -> tuple[Any, tuple[Carry, tuple]]:
        def go_on(both: tuple[Carry, Any], _: None) -> tuple[tuple[Carry, Any], tuple]:
            carry, memory, found = step(*both, subject, problem)
            return (carry, memory), found

        (after, memory), found = lax.scan(go_on, (carry, memory), length=chunk)
        # A strategy that had nothing to propose has none of its budget left.
        left = jnp.where(after.left < carry.left, after.left, 0)
        return memory, (after._replace(left=left), found)

    return blank, search


def _without_memory(evaluate: Evaluate) -> tuple[Callable, Callable]:
    """As the `blank` and `recall` of an Evaluator, of a function that keeps nothing."""

    def recall(memory: tuple, subject: Any, policy: Policy, wanted: jax.Array) -> tuple:
        found = functools.partial(evaluate, subject, policy)
        return memory, lax.cond(wanted, found, functools.partial(zeros_of, found))

    return lambda subject: (), recall


def run(
    strategy: Strategy,
    evaluate: Evaluate,
    subject: Any,
    problem: Problem,
    key: jax.Array,
    budget: int,
    chunk: int,
) -> Iterator[Record]:
    """One search until its budget is spent: `start` and `go_on` with a single key."""
    carry = start(strategy, problem, key[None], budget)
    return (record for _, record in resume(strategy, evaluate, subject, problem, carry, chunk))


def start(strategy: Strategy, problem: Problem, keys: jax.Array, budget: int) -> Carry:
    """Independent searches before the first chunk.

    Args:
      strategy: what proposes.
      problem: what it may know.
      keys: [S], each search's randomness.
      budget: evaluations of each.
    """
    # One after the other, not compiled together: each begins as it does alone.
    each = [_start(strategy, problem, key, budget) for key in keys]
    carry = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)
    # A weak type would turn strong in the first chunk and compile the second anew.
    return jax.tree.map(lambda x: lax.convert_element_type(x, x.dtype), carry)


@functools.partial(jax.jit, static_argnums=0)
def _start(strategy: Strategy, problem: Problem, key: jax.Array, budget: int) -> Carry:
    key, init_key = jax.random.split(key)
    return Carry(key, strategy.init(init_key, problem), jnp.asarray(budget, jnp.int32))


def resume(
    strategy: Strategy,
    evaluate: Evaluate,
    subject: Any,
    problem: Problem,
    carry: Carry,
    chunk: int,
    batch: Batch = "map",
) -> Iterator[tuple[Carry, Record]]:
    """Searches until the budgets are spent; yields what each chunk evaluated and where it led.

    Args:
      strategy: what proposes.
      evaluate: one policy's worth; mapped over the policies asked for, compiled once.
      subject: the arrays it needs, passed in and never closed over.
      problem: what the strategy may know.
      carry: where the S searches stand.
      chunk: batches of policies of each search between two looks from the host.
      batch: the searches one after the other, each bit for bit as it is alone; or side by side.
    """

    begin, searches = _compile(strategy, evaluate, chunk, batch)
    memory = begin(subject)
    while np.asarray(carry.left).any():
        memory, (carry, found) = searches(memory, carry, subject, problem)
        yield carry, build_record(found)


def build_record(found: tuple) -> Record:
    """What a chunk of S searches found, [S, chunk, E] each, on the host and without what was not
    wanted.
    """
    policies, evaluations, rewards, valid = found
    chosen = np.asarray(valid)
    policies, evaluations, rewards = jax.tree.map(
        lambda x: np.asarray(x)[chosen], (policies, evaluations, rewards)
    )
    return Record(policies, evaluations, rewards, np.nonzero(chosen)[0].astype(np.int32))


def build_empty_record(evaluate: Evaluate, subject: Any, space: Space, layers: int) -> Record:
    """The record of no evaluation, for its dtypes."""
    policy = Policy(*(jax.ShapeDtypeStruct((layers,), jnp.int32) for _ in space.sizes))
    found = Record(
        policy,
        jax.eval_shape(evaluate, subject, policy),
        np.zeros((), np.float32),
        np.zeros((), np.int32),
    )
    return jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), found)
