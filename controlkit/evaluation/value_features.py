"""What the networks of fitted Q evaluation see: (s, a), and what the known objective makes of it.

A value is a sum of known functions of future states. The reward's formula is known, so it is not learned: a
least-squares prediction of the next state tags, and the objective's terms at it, are given as inputs. They tell the
networks how a reward goes on beyond the recorded commands (along |T - setpoint|, say), where (s, a) alone would be
continued along a straight line. Predictions are plain linear ones, fitted for this purpose; nothing is rolled out.

A window of past samples is not shown as it is: dozens of noisy columns that hardly differ drown the few that matter.
Its place is taken by what it foretells, least-squares forecasts of the state tags 1, 2, 4, ... steps ahead if the
operator goes on (predictive state, Littman, Sutton, Singh 2001): what is under way in a dead time, and what noisy
samples say together, is in them. The products of the current tags and commands stand beside them: with these a
quadratic value, the exact one of a linear plant with a quadratic objective (Bradtke 1993), is linear in what the
networks see. So are, for the same reason as the objective's terms, the chances that the next sample lies outside each
limit, were the forecast's errors Gaussian.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from controlkit.config import ScalingConfig
from controlkit.evaluation.limits import Limit
from controlkit.morec.dynamics import action_scaler, observation_scaler
from controlkit.objective import CommandLimits, Objective
from controlkit.replay import LoggedTransitions

RIDGE = 1e-6
# Steps ahead of the forecasts that stand for a window; the first is the next step.
AHEAD = (1, 2, 4, 8, 16, 32)
# Fewer recorded steps than this give no forecast so far ahead.
MIN_ROWS = 50


class ValueFeatures:
    """(s, a) -> F scaled features: current tags, the command, forecasts of the state tags, the objective's terms at the
    next step, the chances of leaving limits there, and the products of current tags and commands.

    Args:
        log: what forecasts and scaling are fitted on.
        objective: of the plant.
        scaling: floors of the inputs' scaling.
        limits: of state tags; those of other tags are left out.

    Attributes:
        size: F. limits: the plant's clamp and rate limit.
    """

    def __init__(
        self, log: LoggedTransitions, objective: Objective, scaling: ScalingConfig, limits: Sequence[Limit] = ()
    ) -> None:
        self.objective = objective
        self.limits = CommandLimits(objective.spec)
        scalers = (observation_scaler(log, scaling), action_scaler(log, self.limits, scaling))
        self._centre = torch.cat([torch.from_numpy(scaler.centre.copy()) for scaler in scalers])
        self._spread = torch.cat([torch.from_numpy(scaler.spread.copy()) for scaler in scalers])
        self._columns = torch.from_numpy(log.layout.state_columns)
        self._frame_size = len(log.layout.frame_tags)
        low, high = (torch.from_numpy(x.copy())[self._columns] for x in (log.layout.low, log.layout.high))
        self._low, self._high = low, high
        ahead = [steps for steps in AHEAD if int((log.remaining[log.rows] >= steps).sum()) >= MIN_ROWS]
        self._ahead = ahead if log.layout.depth else ahead[:1]
        self._coefficients = torch.stack(
            [self._least_squares(log, steps) for steps in self._ahead]
        )  # (K, O + m + 1, S)
        states = log.layout.state_tags
        self._bounds = [(states.index(limit.tag), limit.low, limit.high) for limit in limits if limit.tag in states]
        parts = log.overview.split(16384)
        errors = torch.cat([self._error(log, rows) for rows in parts])
        self._error_spread = errors.std(dim=0).clamp(min=1e-6)  # (S,)
        raw = torch.cat([self._raw(log.observe(rows), log.actions[rows]) for rows in parts])
        self._raw_centre, self._raw_spread = raw.mean(dim=0), raw.std(dim=0).clamp(min=1e-6)
        self.size = raw.shape[1]

    def __call__(self, observation: Tensor, action: Tensor) -> Tensor:
        """(B, O), (B, m) -> (B, F)."""
        return (self._raw(observation, action) - self._raw_centre) / self._raw_spread

    def _scaled(self, observation: Tensor, action: Tensor) -> Tensor:
        return (torch.cat([observation, action], dim=1) - self._centre) / self._spread

    def _raw(self, observation: Tensor, action: Tensor) -> Tensor:
        scaled = self._scaled(observation, action)
        current = torch.cat([scaled[:, : self._frame_size], scaled[:, observation.shape[1] :]], dim=1)  # (B, n + m)
        forecast = self._forecast(observation, scaled)  # (K, B, S)
        states = forecast.clamp(self._low, self._high)
        chances = [self._outside(forecast[0, :, state], state, low, high) for state, low, high in self._bounds]
        frame = observation[:, : self._frame_size].clone()  # exogenous and static tags stay for one step
        frame[:, self._columns] = states[0]
        terms = self.objective.terms(observation, action, frame).values()
        one, other = torch.triu_indices(current.shape[1], current.shape[1]).unbind()
        products = current[:, one] * current[:, other]
        known = [_column(value, current) for value in (*terms, *chances)]
        return torch.cat([current, *states, *known, products], dim=1)

    def _forecast(self, observation: Tensor, scaled: Tensor) -> Tensor:
        x = scaled.double()
        change = torch.cat([x, torch.ones_like(x[:, :1])], dim=1) @ self._coefficients
        return observation[:, self._columns] + change.float()

    def _error(self, log: LoggedTransitions, rows: Tensor) -> Tensor:
        """(R, S) of the next step's forecast."""
        observation = log.observe(rows)
        return log.next_state(rows) - self._forecast(observation, self._scaled(observation, log.actions[rows]))[0]

    def _outside(self, mean: Tensor, state: int, low: float, high: float) -> Tensor:
        ends = ((torch.full_like(mean, end) - mean) / self._error_spread[state] for end in (low, high))
        below, above = (torch.special.ndtr(end) for end in ends)
        outside: Tensor = 1.0 - (above - below)
        return outside

    def _least_squares(self, log: LoggedTransitions, ahead: int) -> Tensor:
        """(O + m + 1, S) coefficients of the change of the state tags over some steps."""
        size = len(self._centre) + 1
        known = log.rows[log.remaining[log.rows] >= ahead]
        gram = RIDGE * len(known) * torch.eye(size, dtype=torch.float64)
        moment = torch.zeros(size, len(self._columns), dtype=torch.float64)
        for rows in known.split(16384):
            observation = log.observe(rows)
            x = self._scaled(observation, log.actions[rows]).double()
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
            gram += x.T @ x
            moment += x.T @ (log.next_state(rows + ahead - 1) - observation[:, self._columns]).double()
        solution: Tensor = torch.linalg.solve(gram, moment)
        return solution


def _column(term: object, like: Tensor) -> Tensor:
    return torch.as_tensor(term, dtype=torch.float32).expand(len(like)).unsqueeze(1)
