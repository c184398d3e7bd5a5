"""Rewards and ends of the MuJoCo tasks, one number at a time: what the vectorised formulas are compared with."""

from __future__ import annotations

TASKS = ("halfcheetah", "hopper", "walker2d", "safety-halfcheetah", "random-friction-hopper")


def slow_value(task: str, speed: float, effort: float, frame: list[float]) -> tuple[float, bool]:
    """Reward and end, one number at a time."""
    z, pitch = frame[1], frame[2]
    if task == "halfcheetah":
        return speed - 0.1 * effort, False
    if task == "safety-halfcheetah":
        return (-100.0, True) if speed > 3.2096 else (speed - 0.1 * effort, False)
    if task == "walker2d":
        return speed + 1 - 1e-3 * effort, not (0.8 < z < 2.0 and -1.0 < pitch < 1.0)
    healthy = z > 0.7 and abs(pitch) < 0.2 and all(-100 < value < 100 for value in frame[3:])
    return speed - 1e-3 * effort + (1 if task == "hopper" else 0), not healthy
