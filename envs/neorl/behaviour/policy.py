"""A kept behaviour policy as a controller of B copies, by onnxruntime alone.

The graph has one input `observation` (B, O) in engineering units, a frame or the plant file's whole window, and two
outputs (B, m): `mean` and `log_std` of a normal distribution before the tanh that brings it to [-1, 1]. NeoRL's
protocol (arXiv 2102.00714): with probability 0.8 the command is that of the mean, else a sample is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.configs import config_path
from controlkit.errors import ArtifactError, ControlkitError, nearest
from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from envs.neorl.data_files import LEVELS, get_released
from envs.simulation import Floats
from envs.window import ObservationWindow

SAMPLED_SHARE = 0.2
POLICIES = Path(__file__).parent / "policies"
INPUT, OUTPUTS = "observation", ("mean", "log_std")


class BehaviourPolicy:
    """Commands of a kept policy.

    Every step draws the same count of numbers whatever it chooses: equal seeds give equal commands.

    Args:
        path: the ONNX file.
        spec: the plant, all of whose frame tags are measured.
        rng: chooses between mean and sample, and draws the samples.
        sampled_share: probability of a sample, for each copy and step on its own; 0 is the mean alone.

    Raises:
        ArtifactError: the file is missing or damaged, or its sizes are not the plant's.
        ControlkitError: a share outside 0 .. 1.
    """

    def __init__(
        self, path: Path, spec: PlantSpec, rng: np.random.Generator, sampled_share: float = SAMPLED_SHARE
    ) -> None:
        if not 0.0 <= sampled_share <= 1.0:
            raise ControlkitError(f"the share of samples is {sampled_share:g}", cure="Give 0 .. 1.")
        self._session, self._rng, self.sampled_share = _opened(path), rng, sampled_share
        layout = Layout.from_spec(spec)
        width, actions = _sizes(self._session)
        sizes = (len(layout.frame_tags), layout.size)
        if width not in sizes or actions != len(layout.action_tags):
            raise ArtifactError(
                f"takes {width} numbers and commands {actions}; the plant '{spec.name}' has {sizes[0]} in a frame, "
                f"{sizes[1]} in a window and {len(layout.action_tags)} commands",
                where=str(path),
                cure=f"Take a policy that was trained for '{spec.name}'.",
            )
        self._window = ObservationWindow(spec) if width != sizes[0] else None
        limits = np.array([spec.limits(tag) for tag in layout.action_tags], dtype=np.float64)
        self._low, self._high = limits[:, 0], limits[:, 1]
        self._command: Floats | None = None  # (B, m)

    def reset(self, batch: int) -> None:
        """Forgets the window."""
        self._command = None

    def act(self, measurement: Floats) -> Floats:
        """(B, n) -> (B, m)."""
        mean, log_std = self.distribution(measurement)
        noise = self._rng.standard_normal(mean.shape)
        sampled = self._rng.random((len(mean), 1)) < self.sampled_share
        share = np.tanh(mean + sampled * noise * np.exp(log_std))
        self._command = np.clip(self._low + (share + 1.0) / 2.0 * (self._high - self._low), self._low, self._high)
        return self._command

    def distribution(self, measurement: Floats) -> tuple[Floats, Floats]:
        """Mean and logarithm of the deviation before the tanh: (B, n) -> (B, m), (B, m).

        The window goes on by this measurement: called once a step, by `act`.
        """
        observation = measurement
        if self._window is not None:
            last = self._command
            observation = self._window.reset(measurement) if last is None else self._window.step(last, measurement)
        outputs = self._session.run(list(OUTPUTS), {INPUT: observation.astype(np.float32)})
        mean, log_std = (np.asarray(values, dtype=np.float64) for values in outputs)
        return mean, log_std


def policy_file(task: str, level: str, folder: Path = POLICIES) -> Path:
    """The kept policy of a task and level.

    Raises:
        ArtifactError: there is none; says which there are and how one is made.
    """
    path = folder / f"{task}-{level}.onnx"
    if not path.is_file():
        kept = kept_policies(folder)
        hint = nearest(path.stem, kept) if kept else "none is kept here"
        raise ArtifactError(
            f"no behaviour policy '{path.stem}' is kept; {hint}",
            where=str(folder),
            cure=f"Train it: python -m envs.neorl.behaviour.train {task} {level} --out DIR",
        )
    return path


def kept_policies(folder: Path = POLICIES) -> tuple[str, ...]:
    """Names `task-level` of the policies in a folder."""
    return tuple(sorted(path.stem for path in folder.glob("*.onnx")))


def behaviour_of(name: str) -> tuple[str, str]:
    """Task and controller whose logs stand for a published data set: `neorl/halfcheetah-low` -> `halfcheetah`, `low`.

    Raises:
        ControlkitError: no such set is published.
        ArtifactError: no policy of this task and level is kept.
    """
    get_released(name)
    task, _, level = name.removeprefix("neorl/").partition("-")
    if level not in LEVELS:
        raise ControlkitError(f"'{name}' is not made by a behaviour policy of ours", cure="Fetch it with --download.")
    policy_file(task, level)
    return task, level


def kept_controllers(
    task: str, plant: str, folder: Path = POLICIES
) -> dict[str, Callable[[np.random.Generator, Mapping[str, Any]], BehaviourPolicy]]:
    """Level -> what makes its policy a controller of a task, for the levels that are kept: see `envs.tasks.Task`."""

    def factory(path: Path) -> Callable[[np.random.Generator, Mapping[str, Any]], BehaviourPolicy]:
        return lambda rng, options: BehaviourPolicy(path, PlantSpec.load(config_path("plants", plant)), rng)

    prefix = f"{task}-"
    return {
        name.removeprefix(prefix): factory(folder / f"{name}.onnx")
        for name in kept_policies(folder)
        if name.startswith(prefix)
    }


def _opened(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
    except FileNotFoundError:
        raise ArtifactError("no such file", where=str(path), cure="Check the path.") from None
    except Exception as problem:  # noqa: BLE001 (the runtime raises kinds of its own)
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise ArtifactError(f"is damaged ({first[:120]})", where=str(path), cure="Make it again.") from None


def _sizes(session: Any) -> tuple[int, int]:
    """Numbers in, commands out; 0 where the graph has other ports."""
    ports = {port.name: port.shape for port in (*session.get_inputs(), *session.get_outputs())}
    if set(ports) != {INPUT, *OUTPUTS}:
        return 0, 0
    return int(ports[INPUT][1]), int(ports["mean"][1])
