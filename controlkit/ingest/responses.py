"""After how many sample periods does each state answer to each action, and how far back must an observation reach?

For every state a linear model with inputs (ARX) is fitted: its change over a period from the past of all measured tags
and the past L commands of every action, all at once. Such a fit with enough past is consistent in a closed loop, too,
as long as the command is not a mere function of what is measured (the direct method: Forssell and Ljung, Automatica 35,
1999). What an action does k periods later shows in the sum of its first k coefficients: the answer of the state's
change to a step of the command. The dead time ends where that sum first leaves its confidence bound.

The bounds come from how much the fit's errors differ between groups of stretches (sandwich estimator with clusters:
Liang and Zeger, Biometrika 73, 1986), so that neither noise that depends on its past nor noise that depends on the
operating point makes them too narrow; they are never narrower than those of plain least squares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from controlkit.ingest.stretches import COUNT, Normal, Stretch, accumulate, past, windows

Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

# Chance that an action without any effect is said to have one, for each pair of an action and a state.
LEVEL = 0.001
# An effect below this share of the change that the past leaves open is not worth telling.
MIN_SHARE = 0.002
# So many times that share is an effect even where no delay can be told, as of a command that swings as a sine.
_BEYOND_DOUBT = 5.0
# Coefficients below these shares of the largest one neither begin nor end an answer.
_FIRST, _LAST = 0.1, 0.05
# Errors below 1 % of a state's typical change, squared, are rounding: what explains them is nothing that is needed.
_FLOOR = 1e-4
# Past of the measured tags in the model.
_PAST = 10
# Multiplications that a fit may cost: some seconds on one core.
_BUDGET = 2e10
_MOST_REGRESSORS = 1400


@dataclass(frozen=True)
class Response:
    """What one action does to one state.

    Attributes:
        seen: whether an effect is beyond doubt and large enough to matter.
        dead_periods: whole sample periods that pass before the effect begins; 0 where the next sample shows it; None,
            as the next two, where there is no effect or the command moves too evenly to tell.
        last_periods: how old the oldest command is that still adds to the next change; the history that is needed.
        raises: whether a larger command raises the state (at the largest answer of its change).
        share: of the variance of the state's one-step change that its past leaves open, explained by the action.
    """

    action: str
    state: str
    seen: bool
    dead_periods: int | None
    last_periods: int | None
    raises: bool | None
    share: float


@dataclass(frozen=True)
class Fit:
    """The responses, and the past values that each measured tag's model needs.

    Attributes:
        responses: by action, then by state.
        measured_past: tag -> past samples of it that some state's change depends on, besides the current one.
        depth: past commands that were looked at, in periods; `measured_depth` past samples of measured tags.
        rows: windows in the fit.
    """

    responses: tuple[Response, ...]
    measured_past: Mapping[str, int]
    depth: int
    measured_depth: int
    rows: int


def fit_responses(
    found: Sequence[Stretch], frame_tags: Sequence[str], state_tags: Sequence[str], action_tags: Sequence[str], ask: int
) -> Fit | None:
    """Fits the model; None where the stretches are too short for it.

    Args:
        found: stretches of the data set.
        frame_tags, action_tags: names of the columns.
        state_tags: the frame tags that are explained.
        ask: past commands to look at, where the stretches are long enough.
    """
    model = _Model.over(found, [frame_tags.index(tag) for tag in state_tags], ask)
    if model is None:
        return None
    normal = accumulate(found, model.depth, model.design)
    weights, _, inverse = normal.fit()
    left, spread = _spread(found, model, normal, weights, inverse)
    left = np.maximum(left, _FLOOR * normal.yy)
    responses = []
    for number, action in enumerate(action_tags):
        block = model.commands(number)
        answers = _answers(weights[block], inverse[np.ix_(block, block)], left, [s[block] for s in spread], normal)
        responses += [Response(action, state, *answer) for state, answer in zip(state_tags, answers, strict=True)]
    reach = _measured_past(model, weights, inverse, left, spread, normal)
    needed = {frame_tags[column]: reach[i] for i, column in enumerate(model.moving)}
    return Fit(tuple(responses), needed, model.depth, model.lags - 1, normal.count)


@dataclass(frozen=True)
class _Model:
    """Which regressors there are: the moving measured tags with their last changes, then the commands, then 1."""

    depth: int  # past commands
    lags: int  # past samples of measured tags
    moving: list[int]  # measured tags that are not constant
    states: list[int]
    actions: int
    middle: tuple[Float64, Float64]
    scale: tuple[Float64, Float64, Float64]  # frames, their changes, commands

    @classmethod
    def over(cls, found: Sequence[Stretch], states: list[int], ask: int) -> _Model | None:
        if not found:
            return None
        frames = np.concatenate([stretch.frames for stretch in found])
        commands = np.concatenate([stretch.commands for stretch in found])
        changes = np.concatenate([np.diff(stretch.frames, axis=0) for stretch in found])
        moving = np.flatnonzero(changes.std(axis=0) > 0).tolist()
        lengths = np.sort([len(stretch) for stretch in found])[::-1]
        # A row in a stretch that is shorter than the window is lost: at most half of all rows may be.
        typical = int(lengths[np.searchsorted(np.cumsum(lengths), lengths.sum() / 2)])
        actions = commands.shape[1]
        lags = max(2, min(_PAST, 400 // max(1, len(moving))))
        room = max(1, _MOST_REGRESSORS - lags * len(moving)) // actions
        depth = min(ask, typical // 3, room, int(lengths.sum()) // 20 // actions)
        if depth < 2 or not moving:
            return None
        lags = min(lags, depth)
        scale = tuple(np.where(part.std(axis=0) > 0, part.std(axis=0), 1.0) for part in (frames, changes, commands))
        middle = (frames.mean(axis=0), commands.mean(axis=0))
        return cls(depth, lags, moving, states, actions, middle, scale)  # type: ignore[arg-type]

    def design(self, stretch: Stretch) -> tuple[Float64, Float64]:
        """Regressors and targets of a stretch's windows; every column has about unit variance."""
        steps = np.diff(stretch.frames, axis=0) / self.scale[1]  # (T - 1, n), steps[t - 1] leads to row t
        level = ((stretch.frames - self.middle[0]) / self.scale[0])[self.depth - 1 : -1, self.moving]
        moves = past(steps[:-1, self.moving], self.lags - 1)[-len(level) :]
        commands = past((stretch.commands - self.middle[1]) / self.scale[2], self.depth)
        x = np.hstack([level, moves, commands, np.ones((len(level), 1))])
        return x, steps[self.depth - 1 :, self.states]

    def commands(self, action: int) -> npt.NDArray[np.int64]:
        """Regressors that are past commands of an action, the newest first."""
        first = self.lags * len(self.moving) + action * self.depth
        return np.arange(first, first + self.depth)

    def changes(self, tag: int) -> npt.NDArray[np.int64]:
        """Regressors that are past changes of the moving tag of this number, the newest first."""
        first = len(self.moving) + tag * (self.lags - 1)
        return np.arange(first, first + self.lags - 1)


def _spread(
    found: Sequence[Stretch], model: _Model, normal: Normal, weights: Float64, inverse: Float64
) -> tuple[Float64, list[Float64]]:
    """Sums of squared residuals (q,), and for each group of windows how much it moves the coefficients: (p, q)."""
    scores = np.zeros((COUNT, *weights.shape))
    left = np.zeros(weights.shape[1])
    for group, x, y in windows(found, model.depth, model.design):
        error = y - x @ weights
        scores[group] += x.T @ error
        left += (error**2).sum(axis=0)
    full = scores[np.abs(scores).max(axis=(1, 2)) > 0]
    return left, [inverse @ score for score in full]


def _answers(
    weights: Float64, inverse: Float64, left: Float64, spread: list[Float64], normal: Normal
) -> list[tuple[bool, int | None, int | None, bool | None, float]]:
    """The fields of `Response` behind the names for one action and every state."""
    depth = len(weights)
    share = _share(weights, inverse, left, normal)
    # Shifted out of the fit, the sum over the first k commands is the answer of the change to a step k periods ago.
    summed = np.cumsum(weights, axis=0)  # (L, q)
    sum_error = _error(
        np.diag(np.cumsum(np.cumsum(inverse, axis=0), axis=1)), left, normal, [np.cumsum(s, 0) for s in spread]
    )
    error = _error(np.diag(inverse), left, normal, spread)
    bound = t_quantile(1 - LEVEL / 2 / depth, len(spread) - 1)
    answers: list[tuple[bool, int | None, int | None, bool | None, float]] = []
    for i in range(weights.shape[1]):
        clear = np.abs(summed[:, i]) > bound * sum_error[:, i]
        largest = float(np.abs(summed[clear, i]).max(initial=0.0))
        begun = np.flatnonzero(clear & (np.abs(summed[:, i]) >= _FIRST * largest))
        least = _least_share(depth, normal)
        if not begun.size or share[i] < least:
            answers.append((bool(share[i] >= _BEYOND_DOUBT * least), None, None, None, float(share[i])))
            continue
        adds = np.abs(weights[:, i]) > np.maximum(bound * error[:, i], _LAST * np.abs(weights[:, i]).max())
        last = max(int(np.flatnonzero(adds).max(initial=0)), int(begun[0]))
        raises = bool(summed[np.argmax(np.where(clear, np.abs(summed[:, i]), 0.0)), i] > 0)
        answers.append((True, int(begun[0]), last, raises, float(share[i])))
    return answers


def _share(weights: Float64, inverse: Float64, left: Float64, normal: Normal) -> Float64:
    """(q,) share by which the residuals grow where these regressors are left out; what chance adds is taken off."""
    gain = np.einsum("pq,pq->q", weights, np.linalg.solve(inverse, weights))
    chance = left / max(1, normal.count - len(normal.xx)) * len(weights)
    return np.asarray(np.maximum(gain - chance, 0.0) / np.maximum(left + gain, np.finfo(float).tiny))


def _least_share(regressors: int, normal: Normal) -> float:
    """A share that chance alone does not reach: five standard deviations of a chi-squared variable."""
    return max(MIN_SHARE, 5 * float(np.sqrt(2 * regressors)) / normal.count)


def _error(plain: Float64, left: Float64, normal: Normal, spread: list[Float64]) -> Float64:
    """(L, q) standard errors: the larger one of plain least squares' and that of the groups."""
    noise = left / max(1, normal.count - len(normal.xx))
    groups = len(spread)
    clustered = sum(part**2 for part in spread) * (groups / max(1, groups - 1))
    return np.asarray(np.sqrt(np.maximum(clustered, np.outer(np.maximum(plain, 0.0), noise))))


def _measured_past(
    model: _Model, weights: Float64, inverse: Float64, left: Float64, spread: list[Float64], normal: Normal
) -> list[int]:
    """For each moving tag how many past samples, besides the current one, some state's change depends on."""
    found = []
    for tag in range(len(model.moving)):
        block = model.changes(tag)
        square = weights[block] ** 2 / np.diag(inverse)[block, None]  # by how much the residuals grow without it
        error = _error(np.diag(inverse)[block], left, normal, [s[block] for s in spread])
        bound = t_quantile(1 - LEVEL / 2 / max(1, len(block)), len(spread) - 1)
        # Not as a share: a state that follows exactly leaves nothing to divide by.
        grown = square > _least_share(1, normal) * (left + square)
        needed = grown & (np.abs(weights[block]) > bound * error)
        found.append(int(np.flatnonzero(needed.any(axis=1)).max(initial=-1)) + 1)
    return found


def most_rows(frames: int, actions: int, ask: int) -> int:
    """Rows that a fit can take in within its budget."""
    regressors = min(_MOST_REGRESSORS, min(_PAST * frames, 400) + actions * ask) + 1
    return int(_BUDGET / regressors**2)


def t_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t distribution: Abramowitz and Stegun, 26.7.5; within 1 % from 8 degrees on."""
    z, n = NormalDist().inv_cdf(probability), float(max(1, degrees))
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / n**power for power, term in enumerate(terms, start=1))
