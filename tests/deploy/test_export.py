"""Export: gates that fail when they should, and a bundle only when all of them pass."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from controlkit.artifacts import RunFolder, build_dynamics
from controlkit.config import DynamicsConfig
from controlkit.errors import ArtifactError, GateError
from controlkit.files import write_json
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from controlkit.spec import PlantSpec
from deploy.bundle.manifest import INPUTS, OUTPUTS
from deploy.bundle.store import load_bundle
from deploy.bundle.verify import open_graph, open_session
from deploy.export.exporter import STAGES, export_bundle, require_finite
from deploy.export.gates import check_fuzz, check_parity, golden_vectors
from deploy.export.graph import ControllerGraph, GraphInputs
from deploy.export.onnx_export import OPERATORS, OPSET, ReferenceRuntime, check_file, to_onnx
from deploy.export.samples import corrupted_inputs, random_inputs, recorded_inputs
from deploy.export.slots import input_slots, output_slots, require_moderate
from tests.deploy.conftest import Exported, Tank
from tests.deploy.plants import operated_plant, plant_description


@pytest.fixture(scope="module")
def graph_of_bundle(exported: Exported) -> ControllerGraph:
    """The torch graph that the bundle was exported from."""
    models, manifest = exported.run.load_models(), exported.result.manifest
    return ControllerGraph(exported.run.spec, models, manifest.thresholds, manifest.safety)


@pytest.fixture(scope="module")
def session(exported: Exported) -> Any:
    return open_session(load_bundle(exported.path))


def sizes(exported: Exported) -> tuple[dict[str, int], dict[str, int]]:
    manifest = exported.result.manifest
    ports = [{name: len(slots) for name, slots in side.items()} for side in (manifest.inputs, manifest.outputs)]
    return ports[0], ports[1]


def copied_run(exported: Exported, folder: Path) -> RunFolder:
    shutil.copytree(exported.run.path, folder / "run")
    return RunFolder.open(folder / "run")


def test_what_was_measured_is_reported_and_stored(exported: Exported) -> None:
    result = exported.result
    assert result.parity_inputs == 2000
    assert result.parity_max_diff <= 1e-4
    assert result.fuzz_inputs == 2000
    assert result.model_bytes == (exported.path / "controller.onnx").stat().st_size < 5_000_000
    assert result.manifest.gates.parity_max_diff == result.parity_max_diff
    assert result.verdict == "GO TO SHADOW"
    assert result.override is None
    assert (result.manifest.history_samples, result.manifest.history_commands) == (3, 3)


def test_the_file_is_plain_onnx(exported: Exported) -> None:
    model = onnx.load(str(exported.path / "controller.onnx"))
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET}
    assert [port.name for port in model.graph.input] == list(INPUTS)
    assert [port.name for port in model.graph.output] == list(OUTPUTS)
    for port in (*model.graph.input, *model.graph.output):
        assert port.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert port.type.tensor_type.shape.dim[0].dim_value == 1
    used = {node.op_type for node in model.graph.node}
    assert used <= OPERATORS
    assert not used & {"Not", "Clip", "Max", "IsNaN"}
    # Min is only there behind a comparison that NaN fails: where(x >= low, min(x, high), low).
    makers = {name: node for node in model.graph.node for name in node.output}
    users = {name: [node for node in model.graph.node if name in node.input] for name in makers}
    smaller = [node for node in model.graph.node if node.op_type == "Min"]
    assert len(smaller) > 5
    for node in smaller:
        (user,) = users[node.output[0]]
        assert (user.op_type, user.input[1]) == ("Where", node.output[0])
        compared = makers[user.input[0]]
        assert (compared.op_type, compared.input[0]) == ("GreaterOrEqual", node.input[0])
        assert compared.input[1] == user.input[2]
    assert b"/" + b"home" not in model.SerializeToString()
    assert not model.metadata_props


# Weights between the hidden layers of the cloned operator.
CLONED = {(1, 64, 64), (64, 64)}


def shapes(model: bytes) -> set[tuple[int, ...]]:
    """Shapes of everything that the file holds as numbers."""
    return {tuple(tensor.dims) for tensor in onnx.load_model_from_string(model).graph.initializer}


def test_a_cloned_operator_that_nobody_falls_back_on_is_not_exported(exported: Exported) -> None:
    assert not CLONED & shapes(load_bundle(exported.path).model)


def _with_node(model: bytes, op: str) -> bytes:
    proto = onnx.load_model_from_string(model)
    proto.graph.node.append(onnx.helper.make_node(op, ["enable"], ["extra_output"], name="extra"))
    return proto.SerializeToString()


def _with_opset(model: bytes, version: int) -> bytes:
    proto = onnx.load_model_from_string(model)
    proto.opset_import[0].version = version
    return proto.SerializeToString()


def _renamed(model: bytes) -> bytes:
    proto = onnx.load_model_from_string(model)
    proto.graph.node[0].name = "übel"
    return proto.SerializeToString()


def _external(model: bytes) -> bytes:
    proto = onnx.load_model_from_string(model)
    tensor = proto.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.ClearField("raw_data")
    return proto.SerializeToString()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model[:100], "checker refuses"),
        (lambda model: _with_node(model, "Erf"), "not every runtime has: Erf"),
        (lambda model: _with_node(model, "IsNaN"), "not every runtime has: IsNaN"),
        (lambda model: _with_opset(model, 17), "opsets|checker"),
        (_renamed, "not ASCII"),
        (_external, "outside its file|checker refuses"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused(exported: Exported, change: Any, message: str) -> None:
    with pytest.raises(GateError, match=message):
        check_file(change(load_bundle(exported.path).model), *sizes(exported))


def test_other_ports_are_refused(exported: Exported) -> None:
    inputs, outputs = sizes(exported)
    with pytest.raises(GateError, match="ports"):
        check_file(load_bundle(exported.path).model, {**inputs, "obs": 9}, outputs)
    with pytest.raises(ArtifactError, match="does not load"):
        open_graph(b"nonsense", inputs, outputs, "here")


def test_parity_gate_passes_and_fails(
    exported: Exported, graph_of_bundle: ControllerGraph, session: Any, tank: Tank
) -> None:
    generator = torch.Generator().manual_seed(5)
    inputs = recorded_inputs(graph_of_bundle, tank.data, 1000, generator)
    assert check_parity(graph_of_bundle, session, inputs, "onnxruntime").max_diff <= 1e-4
    with torch.no_grad():
        last = [module for module in graph_of_bundle.actor.modules() if hasattr(module, "bias")][-1]
        before = last.bias.clone()
        last.bias.add_(0.01)
    try:
        with pytest.raises(GateError, match=r"differs? from torch's"):
            check_parity(graph_of_bundle, session, inputs, "onnxruntime")
    finally:
        last.bias.copy_(before)
    for port, slot in (("obs_next", "level"), ("state_out", "observation.level"), ("spread", "spread")):
        off = _Unsafe(session, port, lambda out, feed: out + np.eye(1, out.shape[1], dtype=np.float32) * 0.02)
        with pytest.raises(GateError, match=f"'{slot}' of the output '{port}' differs from torch's"):
            check_parity(graph_of_bundle, off, inputs, "onnxruntime")
    original = graph_of_bundle.thresholds
    graph_of_bundle.observed.thresholds = original.model_copy(update={"cusum_limit": 1e-3})
    try:
        with pytest.raises(GateError, match="cusum_high"):
            check_parity(graph_of_bundle, session, inputs, "onnxruntime")
    finally:
        graph_of_bundle.observed.thresholds = original


def test_gate_inputs_reach_every_part_of_the_graph(graph_of_bundle: ControllerGraph, tank: Tank) -> None:
    """Recorded and random inputs raise most flags, and see full trust, blending and the fallback."""
    generator = torch.Generator().manual_seed(6)
    recorded = recorded_inputs(graph_of_bundle, tank.data, 1500, generator)
    drawn = random_inputs(graph_of_bundle, tank.data, 1500, generator)
    counts = dict.fromkeys(graph_of_bundle.flag_names, 0.0)
    trusted = 0
    with torch.no_grad():
        for part in (recorded, drawn):
            out = graph_of_bundle(*part)
            start, stop = graph_of_bundle.state_layout.groups["trust"]
            trusted += int((out.state_out[:, start:stop] == 1.0).sum())
            for name, count in zip(counts, out.flags.sum(dim=0).tolist(), strict=True):
                counts[name] += count
    never = {name for name, count in counts.items() if not count}
    assert never <= {"state_invalid", "model_invalid"}
    assert trusted > 200
    assert counts["blending"] > 50


class _Unsafe:
    """A runtime that is right but for one output."""

    def __init__(self, session: Any, port: str, change: Any) -> None:
        self.session, self.index, self.change = session, OUTPUTS.index(port), change

    def run(self, names: Any, feed: Any) -> list[Any]:
        out = self.session.run(names, feed)
        out[self.index] = self.change(out[self.index].copy(), feed)
        return out


def _all(value: float) -> Any:
    return lambda out, feed: np.full_like(out, value)


def _without_echo(out: Any, feed: Any) -> Any:
    """As far from the reference as the limits allow, but only where the echo is no command."""
    echo = feed["act_prev"]
    known = ((echo >= [0.1, -1.0, 0.0]) & (echo <= [7.7, 5.0, 3.0])).all()
    far = np.where(out[:, :1] > 3.9, 0.125, 7.5).astype(np.float32)
    return out if known else np.concatenate([far, out[:, 1:]], axis=1)


@pytest.mark.parametrize(
    ("port", "change", "message"),
    [
        ("action", _all(math.nan), "'action' is no number"),
        ("spread", _all(math.inf), "'spread' is no number"),
        ("action", _all(7.70001), "'action' is outside its limits"),
        ("action_fallback", _all(-0.5), "'action_fallback' is outside its limits"),
        ("action", lambda out, feed: np.array([[0.1, 0.0, 1.0]], dtype=np.float32), "'action' is beyond its rate"),
        # Where the echo is no command, the last one of the state is the reference.
        ("action", _without_echo, "'action' is beyond its rate"),
        ("flags", _all(0.5), "neither 0 nor 1"),
        ("state_out", _all(-7.0), "state handed on"),
    ],
)
def test_fuzz_gate_fails_when_it_should(
    tank: Tank, graph_of_bundle: ControllerGraph, session: Any, port: str, change: Any, message: str
) -> None:
    inputs = random_inputs(graph_of_bundle, tank.data, 40, torch.Generator().manual_seed(7))
    with pytest.raises(GateError, match=message):
        check_fuzz(graph_of_bundle, tank.data.spec, _Unsafe(session, port, change), inputs)


def test_corrupted_inputs_hit_every_port(graph_of_bundle: ControllerGraph, tank: Tank) -> None:
    generator = torch.Generator().manual_seed(8)
    inputs = random_inputs(graph_of_bundle, tank.data, 2000, generator)
    corrupted = corrupted_inputs(inputs, generator)
    for name in INPUTS:
        before, after = getattr(inputs, name), getattr(corrupted, name)
        changed = (before != after).any(dim=1)
        assert 100 < int(changed.sum()) < 2000
        assert torch.isnan(after).any()
        assert torch.isinf(after).any()


WEIRD = st.floats(width=32, allow_nan=True, allow_infinity=True, allow_subnormal=True)


@given(data=st.data())
def test_no_float_whatever_harms_anybody(
    exported: Exported, graph_of_bundle: ControllerGraph, session: Any, data: Any
) -> None:
    """Hypothesis draws any float32 for a whole port at a time; the fuzz gate judges."""
    inputs, _ = sizes(exported)
    drawn = {
        name: data.draw(st.lists(WEIRD, min_size=size, max_size=size))
        if name != "state_in" or data.draw(st.booleans())
        else [0.0] * size
        for name, size in inputs.items()
    }
    rows = GraphInputs(*(torch.tensor([drawn[name]], dtype=torch.float32) for name in INPUTS))
    assert check_fuzz(graph_of_bundle, exported.run.spec, session, rows) == 1


def test_golden_vectors_lie_clear_of_every_threshold(
    graph_of_bundle: ControllerGraph, session: Any, tank: Tank
) -> None:
    inputs = recorded_inputs(graph_of_bundle, tank.data, 300, torch.Generator().manual_seed(9))
    vectors = golden_vectors(graph_of_bundle, session, inputs, 6)
    assert len(vectors) == 6
    assert len({vector.outputs["flags"] for vector in vectors}) > 2
    for vector in vectors:
        rows = GraphInputs(*(torch.tensor([vector.inputs[name]], dtype=torch.float32) for name in INPUTS))
        with torch.no_grad():
            _, margin = graph_of_bundle.with_margins(rows)
        assert float(margin) >= 1e-4


def test_golden_vectors_hold_no_gap_of_the_log(graph_of_bundle: ControllerGraph, session: Any, tank: Tank) -> None:
    inputs = recorded_inputs(graph_of_bundle, tank.data, 300, torch.Generator().manual_seed(9))
    inputs.act_prev[::2] = torch.nan
    for vector in golden_vectors(graph_of_bundle, session, inputs, 40):
        assert np.isfinite([value for port in vector.inputs.values() for value in port]).all()
    inputs.act_prev[:] = torch.nan
    with pytest.raises(GateError, match="no step lies clear"):
        golden_vectors(graph_of_bundle, session, inputs, 40)


@pytest.mark.parametrize("verdict", ["INCONCLUSIVE", "NO-GO", "NO VERDICT"])
def test_a_verdict_other_than_go_needs_a_reason(exported: Exported, tmp_path: Path, verdict: str) -> None:
    run = copied_run(exported, tmp_path)
    write_json(run.path / "report.json", {"verdict": verdict})
    for override in (None, "", "  "):
        with pytest.raises(GateError, match=f"verdict of the evaluation is {verdict}"):
            export_bundle(run, tmp_path / "bundle", override=override)
    assert not (tmp_path / "bundle").exists()


def test_an_override_is_stored_with_its_reason(exported: Exported, tmp_path: Path) -> None:
    run, progress = copied_run(exported, tmp_path), _Notes()
    write_json(run.path / "report.json", {"verdict": "NO-GO"})
    result = export_bundle(
        run,
        tmp_path / "bundle",
        override="demonstration on a simulator",
        parity_inputs=100,
        fuzz_inputs=100,
        progress=progress,
    )
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.evaluation.verdict == result.verdict == "NO-GO"
    assert manifest.evaluation.override == "demonstration on a simulator"
    assert manifest.signer is None
    assert [note for note in progress.notes if note] == list(STAGES)
    # The same run gives the same thresholds and the same graph.
    assert manifest.thresholds == exported.result.manifest.thresholds
    assert manifest.model.sha256 == exported.result.manifest.model.sha256


class _Notes(Silent):
    def __init__(self) -> None:
        super().__init__()
        self.notes: list[str] = []

    def advance(self, units: int = 1, note: str = "") -> None:
        self.notes.append(note)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "report.json").unlink(), "is not evaluated"),
        (lambda run: (run / "report.json").write_text("{}"), "holds no verdict"),
        (lambda run: (run / "report.json").write_text("[]"), "holds no verdict"),
        (lambda run: (run / "report.json").write_text('{"verdict": "SURE"}'), "holds no verdict"),
        (lambda run: (run / "report.json").write_text("{"), "is damaged"),
        (lambda run: shutil.rmtree(run / "calibration"), "no calibration part"),
        (lambda run: (run / "policy" / "models.pt").unlink(), "not trained"),
        (lambda run: (run / "policy" / "models.pt").write_bytes(b"x"), "is damaged"),
        (lambda run: (run / "calibration" / "data.parquet").write_bytes(b"x"), "does not match its hash"),
    ],
)
def test_a_run_that_lacks_a_part_is_refused(exported: Exported, tmp_path: Path, damage: Any, message: str) -> None:
    run = copied_run(exported, tmp_path)
    damage(run.path)
    with pytest.raises(ArtifactError, match=message):
        export_bundle(run, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_wrong_key_fails_before_the_work(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no Ed25519 private key"):
        export_bundle(exported.run, tmp_path / "bundle", key=exported.public_key)
    assert not (tmp_path / "bundle").exists()


def test_a_failed_gate_leaves_the_earlier_bundle_alone(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported.path, tmp_path / "bundle")
    before = {file.name: file.read_bytes() for file in (tmp_path / "bundle").iterdir()}

    def failing(*_: Any) -> int:
        raise GateError("corrupted input 7: 'action' is no number")

    monkeypatch.setattr("deploy.export.exporter.check_fuzz", failing)
    monkeypatch.setattr("deploy.export.exporter.to_onnx", lambda *_: load_bundle(exported.path).model)  # saves seconds
    with pytest.raises(GateError, match="corrupted input 7"):
        export_bundle(exported.run, tmp_path / "bundle", parity_inputs=50, fuzz_inputs=50)
    assert {file.name: file.read_bytes() for file in (tmp_path / "bundle").iterdir()} == before


def test_weights_that_are_no_numbers_are_refused(tank: Tank) -> None:
    actor = torch.nn.Linear(2, 1)
    with torch.no_grad():
        actor.weight[0, 1] = math.inf
    with pytest.raises(GateError, match=r"actor holds a number that is none \(weight\)"):
        require_finite(replace(tank.models, actor=actor), tank.data.spec)  # type: ignore[arg-type]
    require_finite(tank.models, tank.data.spec)
    clone, judge = copy.deepcopy(tank.models.behaviour), copy.deepcopy(tank.models.reward)
    for network in (clone, judge):
        with torch.no_grad():
            next(network.net.parameters()).fill_(math.nan)
    spoilt = replace(tank.models, behaviour=clone)
    require_finite(spoilt, tank.data.spec)  # no actuator falls back on it: it is not exported
    with pytest.raises(GateError, match="cloned operator holds a number that is none"):
        require_finite(spoilt, operated_plant())
    with pytest.raises(GateError, match="dynamics reward holds a number that is none"):
        require_finite(replace(tank.models, distilled=judge), tank.data.spec)


def test_ranges_beyond_float32_are_refused() -> None:
    description = plant_description()
    description["tags"]["inflow"]["range"] = [0, 1e31]  # type: ignore[index]
    with pytest.raises(GateError, match="range of 'inflow' is too wide"):
        require_moderate(PlantSpec.from_dict(description))


def test_the_last_thing_done_to_the_action_is_the_absolute_clamp(exported: Exported) -> None:
    """In the file itself: `action` is where(x >= low, min(x, high), low), x the blend inside its rate."""
    model = onnx.load(str(exported.path / "controller.onnx"))
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    limits = CommandLimits(exported.run.spec)
    outer = makers["action"]
    assert outer.op_type == "Where"
    assert np.array_equal(constants[outer.input[2]].reshape(-1), limits.low)
    assert makers[outer.input[0]].op_type == "GreaterOrEqual"
    inner = makers[outer.input[1]]
    assert inner.op_type == "Min"
    assert makers[outer.input[0]].input[0] == inner.input[0]
    assert np.array_equal(constants[inner.input[1]].reshape(-1), limits.high)
    rate_limited = makers[inner.input[0]]
    assert rate_limited.op_type == "Where"
    assert rate_limited.input[2] not in constants  # about the reference, which moves


def test_observers_and_the_cloned_operator_are_exported_too(tank: Tank) -> None:
    """The other world model (elites only) and the other fallback: onnxruntime gives what torch gives, and survives."""
    spec, generator = operated_plant(), torch.Generator().manual_seed(11)
    config = DynamicsConfig(architecture="observer", hidden=(8,), members=3, elites=2)
    dynamics = build_dynamics(config, spec, generator)
    for name in ("input_scaler", "change_scaler"):
        getattr(dynamics, name).load_state_dict(getattr(tank.models.dynamics, name).state_dict())
    with torch.no_grad():
        for parameter in dynamics.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    dynamics.elites = torch.tensor([2, 0])
    models = replace(tank.models, dynamics=dynamics)
    graph = ControllerGraph(spec, models, tank.thresholds, tank.safety)
    inputs = {name: len(slots) for name, slots in input_slots(spec, tank.data.layout, tank.safety).items()}
    outputs = {name: len(slots) for name, slots in output_slots(spec, tank.data.layout, tank.safety).items()}
    model = to_onnx(graph, inputs)
    assert not {"Clip", "Max", "Not"} & set(check_file(model, inputs, outputs))
    assert CLONED & shapes(model)
    session = open_graph(model, inputs, outputs, "here")
    drawn = random_inputs(graph, tank.data, 300, generator)
    assert check_parity(graph, session, drawn, "onnxruntime").max_diff <= 1e-4
    assert check_parity(graph, ReferenceRuntime(model), random_inputs(graph, tank.data, 5, generator), "reference")
    assert check_fuzz(graph, spec, session, corrupted_inputs(drawn, generator)) == 300
