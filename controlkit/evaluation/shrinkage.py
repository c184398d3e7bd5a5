"""How much a noisy estimate is shrunk: no more than is needed, and no more than its own noise hides.

A regression on more features than a log supports learns noise, and the sum over a long horizon multiplies it. A ridge
trades it for a bias. The error of the next step (out of bag, say) is no guide to how much: where the model is nearly
right, what a single step has of its errors is far below the noise, so that the heaviest ridge wins, and yet it adds up.
The ridge is chosen by what the estimate is for, therefore, the policy's gain, in the way of Su, Srinath and
Krishnamurthy (2020, arXiv 2002.07729, after Lepski): from the lightest ridge on, as long as the intervals of all have a
point in common. Theirs goes as far as that allows; here the first estimate that is exact enough ends it, so that one
which is good as it is stays untouched, and remains a witness against the model.
"""

from __future__ import annotations

import math

from torch import Tensor

# Half an interval, in standard errors: the bias that is bought is hardly more than the noise that is sold.
WIDTH = 1.0


def choose_shrinkage(estimates: Tensor, exact: float) -> int:
    """Which of several estimates to take: the first with a standard error of at most `exact`, or the last one before
    they contradict each other.

    Args:
        estimates: (K, M) of M bootstrap members, noisiest first.
        exact: as small a standard error is small enough.

    Returns:
        0 .. K - 1.
    """
    chosen, low, high = 0, -math.inf, math.inf
    errors = estimates.std(dim=1).tolist() if estimates.shape[1] > 1 else [0.0] * len(estimates)
    for number, (value, error) in enumerate(zip(estimates.mean(dim=1).tolist(), errors, strict=True)):
        low, high = max(low, value - WIDTH * error), min(high, value + WIDTH * error)
        if low > high:
            break
        chosen = number
        if error <= exact:
            break
    return chosen
