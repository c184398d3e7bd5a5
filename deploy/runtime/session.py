"""ControllerSession: one controller, stepped once per period; holds the state that the graph hands on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import ControlkitError
from deploy.bundle.manifest import OUTPUTS
from deploy.bundle.store import Bundle
from deploy.bundle.verify import open_session

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StepResult:
    """What one step gave; vectors are in the order of the manifest's tags, engineering units.

    Attributes:
        action: (m,) the command for the next period; the only one that may go on the plant.
        action_policy, action_fallback: (m,) what policy and fallback would command.
        trust: share of the policy in the action, 0 .. 1.
        score_observed, score_predicted: dynamics rewards; 0 where they could not be computed.
        spread: disagreement of the elites.
        obs_next: (n,) predicted next sample under `action_policy`.
        flags: (F,) 0 or 1.
        raised: names of the flags that are 1.
    """

    action: Vector
    action_policy: Vector
    action_fallback: Vector
    trust: float
    score_observed: float
    score_predicted: float
    spread: float
    obs_next: Vector
    flags: Vector
    raised: tuple[str, ...]


class ControllerSession:
    """Steps a bundle's controller; starts cold, with the fallback acting.

    Args:
        bundle: from `deploy.bundle.load_bundle`.

    Raises:
        ArtifactError: onnxruntime refuses the graph, or its ports are not the manifest's.

    Attributes:
        tags: the n measured tags; `commands` the m commanded ones; `flag_names` the flags.
        low, high, safe: (m,) absolute limits and safe values.
        state: (S,) what the graph carries; read it to store it, set it to go on from a stored one.
    """

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.bundle = bundle
        self.tags = bundle.layout.frame_tags
        self.commands = bundle.layout.action_tags
        self.flag_names = manifest.flags()
        self.low, self.high, self.safe = (
            np.array([getattr(command, name) for command in manifest.commands], dtype=np.float32)
            for name in ("low", "high", "safe")
        )
        self._meanings = {slot.name: slot.description for slot in manifest.outputs["flags"]}
        self._period = np.full((1, 1), manifest.period_s, dtype=np.float32)
        self._switch = {on: np.full((1, 1), float(on), dtype=np.float32) for on in (False, True)}
        n, m = len(self.tags), len(self.commands)
        self._good, self._new = np.ones(n, dtype=np.float32), np.zeros(n, dtype=np.float32)
        self._unknown = np.full(m, np.nan, dtype=np.float32)
        self._trust = manifest.state_index("trust")
        self._session = open_session(bundle)
        self._size = len(manifest.inputs["state_in"])
        self.reset()

    def meaning(self, flag: str) -> str:
        """What a flag says, in words."""
        return self._meanings[flag]

    def reset(self) -> None:
        """Forgets everything: the next step is a cold start."""
        self.state = np.zeros(self._size, dtype=np.float32)

    def step(
        self,
        obs: npt.ArrayLike,
        ok: npt.ArrayLike | None = None,
        age: npt.ArrayLike | None = None,
        act_prev: npt.ArrayLike | None = None,
        *,
        enable: bool = True,
        dt: float | None = None,
    ) -> StepResult:
        """One period: `compute` from the present state, which then moves on."""
        result, self.state = self.compute(obs, ok, age, act_prev, enable=enable, dt=dt)
        return result

    def compute(
        self,
        obs: npt.ArrayLike,
        ok: npt.ArrayLike | None = None,
        age: npt.ArrayLike | None = None,
        act_prev: npt.ArrayLike | None = None,
        *,
        enable: bool = True,
        dt: float | None = None,
    ) -> tuple[StepResult, Vector]:
        """What one period gives, and the state (S,) after it; the session's own stays as it is.

        Args:
            obs: (n,) measured tags now, engineering units; NaN where nothing is known.
            ok: (n,) whether each has good quality; all of them where not given.
            age: (n,) their ages in seconds; 0 where not given.
            act_prev: (m,) the command in force until now, as the plant echoes it; unknown where not given.
            enable: whether the policy may act; the fallback acts otherwise, without a bump.
            dt: seconds since the last step; the period where not given.

        Raises:
            ControlkitError: a vector of another length, or that holds no numbers. Bad values are the graph's business.
        """
        n, m = len(self.tags), len(self.commands)
        feed = {
            "obs": _row("obs", obs, n),
            "obs_ok": _row("ok", self._good if ok is None else ok, n),
            "obs_age": _row("age", self._new if age is None else age, n),
            "act_prev": _row("act_prev", self._unknown if act_prev is None else act_prev, m),
            "enable": self._switch[bool(enable)],
            "dt": self._period if dt is None else _row("dt", [dt], 1),
            "state_in": _row("state", self.state, self._size),
        }
        out: dict[str, Any] = dict(zip(OUTPUTS, self._session.run(list(OUTPUTS), feed), strict=True))
        row = {name: value[0] for name, value in out.items()}
        state: Vector = row["state_out"]
        result = StepResult(
            action=row["action"],
            action_policy=row["action_policy"],
            action_fallback=row["action_fallback"],
            trust=float(state[self._trust]),
            score_observed=float(row["score_observed"][0]),
            score_predicted=float(row["score_predicted"][0]),
            spread=float(row["spread"][0]),
            obs_next=row["obs_next"],
            flags=row["flags"],
            raised=tuple(self.flag_names[i] for i in np.flatnonzero(row["flags"])),
        )
        return result, state


def _row(name: str, values: npt.ArrayLike, size: int) -> Vector:
    if isinstance(values, np.ndarray) and values.dtype == np.float32 and values.shape == (size,):
        return values.reshape(1, size)  # as the loop hands them over
    try:
        # A float64 beyond float32's range becomes infinite, which the graph refuses as a bad sample.
        with np.errstate(over="ignore"):
            row = np.asarray(values, dtype=np.float64).astype(np.float32)
    except (TypeError, ValueError):
        raise ControlkitError(f"'{name}' holds something that is no number", where="controller step") from None
    if row.shape != (size,):
        raise ControlkitError(
            f"'{name}' has the shape {row.shape}, not ({size},)",
            where="controller step",
            cure="Give one number for each tag of the manifest, in its order.",
        )
    return row.reshape(1, size)
