"""The layer-wise decision process: observation, action, reward.

An episode walks the layers in the order in which the network runs them. At each layer it takes D
actions in [0, 1]: keep ratio, weight bits, input bits and, if they are searched, the converters'
bits; so D is 3 or 4. A place is the index of a choice among all choices of its action. The process
follows AMC (He et al., ECCV 2018) and HAQ (Wang et al., CVPR 2019); docs/search.md lists the
deviations.
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
    """The choices that a policy may be made of. Static."""

    levels: int  # K keep levels, from unpruned to the fewest weights
    weight_bits: tuple[int, ...]  # B choices, rising
    input_bits: tuple[int, ...]  # A choices, rising
    adc_bits: tuple[int, ...] = ()  # choices, rising; (): the accelerator's own, not searched

    @property
    def bits(self) -> tuple[tuple[int, ...], ...]:
        """The choices of every action but the keep level, in the order of `Policy`."""
        bits = self.weight_bits, self.input_bits
        return (*bits, self.adc_bits) if self.adc_bits else bits

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of choices of every action, [D]."""
        return self.levels, *map(len, self.bits)


class Conversions(NamedTuple):
    """Tables, [L, K, 8, 8, ADC bits], of what converters of 1, 2, ... bits save and lose."""

    saved: jax.Array  # float32, energy saved, over the dense network's energy
    # float32, mean square error of the output over its variance, if roundings are independent.
    error: jax.Array
    energy_weight: jax.Array  # [] float32, weight of energy in `Problem.share`


class Problem(NamedTuple):
    """The network and the accelerator as a strategy sees them, with its goal and limits."""

    features: jax.Array  # [L, F] float32, roughly in [0, 1]
    error: jax.Array  # [L, K, Q] float32, output error of pruning and rounding the weights
    input_error: jax.Array  # [L, 8] float32, output error of rounding the inputs, by bits
    lamp: jax.Array  # [L, K] float32, LAMP score of the weakest survivor at each keep level
    share: jax.Array  # [L, K, 8, 8] float32, weighted costs of a layer, which closed forms minimise
    costs: jax.Array  # [L, K, 8, 8, M] float32, a layer's metrics over the dense network's
    weights: jax.Array  # [M] float32, weights of the metrics in the reward; their sum is 1 or 0
    quality: jax.Array  # [] float32, weight of accuracy in the reward
    dense: jax.Array  # [M] float32, the metrics of the dense network at 8 bits
    max_cost: jax.Array  # [M] float32, the limit of each metric; inf: none
    float_accuracy: jax.Array  # [] float32, of the float network on the scored images
    min_accuracy: jax.Array  # [] float32, the limit of expected accuracy; -inf: none
    drop_per_nat: jax.Array  # [] float32, accuracy lost per nat of divergence
    penalty: jax.Array  # [] float32, weight of missed limits: see `reward`
    # [] float32 in [0, 1), added to the price schedule, so that each stage of a search tries other
    # closed-form policies.
    phase: jax.Array
    conversions: Conversions | None = None  # only if the converters' bits are searched


def decode(space: Space, action: jax.Array) -> Policy:
    """Turns actions [..., D] in [0, 1] into a policy with fields [...].

    Keep 1 is level 0. Each choice of bits has an equal interval of the action, as in HAQ.
    """
    place = jnp.floor(locate_actions(space, action) + 0.5).astype(jnp.int32)
    return decode_places(space, jnp.clip(place, 0, jnp.asarray(space.sizes) - 1))


def locate_actions(space: Space, action: jax.Array) -> jax.Array:
    """Returns the places of actions [..., D], fractional between two choices: [..., D] float32."""
    levels, *sizes = space.sizes
    keep = (1.0 - action[..., 0]) * (levels - 1)
    bits = action[..., 1:] * jnp.asarray(sizes) - 0.5
    return jnp.concatenate([keep[..., None], bits], axis=-1)


def encode(space: Space, policy: Policy) -> jax.Array:
    """Turns a policy with fields [...] into actions [..., D] that `decode` turns back into it.

    An action is the middle of its choice's interval; but the first and the last keep level give 1
    and 0, because [0, 1] cuts their intervals in half. Bits that are not among the choices count as
    the next choice above.
    """

    def action(bits: jax.Array, choices: tuple[int, ...]) -> jax.Array:
        return (_locate(choices, bits) + 0.5) / len(choices)

    keep = 1.0 - policy.level / max(space.levels - 1, 1)
    bits = [action(*pair) for pair in zip(policy[1:], space.bits, strict=False)]
    return jnp.stack([keep, *bits], axis=-1).astype(jnp.float32)


def _locate(choices: tuple[int, ...], bits: jax.Array) -> jax.Array:
    """Returns the place of bits among rising choices, or of the next choice above."""
    return jnp.searchsorted(jnp.asarray(choices), bits, method="compare_all")


def decode_places(space: Space, places: jax.Array) -> Policy:
    """Turns places [..., D] int32 into a policy with fields [...]."""
    bits = (jnp.asarray(choices)[places[..., i]] for i, choices in enumerate(space.bits, 1))
    return Policy(places[..., 0], *bits)


def encode_places(space: Space, policy: Policy) -> jax.Array:
    """Turns a policy with fields [...] into places, [..., D] int32.

    Bits that are not among the choices count as the next choice above.
    """
    pairs = zip(policy[1:], space.bits, strict=False)
    places = [_locate(choices, bits) for bits, choices in pairs]
    return jnp.stack([policy.level, *places], axis=-1).astype(jnp.int32)


def look_up_shares(problem: Problem, policy: Policy) -> jax.Array:
    """Looks up each layer's weighted cost, over the dense network's cost: [..., L]."""
    layers = jnp.arange(problem.share.shape[0])
    index = layers, policy.level, policy.weight_bits - 1, policy.input_bits - 1
    share = problem.share[index]
    if policy.adc_bits is None:
        return share
    assert problem.conversions is not None
    saved = problem.conversions.saved[*index, policy.adc_bits - 1]
    return share - problem.conversions.energy_weight * saved


def observe(
    problem: Problem, space: Space, base: jax.Array, layer: jax.Array, actions: jax.Array
) -> jax.Array:
    """Returns the agent's observation before it decides on `layer`.

    Args:
      base: [L, D], the actions that the agent corrects.
      layer: [] int32 in 0 .. L - 1.
      actions: [L, D], taken so far; rows from `layer` on are ignored.

    Returns:
      [O]: the layer's features, its base action, the previous layer's action, the cost of the
      layers decided so far, the cost of the remaining layers at the base (both over the dense
      network's cost), and the limit of accuracy.
    """
    done = jnp.arange(problem.features.shape[0]) < layer
    used = jnp.sum(jnp.where(done, look_up_shares(problem, decode(space, actions)), 0.0))
    rest = jnp.sum(jnp.where(done, 0.0, look_up_shares(problem, decode(space, base))))
    before = jnp.where(layer > 0, actions[jnp.maximum(layer - 1, 0)], 0.0)
    # The allowed loss is 0 if no accuracy may be lost, 1 if all of it may.
    max_drop = jnp.clip(problem.float_accuracy - problem.min_accuracy, 0.0, 1.0)
    scalars = jnp.stack([used, rest, jnp.log1p(1000.0 * max_drop) / jnp.log(1001.0)])
    return jnp.concatenate([problem.features[layer], base[layer], before, scalars])


def observe_episode(
    problem: Problem, space: Space, base: jax.Array, actions: jax.Array
) -> jax.Array:
    """Returns the observations of an episode that took `actions` [L, D]: [L, O]."""
    layers = jnp.arange(actions.shape[0])
    return jax.vmap(lambda layer: observe(problem, space, base, layer, actions))(layers)


def reward(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """Returns `gain` - penalty ln(1 + 400 x `shortfall`), []; a shortfall of 0.01 counts ln 5.

    The logarithm damps the penalty of policies far from the limits, because the critic's error on
    them would otherwise drown the small differences near the limits.
    """
    return gain(problem, evaluation) - problem.penalty * jnp.log1p(
        400.0 * shortfall(problem, evaluation)
    )


def gain(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """Returns Σ_m weight_m ln(dense_m / cost_m) - quality ln(1 + 10 x points lost): [].

    Limits do not count here. Points are percentage points of expected accuracy. A loss counts by
    its ratio, as costs do: its first tenth of a point is as bad as doubling a large loss.
    """
    metrics = jnp.sum(problem.weights * log_ratios(problem, evaluation), axis=-1)
    lost = problem.float_accuracy - expected_accuracy(problem, evaluation)
    return metrics - problem.quality * jnp.log1p(1000.0 * jnp.maximum(lost, 0.0))


def log_ratios(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """Returns ln(dense / cost) of each metric: [M]."""
    return jnp.log(problem.dense / _stack_costs(evaluation))


def _stack_costs(evaluation: Evaluation) -> jax.Array:
    """Stacks the metrics of an evaluation in the order of METRICS: [..., M] float32."""
    costs = jnp.stack([getattr(evaluation, name) for name in METRICS], axis=-1)
    return costs.astype(jnp.float32)


def expected_accuracy(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """Returns float accuracy - drop_per_nat x divergence: [].

    A search ranks by this instead of measured accuracy, because a few hundred images cannot
    separate policies half a point apart, and the best of many measured accuracies is mostly luck.
    The divergence on the same images separates them (docs/search.md has the measurement).
    """
    return problem.float_accuracy - problem.drop_per_nat * evaluation.divergence


def shortfall(problem: Problem, evaluation: Evaluation) -> jax.Array:
    """Returns how far a policy is from the limits: [], 0 if it meets all of them.

    It adds up how far the expected accuracy is below its limit, as a fraction of 1, and by what
    fraction of its limit each metric is above.
    """
    below = jnp.maximum(problem.min_accuracy - expected_accuracy(problem, evaluation), 0.0)
    above = jnp.maximum(_stack_costs(evaluation) / problem.max_cost - 1.0, 0.0)
    return below + above.sum(axis=-1)


def solve_closed_form(
    problem: Problem, space: Space, price: jax.Array, allowed: jax.Array
) -> Policy:
    """Returns the policy [L] that minimises Σ_layers error + price x share.

    No accuracy is measured. A layer's error is its output's mean square error over the output's
    variance. The errors of layers are taken to add up, so each layer's best choice is found alone,
    by trying all. The Lagrangian view is from Optimal Brain Compression.

    Args:
      price: [], positive.
      allowed: [L, *space.sizes] bool, from `allow_all` or `allow_free`.
    """
    weight_bits, input_bits, *adc_bits = (np.asarray(bits, np.int32) for bits in space.bits)
    input_error = problem.input_error[:, None, None, input_bits - 1]
    error = problem.error[:, :, weight_bits - 1, None] + input_error
    share = problem.share[:, :, weight_bits - 1][..., input_bits - 1]
    if adc_bits:
        assert problem.conversions is not None
        saved, adc_error = (
            x[:, :, weight_bits - 1][:, :, :, input_bits - 1][..., adc_bits[0] - 1]
            for x in problem.conversions[:2]
        )
        error = error[..., None] + adc_error
        share = share[..., None] - problem.conversions.energy_weight * saved
    total = error + price * share
    best = jnp.argmin(jnp.where(allowed, total, jnp.inf).reshape(total.shape[0], -1), axis=1)
    places = jnp.unravel_index(best, total.shape[1:])
    return decode_places(space, jnp.stack(places, axis=-1).astype(jnp.int32))


def allow_free(space: Space, free: tuple[bool, ...], base: jax.Array) -> jax.Array:
    """Allows all choices of free actions, and the choice in `base` of other actions.

    Args:
      free: [D], whether each action may change.
      base: [L, D], actions.

    Returns:
      [L, *space.sizes] bool.
    """
    frozen, count = encode_places(space, decode(space, base)), len(space.sizes)
    allowed = jnp.ones((base.shape[0], *(1,) * count), bool)
    for action, size in enumerate(space.sizes):
        agrees = free[action] | (jnp.arange(size) == frozen[:, action, None])
        shape = [size if action == axis else 1 for axis in range(count)]
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
    """Walks the layers and returns the actions that were executed.

    Args:
      base: [L, D], the actions that are corrected.
      correct: the agent.
      moves: [L, D] bool, which actions may leave the base.
      noise: [L, D], added to the corrections.

    Returns:
      [L, D], each action moved to the middle of its choice, as `encode` gives it.
    """

    def step(actions: jax.Array, layer: jax.Array) -> tuple[jax.Array, None]:
        move = correct(observe(problem, space, base, layer, actions)) + noise[layer]
        action = jnp.clip(base[layer] + jnp.where(moves[layer], move, 0.0), 0.0, 1.0)
        return actions.at[layer].set(encode(space, decode(space, action))), None

    actions, _ = lax.scan(step, jnp.zeros_like(base), jnp.arange(base.shape[0]))
    return actions


def allow_all(problem: Problem, space: Space) -> jax.Array:
    """Allows every choice: [L, *space.sizes] bool."""
    return jnp.ones((problem.features.shape[0], *space.sizes), bool)
