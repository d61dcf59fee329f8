"""What a search evaluated, on the host: Pareto front and finalists."""

import numpy as np


def pareto_front(benefit: np.ndarray, accuracy: np.ndarray) -> np.ndarray:
    """Indices of the policies that none beats in both, most benefit first; of equals the first.

    Args:
      benefit: [N], more is better.
      accuracy: [N], more is better.
    """
    order = np.lexsort((np.arange(len(benefit)), -accuracy, -benefit))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], accuracy[order][:-1]]))
    return order[accuracy[order] > best]


def finalists(
    benefit: np.ndarray, accuracy: np.ndarray, min_accuracy: float, count: int
) -> np.ndarray:
    """At most `count` indices of policies at or above the limit, most benefit first.

    Half are those of most benefit. Half lie evenly along the Pareto front, so that accurate ones
    are among them. Where none meets the limit, the most accurate of the front stand in.
    """
    front = pareto_front(benefit, accuracy)
    if accuracy.max() < min_accuracy:
        return front[-count:]
    along = front[accuracy[front] >= min_accuracy]
    even = along[np.unique(np.linspace(0, len(along) - 1, count // 2).round().astype(int))]
    meets = np.flatnonzero(accuracy >= min_accuracy)
    # A policy that was evaluated twice counts once.
    _, first = np.unique(np.stack([benefit, accuracy])[:, meets], axis=1, return_index=True)
    distinct = meets[first]
    top = distinct[np.lexsort((distinct, -benefit[distinct]))][: count - len(even)]
    chosen = np.union1d(top, even)
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
    front = pareto_front(benefit, accuracy)  # benefit falls, accuracy rises
    rises = np.diff(accuracy[front], prepend=least_accuracy)
    return float(np.sum((benefit[front] - least_benefit) * rises))
