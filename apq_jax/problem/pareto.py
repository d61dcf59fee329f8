"""Limits, Pareto fronts, finalists, hypervolume and knee of evaluated policies, on the host.

Limits and values are dictionaries by name: `accuracy_drop`, the percentage points lost to the float
network, and the metrics of `metrics.METRICS`. Names without a limit are unconstrained.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from apq_jax.types import Policy

# The reference of hypervolumes: the cost of the dense network at 8 bits, and 10 points lost.
MIN_GAIN, MAX_LOST = 0.0, 10.0
_ROUNDING = 1e-9  # relative excess over a limit that is only rounding
_SPREAD = np.log(4.0)  # range of benefit over which finalists are spread


class Miss(NamedTuple):
    """A limit that is not met."""

    name: str
    found: float
    allowed: float


def shortfall(values: Mapping[str, Any], limits: Mapping[str, float]) -> np.ndarray:
    """Returns how far policies are from the limits, as `environment.shortfall`: [N].

    An excess of at most _ROUNDING counts as none.

    Args:
      values: [N] by name; at least one name, and every name of `limits`.
      limits: by name.
    """
    excesses = [
        (np.asarray(values[name]) - limit) / (100.0 if name == "accuracy_drop" else limit)
        for name, limit in limits.items()
    ]
    zero = np.zeros(len(next(iter(values.values()))))
    return sum((np.where(excess > _ROUNDING, excess, 0.0) for excess in excesses), zero)


def find_misses(
    values: Mapping[str, Any], limits: Mapping[str, float], index: int
) -> tuple[Miss, ...]:
    """Finds the limits that the policy at `index` of the values [N] does not meet."""
    policy = {name: np.asarray(values[name])[index : index + 1] for name in values}
    return tuple(
        Miss(name, policy[name].item(), limit)
        for name, limit in limits.items()
        if shortfall(policy, {name: limit})[0]
    )


def find_first(policy: Policy) -> np.ndarray:
    """Finds, for each of N policies [N, L], the first equal policy: indices [N]."""
    flat = np.concatenate(jax.tree.leaves(policy), axis=1)
    _, first, inverse = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    return first[inverse.reshape(-1)]


def find_distinct(policy: Policy) -> np.ndarray:
    """Finds the policies, of N [N, L], that equal no earlier policy: rising indices."""
    return np.unique(find_first(policy))


def find_pareto_front(benefit: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Finds the policies that no other dominates: indices, most benefit first.

    A policy dominates another if it is as good in both values and better in one. Of equal policies
    the first is on the front.

    Args:
      benefit: [N], more is better.
      accuracy: [N], more is better.
    """
    order = np.lexsort((np.arange(len(benefit)), -accuracy, -benefit))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], accuracy[order][:-1]]))
    return order[accuracy[order] > best]


def find_non_dominated(values: np.ndarray) -> np.ndarray:
    """Finds the rows of `values` [N, D] that no other row beats: rising indices.

    A row beats another if it is as good in all columns and better in one. More is better. Of equal
    rows the first stays.
    """
    _, first = np.unique(values, axis=0, return_index=True)
    # Rows of high rank in all columns come first, because they remove most other rows at once.
    ranks = np.argsort(np.argsort(values[first], axis=0), axis=0)
    rows, index = first[np.argsort(-ranks.sum(axis=1), kind="stable")], 0
    while index < len(rows):
        stays = (values[rows] > values[rows[index]]).any(axis=1)
        stays[index] = True
        index = int(stays[:index].sum()) + 1
        rows = rows[stays]
    return np.sort(rows)


def choose_finalists(
    benefit: np.ndarray, accuracy: np.ndarray, short: np.ndarray, count: int
) -> np.ndarray:
    """Chooses at most `count` policies that meet the limits: indices, most benefit first.

    Half of them are spread: the range from the most benefit down to a quarter of its ratio is cut
    into equal steps, the last step takes everything below, and each step gives its most accurate
    policy. The rest are the policies of most benefit. Finalists are spread because policies of most
    benefit are alike: if other images refuse one of them, they refuse the others too. If no policy
    meets the limits, the nearest ones are chosen, the nearest first.

    Args:
      benefit: [N], the logarithm of a ratio, more is better; of distinct policies.
      accuracy: [N], more is better.
      short: [N], the shortfall, 0 where all limits are met.
      count: at least 2.
    """
    meets = np.flatnonzero(short == 0)
    if not len(meets):
        return np.lexsort((-benefit, short))[:count]
    order = meets[np.lexsort((meets, -benefit[meets]))]
    by_accuracy = order[np.argsort(-accuracy[order], kind="stable")]
    distance = benefit[order[0]] - benefit[by_accuracy]
    steps = count // 2
    step = np.minimum(np.floor(distance / (_SPREAD / steps)), steps - 1)
    spread = by_accuracy[np.unique(step, return_index=True)[1]]
    top = np.setdiff1d(order, spread, assume_unique=True)[: count - len(spread)]
    chosen = np.concatenate([spread, top])
    return chosen[np.lexsort((chosen, -benefit[chosen]))]


def hypervolume(
    benefit: np.ndarray, accuracy: np.ndarray, min_benefit: float, min_accuracy: float
) -> float:
    """Returns the area that the policies dominate above the point (min_benefit, min_accuracy).

    Args:
      benefit: [N], more is better.
      accuracy: [N], more is better.
      min_benefit, min_accuracy: the reference; policies below it in either count nothing.

    Returns:
      The area, in units of benefit times accuracy.
    """
    above = (benefit > min_benefit) & (accuracy > min_accuracy)
    if not above.any():
        return 0.0
    benefit, accuracy = benefit[above], accuracy[above]
    front = find_pareto_front(benefit, accuracy)  # benefit falls, accuracy rises
    rises = np.diff(accuracy[front], prepend=min_accuracy)
    return float(np.sum((benefit[front] - min_benefit) * rises))


def find_knee(
    benefit: np.ndarray, accuracy: np.ndarray, min_benefit: float, min_accuracy: float
) -> int:
    """Finds the policy of the Pareto front that lies farthest out from the front's chord: an index.

    The front is that of the policies above the reference. The chord joins its ends, which are
    scaled to 0 and 1 on both axes. Of equally far policies the one of most benefit is the knee. If
    no policy is above the reference, the knee is the most accurate policy.

    Args:
      benefit: [N], more is better.
      accuracy: [N], more is better.
      min_benefit, min_accuracy: the reference.
    """
    above = np.flatnonzero((benefit > min_benefit) & (accuracy > min_accuracy))
    if not len(above):
        return int(np.lexsort((-benefit, -accuracy))[0])
    front = above[find_pareto_front(benefit[above], accuracy[above])]

    def scale(values: np.ndarray) -> np.ndarray:
        return (values - values.min()) / max(float(np.ptp(values)), 1e-30)

    # The chord runs from (1, 0) to (0, 1), so the distance from it grows with the sum.
    return int(front[np.argmax(scale(benefit[front]) + scale(accuracy[front]))])
