"""What a search evaluated, on the host: limits, Pareto fronts, finalists, hypervolume, knee.

Limits and what was found are dictionaries by name: `accuracy_drop`, percentage points below the
float network, and the metrics of `environment.METRICS`. A limit that is not there is none.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from apq_jax.types import Policy

# The reference of hypervolumes: the dense network's cost at 8 bits; points of accuracy lost.
MIN_GAIN, MAX_LOST = 0.0, 10.0
_LAST_BIT = 1e-9  # of a limit, which must not decide
_SPREAD = np.log(4.0)  # of the finalists' benefit


class Miss(NamedTuple):
    """A limit that is not met."""

    name: str
    found: float
    allowed: float


def shortfall(found: Mapping[str, Any], limits: Mapping[str, float]) -> np.ndarray:
    """How far policies are from the limits, as `environment.shortfall` says it: [N].

    Args:
      found: [N] by name.
      limits: by name.
    """
    parts = [
        (np.asarray(found[name]) - limit) / (100.0 if name == "accuracy_drop" else limit)
        for name, limit in limits.items()
    ]
    zero = np.zeros(len(next(iter(found.values()))))
    return sum((np.where(part > _LAST_BIT, part, 0.0) for part in parts), zero)


def find_misses(
    found: Mapping[str, Any], limits: Mapping[str, float], number: int
) -> tuple[Miss, ...]:
    """The limits that the policy `number` does not meet."""
    one = {name: np.asarray(found[name])[number : number + 1] for name in found}
    return tuple(
        Miss(name, one[name].item(), limit)
        for name, limit in limits.items()
        if shortfall(one, {name: limit})[0]
    )


def find_first(policy: Policy) -> np.ndarray:
    """The first evaluation of the policy of each of N evaluations [N, L], its own if it is: [N]."""
    flat = np.concatenate(jax.tree.leaves(policy), axis=1)
    _, first, which = np.unique(flat, axis=0, return_index=True, return_inverse=True)
    return first[which.reshape(-1)]


def find_distinct(policy: Policy) -> np.ndarray:
    """The evaluations, of N [N, L], whose policy was not evaluated before: rising indices."""
    return np.unique(find_first(policy))


def find_pareto_front(benefit: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Indices of the policies that none beats in both, most benefit first; of equals the first.

    Args:
      benefit: [N], more is better.
      accuracy: [N], more is better.
    """
    order = np.lexsort((np.arange(len(benefit)), -accuracy, -benefit))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], accuracy[order][:-1]]))
    return order[accuracy[order] > best]


def find_non_dominated(values: np.ndarray) -> np.ndarray:
    """Rising indices of the rows of [N, D] that none beats: as good in all, better in one.

    More is better; of equal rows the first stays.
    """
    _, first = np.unique(values, axis=0, return_index=True)
    # Those of high rank in all come first, so that most others go at once.
    ranks = np.argsort(np.argsort(values[first], axis=0), axis=0)
    left, at = first[np.argsort(-ranks.sum(axis=1), kind="stable")], 0
    while at < len(left):
        stays = (values[left] > values[left[at]]).any(axis=1)
        stays[at] = True
        at = int(stays[:at].sum()) + 1
        left = left[stays]
    return np.sort(left)


def choose_finalists(
    benefit: np.ndarray, accuracy: np.ndarray, short: np.ndarray, count: int
) -> np.ndarray:
    """At most `count` indices of policies that meet the limits, most benefit first.

    Half are spread: a factor of 4 below the most benefit is cut into equal steps, the last one
    takes in all that is beyond, and of each the most accurate is taken. For the policies of most
    benefit are alike, and where other images refuse one they refuse its likes. The others are
    those of most benefit. Where none meets the limits, the nearest stand in, the nearest first.

    Args:
      benefit: [N], more is better, the logarithm of a ratio; of distinct policies.
      accuracy: [N], more is better.
      short: [N], 0 where all limits are met.
      count: at least 2.
    """
    meets = np.flatnonzero(short == 0)
    if not len(meets):
        return np.lexsort((-benefit, short))[:count]
    order = meets[np.lexsort((meets, -benefit[meets]))]
    by_accuracy = order[np.argsort(-accuracy[order], kind="stable")]
    below = benefit[order[0]] - benefit[by_accuracy]
    steps = count // 2
    step = np.minimum(np.floor(below / (_SPREAD / steps)), steps - 1)
    spread = by_accuracy[np.unique(step, return_index=True)[1]]
    top = np.setdiff1d(order, spread, assume_unique=True)[: count - len(spread)]
    chosen = np.concatenate([spread, top])
    return chosen[np.lexsort((chosen, -benefit[chosen]))]


def hypervolume(
    benefit: np.ndarray, accuracy: np.ndarray, least_benefit: float, least_accuracy: float
) -> float:
    """Area that the policies dominate above the reference point (least_benefit, least_accuracy).

    Args:
      benefit: [N], more is better.
      accuracy: [N], more is better.
      least_benefit, least_accuracy: the reference; what is below it in either counts nothing.

    Returns:
      In units of benefit times accuracy.
    """
    above = (benefit > least_benefit) & (accuracy > least_accuracy)
    if not above.any():
        return 0.0
    benefit, accuracy = benefit[above], accuracy[above]
    front = find_pareto_front(benefit, accuracy)  # benefit falls, accuracy rises
    rises = np.diff(accuracy[front], prepend=least_accuracy)
    return float(np.sum((benefit[front] - least_benefit) * rises))


def find_knee(
    benefit: np.ndarray, accuracy: np.ndarray, least_benefit: float, least_accuracy: float
) -> int:
    """Index of the point of the Pareto front that lies farthest out from the front's chord.

    The front is of the policies above the reference; its ends, joined by the chord, are 0 and 1
    of either axis. Of equals the one of most benefit; where none is above the reference, the
    most accurate.

    Args:
      benefit: [N], more is better.
      accuracy: [N], more is better.
      least_benefit, least_accuracy: the reference.
    """
    above = np.flatnonzero((benefit > least_benefit) & (accuracy > least_accuracy))
    if not len(above):
        return int(np.lexsort((-benefit, -accuracy))[0])
    front = above[find_pareto_front(benefit[above], accuracy[above])]

    def along(axis: np.ndarray) -> np.ndarray:
        return (axis - axis.min()) / max(float(np.ptp(axis)), 1e-30)

    # From (1, 0) to (0, 1): the distance from the chord grows with the sum.
    return int(front[np.argmax(along(benefit[front]) + along(accuracy[front]))])
