"""Runs strategies: ask, evaluate, tell, as one compiled scan in chunks, for several searches."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.problem import environment
from apq_jax.problem.environment import Problem, Space
from apq_jax.strategies import Outcome, Strategy
from apq_jax.system.process import release_memory
from apq_jax.types import Evaluation, Policy

# (arrays that the evaluation needs, one policy [L]) -> its evaluation
Evaluate = Callable[[Any, Policy], Evaluation]
Batch = Literal["map", "vmap"]


@runtime_checkable
class Remembering(Protocol):
    """An `Evaluate` with a memory, so that work which evaluations share is done once."""

    def create_memory(self, subject: Any) -> Any:
        """Returns the memory before any evaluation."""

    def recall(
        self, memory: Any, subject: Any, policy: Policy, wanted: jax.Array
    ) -> tuple[Any, Evaluation]:
        """Evaluates as a call does, and updates the memory; gives zeros if not `wanted`."""


class Carry(NamedTuple):
    """The state of S searches between two chunks; a search resumed from it ends the same."""

    key: jax.Array  # [S]
    state: Any  # the strategy's, [S, ...]
    left: jax.Array  # [S] int32, evaluations that remain of the budget


class Record(NamedTuple):
    """N policies in the order in which they were evaluated, on the host."""

    policy: Policy  # [N, L]
    evaluation: Evaluation  # [N]
    reward: np.ndarray  # [N]
    search: np.ndarray  # [N] int32, which of the S searches, from 0


@functools.lru_cache(maxsize=16)
def _compile(
    strategy: Strategy, evaluate: Evaluate, chunk: int, batch: Batch
) -> tuple[Callable, Callable]:
    """Compiles the blank memory, and a chunk of all searches: one program for all problems."""
    # Searches side by side have no memory, because `vmap` would run every branch of `recall`.
    blank, search = build_search(strategy, evaluate, chunk, remembers=batch == "map")

    @functools.partial(jax.jit, donate_argnums=0)
    def run_chunk(
        memory: Any, carry: Carry, subject: Any, problem: Problem
    ) -> tuple[Any, tuple[Carry, tuple]]:
        if batch == "vmap":
            return jax.vmap(search, (None, 0, None, None), (None, 0))(
                memory, carry, subject, problem
            )
        return lax.scan(functools.partial(search, subject=subject, problem=problem), memory, carry)

    return jax.jit(blank), run_chunk


@functools.lru_cache(maxsize=16)
def _compile_ahead(function: Any, structure: Any, leaves: tuple[jax.ShapeDtypeStruct, ...]) -> None:
    """Compiles a chunk for arguments of these shapes, before the memory is there.

    The compiler and the memory need the most bytes of a search, and so never both at once.
    """
    release_memory()
    function.lower(*jax.tree.unflatten(structure, leaves)).compile()
    release_memory()


def build_search(
    strategy: Strategy, evaluate: Evaluate, chunk: int, remembers: bool = True
) -> tuple[Callable, Callable]:
    """Builds one search's chunk of batches as pure functions, to be mapped over searches.

    Args:
      strategy, evaluate, chunk: as for `resume`.
      remembers: whether to use the memory of an `evaluate` that is `Remembering`.

    Returns:
      blank(subject) -> memory.
      search(memory, carry, subject, problem) -> memory, (carry, results), all without the axis S;
      results are policies, evaluations, rewards and whether each is valid, [chunk, E].
    """
    if remembers and isinstance(evaluate, Remembering):
        blank, recall = evaluate.create_memory, evaluate.recall
    else:
        blank, recall = _add_empty_memory(evaluate)

    def search(
        memory: Any, carry: Carry, subject: Any, problem: Problem
    ) -> tuple[Any, tuple[Carry, tuple]]:
        def evaluate_next(memory: Any, item: tuple[Policy, jax.Array]) -> tuple[Any, Evaluation]:
            return recall(memory, subject, *item)

        def step(both: tuple[Carry, Any], _: None) -> tuple[tuple[Carry, Any], tuple]:
            carry, memory = both
            key, ask_key, tell_key = jax.random.split(carry.key, 3)
            policies, valid, state = strategy.ask(ask_key, carry.state, problem)
            valid &= jnp.cumsum(valid) <= carry.left
            memory, evaluations = lax.scan(evaluate_next, memory, (policies, valid))
            outcome = Outcome(policies, valid, evaluations)
            state = strategy.tell(tell_key, state, problem, outcome)
            rewards = jax.vmap(environment.reward, (None, 0))(problem, evaluations)
            rewards = jnp.where(valid, rewards, 0.0)  # no NaN, even where nothing was evaluated
            left = carry.left - valid.sum(dtype=jnp.int32)
            return (Carry(key, state, left), memory), (policies, evaluations, rewards, valid)

        (after, memory), results = lax.scan(step, (carry, memory), length=chunk)
        # The budget ends early if the strategy proposed nothing in the whole chunk.
        left = jnp.where(after.left < carry.left, after.left, 0)
        return memory, (after._replace(left=left), results)

    return blank, search


def _add_empty_memory(evaluate: Evaluate) -> tuple[Callable, Callable]:
    """Returns `blank` and `recall` of a plain `evaluate`; the memory stays empty."""

    def recall(memory: tuple, subject: Any, policy: Policy, wanted: jax.Array) -> tuple:
        run = functools.partial(evaluate, subject, policy)

        def zeros() -> Evaluation:
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(run))

        return memory, lax.cond(wanted, run, zeros)

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
    """Runs one search as `start` and `resume` do; yields the record of each chunk."""
    carry = start(strategy, problem, key[None], budget)
    return (record for _, record in resume(strategy, evaluate, subject, problem, carry, chunk))


def start(strategy: Strategy, problem: Problem, keys: jax.Array, budget: int) -> Carry:
    """Starts S independent searches, before their first chunk.

    Args:
      strategy: proposes the policies.
      problem: what the strategy may know.
      keys: [S], a random key per search.
      budget: evaluations of each search.
    """
    # Searches start one after the other, so that each starts bit for bit as it does alone.
    return _stack([_start(strategy, problem, key, budget) for key in keys])


@jax.jit
def _stack(carries: list[Carry]) -> Carry:
    carry = jax.tree.map(lambda *leaves: jnp.stack(leaves), *carries)
    # Weak types are made strong here, because the second chunk would be compiled anew otherwise.
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
    """Runs S searches to their ends; yields the carry and the record of each chunk.

    A search ends when its budget is spent, or after a chunk in which its strategy proposed nothing.
    A memory of the evaluator is empty at first, which changes the time but no result.

    Args:
      strategy: proposes the policies.
      evaluate: evaluates one policy; mapped over the proposed policies and compiled once.
      subject: the arrays that `evaluate` needs, passed in and never closed over.
      problem: what the strategy may know.
      carry: the searches, from `start` or from an earlier chunk.
      chunk: batches of E policies per search and chunk.
      batch: "map" runs the searches one after the other, each bit for bit as alone; "vmap" runs
        them side by side.
    """
    begin, run_chunk = _compile(strategy, evaluate, chunk, batch)
    shapes = jax.eval_shape(lambda *arguments: arguments, carry, subject, problem)
    leaves, structure = jax.tree.flatten((jax.eval_shape(begin, subject), *shapes))
    _compile_ahead(run_chunk, structure, tuple(leaves))
    memory = begin(subject)
    while np.asarray(carry.left).any():
        memory, (carry, results) = run_chunk(memory, carry, subject, problem)
        yield carry, build_record(results)


def build_record(results: tuple) -> Record:
    """Builds the record of a chunk of S searches from the valid ones of its results.

    Args:
      results: policies, evaluations, rewards and valid, [S, chunk, E] each; see `build_search`.
    """
    *values, valid = results
    valid = np.asarray(valid)
    policies, evaluations, rewards = jax.tree.map(lambda x: np.asarray(x)[valid], values)
    return Record(policies, evaluations, rewards, np.nonzero(valid)[0].astype(np.int32))


def build_empty_record(evaluate: Evaluate, subject: Any, space: Space, layers: int) -> Record:
    """Builds a record of no policies, with the dtypes of other records; nothing is evaluated."""
    policy = Policy(*(jax.ShapeDtypeStruct((layers,), jnp.int32) for _ in space.sizes))
    record = Record(
        policy,
        jax.eval_shape(evaluate, subject, policy),
        np.zeros((), np.float32),
        np.zeros((), np.int32),
    )
    return jax.tree.map(lambda x: np.zeros((0, *x.shape), x.dtype), record)
