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
    """At most `count` indices of the front at or above the limit, most benefit first.

    Where there are more they are taken evenly along the front, so that accurate ones are among
    them. Where there is none, the most accurate policies stand in.
    """
    front = pareto_front(benefit, accuracy)
    meets = front[accuracy[front] >= min_accuracy]
    if len(meets) == 0:
        meets = front[-count:]
    chosen = np.unique(np.linspace(0, len(meets) - 1, count).round().astype(int))
    return meets[chosen]
