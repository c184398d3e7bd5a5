"""What the networks of fitted Q evaluation see: (s, a), and what the known objective makes of it.

A value is a sum of known functions of future states. The reward's formula is known, so it is not learned: a
least-squares prediction of the next state tags, and the objective's terms at it, are given as inputs. They tell the
networks how a reward goes on beyond the recorded commands (along |T - setpoint|, say), where (s, a) alone would be
continued along a straight line. The prediction is one step long and a plain linear one, fitted for this purpose;
nothing is rolled out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from controlkit.config import ScalingConfig
from controlkit.morec.dynamics import action_scaler, observation_scaler
from controlkit.objective import CommandLimits, Objective
from controlkit.replay import LoggedTransitions

RIDGE = 1e-6


class ValueFeatures:
    """(s, a) -> F scaled features: the observation, the command, the predicted state tags, the objective's terms there.

    Args:
        log: what prediction and scaling are fitted on.
        objective: of the plant.
        scaling: floors of the inputs' scaling.

    Attributes:
        size: F. limits: the plant's clamp and rate limit.
    """

    def __init__(self, log: LoggedTransitions, objective: Objective, scaling: ScalingConfig) -> None:
        self.objective = objective
        self.limits = CommandLimits(objective.spec)
        scalers = (observation_scaler(log, scaling), action_scaler(log, self.limits, scaling))
        self._centre = torch.cat([torch.from_numpy(scaler.centre.copy()) for scaler in scalers])
        self._spread = torch.cat([torch.from_numpy(scaler.spread.copy()) for scaler in scalers])
        self._columns = torch.from_numpy(log.layout.state_columns)
        self._frame_size = len(log.layout.frame_tags)
        self._coefficients = self._least_squares(log)
        low, high = (torch.from_numpy(x.copy())[self._columns] for x in (log.layout.low, log.layout.high))
        self._low, self._high = low, high
        parts = log.overview.split(16384)
        known = torch.cat([self._known(log.observe(rows), log.actions[rows]) for rows in parts])
        self._known_centre, self._known_spread = known.mean(dim=0), known.std(dim=0).clamp(min=1e-6)
        self.size = len(self._centre) + known.shape[1]

    def __call__(self, observation: Tensor, action: Tensor) -> Tensor:
        """(B, O), (B, m) -> (B, F)."""
        known = (self._known(observation, action) - self._known_centre) / self._known_spread
        return torch.cat([self._scaled(observation, action), known], dim=1)

    def _scaled(self, observation: Tensor, action: Tensor) -> Tensor:
        return (torch.cat([observation, action], dim=1) - self._centre) / self._spread

    def _known(self, observation: Tensor, action: Tensor) -> Tensor:
        """Predicted state tags and the objective's terms there: (B, S + terms)."""
        x = self._scaled(observation, action).double()
        change = (torch.cat([x, torch.ones_like(x[:, :1])], dim=1) @ self._coefficients).float()
        state = (observation[:, self._columns] + change).clamp(self._low, self._high)
        frame = observation[:, : self._frame_size].clone()  # exogenous and static tags stay for one step
        frame[:, self._columns] = state
        terms = self.objective.terms(observation, action, frame).values()
        return torch.cat([state, *(_column(term, state) for term in terms)], dim=1)

    def _least_squares(self, log: LoggedTransitions) -> Tensor:
        """(O + m + 1, S) coefficients of the change of the state tags."""
        size = len(self._centre) + 1
        gram = RIDGE * len(log.rows) * torch.eye(size, dtype=torch.float64)
        moment = torch.zeros(size, len(self._columns), dtype=torch.float64)
        for rows in log.rows.split(16384):
            observation = log.observe(rows)
            x = self._scaled(observation, log.actions[rows]).double()
            x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
            gram += x.T @ x
            moment += x.T @ (log.next_state(rows) - observation[:, self._columns]).double()
        solution: Tensor = torch.linalg.solve(gram, moment)
        return solution


def _column(term: object, like: Tensor) -> Tensor:
    return torch.as_tensor(term, dtype=torch.float32).expand(len(like)).unsqueeze(1)
