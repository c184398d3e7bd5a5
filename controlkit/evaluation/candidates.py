"""What may be evaluated, by the word that a user gives: a run folder, an ONNX file, a PID in YAML, a Python function.

So that a trained policy, the controller of another project and today's PID stand in one table beside the operator:

    run              a run folder
    policy.onnx      one input `observation` (B, O), one output `action` (B, m), engineering units, B free
    pid.yaml         a PID per actuator (`PIDFile`)
    module:function  function(tags) -> {action tag: (B,)}; `tags` maps each slot's name (`temperature`,
                     `temperature@-1`, ...) to (B,) numpy values; `path/to/file.py:function` works, too
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from controlkit.artifacts import RunFolder
from controlkit.baselines.pid import Loop, PIDPolicy
from controlkit.errors import ArtifactError, ConfigError, ControlkitError, nearest
from controlkit.evaluation.policies import OPERATOR, EvaluatedPolicy, policy_of
from controlkit.files import sha256_of
from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from controlkit.strict_yaml import Strict, read_yaml, validate

INPUT, OUTPUT = "observation", "action"
Kind = Literal["run", "onnx", "pid", "function"]


@dataclass(frozen=True)
class Candidate:
    """A policy to be evaluated, and where it is from.

    Attributes:
        policy: what acts.
        kind: how it was given.
        source: as it was given.
        sha256: of its weights, file or source text.
        run: its run folder, for a trained run.
    """

    policy: EvaluatedPolicy
    kind: Kind
    source: str
    sha256: str
    run: RunFolder | None = None


class PIDLoop(Strict):
    """One actuator's PID in velocity form (see `baselines/pid.py`): gain in units of the actuator per unit of the
    measured tag, times in seconds; a positive gain opens the actuator when the measured tag is above its setpoint."""

    actuator: str
    measured: str
    setpoint: float | str
    gain: float
    reset_time_s: Annotated[float, Field(gt=0)]
    derivative_time_s: Annotated[float, Field(ge=0)] = 0.0


class PIDFile(Strict):
    """A PID for some or all actuators; the others hold their command."""

    loops: Annotated[tuple[PIDLoop, ...], Field(min_length=1)]


def find_candidates(words: Sequence[str | Path], spec: PlantSpec) -> list[Candidate]:
    """The policies that a user named, with names that differ.

    Raises:
        ArtifactError, ConfigError, SpecError: one of them is not there, is damaged, or is not made for this plant.
    """
    found = [_find(str(word), spec) for word in words]
    names = [each.policy.name for each in found]
    unique = []
    for each in found:
        name = each.policy.name
        if names.count(name) > 1 or name == OPERATOR:
            name = each.source
        policy = EvaluatedPolicy(name, each.policy.act, each.policy.dynamics_reward)
        unique.append(Candidate(policy, each.kind, each.source, each.sha256, each.run))
    repeated = {each.policy.name for each in unique if [e.policy.name for e in unique].count(each.policy.name) > 1}
    if repeated:
        raise ConfigError(f"'{min(repeated)}' was named twice", where="controlkit evaluate", cure="Name it once.")
    return unique


def of_run(run: RunFolder) -> Candidate:
    """The policy of a trained run."""
    policy = policy_of(run, run.path.resolve().name)
    return Candidate(policy, "run", str(run.path), sha256_of(run.path / "policy" / "models.pt"), run)


def _find(word: str, spec: PlantSpec) -> Candidate:
    path = Path(word)
    if path.suffix == ".onnx":
        return _onnx(path, spec)
    if path.suffix in (".yaml", ".yml"):
        return _pid(path, spec)
    if ":" in word and not path.exists():
        return _function(word, spec)
    return of_run(RunFolder.open(path))


def _pid(path: Path, spec: PlantSpec) -> Candidate:
    file = validate(PIDFile, read_yaml(path, ConfigError), path, ConfigError)
    content = spec.to_dict()
    for number, loop in enumerate(file.loops):
        where = f"{path}: loops.{number}"
        if loop.actuator not in spec.action_tags:
            raise ConfigError(
                f"unknown actuator '{loop.actuator}'", where=where, cure=nearest(loop.actuator, spec.action_tags)
            )
        for tag in (loop.measured, loop.setpoint):
            if isinstance(tag, str) and tag not in spec.frame_tags:
                raise ConfigError(f"unknown tag '{tag}'", where=where, cure=nearest(tag, spec.frame_tags))
        content["tags"][loop.actuator]["fallback"] = {
            "kind": "pi",
            "measured": loop.measured,
            "setpoint": loop.setpoint,
            "gain": loop.gain,
            "reset_time_s": loop.reset_time_s,
        }
    loops = [Loop(x.actuator, x.gain, x.reset_time_s, x.derivative_time_s) for x in file.loops]
    return Candidate(
        EvaluatedPolicy(path.stem, PIDPolicy(PlantSpec.from_dict(content), loops)), "pid", str(path), sha256_of(path)
    )


def _onnx(path: Path, spec: PlantSpec) -> Candidate:
    import onnxruntime

    layout = Layout.from_spec(spec)
    if not path.is_file():
        raise ArtifactError("no such file", where=str(path), cure="Check the path.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it says of a damaged file is said in our words
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as problem:  # noqa: BLE001 (onnxruntime raises kinds of its own)
        first = str(problem).splitlines()[0][:120]
        raise ArtifactError(
            f"is no ONNX model that can be run ({first})", where=str(path), cure="Export it again."
        ) from None
    _require_port(path, "input", session.get_inputs(), INPUT, layout.size)
    _require_port(path, "output", session.get_outputs(), OUTPUT, len(layout.action_tags))

    def act(observation: Tensor, noise: Tensor) -> Tensor:
        (command,) = session.run([OUTPUT], {INPUT: observation.numpy().astype(np.float32)})
        return torch.from_numpy(np.array(command, dtype=np.float32))

    return Candidate(EvaluatedPolicy(path.stem, act), "onnx", str(path), sha256_of(path))


def _require_port(path: Path, what: str, ports: Sequence[Any], name: str, width: int) -> None:
    names = [port.name for port in ports]
    if "state_in" in names or "state_out" in names:
        raise ArtifactError(
            "is the graph of a controller bundle, with safety and a state of its own",
            where=str(path),
            cure="Evaluate the run that it was exported from.",
        )
    if names != [name]:
        raise ArtifactError(
            f"has the {what}s {names}, not '{name}' alone",
            where=str(path),
            cure=f"Export the policy with one input '{INPUT}' and one output '{OUTPUT}'.",
        )
    shape, kind = ports[0].shape, ports[0].type
    fits = len(shape) == 2 and not isinstance(shape[0], int) and (not isinstance(shape[1], int) or shape[1] == width)
    if not fits or kind != "tensor(float)":
        raise ArtifactError(
            f"its {what} '{name}' is {kind} of shape {shape}, not tensor(float) of shape [batch, {width}]",
            where=str(path),
            cure="Export it for this plant's layout, in single precision, with a free batch dimension.",
        )


Function = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def _function(word: str, spec: PlantSpec) -> Candidate:
    layout = Layout.from_spec(spec)
    function, text = _imported(word)
    name = word.rpartition(":")[2]

    def act(observation: Tensor, noise: Tensor) -> Tensor:
        values = observation.numpy()
        try:
            given = function({slot: values[:, at] for at, slot in enumerate(layout.names)})
            commands = [np.broadcast_to(given[tag], (len(values),)) for tag in layout.action_tags]
        except Exception as problem:  # a user's code may fail in any way
            raise ControlkitError(
                f"failed with {type(problem).__name__}: {str(problem)[:120]}",
                where=f"policy {word}",
                cure=f"It is called with {{tag: values (B,)}} and must return {{tag: values (B,)}} for "
                f"{', '.join(layout.action_tags)}.",
            ) from problem
        return torch.from_numpy(np.stack(commands, axis=1).astype(np.float32))

    return Candidate(EvaluatedPolicy(name, act), "function", word, hashlib.sha256(text).hexdigest())


def _imported(word: str) -> tuple[Function, bytes]:
    """The function, and the bytes of the file that it is in."""
    where, _, name = word.rpartition(":")
    try:
        if where.endswith(".py"):
            found = importlib.util.spec_from_file_location(f"controlkit_policy_{Path(where).stem}", where)
            if found is None or found.loader is None:
                raise ImportError(f"{where} is no Python file")
            module = importlib.util.module_from_spec(found)
            found.loader.exec_module(module)
        else:
            module = importlib.import_module(where)
        function: Function = getattr(module, name)
    except Exception as problem:  # noqa: BLE001 (importing runs a user's code)
        raise ConfigError(
            f"cannot be imported ({type(problem).__name__}: {str(problem)[:120]})",
            where=word,
            cure="Write module:function or path/to/file.py:function; run folders and files go by their path.",
        ) from None
    if not callable(function):
        raise ConfigError(f"'{name}' is not a function", where=word, cure="Write module:function.")
    file = getattr(module, "__file__", None)
    return function, Path(file).read_bytes() if file else b""
