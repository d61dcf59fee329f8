"""The layer-wise decision process: observation, action, reward.

An episode walks the layers in the order in which the network runs them. At each it takes D actions
in [0, 1]: keep ratio, weight bits, input bits, and the converters' bits where those are searched,
so D is 3 or 4. The process follows AMC (He et al., ECCV
2018) and HAQ (Wang et al., CVPR 2019); docs/search.md lists the deviations.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from apq_jax.metrics import METRICS
from apq_jax.types import Evaluation, Policy

Correct = Callable[[jax.Array], jax.Array]  # observation [O] -> correction [D] of the base action


@dataclasses.dataclass(frozen=True)
class Space:
    """The policies that may be proposed. Static."""

    levels: int  # K
    weight_bits: tuple[int, ...]  # B choices, rising
    input_bits: tuple[int, ...]  # A choices, rising
    adc_bits: tuple[int, ...] = ()  # choices, rising; none: the converters are the accelerator's

    @property
    def bits(self) -> tuple[tuple[int, ...], ...]:
        """The choices of every action but the keep level, in the order of `Policy`."""
        found = self.weight_bits, self.input_bits
        return (*found, self.adc_bits) if self.adc_bits else found

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of choices of every action, [D]."""
        return self.levels, *map(len, self.bits)


class Conversions(NamedTuple):
    """What a layer's converters change by stopping after 1, 2, ... bits: [L, K, 8, 8, ADC bits]."""

    saved: jax.Array  # float32, energy over the dense network's
    error: jax.Array  # float32, of the output, over its variance; roundings taken as independent
    energy_weight: jax.Array  # [] float32, weight of energy in `Problem.share`


class Problem(NamedTuple):
    """What a strategy may know of the network and the accelerator, and what it is asked for."""

    features: jax.Array  # [L, F] float32 about [0, 1]
    error: jax.Array  # [L, K, Q] float32, output error of pruning and rounding the weights
    input_error: jax.Array  # [L, 8] float32, output error of rounding the inputs, by bits
    lamp: jax.Array  # [L, K] float32, LAMP score of the weakest survivor at each keep level
    share: jax.Array  # [L, K, 8, 8] float32, what closed forms pay for a layer, by bits
    costs: jax.Array  # [L, K, 8, 8, M] float32, a layer's metrics over the dense network's
    weights: jax.Array  # [M] float32, what each metric counts: their sum is 1, or none counts
    quality: jax.Array  # [] float32, what accuracy counts
    dense: jax.Array  # [M] float32, the metrics of the dense network at 8 bits
    max_cost: jax.Array  # [M] float32, the limit of each metric; inf where there is none
    float_accuracy: jax.Array  # [] float32, of the uncompressed network on the scored images
    min_accuracy: jax.Array  # [] float32, the limit; -inf where there is none
    drop_per_nat: jax.Array  # [] float32, accuracy lost for a nat of divergence
    penalty: jax.Array  # [] float32, of missing a limit: see `reward`
    phase: jax.Array  # [] float32 in [0, 1), by which closed forms are on from the usual prices
    conversions: Conversions | None = None  # where the converters' bits are searched


def decode(space: Space, action: jax.Array) -> Policy:
    """Actions [..., D] in [0, 1] to a policy's fields [...].

    Keep 1 is level 0. Bits are equal intervals of the action, as HAQ's, one for each choice.
    """

    place = jnp.floor(locate_actions(space, action) + 0.5).astype(jnp.int32)
    return decode_places(space, jnp.clip(place, 0, jnp.asarray(space.sizes) - 1))


def locate_actions(space: Space, action: jax.Array) -> jax.Array:
    """Where actions [..., D] lie among the choices, between two of them too: [..., D] float32."""
    levels, *bits_ = space.sizes
    keep = (1.0 - action[..., 0]) * (levels - 1)
    bits = action[..., 1:] * jnp.asarray(bits_) - 0.5
    return jnp.concatenate([keep[..., None], bits], axis=-1)


def encode(space: Space, policy: Policy) -> jax.Array:
    """The action [..., D] in the middle of those that `decode` to this policy.

    Bits that are not among the choices count as the next choice above. At the ends of the keep
    levels the interval is cut by 0 and 1; there it is the end.
    """

    def action(bits: jax.Array, choices: tuple[int, ...]) -> jax.Array:
        return (jnp.searchsorted(jnp.asarray(choices), bits) + 0.5) / len(choices)

    keep = 1.0 - policy.level / max(space.levels - 1, 1)
    bits = [action(*pair) for pair in zip(policy[1:], space.bits, strict=False)]
    return jnp.stack([keep, *bits], axis=-1).astype(jnp.float32)


def decode_places(space: Space, places: jax.Array) -> Policy:
    """Places among the choices [..., D] int32 to a policy's fields [...]."""
    bits = (jnp.asarray(one)[places[..., at]] for at, one in enumerate(space.bits, start=1))
    return Policy(places[..., 0], *bits)


def encode_places(space: Space, policy: Policy) -> jax.Array:
    """A policy's places among the choices, [..., D] int32."""
    pairs = zip(policy[1:], space.bits, strict=False)
    places = [jnp.searchsorted(jnp.asarray(choices), bits) for bits, choices in pairs]
    return jnp.stack([policy.level, *places], axis=-1).astype(jnp.int32)


def look_up_shares(problem: Problem, policy: Policy) -> jax.Array:
    """Each layer's part of the dense network's cost under this policy, [..., L]."""
    layers = jnp.arange(problem.share.shape[0])
    index = layers, policy.level, policy.weight_bits - 1, policy.input_bits - 1
    share = problem.share[index]
    if policy.adc_bits is None:
        return share
    assert problem.conversions is not None
    at = (*index, policy.adc_bits - 1)
    return share - problem.conversions.energy_weight * problem.conversions.saved[at]


def observe(
    problem: Problem, space: Space, base: jax.Array, layer: jax.Array, actions: jax.Array
) -> jax.Array:
    """What the agent sees before it decides on `layer`.

    Args:
      problem: see `Problem`.
      space: static.
      base: [L, D], the policy that the agent starts from.
      layer: [] int32 in 0 .. L - 1.
      actions: [L, D], taken so far; those from `layer` on are not looked at.

    Returns:
      [O]: the layer's features, its base action, the action before, the cost of the layers
      decided so far and of the rest at the base, both over the dense network's, and the limit.
    """
    done = jnp.arange(problem.features.shape[0]) < layer
    used = jnp.sum(jnp.where(done, look_up_shares(problem, decode(space, actions)), 0.0))
    rest = jnp.sum(jnp.where(done, 0.0, look_up_shares(problem, decode(space, base))))
    before = jnp.where(layer > 0, actions[jnp.maximum(layer - 1, 0)], 0.0)
    # The points that may be lost: 0 at none, 1 where all may.
    allowed = jnp.clip(problem.float_accuracy - problem.min_accuracy, 0.0, 1.0)
    rest_of_it = jnp.stack([used, rest, jnp.log1p(1000.0 * allowed) / jnp.log(1001.0)])
    return jnp.concatenate([problem.features[layer], base[layer], before, rest_of_it])


def observe_episode(
    problem: Problem, space: Space, base: jax.Array, actions: jax.Array
) -> jax.Array:
    """The observations of an episode that took `actions` [L, D]: [L, O]."""
    layers = jnp.arange(actions.shape[0])
    return jax.vmap(lambda layer: observe(problem, space, base, layer, actions))(layers)


def reward(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """`gain` - penalty ln(1 + 400 x `shortfall`): []; a hundredth short counts ln 5.

    The logarithm keeps policies far from the limits from drowning, in the critic's error, the
    small differences near them.
    """
    return gain(problem, evaluation) - problem.penalty * jnp.log1p(
        400.0 * shortfall(problem, evaluation)
    )


def gain(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """Σ_m weight_m ln(dense_m / cost_m) - quality ln(1 + 10 x points lost), limits aside: [].

    The points are of expected accuracy. Near none lost a tenth of a point counts as much as a
    factor of two does at many, as costs do by their ratios.
    """
    metrics = jnp.sum(problem.weights * log_ratios(problem, evaluation), axis=-1)
    lost = problem.float_accuracy - expected_accuracy(problem, evaluation)
    return metrics - problem.quality * jnp.log1p(1000.0 * jnp.maximum(lost, 0.0))


def log_ratios(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """ln(dense / cost) of each metric: [M]."""
    return jnp.log(problem.dense / _stack_costs(evaluation))


def _stack_costs(evaluation: Evaluation) -> jax.Array:
    costs = jnp.stack([getattr(evaluation, name) for name in METRICS], axis=-1)
    return costs.astype(jnp.float32)


def expected_accuracy(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """Float accuracy - drop_per_nat x divergence: [].

    On some hundred images a measured accuracy cannot tell policies half a point apart, and the
    best of many measured ones is mostly luck. The divergence of the outputs on the same images
    can (docs/search.md has the measurement).
    """
    return problem.float_accuracy - problem.drop_per_nat * evaluation.divergence


def shortfall(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """How far a policy is from the limits: [], 0 where all are met.

    Expected accuracy below its limit, as a fraction of 1, plus the part by which each metric is
    above its own.
    """
    below = jnp.maximum(problem.min_accuracy - expected_accuracy(problem, evaluation), 0.0)
    above = jnp.maximum(_stack_costs(evaluation) / problem.max_cost - 1.0, 0.0)
    return below + above.sum(axis=-1)


def solve_closed_form(
    problem: Problem, space: Space, price: jax.Array, allowed: jax.Array
) -> Policy:
    """The policy that minimises Σ_layers error + price x share; no accuracy is measured.

    Errors are each layer's own, over its output's variance, taken to add up. With that, a price
    decides each layer apart, by exhaustion. The Lagrangian view is Optimal Brain Compression's.

    Args:
      problem: see `Problem`.
      space: static.
      price: [] positive.
      allowed: [L, *space.sizes] bool.
    """
    weight_bits, input_bits, *adc_bits = (np.asarray(bits, np.int32) for bits in space.bits)
    of_inputs = problem.input_error[:, None, None, input_bits - 1]
    error = problem.error[:, :, weight_bits - 1, None] + of_inputs
    share = problem.share[:, :, weight_bits - 1][..., input_bits - 1]
    if adc_bits:
        assert problem.conversions is not None
        saved, lost = (
            x[:, :, weight_bits - 1][:, :, :, input_bits - 1][..., adc_bits[0] - 1]
            for x in problem.conversions[:2]
        )
        error = error[..., None] + lost
        share = share[..., None] - problem.conversions.energy_weight * saved
    total = error + price * share
    best = jnp.argmin(jnp.where(allowed, total, jnp.inf).reshape(total.shape[0], -1), axis=1)
    places = jnp.unravel_index(best, total.shape[1:])
    return decode_places(space, jnp.stack(places, axis=-1).astype(jnp.int32))


def allow_free(space: Space, free: tuple[bool, ...], base: jax.Array) -> jax.Array:
    """Choices that agree with `base` [L, D] where an action is not free: [L, *space.sizes] bool."""
    frozen, count = encode_places(space, decode(space, base)), len(space.sizes)
    allowed = jnp.ones((base.shape[0], *(1,) * count), bool)
    for at, size in enumerate(space.sizes):
        agrees = free[at] | (jnp.arange(size) == frozen[:, at, None])
        shape = [size if at == axis else 1 for axis in range(count)]
        allowed &= agrees.reshape(base.shape[0], *shape)
    return allowed


def roll_out(
    problem: Problem,
    space: Space,
    base: jax.Array,
    correct: Correct,
    moves: jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """Walks the layers and returns what was executed.

    Args:
      problem: see `Problem`.
      space: static.
      base: [L, D].
      correct: the agent.
      moves: [L, D] bool, where the base is left at all.
      noise: [L, D].

    Returns:
      [L, D], each action as the policy carries it out.
    """

    def step(actions: jax.Array, layer: jax.Array) -> tuple[jax.Array, None]:
        move = correct(observe(problem, space, base, layer, actions)) + noise[layer]
        action = jnp.clip(base[layer] + jnp.where(moves[layer], move, 0.0), 0.0, 1.0)
        return actions.at[layer].set(encode(space, decode(space, action))), None

    actions, _ = lax.scan(step, jnp.zeros_like(base), jnp.arange(base.shape[0]))
    return actions


def allow_all(problem: Problem, space: Space) -> jax.Array:
    """All choices, as `environment.allowed_by` gives some: [L, *space.sizes] bool."""
    return jnp.ones((problem.features.shape[0], *space.sizes), bool)
