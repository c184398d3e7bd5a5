"""From a run folder to a signed bundle: thresholds, graph, gates, manifest; written only if every gate passes."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch

import controlkit
from controlkit.artifacts import Models, RunFolder
from controlkit.dataset import TransitionDataset
from controlkit.errors import ArtifactError, GateError
from controlkit.files import read_json, sha256_of
from controlkit.layout import Layout
from controlkit.progress import Progress, Silent
from controlkit.spec import OperatorFallback, PlantSpec
from deploy.bundle.manifest import (
    MODEL,
    VERDICTS,
    CommandRecord,
    EvaluationRecord,
    GateRecord,
    Manifest,
    ModelRecord,
    TagRecord,
    TrainingRecord,
)
from deploy.bundle.safety import Recalibration, SafetyConfig
from deploy.bundle.schemas import SCHEMA
from deploy.bundle.signing import load_private_key
from deploy.bundle.store import write_bundle
from deploy.bundle.verify import open_graph
from deploy.export.calibration import calibrate
from deploy.export.gates import check_fuzz, check_parity, golden_vectors
from deploy.export.graph import ControllerGraph
from deploy.export.onnx_export import OPSET, ReferenceRuntime, check_file, to_onnx
from deploy.export.samples import corrupted_inputs, joined, random_inputs, recorded_inputs
from deploy.export.slots import history_needed, input_slots, output_slots, require_moderate
from deploy.export.stages import safe_values

GO = "GO TO SHADOW"
STAGES = ("calibrate", "export", "parity", "second runtime", "fuzz", "write")
REFERENCE_INPUTS = 20
GOLDEN_STEPS = 8
# All draws of the gates come from one generator with this seed: the same run gives the same bundle, but for its date.
SEED = 20_240_507


@dataclass(frozen=True)
class ExportResult:
    """What was written and what the gates measured.

    Attributes:
        path: the bundle.
        verdict: of the evaluation; `override` is the reason it was passed over, if it was.
        parity_inputs, parity_max_diff: inputs compared with torch, largest difference of an action as a share of its
            span.
        flags_differ: inputs whose flags differ, all within 1e-5 of a threshold.
        fuzz_inputs: corrupted inputs survived.
        model_bytes: size of the graph.
        signer: public key, hex; `None` if unsigned.
        manifest: all of it.
    """

    path: Path
    verdict: str
    override: str | None
    parity_inputs: int
    parity_max_diff: float
    flags_differ: int
    fuzz_inputs: int
    model_bytes: int
    signer: str | None
    manifest: Manifest


def export_bundle(
    run: RunFolder,
    out: Path,
    *,
    key: Path | None = None,
    override: str | None = None,
    progress: Progress | None = None,
    parity_inputs: int = 10_000,
    fuzz_inputs: int = 20_000,
    safety: SafetyConfig | None = None,
) -> ExportResult:
    """Exports a trained and evaluated run.

    Args:
        run: its folder, with `calibration/` (the calibration part of the split) and `report.json`.
        out: the bundle's folder; an earlier bundle there is replaced once every gate has passed.
        key: PEM file of an Ed25519 private key to sign with.
        override: the reason to export in spite of a verdict other than GO TO SHADOW; stored in the manifest.
        progress: told of the stages as they end.
        parity_inputs, fuzz_inputs: sizes of the two gates.
        safety: choices behind the checks.

    Raises:
        ArtifactError: the run is not trained or not evaluated, its parts do not belong together, or the key is none.
        GateError: the verdict forbids it, or a gate failed; nothing is written.
    """
    safety = safety or SafetyConfig()
    progress = progress or Silent()
    evaluation = _evaluation(run, override)
    if key is not None:
        load_private_key(key)  # a wrong key fails before the work, not after it
    models, data = run.load_models(), _calibration_part(run)
    spec, layout = run.spec, Layout.from_spec(run.spec)
    require_moderate(spec)
    require_finite(models, spec)

    progress.start("export", len(STAGES))
    progress.advance(0, STAGES[0])
    generator = torch.Generator().manual_seed(SEED)
    thresholds, calibration = calibrate(models, data, safety, generator)
    progress.advance(1, STAGES[1])
    graph = ControllerGraph(spec, models, thresholds, safety)
    inputs, outputs = input_slots(spec, layout, safety), output_slots(spec, layout, safety)
    in_sizes = {port: len(slots) for port, slots in inputs.items()}
    out_sizes = {port: len(slots) for port, slots in outputs.items()}
    model = to_onnx(graph, in_sizes)
    operators = check_file(model, in_sizes, out_sizes)
    session = open_graph(model, in_sizes, out_sizes, MODEL)

    progress.advance(1, STAGES[2])
    recorded = recorded_inputs(graph, data, max(parity_inputs // 2, 1), generator)
    drawn = random_inputs(graph, data, max(parity_inputs - len(recorded.obs), 1), generator)
    parity = check_parity(graph, session, joined([recorded, drawn]), "onnxruntime")
    progress.advance(1, STAGES[3])
    few = [_head(part, REFERENCE_INPUTS // 2) for part in (_shuffled(recorded, generator), drawn)]
    check_parity(graph, ReferenceRuntime(model), joined(few), "ONNX reference evaluator")
    progress.advance(1, STAGES[4])
    base = joined([recorded, drawn])
    picks = torch.randint(len(base.obs), (fuzz_inputs,), generator=generator)
    corrupted = corrupted_inputs(type(base)(*(column[picks] for column in base)), generator)
    survived = check_fuzz(graph, spec, session, corrupted)

    progress.advance(1, STAGES[5])
    low, high, safe = (graph.commands.low, graph.commands.high, torch.from_numpy(safe_values(spec)))
    samples, commands = history_needed(layout)
    manifest = Manifest(
        schema_version=SCHEMA,
        controlkit=controlkit.__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        plant=spec.name,
        period_s=spec.period_s,
        model=ModelRecord(
            file="controller.onnx", sha256=hashlib.sha256(model).hexdigest(), bytes=len(model), opset=OPSET
        ),
        training=_training(run),
        evaluation=evaluation,
        gates=GateRecord(
            parity_inputs=parity.inputs,
            parity_max_diff=parity.max_diff,
            flags_differ=parity.flags_differ,
            fuzz_inputs=survived,
            runtimes=("onnxruntime", "onnx reference evaluator"),
            operators=operators,
        ),
        commands=tuple(
            CommandRecord(
                tag=tag, low=float(low[i]), high=float(high[i]), safe=float(safe[i]), max_step=_max_step(spec, tag)
            )
            for i, tag in enumerate(layout.action_tags)
        ),
        tags=_tags(spec, layout),
        inputs=inputs,
        outputs=outputs,
        history_samples=samples,
        history_commands=commands,
        safety=safety,
        thresholds=thresholds,
        calibration=calibration,
        recalibration=Recalibration.of(safety),
        spec=spec.to_dict(),
        layout=layout.to_dict(),
        golden=golden_vectors(graph, session, _shuffled(recorded, generator), GOLDEN_STEPS),
    )
    manifest = write_bundle(out, manifest, model, key)
    progress.advance(1, "")
    return ExportResult(
        path=out,
        verdict=evaluation.verdict,
        override=evaluation.override,
        parity_inputs=parity.inputs,
        parity_max_diff=parity.max_diff,
        flags_differ=parity.flags_differ,
        fuzz_inputs=survived,
        model_bytes=len(model),
        signer=manifest.signer,
        manifest=manifest,
    )


def require_finite(models: Models, spec: PlantSpec) -> None:
    """Checks every weight, scaler and limit of the networks that go into the graph.

    Raises:
        GateError: a number in them is none.
    """
    parts = {"actor": models.actor, "dynamics": models.dynamics, "dynamics reward": models.judge}
    if any(isinstance(spec.tags[tag].fallback, OperatorFallback) for tag in spec.action_tags):
        parts["cloned operator"] = models.behaviour
    for part, network in parts.items():
        for name, value in network.state_dict().items():
            if value.is_floating_point() and not torch.isfinite(value).all():
                raise GateError(
                    f"the {part} holds a number that is none ({name})", where="weights", cure="Train again."
                )


def _evaluation(run: RunFolder, override: str | None) -> EvaluationRecord:
    path = run.path / "report.json"
    if not path.is_file():
        raise ArtifactError(
            "is not evaluated",
            where=str(run.path),
            cure="Run 'controlkit evaluate' on it first; export needs its verdict.",
        )
    report = read_json(path)
    verdict = report.get("verdict") if isinstance(report, dict) else None
    if verdict not in VERDICTS:
        raise ArtifactError("holds no verdict", where=str(path), cure="Evaluate the run again.")
    reason = (override or "").strip() or None
    if verdict != GO and reason is None:
        raise GateError(
            f"the verdict of the evaluation is {verdict}, not {GO}",
            where=str(path),
            cure="Improve the controller, or give --override with the reason for exporting it all the same.",
        )
    return EvaluationRecord(verdict=verdict, override=None if verdict == GO else reason)


def _calibration_part(run: RunFolder) -> TransitionDataset:
    path = run.path / "calibration"
    if not path.is_dir():
        raise ArtifactError("holds no calibration part", where=str(run.path), cure="Train again.")
    data = TransitionDataset.load(path)
    Layout.from_spec(run.spec).require_same(data.layout, str(path))
    return data


def _training(run: RunFolder) -> TrainingRecord:
    state = run.state
    return TrainingRecord(
        run=run.path.resolve().name,
        controlkit=str(state.get("version", "")),
        commit=str(state.get("commit", "")),
        config_sha256=sha256_of(run.path / "config.yaml"),
        models_sha256=sha256_of(run.path / "policy" / "models.pt"),
        data_sha256=run.data["data_sha256"],
        spec_sha256=run.spec.sha256(),
        sources={str(name): str(digest) for name, digest in run.data.get("sources", {}).items()},
    )


def _tags(spec: PlantSpec, layout: Layout) -> tuple[TagRecord, ...]:
    records = []
    for name, tag in spec.tags.items():
        port: Literal["obs", "act_prev"] | None = None
        index: int | None = None
        if name in layout.frame_tags:
            port, index = "obs", layout.frame_tags.index(name)
        elif name in layout.action_tags:
            port, index = "act_prev", layout.action_tags.index(name)
        records.append(
            TagRecord(
                name=name,
                role=tag.role,
                unit=tag.unit,
                port=port,
                index=index,
                column=tag.column or name,
                node=tag.node,
            )
        )
    return tuple(records)


def _max_step(spec: PlantSpec, tag: str) -> float | None:
    rate = spec.tags[tag].max_rate_per_s
    return None if rate is None or not math.isfinite(rate) else rate * spec.period_s


def _shuffled(inputs: Any, generator: torch.Generator) -> Any:
    order = torch.randperm(len(inputs.obs), generator=generator)
    return type(inputs)(*(column[order] for column in inputs))


def _head(inputs: Any, count: int) -> Any:
    return type(inputs)(*(column[:count] for column in inputs))
