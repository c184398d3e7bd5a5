"""A controller session on a simulated plant, step by step, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from deploy.runtime.plant import Environment
from deploy.runtime.session import ControllerSession, StepResult

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class SimulationRecord:
    """T steps on a simulated plant; n measured tags, m commands, engineering units.

    Attributes:
        observations: (T + 1, n) frames, the first from the reset.
        actions, policy_actions: (T, m) commands sent, and those that the policy would have sent.
        rewards: (T,) as the environment gave them.
        trust: (T,) share of the policy in each command.
        info: every numeric entry of the environment's `info` after each step, name -> (T,); NaN where it was missing.
        initial_info: the same from the reset, name -> number.
        flags: name -> number of steps at which it was raised.
        fallback_share: share of the steps at which the fallback acted alone.
        limit_violations: commands outside the plant's absolute limits, beyond a rate limit, or not finite: always 0, or
            the controller must not be used.
        terminated: whether the plant tripped before the steps were done.
        step_ms: (T,) time that the controller took, without the simulator.
    """

    observations: Floats
    actions: Floats
    policy_actions: Floats
    rewards: Floats
    trust: Floats
    info: Mapping[str, Floats]
    initial_info: Mapping[str, float]
    flags: Mapping[str, int]
    fallback_share: float
    limit_violations: int
    terminated: bool
    step_ms: Floats


def run_simulation(
    session: ControllerSession,
    env: Environment,
    *,
    seed: int,
    steps: int,
    on_step: Callable[[int, StepResult], None] | None = None,
) -> SimulationRecord:
    """Runs one episode from a cold start; ends early where the environment does.

    Args:
        session: reset here; the safe values are taken to be in force before the first step.
        env: its observation is the frame in the plant file's order, its action the command in engineering units.
        seed: of the environment.
        steps: at most.
        on_step: called after each step with its number and the controller's result.

    Raises:
        ControlkitError: no step asked for, or the environment shows other tags than the bundle's plant.
    """
    if steps < 1:
        raise ControlkitError(f"{steps} steps are no run", where="simulation", cure="Give 1 or more.")
    session.reset()
    frame, first_info = env.reset(seed=seed)
    frames = [_frame(frame, session)]
    command = session.safe
    results: list[StepResult] = []
    rewards: list[float] = []
    infos: list[dict[str, float]] = []
    elapsed: list[float] = []
    terminated = False
    for index in range(steps):
        began = time.perf_counter()
        result = session.step(frames[-1], act_prev=command)
        elapsed.append((time.perf_counter() - began) * 1e3)
        frame, reward, terminated, truncated, info = env.step(result.action)
        command = result.action
        results.append(result)
        rewards.append(float(reward))
        infos.append(_numbers(info))
        frames.append(_frame(frame, session))
        if on_step is not None:
            on_step(index, result)
        if terminated or truncated:
            break
    flags = np.stack([result.flags for result in results]).sum(axis=0)  # (F,)
    actions = np.stack([result.action for result in results]).astype(np.float64)
    names = dict.fromkeys(name for info in infos for name in info)
    return SimulationRecord(
        observations=np.stack(frames),
        actions=actions,
        policy_actions=np.stack([result.action_policy for result in results]).astype(np.float64),
        rewards=np.array(rewards),
        trust=np.array([result.trust for result in results]),
        info={name: np.array([info.get(name, np.nan) for info in infos]) for name in names},
        initial_info=_numbers(first_info),
        flags={name: int(count) for name, count in zip(session.flag_names, flags, strict=True)},
        fallback_share=float(np.mean([result.trust <= 0.0 for result in results])),
        limit_violations=count_violations(session, actions),
        terminated=bool(terminated),
        step_ms=np.array(elapsed),
    )


def count_violations(session: ControllerSession, actions: Floats) -> int:
    """Commands (T, m) outside the plant file's limits or rates (exact, in double precision) or not finite.

    The first is compared with the safe values.
    """
    spec = session.bundle.spec
    low, high = np.array([spec.limits(tag) for tag in session.commands]).T
    rates = [spec.tags[tag].max_rate_per_s for tag in session.commands]
    step = np.array([np.inf if rate is None else rate * spec.period_s for rate in rates])
    before = np.vstack([session.safe.astype(np.float64), actions[:-1]])
    good = (actions >= low) & (actions <= high) & (np.abs(actions - before) <= step)  # NaN is not good
    return int((~good).sum())


def _frame(values: Any, session: ControllerSession) -> Floats:
    frame = np.asarray(values, dtype=np.float64).reshape(-1)
    if len(frame) != len(session.tags):
        raise ControlkitError(
            f"the environment shows {len(frame)} tags, the bundle's plant has {len(session.tags)} "
            f"({', '.join(session.tags)})",
            where="simulation",
            cure="Run the bundle on the plant that it was made for.",
        )
    return frame


def _numbers(info: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value) for name, value in info.items() if isinstance(value, int | float | np.integer | np.floating)
    }
