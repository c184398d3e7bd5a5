"""A bundle is whole, unchanged, signed and of this schema, or it is refused with one clear line."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from controlkit.errors import ArtifactError
from deploy.bundle import Manifest, load_bundle, new_key, verify_bundle, write_bundle
from deploy.bundle.manifest import MANIFEST, MODEL, OUTPUTS, SHIFT, SHORTFALL, SIGNATURE, STRETCH, GoldenVector
from deploy.bundle.safety import Recalibration, SafetyConfig
from deploy.bundle.signing import load_private_key, load_public_key
from deploy.bundle.verify import open_session
from deploy.runtime import ControllerSession
from tests.deploy.conftest import Exported
from tests.deploy.plants import TankEnv

# A bundle of the tank, with small networks, as the last version before schema 2 exported and signed it.
SCHEMA_1 = Path(__file__).parent / "schema1"
SCHEMA_1_KEY = SCHEMA_1 / "plant.pem.pub"


def copied(exported: Exported, folder: Path) -> Path:
    shutil.copytree(exported.path, folder / "bundle")
    return folder / "bundle"


def rewritten(bundle: Path, change: Any) -> None:
    """Changes the manifest, unsigned, in the form that `to_bytes` writes."""
    (bundle / SIGNATURE).unlink(missing_ok=True)
    content = json.loads((bundle / MANIFEST).read_bytes())
    content["signer"] = None
    change(content)
    (bundle / MANIFEST).write_bytes((json.dumps(content, indent=1) + "\n").encode())


def test_round_trip(exported: Exported) -> None:
    bundle = load_bundle(exported.path, exported.public_key)
    assert bundle.trusted
    assert bundle.manifest == exported.result.manifest
    assert bundle.spec == exported.run.spec
    assert bundle.manifest.signer == load_public_key(exported.public_key)
    assert not load_bundle(exported.path).trusted


def test_manifest_names_every_slot_of_every_port(exported: Exported) -> None:
    manifest = exported.result.manifest
    for port in (*manifest.inputs.values(), *manifest.outputs.values()):
        for slot in port:
            assert slot.name.isascii()
            assert len(slot.description) > 3
    assert [slot.name for slot in manifest.inputs["obs"]] == ["level", "setpoint", "temperature", "inflow", "grade"]
    assert manifest.flags()[-5:] == tuple(f"input_bad.{slot.name}" for slot in manifest.inputs["obs"])
    assert "observation.level@-2" in [slot.name for slot in manifest.outputs["state_out"]]
    assert {tag.name: (tag.port, tag.index) for tag in manifest.tags}["heater"] == ("act_prev", 1)
    assert manifest.commands[0].low == pytest.approx(0.1)
    assert manifest.commands[0].max_step == pytest.approx(0.6)
    assert manifest.commands[2].max_step is None
    assert manifest.training.data_sha256 == exported.run.data["data_sha256"]


def test_verify_lists_every_check(exported: Exported) -> None:
    checks = verify_bundle(exported.path, exported.public_key)
    assert [check.name for check in checks] == [
        "files and hashes",
        "signature",
        "manifest",
        "verdict",
        "graph",
        "golden vectors",
    ]
    assert all(check.ok for check in checks)


def test_one_flipped_bit_anywhere_is_refused(exported: Exported, tmp_path: Path) -> None:
    """Signed: a bit of every byte of the signature, and many places of manifest and graph."""
    bundle, rng = copied(exported, tmp_path), np.random.default_rng(0)
    for name in (SIGNATURE, MANIFEST, MODEL):
        file = bundle / name
        good = file.read_bytes()
        places = range(0, 512, 7) if name == SIGNATURE else rng.integers(8 * len(good), size=60).tolist()
        for place in places:
            bad = bytearray(good)
            bad[place // 8] ^= 1 << (place % 8)
            file.write_bytes(bad)
            with pytest.raises(ArtifactError):
                load_bundle(bundle)
        file.write_bytes(good)
    load_bundle(bundle)


def test_an_unsigned_manifest_holds_together_by_itself(exported: Exported, tmp_path: Path) -> None:
    """Unsigned, a changed graph or a manifest that is not in its one form is refused."""
    bundle = copied(exported, tmp_path)
    rewritten(bundle, lambda content: None)
    load_bundle(bundle)
    good = (bundle / MANIFEST).read_bytes()
    (bundle / MANIFEST).write_bytes(good.replace(b'"plant":', b'"plant" :', 1))
    with pytest.raises(ArtifactError, match="changed after it was written"):
        load_bundle(bundle)
    (bundle / MANIFEST).write_bytes(good.replace(b"{", b'{\n "plant": "other",', 1))
    with pytest.raises(ArtifactError, match="changed after it was written"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", [SIGNATURE, MANIFEST, MODEL])
def test_truncated_empty_missing_and_huge_files(exported: Exported, tmp_path: Path, name: str) -> None:
    bundle = copied(exported, tmp_path)
    good = (bundle / name).read_bytes()
    for bad in (good[:-1], good[: len(good) // 2], b"", good + b"\n"):
        (bundle / name).write_bytes(bad)
        with pytest.raises(ArtifactError):
            load_bundle(bundle)
    (bundle / name).unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        load_bundle(bundle)
    with (bundle / name).open("wb") as stream:
        stream.truncate(2**30)  # sparse: takes no space, must not be read into memory
    with pytest.raises(ArtifactError, match="larger than"):
        load_bundle(bundle)


def test_another_key_no_key_and_a_stripped_signature(exported: Exported, tmp_path: Path) -> None:
    other = new_key(tmp_path / "other.pem")
    with pytest.raises(ArtifactError, match="signed with another key"):
        load_bundle(exported.path, other)
    bundle = copied(exported, tmp_path)
    (bundle / SIGNATURE).unlink()
    with pytest.raises(ArtifactError, match="no such file"):
        load_bundle(bundle)
    rewritten(bundle, lambda content: None)
    load_bundle(bundle)
    with pytest.raises(ArtifactError, match="not signed"):
        load_bundle(bundle, exported.public_key)
    # Signed again by somebody else, everything fits together, but for whose key it is.
    write_bundle(bundle, load_bundle(bundle).manifest, (bundle / MODEL).read_bytes(), tmp_path / "other.pem")
    assert load_bundle(bundle, other).trusted
    with pytest.raises(ArtifactError, match="signed with another key"):
        load_bundle(bundle, exported.public_key)
    (bundle / SIGNATURE).write_bytes((exported.path / SIGNATURE).read_bytes())
    with pytest.raises(ArtifactError, match="signature is wrong"):
        load_bundle(bundle)


@pytest.mark.parametrize("target", ["../controller.onnx", "/etc/passwd", "sub/controller.onnx", "controller.onnx\x00"])
def test_a_manifest_cannot_point_out_of_its_folder(exported: Exported, tmp_path: Path, target: str) -> None:
    bundle = copied(exported, tmp_path)
    rewritten(bundle, lambda content: content["model"].update(file=target))
    with pytest.raises(ArtifactError, match=r"model\.file"):
        load_bundle(bundle)


@pytest.mark.parametrize("name", [SIGNATURE, MANIFEST, MODEL])
def test_links_pipes_and_folders_are_not_followed(exported: Exported, tmp_path: Path, name: str) -> None:
    bundle = copied(exported, tmp_path)
    outside = tmp_path / "outside"
    (bundle / name).rename(outside)
    (bundle / name).symlink_to(outside)
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_bundle(bundle)
    (bundle / name).unlink()
    os.mkfifo(bundle / name)
    with pytest.raises(ArtifactError, match="plain file"):
        load_bundle(bundle)
    (bundle / name).unlink()
    (bundle / name).mkdir()
    with pytest.raises(ArtifactError, match="plain file"):
        load_bundle(bundle)


def test_a_graph_draws_nothing_in_from_other_files(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights in a file of the working directory: right hash, right ports, and refused."""
    proto = onnx.load_model_from_string(load_bundle(exported.path).model)
    tensor = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    (tmp_path / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    model = proto.SerializeToString()
    manifest = exported.result.manifest
    record = manifest.model.model_copy(update={"bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()})
    write_bundle(tmp_path / "bundle", manifest.model_copy(update={"model": record}), model)
    monkeypatch.chdir(tmp_path)
    checks = verify_bundle(tmp_path / "bundle")
    assert (checks[-1].name, checks[-1].ok) == ("graph", False)
    assert "does not load" in checks[-1].detail


def test_another_graph_than_the_manifest_describes_is_refused(exported: Exported, tmp_path: Path) -> None:
    """Right hash, but the ports of another plant's (here: another schema's) graph."""
    model = (SCHEMA_1 / "bundle" / MODEL).read_bytes()
    manifest = exported.result.manifest
    record = manifest.model.model_copy(update={"bytes": len(model), "sha256": hashlib.sha256(model).hexdigest()})
    write_bundle(tmp_path / "bundle", manifest.model_copy(update={"model": record}), model)
    checks = verify_bundle(tmp_path / "bundle")
    assert (checks[-1].name, checks[-1].ok) == ("graph", False)
    assert "ports are not the manifest's" in checks[-1].detail


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (0, "has schema 0, this version reads 1 and 2"),
        (3, "has schema 3"),
        (99, "has schema 99"),
        ("x", "unknown kind"),
        ([1], "unknown kind"),
        (None, "unknown kind"),
        (2.0, "unknown kind"),
        (True, "has schema True"),
    ],
)
def test_another_schema_is_named(exported: Exported, tmp_path: Path, schema: Any, message: str) -> None:
    bundle = copied(exported, tmp_path)
    rewritten(bundle, lambda content: content.update(schema_version=schema))
    with pytest.raises(ArtifactError, match=message) as caught:
        load_bundle(bundle)
    assert "Export it again" in str(caught.value)
    assert str(bundle) in str(caught.value)


def _set(path: str, value: Any) -> Any:
    def change(content: dict[str, Any]) -> None:
        *parents, last = path.split(".")
        for parent in parents:
            content = content[int(parent)] if isinstance(content, list) else content[parent]
        content[int(last) if isinstance(content, list) else last] = value

    return change


def _renamed_state(name: str) -> Any:
    def change(content: dict[str, Any]) -> None:
        for port in (content["inputs"]["state_in"], content["outputs"]["state_out"]):
            (slot,) = (slot for slot in port if slot["name"] == name)
            slot["name"] = "something_else"

    return change


def _renamed_flag(name: str) -> Any:
    def change(content: dict[str, Any]) -> None:
        (slot,) = (slot for slot in content["outputs"]["flags"] if slot["name"] == name)
        slot["name"] = "something_else"

    return change


def _wider_state(name: str) -> Any:
    def change(content: dict[str, Any]) -> None:
        (slot,) = (slot for slot in content["inputs"]["state_in"] if slot["name"] == name)
        slot["high"] = 1000.0

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("surprise", 1), "surprise"),
        (_set("period_s", "2"), "period_s"),
        (_set("period_s", 1.0), "tables do not follow"),
        (_set("period_s", -2.0), "period_s"),
        (_set("commands.0.high", 7.9), "limits of 'valve'"),
        (_set("commands.0.safe", 0.0), "limits of 'valve'"),
        (_set("spec.tags.valve.limits", [0.0, 8.0]), "tables do not follow"),
        (_set("spec.tags.level.role", "banana"), "impossible plant"),
        (_set("evaluation.verdict", "NO-GO"), "no reason for an override"),
        (_set("evaluation.verdict", "FINE"), "evaluation.verdict"),
        (_set("thresholds.cusum_limit", float("nan")), "is none|finite|cusum_limit"),
        (_set("thresholds.spread_stop", 0.0), "thresholds"),
        (_set("inputs.obs.0.name", "setpoint"), "two of one name"),
        (_set("golden.0.inputs.obs", [1.0]), "golden vector 0"),
        (_set("golden", []), "golden"),
        (_set("plant", "another"), "tables do not follow"),
        (_set("spec.name", "another"), "tables do not follow"),
        (_set("recalibration", None), "schema 2 and 'recalibration' do not go together"),
        (_set("recalibration.shift", 4.0), "'recalibration' and 'safety' differ"),
        (_set("recalibration.steps", 0), "recalibration.steps"),
        (_set("safety.recalibration_stretch", 1e6), "safety.recalibration_stretch"),
        (_renamed_state("shortfall_shift"), "lacks the slot 'shortfall_shift'"),
        (_renamed_state("shortfall"), "lacks the slot 'shortfall'"),
        (_renamed_state("trust"), "lacks the slot 'trust'"),
        (_renamed_state("command.pump"), "lacks the slot 'command.pump'"),
        (_renamed_flag("observed_unscored"), "lacks the flag 'observed_unscored'"),
        (_wider_state("shortfall_stretch"), "bounds of the recalibration"),
        (_set("model.sha256", "x"), "model.sha256"),
        (_set("model.bytes", 1), "does not match its hash"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(
    exported: Exported, tmp_path: Path, change: Any, message: str
) -> None:
    bundle = copied(exported, tmp_path)
    rewritten(bundle, change)
    with pytest.raises(ArtifactError, match=message):
        load_bundle(bundle)


NOT_MANIFESTS = {
    "empty": b"",
    "cut": b"{",
    "list": b"[]",
    "null": b"null",
    "two bytes": b"\xff\xfe",
    "deep": b"[" * 100_000,
    "deep field": b'{"schema_version": 2, "spec": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}",
    "less deep": b'{"schema_version": 2, "spec": ' + b'{"a":' * 600 + b"1" + b"}" * 600 + b"}",
    "nothing in schema 1": b'{"schema_version": 1}',
    "nothing in schema 2": b'{"schema_version": 2}',
    "no object in schema 1": b'{"schema_version": 1, "safety": [1]}',
    "number": b'{"schema_version": ' + b"9" * 10_000 + b"}",
}


@pytest.mark.parametrize("content", NOT_MANIFESTS.values(), ids=NOT_MANIFESTS)
def test_what_is_no_manifest_at_all(exported: Exported, tmp_path: Path, content: bytes) -> None:
    bundle = copied(exported, tmp_path)
    (bundle / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError):
        load_bundle(bundle)
    assert not verify_bundle(bundle)[0].ok


def _replaced(before: bytes, after: bytes) -> Any:
    def change(content: bytes) -> bytes:
        assert before in content
        return content.replace(before, after, 1)

    return change


PLANT = b'"plant": "tank"'
SPOILT = {
    "key twice": (_replaced(PLANT, PLANT + b',\n "plant": "tank"'), "changed after it was written"),
    "key twice inside": (
        _replaced(b'"recovery_periods": 10', b'"recovery_periods": 1, "recovery_periods": 10'),
        "changed after it was written",
    ),
    "key before": (_replaced(b'"model": {', b'"model": {"file": "../x", '), "changed after it was written"),
    "NaN": (_replaced(b'"period_s": 2.0', b'"period_s": NaN'), "period_s"),
    "NaN where anything goes": (_replaced(b'"gain": 0.8', b'"gain": NaN'), "changed after it was written"),
    "infinity": (_replaced(b'"cusum_slack": 0.5', b'"cusum_slack": Infinity'), "cusum_slack"),
    "too large": (_replaced(b'"cusum_slack": 0.5', b'"cusum_slack": 1e999'), "cusum_slack"),
    "no UTF-8": (_replaced(PLANT, b'"plant": "t\xffnk"'), "no manifest"),
    "half a character": (_replaced(PLANT, b'"plant": "\\ud800"'), "whole|plant"),
    "UTF-16": (lambda content: content.decode().encode("utf-16"), "changed after it was written"),
    "byte order mark": (lambda content: b"\xef\xbb\xbf" + content, "no manifest|changed"),
    "line ends": (lambda content: content.replace(b"\n", b"\r\n"), "changed after it was written"),
    "two manifests": (lambda content: content + content, "no manifest"),
    "string for a number": (_replaced(b'"period_s": 2.0', b'"period_s": "2.0"'), "period_s"),
    "true for a number": (_replaced(b'"period_s": 2.0', b'"period_s": true'), "period_s"),
}


@pytest.mark.parametrize(("change", "message"), SPOILT.values(), ids=SPOILT)
def test_a_manifest_in_any_other_form_is_refused(exported: Exported, tmp_path: Path, change: Any, message: str) -> None:
    bundle = copied(exported, tmp_path)
    rewritten(bundle, lambda content: None)
    (bundle / MANIFEST).write_bytes(change((bundle / MANIFEST).read_bytes()))
    with pytest.raises(ArtifactError, match=message):
        load_bundle(bundle)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is no bundle"):
        load_bundle(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match="no such file"):
        load_bundle(tmp_path)


def test_verify_notices_another_graph_behind_right_hashes(exported: Exported, tmp_path: Path) -> None:
    """Golden vectors: a manifest whose recorded outputs are not the graph's fails, and says where."""
    manifest = exported.result.manifest
    vector = manifest.golden[0]
    wrong = {**vector.outputs, "action": tuple(value + 0.01 for value in vector.outputs["action"])}
    golden = (GoldenVector(inputs=vector.inputs, outputs=wrong), *manifest.golden[1:])
    changed = manifest.model_copy(update={"golden": golden})
    write_bundle(tmp_path / "bundle", changed, (exported.path / MODEL).read_bytes(), exported.private_key)
    checks = verify_bundle(tmp_path / "bundle", exported.public_key)
    assert [check.ok for check in checks] == [True] * 5 + [False]
    assert "output 'action'" in checks[-1].detail


def test_writing_is_whole_or_not_at_all(exported: Exported, tmp_path: Path) -> None:
    manifest, model = exported.result.manifest, (exported.path / MODEL).read_bytes()
    with pytest.raises(ArtifactError, match="another graph"):
        write_bundle(tmp_path / "new", manifest, model + b"x")
    assert not (tmp_path / "new").exists()
    bundle = copied(exported, tmp_path)
    before = {file.name: file.read_bytes() for file in bundle.iterdir()}
    broken = manifest.model_copy(update={"period_s": 99.0})
    with pytest.raises(ArtifactError, match="tables do not follow"):
        write_bundle(bundle, broken, model)
    assert {file.name: file.read_bytes() for file in bundle.iterdir()} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json"):
        write_bundle(tmp_path / "mine", manifest, model)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_keys_are_made_once_and_kept_private(tmp_path: Path) -> None:
    public = new_key(tmp_path / "keys" / "plant.pem")
    assert (tmp_path / "keys" / "plant.pem").stat().st_mode & 0o077 == 0
    before = (tmp_path / "keys" / "plant.pem").read_bytes()
    with pytest.raises(ArtifactError, match="exists already"):
        new_key(tmp_path / "keys" / "plant.pem")
    assert (tmp_path / "keys" / "plant.pem").read_bytes() == before
    with pytest.raises(ArtifactError, match="no Ed25519 private key"):
        load_private_key(public)
    with pytest.raises(ArtifactError, match="no Ed25519 public key"):
        load_public_key(tmp_path / "keys" / "plant.pem")
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_public_key(tmp_path / "nothing.pub")


def test_the_manifest_is_written_in_one_form(exported: Exported) -> None:
    content = (exported.path / MANIFEST).read_bytes()
    assert Manifest.from_bytes(content, "here").to_bytes() == content
    assert content.isascii()


def test_a_bundle_runs_without_the_training_side(exported: Exported) -> None:
    """Loads, verifies and steps a bundle in a process where torch, pandas, onnx and gymnasium cannot be imported."""
    code = f"""
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "pandas", "gymnasium", "onnx", "onnxscript", "pyarrow", "duckdb", "plotly"):
            raise ModuleNotFoundError(name)
        return None

sys.meta_path.insert(0, Blocked())
from pathlib import Path
from deploy.bundle import load_bundle, verify_bundle
from deploy.runtime import ControllerSession
assert all(check.ok for check in verify_bundle(Path({str(exported.path)!r}), Path({str(exported.public_key)!r})))
session = ControllerSession(load_bundle({str(exported.path)!r}))
print(session.step([4, 5, 30, 1.2, 2], act_prev=[2.4, 0.5, 1.0]).action.tolist())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    action = json.loads(done.stdout)
    assert action[2] == 1.0


def test_the_manifest_says_how_an_edge_may_recalibrate(exported: Exported) -> None:
    manifest, safety = exported.result.manifest, SafetyConfig()
    assert manifest.schema_version == 2
    assert manifest.recalibration == Recalibration(shift=3.0, stretch=2.0, steps=500) == Recalibration.of(safety)
    state = {slot.name: (slot.low, slot.high) for slot in manifest.inputs["state_in"]}
    assert (state[SHIFT], state[STRETCH]) == ((-3.0, 3.0), (0.0, 2.0))
    assert state[SHORTFALL] == (-1e6, 1e6)
    (flag,) = (slot for slot in manifest.outputs["flags"] if slot.name == "observed_unscored")
    assert "'shortfall' is a score" in flag.description
    # Golden vectors cover an edge that has learned something.
    at = manifest.state_index(SHIFT)
    assert any(vector.inputs["state_in"][at] != 0.0 for vector in manifest.golden)


def test_schema_1_is_read_verified_and_written_as_it_was(tmp_path: Path) -> None:
    bundle = load_bundle(SCHEMA_1 / "bundle", SCHEMA_1_KEY)
    manifest = bundle.manifest
    assert (bundle.trusted, manifest.schema_version, manifest.recalibration) == (True, 1, None)
    assert (manifest.safety.recalibration_shift, manifest.safety.recalibration_stretch) == (0.0, 0.0)
    assert not {SHORTFALL, SHIFT, STRETCH} & {slot.name for slot in manifest.inputs["state_in"]}
    content = (SCHEMA_1 / "bundle" / MANIFEST).read_bytes()
    assert b"recalibration" not in content
    assert manifest.to_bytes() == content
    checks = verify_bundle(SCHEMA_1 / "bundle", SCHEMA_1_KEY)
    assert len(checks) == 6
    assert all(check.ok for check in checks), checks
    # Signed anew, it is still a bundle of schema 1.
    key = new_key(tmp_path / "new.pem")
    write_bundle(tmp_path / "bundle", manifest, bundle.model, tmp_path / "new.pem")
    assert load_bundle(tmp_path / "bundle", key).manifest.schema_version == 1


def test_schema_1_is_stepped(tmp_path: Path) -> None:
    """From a cold start to full trust in closed loop, within limits; and the graph alone, with onnxruntime."""
    bundle = load_bundle(SCHEMA_1 / "bundle", SCHEMA_1_KEY)
    session, env = ControllerSession(bundle), TankEnv()
    frame, _ = env.reset(seed=1)
    command = session.safe
    for index in range(60):
        result = session.step(frame, act_prev=command)
        assert (result.trust > 0.0) == (index >= 2)
        assert (np.abs(result.action - command)[:2] <= [0.6, 0.4]).all()
        command = result.action
        frame, *_ = env.step(command)
    assert result.trust == 1.0
    vector = bundle.manifest.golden[0]
    feed = {name: np.array([values], dtype=np.float32) for name, values in vector.inputs.items()}
    action = open_session(bundle).run([OUTPUTS[0]], feed)[0][0]
    assert action.tolist() == pytest.approx(vector.outputs["action"], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("schema_version", 2), "recalibration"),
        (_set("recalibration", None), "changed after it was written"),
        (_set("safety.recalibration_shift", 3.0), "changed after it was written"),
        (_set("safety", None), "safety"),
        (_set("surprise", 1), "surprise"),
        (_set("period_s", 1.0), "tables do not follow"),
        (_renamed_state("trust"), "lacks the slot 'trust'"),
    ],
)
def test_schema_1_is_read_no_less_strictly(tmp_path: Path, change: Any, message: str) -> None:
    bundle = Path(shutil.copytree(SCHEMA_1 / "bundle", tmp_path / "bundle"))
    rewritten(bundle, change)
    with pytest.raises(ArtifactError, match=message):
        load_bundle(bundle)


def test_schema_1_keeps_to_its_key(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="signed with another key"):
        load_bundle(SCHEMA_1 / "bundle", exported.public_key)
    bundle = Path(shutil.copytree(SCHEMA_1 / "bundle", tmp_path / "bundle"))
    content = (bundle / MANIFEST).read_bytes()
    (bundle / MANIFEST).write_bytes(content.replace(b'"recovery_periods": 10', b'"recovery_periods": 11'))
    with pytest.raises(ArtifactError, match="signature is wrong"):
        load_bundle(bundle, SCHEMA_1_KEY)
