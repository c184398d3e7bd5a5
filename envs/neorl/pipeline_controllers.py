"""Reference controllers of Pipeline, for B copies at once.

What the pipe's foot will show is settled already, and known from the commands that are under way: flow plus their sum
is the gate's flow now (a dead-time compensator, O. J. M. Smith 1957). `DeadTime` brings that to the target as fast as
the gate may move. `operator` is the same knowledge in a slow hand that seldom changes its command.
"""

from __future__ import annotations

import numpy as np

from envs.neorl.pipeline import DEFAULT_PARAMS, PipelineParams
from envs.simulation import Floats

# An operator's: commands as small as those in the released log, of which two thirds repeat the one before.
OPERATOR_FASTEST, OPERATOR_GAIN, OPERATOR_REPEATS, OPERATOR_NOISE = 0.02, 0.01, 2.0 / 3.0, 0.003


class DeadTime:
    """command = gain (target - flow - commands under way) + noise, at most `fastest` either way.

    Args:
        fastest: largest change of the gate in a step.
        gain: share of the gap that a step is to close.
        repeats: probability that a step repeats the command before it.
        noise_std: of what a hand adds.
        rng: draws repetitions and noise; needed only where there are some.
        params: the plant's constants.
    """

    def __init__(
        self,
        fastest: float = 1.0,
        gain: float = 1.0,
        repeats: float = 0.0,
        noise_std: float = 0.0,
        rng: np.random.Generator | None = None,
        params: PipelineParams = DEFAULT_PARAMS,
    ) -> None:
        if (noise_std > 0 or repeats > 0) and rng is None:
            raise ValueError("a noisy or repeating controller needs a generator")
        self.fastest, self.gain, self.repeats, self.noise_std = fastest, gain, repeats, noise_std
        self._rng, self._params = rng, params
        self.reset(1)

    def reset(self, batch: int) -> None:
        """Nothing is under way."""
        self._under_way = np.zeros((batch, self._params.cells - 1))  # (B, C - 1) the newest command first

    def act(self, measurement: Floats) -> Floats:
        """(B, 2) -> (B, 1)."""
        flow, target = measurement[:, 0], measurement[:, 1]
        command = self.gain * (target - flow - self._under_way.sum(axis=1))
        if self._rng is not None:
            command = command + self.noise_std * self._rng.standard_normal(command.shape)
            repeated = self._rng.random(command.shape) < self.repeats
            command = np.where(repeated, self._under_way[:, 0], command)
        command = np.clip(command, -self.fastest, self.fastest)
        self._under_way = np.concatenate([command[:, None], self._under_way[:, :-1]], axis=1)
        return np.asarray(command[:, None])


def operator(rng: np.random.Generator, params: PipelineParams = DEFAULT_PARAMS) -> DeadTime:
    """The slow, unsteady hand whose logs `collect` writes; the released data come from another policy."""
    return DeadTime(OPERATOR_FASTEST, OPERATOR_GAIN, OPERATOR_REPEATS, OPERATOR_NOISE, rng, params)
