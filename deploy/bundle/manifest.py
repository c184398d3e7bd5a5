"""What a bundle says about itself: strict records, so that a manifest either is understood whole or refused.

Schema 2 is written. Earlier ones are read into the same records by `deploy.bundle.schemas`, and stay byte for byte what
they were when they are written again.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from controlkit.errors import ArtifactError
from deploy.bundle.safety import CalibrationRecord, Recalibration, Record, SafetyConfig, Thresholds
from deploy.bundle.schemas import SCHEMAS

MODEL, MANIFEST, SIGNATURE = "controller.onnx", "manifest.json", "manifest.sig"
VERDICTS = ("GO TO SHADOW", "INCONCLUSIVE", "NO-GO", "NO VERDICT")
Verdict = Literal["GO TO SHADOW", "INCONCLUSIVE", "NO-GO", "NO VERDICT"]

# The graph's ports, in the order of its signature. Later versions add slots, never ports.
INPUTS = ("obs", "obs_ok", "obs_age", "act_prev", "enable", "dt", "state_in")
OUTPUTS = (
    "action",
    "action_policy",
    "action_fallback",
    "score_observed",
    "score_predicted",
    "spread",
    "obs_next",
    "flags",
    "state_out",
)

# What an edge goes by, by name (see `deploy.export.slots`): slots of the state, beside the last `command` of every
# actuator, and the flags that say whether the shortfall is a score and whether the history is full.
SHORTFALL, SHIFT, STRETCH = "shortfall", "shortfall_shift", "shortfall_stretch"
STATE_NEEDED = ("trust", "ewma", "cusum")
FLAGS_NEEDED = ("observed_unscored", "observed_unfamiliar", "history_filling")

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Ascii = Annotated[str, Field(pattern=r"^[ -~]+$", max_length=300)]


class SlotRecord(Record):
    """One number of a port.

    Attributes:
        name: unique within its port.
        unit: engineering unit; 1 for what has none.
        description: what it means.
        low, high: values it may take; a state slot outside them makes the graph start cold.
    """

    name: Ascii
    unit: Ascii
    description: str
    low: float | None = None
    high: float | None = None


class TagRecord(Record):
    """Where one of the plant's tags is found: on the plant, in the log, in the graph."""

    name: Ascii
    role: str
    unit: Ascii
    port: Literal["obs", "act_prev"] | None
    index: int | None
    column: str
    node: str | None


class CommandRecord(Record):
    """Absolute limits (float32, rounded inward), safe value and largest change of a command in one period."""

    tag: Ascii
    low: float
    high: float
    safe: float
    max_step: float | None


class ModelRecord(Record):
    """The ONNX file. Its name is fixed: a manifest cannot point anywhere else."""

    file: Literal["controller.onnx"]
    sha256: Sha256
    bytes: Annotated[int, Field(gt=0)]
    opset: int


class TrainingRecord(Record):
    """The run that the controller comes from."""

    run: str
    controlkit: str
    commit: str
    config_sha256: Sha256
    models_sha256: Sha256
    data_sha256: Sha256
    spec_sha256: Sha256
    sources: dict[str, str]


class EvaluationRecord(Record):
    """The verdict of the evaluation, and why the bundle was made in spite of it."""

    verdict: Verdict
    override: str | None = None

    @model_validator(mode="after")
    def _reasoned(self) -> EvaluationRecord:
        if self.verdict != "GO TO SHADOW" and not (self.override and self.override.strip()):
            raise ValueError(f"the verdict is {self.verdict} and no reason for an override is given")
        return self


class GateRecord(Record):
    """What the export gates measured.

    Attributes:
        parity_inputs, parity_max_diff: inputs compared with torch, largest difference of an action as a share of its
            span.
        flags_differ: inputs whose flags differ; each lies within 1e-5 of a threshold.
        fuzz_inputs: corrupted inputs that were survived.
        runtimes: what loaded the graph.
        operators: ONNX operators in it.
    """

    parity_inputs: int
    parity_max_diff: float
    flags_differ: int
    fuzz_inputs: int
    runtimes: tuple[str, ...]
    operators: tuple[str, ...]


class GoldenVector(Record):
    """One recorded step: every input, every output. Steps follow one another, each from its own `state_in`."""

    inputs: dict[str, tuple[float, ...]]
    outputs: dict[str, tuple[float, ...]]


class Manifest(Record):
    """Everything that an edge box must know to run the controller and that a person must know to trust it.

    Attributes:
        schema_version: in which it was written.
        plant: name of the plant.
        period_s: sample period.
        spec, layout: the plant's description and the observation's slots, as `controlkit.spec` and `.layout` write
            them.
        tags: every tag of the plant and its place.
        commands: limits of the m commands, in the order of `act_prev`.
        inputs, outputs: every slot of every port, in order.
        history_samples, history_commands: what must be known, without a break, before the policy may act.
        recalibration: how an edge may fit the observed checks to its plant; `None` in schema 1, whose graph cannot.
        signer: hex of the Ed25519 public key whose signature lies in `manifest.sig`; `None` if unsigned.
    """

    schema_version: Literal[1, 2]
    controlkit: str
    created: str
    plant: str
    period_s: Annotated[float, Field(gt=0)]
    model: ModelRecord
    training: TrainingRecord
    evaluation: EvaluationRecord
    gates: GateRecord
    commands: tuple[CommandRecord, ...]
    tags: tuple[TagRecord, ...]
    inputs: dict[str, tuple[SlotRecord, ...]]
    outputs: dict[str, tuple[SlotRecord, ...]]
    history_samples: int
    history_commands: int
    safety: SafetyConfig
    thresholds: Thresholds
    calibration: CalibrationRecord
    recalibration: Recalibration | None
    spec: dict[str, Any]
    layout: dict[str, Any]
    golden: Annotated[tuple[GoldenVector, ...], Field(min_length=1, max_length=64)]
    signer: Sha256 | None = None

    @model_validator(mode="after")
    def _whole(self) -> Manifest:
        if tuple(self.inputs) != INPUTS or tuple(self.outputs) != OUTPUTS:
            raise ValueError("the ports of the graph are not the ones of this schema")
        for port, slots in (*self.inputs.items(), *self.outputs.items()):
            if not slots or len({slot.name for slot in slots}) != len(slots):
                raise ValueError(f"port '{port}' has no slots, or two of one name")
        names = {port: [slot.name for slot in slots] for port, slots in (*self.inputs.items(), *self.outputs.items())}
        if names["state_in"] != names["state_out"]:
            raise ValueError("state_in and state_out differ")
        same = (("obs_ok", "obs"), ("obs_age", "obs"), ("obs_next", "obs"), ("action", "act_prev"))
        if any(names[one] != names[other] for one, other in same):
            raise ValueError("ports that show the same tags differ")
        if [command.tag for command in self.commands] != names["act_prev"]:
            raise ValueError("the commands are not the ones of act_prev")
        self._require_named_slots()
        for number, vector in enumerate(self.golden):
            for ports, values in ((self.inputs, vector.inputs), (self.outputs, vector.outputs)):
                if {k: len(v) for k, v in values.items()} != {k: len(v) for k, v in ports.items()}:
                    raise ValueError(f"golden vector {number} does not have the ports' sizes")
        return self

    def _require_named_slots(self) -> None:
        """The slots and flags that an edge goes by, with the bounds that this manifest states."""
        state = {slot.name: (slot.low, slot.high) for slot in self.inputs["state_in"]}
        needed = (*STATE_NEEDED, *(f"command.{command.tag}" for command in self.commands))
        if (self.recalibration is None) != (self.schema_version == 1):
            raise ValueError(f"schema {self.schema_version} and 'recalibration' do not go together")
        if self.recalibration is not None:
            if self.recalibration != Recalibration.of(self.safety):
                raise ValueError("'recalibration' and 'safety' differ")
            needed += (SHORTFALL, SHIFT, STRETCH)
        missing = [f"slot '{name}'" for name in needed if name not in state]
        missing += [f"flag '{name}'" for name in FLAGS_NEEDED if name not in self.flags()]
        if missing:
            raise ValueError(f"the graph lacks the {missing[0]}")
        if self.recalibration is not None:
            shift, stretch = self.recalibration.shift, self.recalibration.stretch
            if state[SHIFT] != (-shift, shift) or state[STRETCH] != (0.0, stretch):
                raise ValueError("the bounds of the recalibration are not its slots'")

    def flags(self) -> tuple[str, ...]:
        """Names of the flags, in order."""
        return tuple(slot.name for slot in self.outputs["flags"])

    def state_index(self, name: str) -> int:
        """Position of a slot in the state."""
        return [slot.name for slot in self.inputs["state_in"]].index(name)

    def to_bytes(self) -> bytes:
        """The one way to write this manifest; any other bytes that mean the same are refused on reading."""
        plain = SCHEMAS[self.schema_version].write(self.model_dump(mode="json"))
        return (json.dumps(plain, indent=1, allow_nan=False) + "\n").encode("ascii")

    @classmethod
    def from_bytes(cls, content: bytes, where: str) -> Manifest:
        """Reads what `to_bytes` wrote.

        Raises:
            ArtifactError: not JSON, another schema, an unknown or wrong field, or bytes that `to_bytes` would not
                write.
        """
        cure = "Export it again."
        try:
            plain = json.loads(content)
            schema = plain["schema_version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ArtifactError("is no manifest of a bundle, or is damaged", where=where, cure=cure) from None
        if type(schema) is not int or schema not in SCHEMAS:
            shown = schema if isinstance(schema, int) else "an unknown kind"
            cure = f"Export it again, or use the version of controlkit that reads schema {shown}."
            known = " and ".join(map(str, SCHEMAS))
            raise ArtifactError(f"has schema {shown}, this version reads {known}", where=where, cure=cure)
        try:
            # As text once more: in strict mode a list is no tuple, but a list of JSON is.
            manifest = cls.model_validate_json(json.dumps(SCHEMAS[schema].read(plain)))
            canonical = manifest.to_bytes()
        except ValidationError as problem:
            first = problem.errors()[0]
            field = ".".join(str(part) for part in first["loc"]) or "the manifest as a whole"
            message = first["msg"].removeprefix("Value error, ")
            raise ArtifactError(f"{field}: {message}", where=where, cure=cure) from None
        except (ValueError, RecursionError):
            raise ArtifactError("holds a number that is none", where=where, cure=cure) from None
        if canonical != content:
            raise ArtifactError("was changed after it was written", where=where, cure=cure)
        return manifest
