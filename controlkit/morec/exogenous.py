"""What the exogenous and static tags do under a model rollout: they follow the record, and where it ends, a splice.

A rollout carries its own states and commands; of the log it follows one row after the other for the sake of the tags
that nobody moves (demand, weather, a door). Where the record ends, either the rollout does too, or the sequence is
continued as the blocks of a bootstrap are joined: with another row of the log whose exogenous tags, over their window
of history, look alike (nearest-neighbour bootstrap: Lall and Sharma, Water Resources Research 32(3), 1996). What the
tags then do has happened on the plant, in that order; only the joint is invented.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from controlkit.config import DynamicsConfig
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec

NEIGHBOURS = 32
# Rows that are looked through for neighbours, at most.
CANDIDATES = 20_000
# Exogenous tags are often discrete, and windows exactly alike: which of those are nearest is drawn.
JITTER = 1e-4


class Record:
    """The exogenous and static tags as they were logged; a rollout ends where the record does.

    Args:
        log: recorded transitions; rollouts stand on its rows.
    """

    def __init__(self, log: LoggedTransitions) -> None:
        self.log = log

    def known(self, rows: Tensor, observation: Tensor) -> Tensor:
        """The frame that follows each row as far as it is known; its state tags are to be replaced.

        Args:
            rows: (B,) rows of the log that the rollouts stand on.
            observation: (B, O) what the rollouts themselves observe there.

        Returns:
            (B, n).
        """
        return self.log.frames[rows + 1]

    def advance(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """One step along the record: (B,) -> the rows to stand on next (B,), and whether any follows those (B,)."""
        following = rows + 1
        return following, self.log.remaining[following] > 0


class Splice(Record):
    """The same, continued where the record ends: every row that is stood on next has something that follows it.

    Args:
        log: recorded transitions; the training part alone, so that nothing of the other parts leaks.
        spec: the plant.
        generator: draws among rows that look exactly alike.
    """

    def __init__(self, log: LoggedTransitions, spec: PlantSpec, generator: torch.Generator) -> None:
        super().__init__(log)
        device, tags = log.rows.device, log.layout.frame_tags
        self._static = torch.tensor([tags.index(tag) for tag in spec.names("static")], dtype=torch.int64, device=device)
        slots = [i for i, slot in enumerate(log.layout.slots) if slot.tag in spec.names("exogenous")]
        # The rows that a rollout can come to stand on and that nothing follows.
        ends = (log.rows + 1)[log.remaining[log.rows + 1] == 0]  # (M,)
        self._number = torch.zeros(len(log.frames), dtype=torch.int64, device=device)  # (N,) row -> row of the table
        self._number[ends] = torch.arange(len(ends), device=device)
        self._table = _neighbours(log, ends, slots, generator)  # (M, K)

    def known(self, rows: Tensor, observation: Tensor) -> Tensor:
        """As `Record.known`; static tags are the rollout's own, whichever episode it has come to follow."""
        frame = super().known(rows, observation)
        if len(self._static):
            # The current frame stands first in an observation.
            frame[:, self._static] = observation.index_select(1, self._static)
        return frame

    def advance(self, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """As `Record.advance`; where the record ends, the row to stand on is one of its neighbours."""
        following, lasting = super().advance(rows, generator)
        draw = torch.randint(self._table.shape[1], rows.shape, generator=generator, device=rows.device)
        joined = self._table[self._number[following], draw]
        return torch.where(lasting, following, joined), torch.ones_like(lasting)


def sequence(log: LoggedTransitions, spec: PlantSpec, config: DynamicsConfig, generator: torch.Generator) -> Record:
    """What rollouts from a log follow: `dynamics.exogenous`. Where no tag is exogenous nothing is invented by going on
    past the end of an episode, and rollouts always do. Only `Splice` draws from the generator."""
    return Splice(log, spec, generator) if goes_on(spec, config) else Record(log)


def goes_on(spec: PlantSpec, config: DynamicsConfig) -> bool:
    """Whether rollouts go on where the recorded episode under them ends."""
    return config.exogenous == "splice" or not spec.names("exogenous")


def _neighbours(log: LoggedTransitions, ends: Tensor, slots: list[int], generator: torch.Generator) -> Tensor:
    """For each end of the record the K usable rows whose exogenous tags and their history are nearest: (M,) -> (M, K).

    The distance is Euclidean over the exogenous slots of the observation, each in units of its spread over the log.
    """
    candidates = log.rows
    if len(candidates) > CANDIDATES:
        drawn = torch.randperm(len(candidates), generator=generator, device=candidates.device)[:CANDIDATES]
        candidates = candidates[drawn]
    count = min(NEIGHBOURS, len(candidates))
    if not slots:
        # Nothing to be alike in: any row will do.
        return candidates[torch.randint(len(candidates), (len(ends), count), generator=generator, device=ends.device)]
    spread = torch.cat([log.observe(part)[:, slots] for part in candidates.split(4096)]).std(dim=0)  # (X,)
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    theirs = torch.cat([log.observe(part)[:, slots] for part in candidates.split(4096)]) / spread  # (C, X)
    chunk = max(1, math.ceil(4_000_000 / len(candidates)))
    found = [ends.new_empty(0, count)]
    for part in ends.split(chunk):
        mine = log.observe(part)[:, slots] / spread
        # Exact distances: those by matrix products are too coarse between windows that are equal.
        distance = torch.cdist(mine, theirs, compute_mode="donot_use_mm_for_euclid_dist")
        distance += JITTER * torch.rand(distance.shape, generator=generator, device=distance.device)
        found.append(candidates[distance.topk(count, dim=1, largest=False).indices])
    return torch.cat(found)
