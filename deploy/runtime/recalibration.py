"""Learning in SHADOW what a healthy step of this very plant looks like, before the controller may be armed.

A historian that compresses, another sensor or another filter gives the observed shortfall (`deploy.export.checks`)
another mean and spread than the log had; with the log's thresholds the checks would trip on a healthy plant, or sleep
on a sick one. From scored steps in SHADOW come a shift and a stretch of the standardised shortfall. Both are bounded by
the manifest: a plant that needs more is not the plant of the log, or a tag is on the wrong node, and is not to be
armed. What was learned stays until an operator asks for more, so that a slow drift is never learned away.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from deploy.bundle.safety import SafetyConfig, Thresholds


@dataclass(frozen=True)
class Calibration:
    """What was learned: subtracted from the standardised shortfall, and the factor minus one that it is divided by."""

    shift: float = 0.0
    stretch: float = 0.0


class Recalibrator:
    """Collects shortfalls and says when they make a calibration.

    Args:
        safety, thresholds: the controller's.
        steps: scored steps that are needed.
        max_shift, max_stretch: the manifest's bounds.
    """

    def __init__(
        self, safety: SafetyConfig, thresholds: Thresholds, steps: int, max_shift: float, max_stretch: float
    ) -> None:
        self._safety, self._thresholds = safety, thresholds
        self.steps, self._max_shift, self._max_stretch = steps, max_shift, max_stretch
        self._values: deque[tuple[float, bool]] = deque(maxlen=steps)
        self._next_try = steps
        self.result: Calibration | None = None
        self.refusal = ""

    def forget(self) -> None:
        """Starts anew, as after a change of the plant."""
        self._values.clear()
        self._next_try, self.result, self.refusal = self.steps, None, ""

    def accept(self, calibration: Calibration) -> bool:
        """Takes over one that was learned earlier, where it keeps the bounds."""
        if not self._inside(calibration):
            return False
        self.result = calibration
        return True

    def see(self, shortfall: float, summed: bool) -> Calibration | None:
        """Takes one scored step.

        Args:
            shortfall: standardised as in the log, without shift and stretch.
            summed: whether average and sum take it in (the elites agreed about what was expected).

        Returns:
            A calibration, in the step in which it was found.
        """
        if self.result is not None or not np.isfinite(shortfall):
            return None
        self._values.append((shortfall, summed))
        self._next_try -= 1
        if self._next_try > 0:
            return None
        # The window moves on: after an upset that spoilt this try, the next is not made of the same steps.
        self._next_try = max(self.steps // 4, 1)
        self.result = self._fit()
        return self.result

    @property
    def progress(self) -> str:
        """For people to read."""
        if self.result is not None:
            return f"done: shift {self.result.shift:+.2f}, stretch {self.result.stretch:.2f}"
        seen = f"{len(self._values)} of {self.steps} scored steps"
        return f"{seen}; {self.refusal}" if self.refusal else seen

    def _inside(self, calibration: Calibration) -> bool:
        return abs(calibration.shift) <= self._max_shift and 0.0 <= calibration.stretch <= self._max_stretch

    def _fit(self) -> Calibration | None:
        cap = self._safety.shortfall_cap
        values = np.array([value for value, _ in self._values])
        # Median and quartiles find the healthy steps' middle even if a fifth of the steps were an upset.
        low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
        near = np.clip(values, middle - 4 * max(high - low, 1e-3), middle + 4 * max(high - low, 1e-3))
        found = Calibration(float(near.mean()), max(float(near.std()) - 1.0, 0.0))
        if not self._inside(found):
            self.refusal = (
                f"observed steps differ from the log's by {found.shift:+.1f} standard deviations and are "
                f"{1 + found.stretch:.1f} times as wide: check nodes, units and sensors"
            )
            return None
        z = (values - found.shift) / (1.0 + found.stretch)
        ewma = cusum = highest_ewma = highest_cusum = 0.0
        weight, slack = self._safety.ewma_weight, self._safety.cusum_slack
        for value, (_, summed) in zip(np.clip(z, -cap, cap).tolist(), self._values, strict=True):
            if not summed:
                continue
            ewma = (1.0 - weight) * ewma + weight * value
            cusum = max(0.0, cusum + value - slack)
            highest_ewma, highest_cusum = max(highest_ewma, ewma), max(highest_cusum, cusum)
        limits = self._thresholds
        reached = (
            ("one step", float(z.max()), limits.shortfall_limit),
            ("the average", highest_ewma, limits.ewma_limit),
            ("the sum", highest_cusum, limits.cusum_limit),
        )
        for name, value, limit in reached:
            if value > limit:
                self.refusal = f"{name} of observed shortfalls still reached {value:.1f} (limit {limit:.1f})"
                return None
        self.refusal = ""
        return found
