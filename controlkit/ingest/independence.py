"""Does anything that is measured or commanded move a column, given its own past? A permutation test.

Two questions are asked of a column c, with everything else (commands, other columns, their squares) as candidates x:

- when does it change? (where it stays in most rows) Is the indicator of a change related to any x?
- where to? Given its own past, is the new value related to any x? Own past is taken out of both by least squares; of a
  column that stays in most rows, only the rows in which it changes are looked at.

The statistic is the largest squared correlation over all x. Its distribution without any dependence comes from
permutations that pair the column's episodes with other episodes' x at the same step of the episode (so that what merely
depends on the time in an episode is no dependence), or, in a file of few episodes, from shifting one against the other.
No dependence is claimed only if neither statistic is beyond its quantile, and if these quantiles are so small that a
dependence worth the name would have been beyond them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.ingest.flat_file import FlatFile

Floats = npt.NDArray[np.float64]

# Chance of calling an independent column dependent, and the share of its variance that must not go unseen.
LEVEL, DETECTABLE = 0.01, 0.1
PERMUTATIONS = 199
# A column that changes in fewer rows than this is asked when it changes, and where to.
RARE = 0.5
FEW_EPISODES = 10
MAX_ROWS = 50_000


@dataclass(frozen=True)
class Independence:
    """The outcome for one column.

    Attributes:
        shows_none: whether data that could have shown a dependence shows none.
        text: the evidence in words.
    """

    shows_none: bool
    text: str


def independence(
    file: FlatFile, column: int, given: list[int], others: Mapping[str, list[int]], rng: np.random.Generator
) -> Independence:
    """Tests a column of `file`.

    Args:
        file: the transitions; commands are candidates always.
        column: whose next value is asked for.
        given: columns whose values are taken out: its own and those known to be exogenous.
        others: name -> columns that are candidates.
        rng: draws the permutations.
    """
    rows = np.arange(len(file)) if len(file) <= MAX_ROWS else _whole_episodes(file)
    now, after = (values[rows].astype(np.float64) for values in (file.observation, file.next_observation))
    names = [f"action {i}" for i in range(file.action.shape[1])]
    names += [name for name, columns in others.items() for _ in columns]
    x = np.hstack([file.action[rows], now[:, [i for columns in others.values() for i in columns]]]).astype(np.float64)
    x = np.hstack([x, (x - x.mean(axis=0)) ** 2])
    changed = after[:, column] != now[:, column]
    past = np.hstack([np.ones((len(rows), 1)), now[:, given]])
    pairing = _Pairing(file.episode[rows], rng)
    results = []
    if changed.mean() < RARE:
        indicator = changed.astype(np.float64)
        results.append(("when it changes", *_largest(indicator - indicator.mean(), x - x.mean(axis=0), pairing)))
        events = np.flatnonzero(changed)
        if len(events) > past.shape[1] + 2:
            moved, candidates = _without(past[events], after[events, column]), _without(past[events], x[events])
            results.append(("where to", *_largest(moved, candidates, _Pairing(np.arange(len(events)), rng))))
    else:
        moved, candidates = _without(past, after[:, column]), _without(past, x)
        results.append(("its next value", *_largest(moved, candidates, pairing)))
    return _outcome(results, names, int(changed.sum()))


class _Pairing:
    """Draws orders of rows that keep each row's step in its episode, or shift a record of few episodes."""

    def __init__(self, episode: npt.NDArray[np.int64], rng: np.random.Generator) -> None:
        self._rng, self._rows = rng, len(episode)
        first = np.flatnonzero(np.append(True, episode[1:] != episode[:-1]))
        lengths = np.diff(np.append(first, len(episode)))
        self._first, self._lengths = first, lengths
        self._number = np.repeat(np.arange(len(first)), lengths)
        self._step = np.arange(len(episode)) - first[self._number]

    def draw(self) -> npt.NDArray[np.int64]:
        """For each row the row that it is paired with; -1 where the other episode has no such step."""
        if len(self._first) < FEW_EPISODES:
            low = max(1, self._rows // 10)
            return (np.arange(self._rows) + self._rng.integers(low, max(low + 1, self._rows - low))) % self._rows
        other = self._rng.permutation(len(self._first))[self._number]
        paired = self._first[other] + self._step
        return np.where(self._step < self._lengths[other], paired, -1)


def _largest(y: Floats, x: Floats, pairing: _Pairing) -> tuple[float, int, float, float]:
    """The largest squared correlation of y (T,) with a column of x (T, P), which one, the quantile that it must stay
    below without any dependence, and the share of permutations that reach it."""
    scale = np.sqrt((x**2).sum(axis=0) * max(float(y @ y), 1e-300))
    scale[scale <= 1e-12 * max(float(scale.max(initial=0.0)), 1e-300)] = np.inf
    squared = ((y @ x) / scale) ** 2
    drawn = np.empty(PERMUTATIONS)
    for i in range(PERMUTATIONS):
        paired = pairing.draw()
        there = paired >= 0
        drawn[i] = ((np.where(there, y[paired], 0.0) @ x / scale) ** 2).max()
    best = int(squared.argmax())
    beyond = (1 + int((drawn >= squared[best]).sum())) / (PERMUTATIONS + 1)
    return float(squared[best]), best, float(np.quantile(drawn, 1.0 - LEVEL)), beyond


def _without(past: Floats, y: Floats) -> Floats:
    """What of y is no linear function of the past."""
    solution, *_ = np.linalg.lstsq(past, y, rcond=None)
    return np.asarray(y - past @ solution, dtype=np.float64)


def _outcome(results: list[tuple[str, float, int, float, float]], names: list[str], changes: int) -> Independence:
    strongest = max(results, key=lambda result: result[1] / max(result[3], 1e-12))
    what, squared, best, _, beyond = strongest
    if beyond <= LEVEL:
        square = " squared" if best >= len(names) else ""
        return Independence(
            False, f"{what} depends on {names[best % len(names)]}{square}: r2 {squared:.3g}, p {beyond:.3g}"
        )
    detectable = max(result[3] for result in results)
    if detectable > DETECTABLE or (len(results) == 1 and what == "when it changes"):
        return Independence(
            False, f"undecided: it changes in {changes} rows, too few to show a dependence; taken as a state"
        )
    return Independence(
        True,
        f"{' and '.join(result[0] for result in results)}: no dependence on any command or other column, p "
        f"{min(result[4] for result in results):.2g}; one of r2 {detectable:.2g} would have shown; it changes in "
        f"{changes} rows",
    )


def _whole_episodes(file: FlatFile) -> npt.NDArray[np.int64]:
    """The first rows, to the end of an episode where one ends among them."""
    ends = np.flatnonzero(file.last[:MAX_ROWS])
    return np.arange(int(ends[-1]) + 1 if ends.size else MAX_ROWS)
