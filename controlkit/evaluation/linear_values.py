"""Q functions that are linear in known features, fitted by regression after regression.

    w_0 = 0,   w_k+1 = argmin over w of sum_t b_t (r_t + gamma x'_t . w_k - x_t . w)^2 + ridge |w|^2

This is fitted Q iteration with a solver in place of gradient descent (Gordon 1995; Ernst, Geurts, Wehenkel 2005), cut
at the horizon as rollouts are: its limit is LSTDQ (Lagoudakis and Parr 2003), and where that limit does not exist,
which happens to policies far from the log, H regressions still give a number, whose spread over resamples then says
how little it is worth. b_t are bootstrap counts of blocks of time, one set per member, so that the members' spread is
the sampling error; a row may have a weight beside.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

# Ridge as a share of the features' variance: decides between what the log cannot tell apart.
RIDGE = 1e-3
# Ridges to choose from where an estimate is too noisy (`shrinkage.py`), shares of that variance. Under the last one
# hardly more than the mean is left.
RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
# Blocks of time at most; longer blocks are made of a longer log.
MAX_BLOCKS = 400
# Share of the recorded steps whose leverage is that of a known place; the rest may be a spike or two.
KNOWN = 0.999
# Coefficients grow to this many times the largest of the first regression, and no further.
HUGE = 1e6
# Numbers that the sums of single blocks take at once, at most.
CHUNK = 1 << 23


@dataclass(frozen=True)
class Resamples:
    """Block bootstrap samples of T rows.

    Attributes:
        counts: (M, K) how often each member sees each block of time.
        block: rows in a block; the last one may be shorter.
    """

    counts: Tensor
    block: int

    @classmethod
    def draw(cls, rows: int, block: int, members: int, generator: torch.Generator) -> Resamples:
        """`members` samples of as many blocks as `rows` hold; two blocks at least, if there are two rows."""
        block = max(1, min(max(block, -(-rows // MAX_BLOCKS)), rows // 2))
        blocks = -(-rows // block)
        drawn = torch.randint(blocks, (members, blocks), generator=generator)
        counts = torch.zeros(members, blocks, dtype=torch.float64)
        return cls(counts.scatter_add_(1, drawn, torch.ones_like(counts)), block)

    def unseen(self, at: Tensor) -> Tensor:
        """(M, R) whether a member has not been fitted on the rows at positions (R,)."""
        return self.counts[:, at // self.block] == 0.0


class LinearRegression:
    """The regression of a target on the same features again and again, for every member at once.

    Args:
        now: (T, F) features of the recorded states and commands, about standardised; a constant is added.
        resamples: which members see which rows.
        gamma: discount; the ridge shrinks with 1 - gamma, as the equations' own scale does.
        weight: (T,) of the rows, mean about 1; all 1 where not given.
    """

    def __init__(self, now: Tensor, resamples: Resamples, gamma: float, weight: Tensor | None = None) -> None:
        self.now, self.resamples, self.gamma = with_one(now), resamples, gamma
        weighted = self.now if weight is None else self.now * weight.double().unsqueeze(1)
        self._weighted = weighted
        self._gram = self._sums(self.now)  # (M, F + 1, F + 1)
        self._ridge = self._held(RIDGE * (1.0 - gamma))
        self._factor = torch.linalg.cholesky(self._gram + self._ridge)

    def within(self, features: Tensor) -> Tensor:
        """Features (B, F + 1), those beyond the recorded ones drawn back towards the log's mean, as far as needed.

        Beyond is where the leverage x' (X' X)^-1 x, which is a prediction's variance in units of the noise's, is larger
        than at the recorded steps (the independent variable hull of Cook 1979, JASA 74, less a thousandth).
        """
        least, known = self._edge
        pull = ((known - least) / (self._leverage(features) - least).clamp(min=1e-12)).clamp(min=0.0, max=1.0).sqrt()
        return torch.cat([features[:, :-1] * pull.unsqueeze(1), features[:, -1:]], dim=1)

    @cached_property
    def _heavy(self) -> list[Tensor]:
        """Cholesky factors (M, F + 1, F + 1) under each of `RIDGES`."""
        return [torch.linalg.cholesky(self._gram + self._held(share)) for share in RIDGES]

    def _held(self, share: float) -> Tensor:
        """A ridge of so many variances of the features; the constant goes free."""
        ridge = share * len(self.now) * torch.eye(self.now.shape[1], dtype=torch.float64)
        ridge[-1, -1] = 1e-9 * len(self.now)
        return ridge

    @cached_property
    def _hull(self) -> Tensor:
        """Cholesky factor of the Gram matrix of all rows."""
        factor: Tensor = torch.linalg.cholesky(self.now.T @ self.now + self._ridge)
        return factor

    @cached_property
    def _edge(self) -> tuple[float, float]:
        """The leverage of the mean, about 1 / T, and the largest one of known places."""
        centre = with_one(torch.zeros(1, self.now.shape[1] - 1))
        known = max(1, round(KNOWN * len(self.now)))
        return float(self._leverage(centre)), float(self._leverage(self.now).kthvalue(known).values)

    def _leverage(self, features: Tensor) -> Tensor:
        """(B, F + 1) -> (B,)."""
        rows: Tensor = torch.linalg.solve_triangular(self._hull, features.T, upper=False)
        return rows.square().sum(dim=0)

    def iterate(self, reward: Tensor, after: Tensor, horizon: int) -> Tensor:
        """Coefficients (M, F + 1, R) after `horizon` regressions.

        Args:
            reward: (T, R) of each of R outputs.
            after: (T, F + 1) features of the next state and command (`with_one`), all 0 where nothing follows.
            horizon: how many steps are looked ahead.
        """
        first = torch.cholesky_solve(self._sums(reward.double()), self._factor)
        return self.carry(first, after, horizon)

    def first_shrunk(self, reward: Tensor) -> Tensor:
        """The first regression, of the rewards (T, R) themselves, and that of the first of them once more under each of
        `RIDGES`: (M, F + 1, R + K)."""
        sums = self._sums(reward.double())
        heavy = [torch.cholesky_solve(sums[..., :1], factor) for factor in self._heavy]
        return torch.cat([torch.cholesky_solve(sums, self._factor), *heavy], dim=2)

    def carry(self, first: Tensor, after: Tensor, horizon: int) -> Tensor:
        """Coefficients (M, F + 1, R) after `horizon` regressions, of which the first one gave `first`; see `iterate`.

        The regressions of what follows have the usual ridge, whatever the first one had: what the features become is
        far better known than what a step is worth, and a ridge there would draw policies to the log's mean state.
        """
        onward = self.gamma * torch.cholesky_solve(self._sums(after), self._factor)  # (M, F + 1, F + 1)
        # One that grows without end would end in infinity, of which no mean and no interval can be taken.
        most = HUGE * first.abs().amax(dim=(0, 1))  # (R,)
        found = first
        for _ in range(horizon - 1):
            found = torch.clamp(first + onward @ found, min=-most, max=most)
        return found

    def _sums(self, right: Tensor) -> Tensor:
        """(M, F + 1, C) of x_t right_t over each member's rows; right: (T, C)."""
        block, counts = self.resamples.block, self.resamples.counts
        rows, columns = right.shape
        total = torch.zeros(len(counts), self.now.shape[1], columns, dtype=torch.float64)
        at_once = max(1, CHUNK // (self.now.shape[1] * columns))  # blocks
        whole = rows // block
        for first in range(0, whole, at_once):
            last = min(whole, first + at_once)
            part = slice(first * block, last * block)
            x = self._weighted[part].reshape(last - first, block, -1)
            sums = x.transpose(1, 2) @ right[part].reshape(last - first, block, -1)  # (K', F + 1, C)
            total += torch.tensordot(counts[:, first:last], sums, dims=1)
        if rows > whole * block:
            rest = slice(whole * block, rows)
            total += counts[:, -1, None, None] * (self._weighted[rest].T @ right[rest])
        return total


def with_one(features: Tensor) -> Tensor:
    """(T, F) -> (T, F + 1) doubles with a constant."""
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1).double()
