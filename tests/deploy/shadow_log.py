"""A bundle and audit logs of known content for the shadow evaluation: only what a report reads is true to life."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from deploy.bundle import SCHEMA, Manifest, load_bundle, write_bundle
from deploy.bundle.manifest import (
    CommandRecord,
    EvaluationRecord,
    GateRecord,
    GoldenVector,
    ModelRecord,
    TagRecord,
    TrainingRecord,
)
from deploy.bundle.safety import CalibrationRecord, Recalibration, SafetyConfig, Thresholds
from deploy.bundle.store import Bundle
from deploy.export.slots import input_slots, output_slots
from deploy.runtime.audit import AuditLog
from deploy.runtime.audit_reader import AuditRow

PERIOD_S = 60
NS = 1_000_000_000
START_NS = 1_700_000_040 * NS  # a multiple of the period
EVIL = '<script>alert("x")</script><img src=http://example.org/a.png>'
LIMITS = {"valve": (0.0, 10.0), "heater": (0.0, 4.0)}


def plant(**changes: Any) -> PlantSpec:
    """Two states, an inflow, a rate-limited valve and a heater."""
    content: dict[str, Any] = {
        "name": "mixer",
        "description": EVIL,
        "period_s": PERIOD_S,
        "tags": {
            "level": {"role": "state", "unit": "m", "range": [0, 10], "limits": [1, 9]},
            "temperature": {"role": "state", "unit": "degC", "range": [0, 100]},
            "inflow": {"role": "exogenous", "unit": "m^3/s", "range": [0, 4]},
            "valve": {
                "role": "action",
                "unit": "%",
                "range": [0, 10],
                "max_rate_per_s": 0.05,
                "safe": 2,
                "fallback": {"kind": "hold"},
            },
            "heater": {"role": "action", "unit": "kW", "range": [0, 4], "safe": 0, "fallback": {"kind": "hold"}},
        },
        "objective": [
            {"kind": "track", "tag": "level", "setpoint": 5},
            {"kind": "cost", "tag": "valve", "of": "change"},
        ],
        "constraints": [{"tag": "temperature", "high": 80, "share": 0.05}],
    }
    return PlantSpec.from_dict(content | changes)


def bundle(path: Path, spec: PlantSpec | None = None, graph: bytes = b"not run here") -> Bundle:
    """A bundle that loads; its graph is never opened by a report."""
    spec = spec or plant()
    layout, safety = Layout.from_spec(spec), SafetyConfig()
    inputs, outputs = input_slots(spec, layout, safety), output_slots(spec, layout, safety)
    zero = "0" * 64
    golden = GoldenVector(
        inputs={port: (0.0,) * len(slots) for port, slots in inputs.items()},
        outputs={port: (0.0,) * len(slots) for port, slots in outputs.items()},
    )
    manifest = Manifest(
        schema_version=SCHEMA,
        controlkit="1",
        created="today",
        plant=spec.name,
        period_s=spec.period_s,
        model=ModelRecord(file="controller.onnx", sha256=hashlib.sha256(graph).hexdigest(), bytes=len(graph), opset=18),
        training=TrainingRecord(
            run="run",
            controlkit="1",
            commit="",
            config_sha256=zero,
            models_sha256=zero,
            data_sha256=zero,
            spec_sha256=spec.sha256(),
            sources={},
        ),
        evaluation=EvaluationRecord(verdict="GO TO SHADOW"),
        gates=GateRecord(
            parity_inputs=1, parity_max_diff=0.0, flags_differ=0, fuzz_inputs=1, runtimes=(), operators=()
        ),
        commands=tuple(
            CommandRecord(
                tag=tag,
                low=spec.limits(tag)[0],
                high=spec.limits(tag)[1],
                safe=float(spec.tags[tag].safe or 0.0),
                max_step=None if (rate := spec.tags[tag].max_rate_per_s) is None else rate * spec.period_s,
            )
            for tag in layout.action_tags
        ),
        tags=tuple(
            TagRecord(name=tag, role=t.role, unit=t.unit, port=None, index=None, column=tag, node=None)
            for tag, t in spec.tags.items()
        ),
        inputs=inputs,
        outputs=outputs,
        history_samples=2,
        history_commands=1,
        safety=safety,
        thresholds=Thresholds(
            frozen_repeats={"level": 10, "temperature": None},
            shortfall_mean=0.0,
            shortfall_std=1.0,
            shortfall_limit=6.0,
            ewma_limit=1.5,
            cusum_limit=20.0,
            score_soft=0.5,
            score_stop=0.1,
            spread_soft=1.0,
            spread_stop=2.0,
            spread_drift=1.0,
        ),
        calibration=CalibrationRecord(rows=1, closed_loop_steps=1, logged={}, closed_loop={}),
        recalibration=Recalibration.of(safety),
        spec=spec.to_dict(),
        layout=layout.to_dict(),
        golden=(golden,),
    )
    write_bundle(path, manifest, graph)
    return load_bundle(path)


@dataclass
class Story:
    """T cycles to be told; change what you like before `rows` or `write`.

    Attributes:
        time_ns, mode: (T,) sample times and modes.
        numbers: name of a payload's field -> (T,) or (T, size); NaN becomes null.
        flags, faults: of each cycle.
        events: place of a cycle -> (kind, payload) told before it.
    """

    bundle: Bundle
    time_ns: np.ndarray
    mode: list[str]
    numbers: dict[str, np.ndarray]
    flags: list[list[str]]
    faults: list[dict[str, str]]
    events: dict[int, list[tuple[str, dict[str, Any]]]] = field(default_factory=dict)

    def payload(self, i: int) -> dict[str, Any]:
        """A cycle's row."""
        told: dict[str, Any] = {
            name: values[i].tolist() if values[i].ndim else float(values[i]) for name, values in self.numbers.items()
        }
        return told | {
            "cycle": i + 1,
            "mode": self.mode[i],
            "time_ns": int(self.time_ns[i]),
            "controller": self.bundle.manifest.model.sha256[:12],
            "ok": [int(value) for value in self.numbers["ok"][i]],
            "flags": self.flags[i],
            "faults": self.faults[i],
            "written": False,
        }

    def start(self) -> dict[str, Any]:
        """The row that begins a run."""
        manifest, layout = self.bundle.manifest, self.bundle.layout
        return {
            "plant": manifest.plant,
            "controller": manifest.model.sha256,
            "controlkit": "1",
            "tags": list(layout.frame_tags),
            "commands": list(layout.action_tags),
            "flags": list(manifest.flags()),
            "period_s": manifest.period_s,
            "address": "sim:mixer",
        }

    def rows(self) -> Iterator[AuditRow]:
        """The rows without a log."""
        yield AuditRow(1, "start", int(self.time_ns[0]) - NS, 0, self.start(), "")
        for i, when in enumerate(self.time_ns.tolist()):
            for kind, payload in self.events.get(i, []):
                yield AuditRow(2 + i, kind, when, i, payload, "")
            yield AuditRow(2 + i, "cycle", when, i, json.loads(json.dumps(plain(self.payload(i)))), "")

    def write(self, folder: Path, tamper: Callable[[int, dict[str, Any]], Any] | None = None) -> Path:
        """Writes the log; `tamper` may change a cycle's payload before it is written."""
        with AuditLog(folder) as log:
            log.append("start", self.start(), wall_ns=int(self.time_ns[0]) - NS, monotonic_ns=0)
            for i, when in enumerate(self.time_ns.tolist()):
                for kind, payload in self.events.get(i, []):
                    log.append(kind, payload, wall_ns=when, monotonic_ns=i)
                payload = self.payload(i)
                if tamper is not None:
                    payload = tamper(i, payload)
                log.append("cycle", payload, wall_ns=when, monotonic_ns=i)
        return folder


def plain(value: Any) -> Any:
    """NaN and infinities as null, as a log holds them."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def story(of: Bundle, cycles: int = 1500, seed: int = 0) -> Story:
    """A healthy time in SHADOW: the policy wants what the operator does, but for a little noise."""
    rng = np.random.default_rng(seed)
    n, m = len(of.layout.frame_tags), len(of.layout.action_tags)
    done = np.empty((cycles, m))  # in force over the period that begins at each cycle
    done[:, 0] = np.clip(5 + np.cumsum(rng.normal(0, 0.05, cycles)) % 2, 0.5, 9.5)
    done[:, 1] = 2 + np.sin(np.arange(cycles) / 50)
    before = np.vstack([done[:1], done[:-1]])
    obs = np.empty((cycles, n))
    obs[:, 0] = 5 + np.sin(np.arange(cycles) / 20) + rng.normal(0, 0.01, cycles)
    obs[:, 1] = 50 + 5 * np.sin(np.arange(cycles) / 30) + rng.normal(0, 0.05, cycles)
    obs[:, 2] = 2 + rng.normal(0, 0.1, cycles)
    following = np.vstack([obs[1:], obs[-1:]])
    policy = np.clip(done + rng.normal(0, 0.01, done.shape), 0, [10, 4])
    numbers = {
        "obs": obs,
        "ok": np.ones((cycles, n)),
        "age": np.full((cycles, n), 2.0),
        "act_prev": before,
        "action": policy.copy(),
        "policy": policy,
        "fallback": before.copy(),
        "predicted": following + rng.normal(0, 0.01, following.shape),
        "trust": np.ones(cycles),
        "score_observed": np.full(cycles, 2.0) + rng.normal(0, 0.1, cycles),
        "score_predicted": np.full(cycles, 2.0),
        "spread": np.full(cycles, 0.1),
        "shortfall": rng.normal(0, 1, cycles),
        "ewma": rng.normal(0, 0.2, cycles),
        "cusum": np.abs(rng.normal(0, 1, cycles)),
        "compute_ms": np.full(cycles, 0.4),
    }
    return Story(
        of,
        START_NS + np.arange(cycles, dtype=np.int64) * PERIOD_S * NS,
        ["SHADOW"] * cycles,
        numbers,
        [[] for _ in range(cycles)],
        [{} for _ in range(cycles)],
    )
