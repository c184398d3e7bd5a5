"""Shadow evaluation: known answers from constructed logs, every rule of the verdict, hostile rows, bounded memory."""

from __future__ import annotations

import json
import math
import sqlite3
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controlkit.errors import ArtifactError, ControlkitError
from controlkit.evaluation.bootstrap import moving_block, t_interval
from deploy.bundle.store import Bundle, load_bundle
from deploy.runtime.audit import AuditLog
from deploy.runtime.audit_reader import AuditRow
from deploy.runtime.clock import AcceleratedClock
from deploy.runtime.lease import LeaseKeeper
from deploy.runtime.requests import Requests
from deploy.runtime.simulated import SimulatedPlant
from deploy.runtime.slots import Slot, Slots
from deploy.runtime.snapshot import Snapshot
from deploy.runtime.supervisor import Supervisor
from deploy.runtime.worker import Outcome
from deploy.shadow import EXIT_CODES, Rules, ShadowReport, shadow_report
from deploy.shadow.operation import Events
from deploy.shadow.reading import BLOCK, CLOCK_SLACK_NS, TIMES_NS, Reader
from deploy.shadow.report import Measures
from deploy.shadow.timeline import Peaks, Timeline
from deploy.shadow.trend import block_length, find_changes, find_trend
from deploy.shadow.verdict import Evidence, decide
from tests.deploy.conftest import Exported
from tests.deploy.plants import TankEnv
from tests.deploy.shadow_log import EVIL, NS, PERIOD_S, START_NS, Story, bundle, plant, story

SHORT = Rules(days=0.5)


@pytest.fixture(scope="module")
def mixer(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return bundle(tmp_path_factory.mktemp("mixer") / "bundle")


def measured(told: Story, rows: Iterable[AuditRow] | None = None, **options: Any) -> tuple[Measures, Reader, Events]:
    """The sums of a story, without a log."""
    events = Events(told.bundle.manifest.model.sha256, lambda: None)
    reader = Reader(told.bundle, "log", options.get("window", TIMES_NS), events.add)
    measures = Measures(told.bundle, int(told.time_ns[0]), options.get("functions", False))
    for block in reader.blocks(told.rows() if rows is None else rows):
        measures.add(block)
    return measures, reader, events


def reported(told: Story, folder: Path, rules: Rules = SHORT, **options: Any) -> ShadowReport:
    """The report of a story that was written and read."""
    told.write(folder / "audit")
    return shadow_report(folder / "audit", told.bundle.path, folder / "out", rules=rules, **options)


def failed(report: ShadowReport) -> list[str]:
    return [check["name"] for check in report.content["checks"] if not check["passed"]]


# Policy beside operator.


def test_a_healthy_time_is_ready_to_advise_and_says_no_more_than_that(mixer: Bundle, tmp_path: Path) -> None:
    report = reported(story(mixer), tmp_path)
    assert report.verdict == "READY TO ADVISE"
    assert EXIT_CODES[report.verdict] == 0
    assert report.missing == ()
    saved = json.loads((tmp_path / "out" / "shadow.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert saved == json.loads(json.dumps(report.content))
    assert saved["schema"] == 1
    assert saved["commands"]["pairs"] == 1499
    assert saved["provenance"]["log"]["rows"] == 1501
    page = (tmp_path / "out" / "shadow.html").read_text()
    assert "go live" not in page.lower()
    assert len(page) < 6_000_000


def test_constructed_disagreements_are_found_where_they_are(mixer: Bundle) -> None:
    told = story(mixer, 2200)
    told.numbers["policy"][:] = np.vstack([told.numbers["act_prev"][1:], told.numbers["act_prev"][-1:]])
    valve = told.numbers["policy"][:, 0]
    valve[700] += 1.5  # of a span of 10
    valve[1500:1600] -= 0.5
    told.numbers["policy"][2000, 1] = np.nan
    measures, _, _ = measured(told)
    one, other = measures.comparison.summary(20 * PERIOD_S * NS)
    assert (one["tag"], one["steps"], other["steps"]) == ("valve", 2199, 2198)
    assert one["mean"] == pytest.approx((0.15 - 100 * 0.05) / 2199, abs=1e-6)
    assert one["near"] == pytest.approx(1 - 101 / 2199)
    assert (one["above"], one["below"]) == (pytest.approx(1 / 2199), pytest.approx(100 / 2199))
    first, second = one["largest"][:2]
    assert first["time_ns"] == START_NS + 700 * PERIOD_S * NS
    assert first["difference"] == pytest.approx(0.15, abs=1e-5)
    assert first["policy"] - first["done"] == pytest.approx(1.5, abs=1e-4)
    assert START_NS + 1500 * PERIOD_S * NS <= second["time_ns"] < START_NS + 1600 * PERIOD_S * NS
    assert second["difference"] == pytest.approx(-0.05, abs=1e-5)
    assert len(one["largest"]) == 10
    times = sorted(each["time_ns"] for each in one["largest"])
    assert min(np.diff(times)) >= 20 * PERIOD_S * NS


def test_what_was_done_is_what_was_in_force_over_the_following_period(mixer: Bundle) -> None:
    # The operator repeats what the policy said one cycle before: full agreement, though no row shows both alike.
    told = story(mixer, 200)
    told.numbers["act_prev"][1:] = told.numbers["policy"][:-1] = np.random.default_rng(1).uniform(0, 4, (199, 2))
    measures, _, _ = measured(told)
    assert all(tag["near"] == 1.0 for tag in measures.comparison.summary(0))


def test_limits_travel_and_reversals_by_hand(mixer: Bundle) -> None:
    told = story(mixer, 101)
    before, policy = told.numbers["act_prev"], told.numbers["policy"]
    before[:, 0] = np.linspace(0, 10, 101)  # one way, 1 % of the span a period
    policy[:, 0] = np.tile([0.0, 10.0], 51)[:101]
    measures, _, _ = measured(told)
    valve = measures.comparison.summary(0)[0]
    assert valve["done"]["travel"] == pytest.approx(0.01, abs=1e-6)
    assert valve["done"]["reversals"] == 0.0
    assert valve["policy"]["travel"] == pytest.approx(1.0)
    assert valve["policy"]["reversals"] == pytest.approx(98 / 99)
    assert (valve["policy"]["at_low"], valve["policy"]["at_high"]) == (0.5, 0.5)
    assert valve["done"]["at_high"] == pytest.approx(0.01)


def test_only_steps_in_shadow_one_period_apart_are_compared(mixer: Bundle) -> None:
    told = story(mixer, 100)
    told.time_ns[50:] += 10 * PERIOD_S * NS
    told.mode[80:] = ["ARMED"] * 20
    told.flags[10] = ["history_filling", "fallback_active"]
    measures, _, _ = measured(told)
    assert measures.comparison.pairs == 79 - 1 - 1  # all in SHADOW, the gap, the filling history
    assert measures.operation.gap_count == 1
    assert measures.operation.gaps() == [{"after_ns": START_NS + 49 * PERIOD_S * NS, "length_ns": 11 * PERIOD_S * NS}]
    assert measures.operation.modes.tolist() == [0, 80, 0, 20]


def test_blocks_do_not_change_the_answer(mixer: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    told = story(mixer, 400)
    whole, _, _ = measured(told)
    monkeypatch.setattr("deploy.shadow.reading.BLOCK", 7)
    parts, _, _ = measured(told)
    assert parts.comparison.pairs == whole.comparison.pairs == 399
    for one, other in zip(whole.comparison.summary(NS), parts.comparison.summary(NS), strict=True):
        assert one["largest"] == other["largest"]
        assert one["policy"] == pytest.approx(other["policy"])
    assert whole.sensors.summary() == parts.sensors.summary()
    assert whole.prediction.summary()[0] == pytest.approx(parts.prediction.summary()[0])
    assert whole.baseline.terms()[0] == pytest.approx(parts.baseline.terms()[0])


# The plant.


def test_the_objective_is_the_plant_files_formula(mixer: Bundle) -> None:
    told = story(mixer, 500)
    told.numbers["ok"][100, 0] = 0  # the level is not usable there: no objective for the step that ends there
    measures, _, _ = measured(told)
    level, before = told.numbers["obs"][:, 0], told.numbers["act_prev"][:, 0]
    kept = np.arange(1, 500) != 100
    track = -np.abs(level[1:] - 5)[kept]
    change = -np.abs(np.diff(before))
    one, other = measures.baseline.terms()
    assert one["mean"] == pytest.approx(track.mean(), rel=1e-5)
    assert (one["steps"], other["steps"]) == (498, 499)
    assert other["mean"] == pytest.approx(change.mean(), rel=1e-5)
    assert measures.baseline.whole
    assert int(measures.baseline.over_time.stretches().count.sum()) == 498


def test_functions_of_a_plant_file_are_not_imported_unless_allowed(tmp_path: Path) -> None:
    named = plant(
        objective=[
            {"kind": "track", "tag": "level", "setpoint": 5},
            {"kind": "function", "function": "tests.deploy.shadow_reward:reward"},
        ],
        episodes={"terminated": [{"function": "tests.deploy.shadow_reward:trip"}]},
    )
    told = story(bundle(tmp_path / "bundle", named), 50)
    measures, _, _ = measured(told)
    assert not measures.baseline.whole
    assert "not imported" in measures.baseline.missing["function tests.deploy.shadow_reward:reward"]
    assert [term["term"] for term in measures.baseline.terms()] == ["track level"]
    with pytest.raises(ControlkitError, match="cannot be imported"):
        measured(told, functions=True)


def test_a_recorded_reward_has_no_baseline_and_the_report_says_so(tmp_path: Path) -> None:
    told = story(bundle(tmp_path / "bundle", plant(objective=[{"kind": "recorded"}])), 900)
    report = reported(told, tmp_path)
    assert report.content["baseline"]["terms"] == []
    assert report.content["baseline"]["estimate"]["value"] is None
    assert "It cannot be computed here" in (tmp_path / "out" / "shadow.html").read_text()


def test_limits_are_counted_under_the_operator(mixer: Bundle) -> None:
    told = story(mixer, 401)
    told.numbers["obs"][1:21, 0] = 9.5  # limit 9
    told.numbers["obs"][1:5, 1] = 90.0  # constraint 80
    measures, _, _ = measured(told)
    level, temperature = measures.baseline.limits()
    assert level["outside"] == pytest.approx(20 / 400)
    assert temperature["outside"] == pytest.approx(4 / 400)
    assert (level["allowed"], temperature["allowed"]) == (0.0, 0.05)


def test_predictions_are_judged_only_where_the_policys_command_was_in_force(mixer: Bundle) -> None:
    told = story(mixer, 400)
    obs, predicted = told.numbers["obs"], told.numbers["predicted"]
    told.numbers["policy"][:] = np.vstack([told.numbers["act_prev"][1:], told.numbers["act_prev"][-1:]])
    predicted[:-1] = obs[1:] + np.array([0.3, -1.0, 0.0])
    told.numbers["policy"][200:, 0] += 1.0  # elsewhere it would have done something else: no error of the model
    predicted[200:] += 50.0
    measures, _, _ = measured(told)
    level, temperature = measures.prediction.summary()
    assert level["steps"] == 200
    assert level["bias"] == pytest.approx(0.3, abs=1e-5)
    assert temperature["rms"] == pytest.approx(1.0, abs=1e-4)
    still = math.sqrt(np.mean(np.diff(obs[:201, 0]) ** 2))
    assert level["ratio"] == pytest.approx(0.3 / still, rel=1e-3)


def test_interval_covers_the_mean_of_a_sluggish_series() -> None:
    # Nominal 95 %: short blocks of a strongly correlated series cover less, and far less if correlation were ignored.
    covered = naive = 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        noise, values = rng.standard_normal(1200), np.zeros(1200)
        for i in range(1, 1200):
            values[i] = 0.8 * values[i - 1] + noise[i]
        values = values[200:]
        for block, count in ((block_length(values), "covered"), (1, "naive")):
            found = t_interval(float(values.mean()), [moving_block(values, block, rng, 200)])
            hit = found.low <= 0.0 <= found.high
            covered, naive = covered + (hit and count == "covered"), naive + (hit and count == "naive")
    assert covered / 80 >= 0.85
    assert naive / 80 < 0.65


# Drift.


def autoregressive(seed: int, rho: float, length: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise, values = rng.standard_normal(length + 50), np.zeros(length + 50)
    for i in range(1, length + 50):
        values[i] = rho * values[i - 1] + noise[i]
    return values[50:]


@pytest.mark.parametrize(("rho", "most"), [(0.0, 0.03), (0.6, 0.03), (0.8, 0.04)])
def test_no_trend_is_found_where_there_is_none(rho: float, most: float) -> None:
    found = [find_trend(autoregressive(seed, rho)).found for seed in range(200)]
    assert np.mean(found) <= most


@pytest.mark.parametrize(("rho", "most"), [(0.0, 0.03), (0.6, 0.05)])
def test_no_change_of_level_is_found_where_there_is_none(rho: float, most: float) -> None:
    found = [bool(find_changes(autoregressive(seed, rho))) for seed in range(200)]
    assert np.mean(found) <= most


def test_an_injected_trend_and_step_are_found() -> None:
    trends = [find_trend(autoregressive(seed, 0.4) + np.linspace(0, 4, 96)) for seed in range(50)]
    assert np.mean([trend.found for trend in trends]) >= 0.9
    assert np.mean([trend.change for trend in trends]) == pytest.approx(4, abs=0.5)
    hits = 0
    for seed in range(50):
        changes = find_changes(autoregressive(seed, 0.4) + np.where(np.arange(96) < 60, 0, 4.0))
        hits += any(abs(change.block - 60) <= 3 and change.after - change.before > 2 for change in changes)
    assert hits >= 45


def test_a_constant_and_a_short_series_have_no_trend() -> None:
    assert not find_trend(np.ones(50)).found
    assert not find_trend(np.arange(10.0)).found
    assert find_changes(np.ones(50)) == []
    assert find_changes(np.array([])) == []


def test_drift_forbids_and_its_begin_is_named(mixer: Bundle, tmp_path: Path) -> None:
    told = story(mixer, 1500)
    told.numbers["shortfall"][900:] += 3.0
    report = reported(told, tmp_path)
    assert report.verdict == "NO"
    assert "change of level of +3" in report.reasons[0] or "change of level of +2.9" in report.reasons[0]
    change = report.content["drift"]["changes"][0]
    assert abs(change["time_ns"] - (START_NS + 900 * PERIOD_S * NS)) <= 3 * 1500 / 96 * PERIOD_S * NS
    assert change["after"] - change["before"] == pytest.approx(3.0, abs=0.5)


def test_alarms_before_a_recalibration_count_no_longer(mixer: Bundle, tmp_path: Path) -> None:
    told = story(mixer, 900)
    told.numbers["ewma"][:300] = 5.0
    calibration = {"controller": mixer.manifest.model.sha256, "shift": 0.5, "stretch": 0.25}
    for events, verdict in (({}, "NO"), ({300: [("calibration", calibration)]}, "READY TO ADVISE")):
        told.events = events
        report = reported(told, tmp_path / verdict)
        assert report.verdict == verdict
    drift = report.content["drift"]
    assert drift["beyond"]["ewma"] == 0.0
    assert drift["limits"]["shortfall"] == pytest.approx(0.5 + 1.25 * 6.0)


def test_unscored_transitions_are_left_out(mixer: Bundle) -> None:
    told = story(mixer, 100)
    told.numbers["score_observed"][:40] = 0.0
    for i in range(40):
        told.flags[i] = ["observed_unscored"]
    measures, _, _ = measured(told)
    assert measures.operation.scored == 60


# Sensors and runtime.


def test_sensors_by_hand(mixer: Bundle) -> None:
    told = story(mixer, 1000)
    obs, ok, age = (told.numbers[name] for name in ("obs", "ok", "age"))
    obs[100:150, 0] = 5.0  # 49 exact repeats; frozen from the tenth on
    obs[200:220, 1] = 150.0 + np.arange(20)  # range 0 .. 100
    obs[300:310, 2] = np.nan
    ok[300:310, 2] = 0
    age[400, 2], age[401, 2] = 500.0, np.inf
    measures, _, _ = measured(told)
    level, temperature, inflow = measures.sensors.summary()
    assert (level["longest_repeat"], level["frozen"]) == (49, 0.04)
    assert temperature["out_of_range"] == 0.02
    assert temperature["frozen"] is None
    assert (inflow["missing"], inflow["usable"]) == (0.01, 0.99)
    assert inflow["largest_age_s"] == 500.0


def test_latency_lateness_and_faults(mixer: Bundle) -> None:
    told = story(mixer, 1000)
    told.numbers["compute_ms"][:] = np.linspace(1, 2, 1000)
    told.numbers["compute_ms"][5] = 31_000.0  # half the period is 30 s
    for i in (5, 6):
        told.faults[i] = {"plant_silent": f"silent at {i}"}
    measures, _, _ = measured(told)
    o = measures.operation
    assert (o.late, o.faulty, o.slowest_ms) == (1, 2, 31_000.0)
    assert o.latency_ms(0.5) == pytest.approx(1.5, rel=0.03)
    assert o.faults["plant_silent"]["cycles"] == 2
    assert o.faults["plant_silent"]["text"] == "silent at 5"


def test_an_unsafe_command_is_counted(mixer: Bundle) -> None:
    told = story(mixer, 50)
    told.numbers["action"][:] = told.numbers["act_prev"]
    told.numbers["action"][10, 1] = 4.1  # limit 4
    told.numbers["action"][20, 0] = told.numbers["act_prev"][20, 0] - 3.5  # 3 a period
    told.numbers["action"][30, 0] = told.numbers["act_prev"][30, 0] - 3.0
    measures, _, _ = measured(told)
    assert measures.operation.outside == 2


def test_flags_are_ranked_by_what_stood_against_trust(mixer: Bundle, tmp_path: Path) -> None:
    told = story(mixer, 1000)
    for i in range(1000):
        told.flags[i] = ["rate_limited"]
    told.numbers["trust"][:300] = 0.0
    for i in range(300):
        told.flags[i] = ["spread_high"] if i < 200 else ["predicted_limit"]
    report = reported(told, tmp_path)
    assert report.verdict == "NOT YET"
    assert failed(report) == ["policy trusted"]
    assert [flag["name"] for flag in report.content["coverage"]["doubts"]] == ["spread_high", "predicted_limit"]
    assert "spread_high (66.7 %)" in report.reasons[0]


# The verdict.

GOOD = Evidence(
    chain_problem="",
    lost_rows=False,
    malformed=0.0,
    shadow_days=20.0,
    coverage=1.0,
    trusted=1.0,
    scored=1.0,
    faulty=0.0,
    late=0.0,
    alarmed=0.0,
    doubt="",
    least_usable=("level", 1.0),
    unsafe=0,
    active_alarms=(),
    trend_known=True,
    trend_found=False,
    trend_change=0.0,
    level_change=0.0,
    mean_shortfall=0.0,
    errors=(("level", 0.5, 1000),),
)
NAN = math.nan


@pytest.mark.parametrize(
    ("change", "verdict", "rule"),
    [
        ({"chain_problem": "row 7"}, "NO", "audit log whole"),
        ({"unsafe": 1}, "NO", "commands safe"),
        ({"alarmed": 0.02}, "NO", "no drift"),
        ({"alarmed": NAN}, "NO", "no drift"),
        ({"trend_found": True, "trend_change": 0.6}, "NO", "no drift"),
        ({"level_change": 0.6}, "NO", "no drift"),
        ({"level_change": NAN}, "NO", "no drift"),
        ({"errors": (("level", 1.3, 1000),)}, "NO", "model foresees a step"),
        ({"errors": (("level", 0.5, 1000), ("t", NAN, 1000))}, "NO", "model foresees a step"),
        ({"errors": (("level", 0.5, 10),), "mean_shortfall": 1.1}, "NO", "model foresees a step"),
        ({"errors": (("level", NAN, 0),), "mean_shortfall": NAN}, "NO", "model foresees a step"),
        ({"shadow_days": 13.9}, "NOT YET", "long enough"),
        ({"coverage": 0.89}, "NOT YET", "few gaps"),
        ({"malformed": 0.002}, "NOT YET", "rows readable"),
        ({"lost_rows": True}, "NOT YET", "rows readable"),
        ({"trusted": 0.89}, "NOT YET", "policy trusted"),
        ({"trusted": NAN}, "NOT YET", "policy trusted"),
        ({"scored": 0.79}, "NOT YET", "transitions scored"),
        ({"trend_known": False}, "NOT YET", "drift testable"),
        ({"least_usable": ("level", 0.94)}, "NOT YET", "sensors usable"),
        ({"faulty": 0.02}, "NOT YET", "runtime healthy"),
        ({"late": 0.002}, "NOT YET", "runtime healthy"),
        ({"active_alarms": ("plant_silent",)}, "NOT YET", "no alarm at the end"),
    ],
)
def test_every_rule(change: dict[str, Any], verdict: str, rule: str) -> None:
    decision = decide(replace(GOOD, **change), Rules())
    assert decision.verdict == verdict
    assert [check.name for check in decision.checks if not check.passed] == [rule]
    assert len(decision.reasons) == len(decision.missing) == 1


def test_good_evidence_is_ready_and_what_forbids_outweighs_what_is_missing() -> None:
    assert decide(GOOD, Rules()).verdict == "READY TO ADVISE"
    assert decide(replace(GOOD, level_change=-3.0), Rules()).verdict == "READY TO ADVISE"
    assert decide(replace(GOOD, trend_found=True, trend_change=-3.0), Rules()).verdict == "READY TO ADVISE"
    assert decide(replace(GOOD, errors=(("level", NAN, 0),)), Rules()).verdict == "READY TO ADVISE"
    both = decide(replace(GOOD, unsafe=1, shadow_days=1.0), Rules())
    assert both.verdict == "NO"
    assert len(both.reasons) == 1
    assert len(both.missing) == 2


# Logs that are not as they should be.


def test_a_changed_row_forbids_ready(mixer: Bundle, tmp_path: Path) -> None:
    story(mixer, 900).write(tmp_path / "audit")
    (segment,) = (tmp_path / "audit").glob("audit-*.sqlite")
    connection = sqlite3.connect(segment)
    (trigger,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = 'entry_update'").fetchone()
    connection.execute("DROP TRIGGER entry_update")
    connection.execute("UPDATE entry SET wall_ns = wall_ns + 1 WHERE seq = 500")
    connection.execute(trigger)
    connection.commit()
    connection.close()
    report = shadow_report(tmp_path / "audit", mixer.path, tmp_path / "out", rules=SHORT)
    assert report.verdict == "NO"
    assert failed(report) == ["audit log whole"]
    assert "row 500" in report.reasons[0]
    assert report.content["coverage"]["cycles"] == 900


def test_reading_stops_at_damage_and_says_so(mixer: Bundle) -> None:
    told = story(mixer, 100)

    def damaged() -> Iterable[AuditRow]:
        for row in told.rows():
            if row.seq == 51:
                raise ArtifactError("is damaged", where="row 51")
            yield row

    measures, reader, _ = measured(told, damaged())
    assert measures.operation.cycles == 49
    assert "row 51" in reader.found.damage


@pytest.mark.parametrize(
    "change",
    [
        {"obs": [1.0]},
        {"obs": "1, 2, 3"},
        {"obs": [1.0, "2", 3.0]},
        {"obs": [1.0, [2.0], 3.0]},
        {"obs": [10**400, 1.0, 2.0]},
        {"ok": [1, 1]},
        {"ok": [1, 2, 1]},
        {"ok": None},
        {"policy": {"valve": 1.0}},
        {"trust": "high"},
        {"trust": 10**400},
        {"flags": ["no_such_flag"]},
        {"flags": {"a": 1}},
        {"flags": [["nested"]]},
        {"faults": ["x"]},
        {"faults": {str(i): "" for i in range(500)}},
        {"mode": "LIVE"},
        {"mode": ["SHADOW"]},
        {"time_ns": 1.5},
        {"time_ns": 10**30},
        {"time_ns": START_NS + 3 * CLOCK_SLACK_NS},
        {"controller": 5},
        {"controller": "abc"},
    ],
)
def test_an_impossible_row_is_left_out_and_told(mixer: Bundle, change: dict[str, Any]) -> None:
    told = story(mixer, 30)
    rows = [
        replace(row, payload=row.payload | change) if row.kind == "cycle" and row.seq == 12 else row
        for row in told.rows()
    ]
    measures, reader, _ = measured(told, rows)
    assert reader.found.malformed == 1
    assert reader.found.examples[0].startswith("row 12 (cycle): ")
    assert measures.operation.cycles == 29


@pytest.mark.parametrize("payload", [{}, {"name": 5, "severity": [], "text": {}, "active": 1}, {"name": "x" * 10**5}])
@pytest.mark.parametrize("kind", ["alarm", "mode", "operator", "calibration", "stop", "start", "bundle"])
def test_odd_events_do_no_harm(mixer: Bundle, kind: str, payload: dict[str, Any]) -> None:
    told = story(mixer, 30)
    told.events = {10: [(kind, payload)]}
    if kind == "start":
        payload = payload | {"plant": "mixer"}
        told.events = {10: [(kind, payload)]}
    _, _, events = measured(told)
    assert all(len(event.text) <= 600 for event in events.listed)
    assert all(len(name) <= 300 for name in events.alarms)


def test_names_and_texts_are_bounded(mixer: Bundle) -> None:
    told = story(mixer, 600)
    told.faults = [{f"fault {i}": "x" * 10_000} for i in range(600)]
    told.events = {i: [("alarm", {"name": f"a{i}", "severity": "info", "text": "t"})] for i in range(600)}
    measures, _, events = measured(told)
    assert len(measures.operation.faults) == len(events.alarms) == 200
    assert max(len(fault["text"]) for fault in measures.operation.faults.values()) <= 300


def test_another_plants_log_is_refused(mixer: Bundle, tmp_path: Path) -> None:
    other = bundle(tmp_path / "other", plant(name="boiler"), b"other")
    story(other, 10).write(tmp_path / "audit")
    with pytest.raises(ArtifactError, match=r"plant 'boiler', not of 'mixer'"):
        shadow_report(tmp_path / "audit", mixer.path, tmp_path / "out")


def test_another_controllers_log_is_refused(mixer: Bundle, tmp_path: Path) -> None:
    other = bundle(tmp_path / "other", None, b"other")
    story(other, 10).write(tmp_path / "audit")
    with pytest.raises(ArtifactError, match="other controllers only"):
        shadow_report(tmp_path / "audit", mixer.path, tmp_path / "out")


def test_other_tags_under_the_same_hash_are_refused(mixer: Bundle, tmp_path: Path) -> None:
    told = story(mixer, 10)
    with AuditLog(tmp_path / "audit") as log:
        log.append("start", told.start() | {"tags": ["level"]}, wall_ns=START_NS, monotonic_ns=0)
    with pytest.raises(ArtifactError, match="other tags, commands or flags"):
        shadow_report(tmp_path / "audit", mixer.path, tmp_path / "out")


def test_after_a_swap_the_newest_controller_is_evaluated(mixer: Bundle, tmp_path: Path) -> None:
    other = bundle(tmp_path / "other", None, b"other")
    told = story(mixer, 900)
    old = other.manifest.model.sha256

    def swapped(i: int, payload: dict[str, Any]) -> dict[str, Any]:
        return payload | {"controller": old[:12]} if i < 100 else payload

    told.events = {100: [("bundle", {"slot": "B", "controller": mixer.manifest.model.sha256, "event": "charge"})]}
    told.write(tmp_path / "audit", swapped)
    report = shadow_report(tmp_path / "audit", mixer.path, tmp_path / "out", rules=SHORT)
    assert report.content["coverage"]["cycles"] == 800
    assert report.content["provenance"]["log"]["other_controllers"] == {old[:12]: 100}
    assert "100 cycles of other controllers" in report.content["warnings"][0]
    with pytest.raises(ArtifactError, match="its newest controller is"):
        shadow_report(tmp_path / "audit", other.path, tmp_path / "out")
    # Until the swap it was the newest.
    until = datetime.fromtimestamp((START_NS + 99 * PERIOD_S * NS) / NS, UTC)
    before = shadow_report(tmp_path / "audit", other.path, tmp_path / "out", until=until)
    assert before.content["coverage"]["cycles"] == 100


def test_rows_that_name_no_controller_belong_to_the_one_in_charge(mixer: Bundle) -> None:
    told = story(mixer, 20)
    rows = []
    for row in told.rows():
        rows.append(replace(row, payload={k: v for k, v in row.payload.items() if k != "controller" or row.seq == 1}))
        if row.seq == 11:
            rows.append(AuditRow(11, "bundle", row.wall_ns, 0, {"controller": "f" * 64, "event": "loaded"}, ""))
        if row.seq == 15:
            rows.append(AuditRow(15, "bundle", row.wall_ns, 0, {"controller": "f" * 64, "event": "charge"}, ""))
    measures, reader, _ = measured(told, rows)
    assert measures.operation.cycles == 14
    assert reader.found.others == {"f" * 12: 6}


def test_an_empty_log_and_no_log(mixer: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no audit log"):
        shadow_report(tmp_path, mixer.path, tmp_path / "out")
    with AuditLog(tmp_path / "audit") as log:
        log.append("start", story(mixer, 10).start(), wall_ns=START_NS, monotonic_ns=0)
    with pytest.raises(ArtifactError, match="holds no cycle of controller"):
        shadow_report(tmp_path / "audit", mixer.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_window_counts_and_an_upside_down_one_is_refused(mixer: Bundle, tmp_path: Path) -> None:
    told = story(mixer, 200)
    told.write(tmp_path / "audit")
    since = datetime.fromtimestamp((START_NS + 50 * PERIOD_S * NS) / NS, UTC)
    until = datetime.fromtimestamp((START_NS + 149 * PERIOD_S * NS) / NS, UTC).replace(tzinfo=None)
    report = shadow_report(tmp_path / "audit", mixer.path, tmp_path / "out", since=since, until=until)
    assert report.content["coverage"]["cycles"] == 100
    assert report.verdict == "NOT YET"
    with pytest.raises(ControlkitError, match="after 'until'"):
        shadow_report(tmp_path / "audit", mixer.path, tmp_path / "out", since=datetime(2030, 1, 1), until=until)


def test_a_log_without_shadow_is_not_yet_anything(mixer: Bundle, tmp_path: Path) -> None:
    told = story(mixer, 60)
    told.mode = ["ARMED"] * 60
    report = reported(told, tmp_path)
    assert report.verdict == "NO"  # nothing shows that the model fits
    assert {"long enough", "policy trusted", "transitions scored", "drift testable"} <= set(failed(report))
    assert report.content["commands"]["pairs"] == 0


def test_the_clock_set_back_by_an_hour_is_survived_and_told(mixer: Bundle, tmp_path: Path) -> None:
    told = story(mixer, 300)
    told.time_ns[150:] -= 3600 * NS
    report = reported(told, tmp_path)
    assert report.content["coverage"]["cycles"] == 300
    assert any("set back 1 times" in warning for warning in report.content["warnings"])


def test_hostile_text_stays_text(mixer: Bundle, tmp_path: Path) -> None:
    told = story(mixer, 60)
    told.faults[5] = {EVIL: EVIL}
    told.events = {7: [("alarm", {"name": EVIL, "severity": EVIL, "text": EVIL, "active": True})]}
    told.events[8] = [("operator", {"operator": EVIL, "action": EVIL})]
    reported(told, tmp_path)
    page = (tmp_path / "out" / "shadow.html").read_text()
    assert "<script>alert" not in page
    assert "<img" not in page.split('<script type="application/json"')[0]
    assert page.count("&lt;script&gt;alert") >= 6


def test_without_plotly_the_message_says_what_to_install(
    mixer: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(ControlkitError, match=r"pip install 'controlkit\[train\]'"):
        shadow_report(tmp_path, mixer.path, tmp_path / "out")


# What the runtime really writes.


class Direct:
    """Computes at once."""

    def run(self, call: Callable[[], Any], timeout_s: float) -> Outcome:
        return Outcome("done", call())

    def leftover(self) -> Outcome | None:
        return None


class NoBoard:
    """Shows nothing."""

    def publish(self, snapshot: Snapshot) -> None:
        pass


def test_a_run_of_the_real_runtime_is_understood(exported: Exported, tmp_path: Path) -> None:
    loaded = load_bundle(exported.path)
    rng = np.random.default_rng(0)

    def operator(frame: Any) -> Any:
        wanted = np.array([2.4 + 1.2 * (frame[0] - frame[1]), 0.5, 1.0]) + rng.normal(0, [0.1, 0.1, 0.02])
        return np.clip(wanted, [0.1, -1, 0], [7.7, 5, 3])

    clock = AcceleratedClock()
    with AuditLog(tmp_path / "audit") as log:
        supervisor = Supervisor(
            Slots(Slot("A", loaded)),
            SimulatedPlant(loaded.spec, TankEnv(), clock, operator),
            clock,
            log,
            NoBoard(),
            Direct(),
            Requests(),
            LeaseKeeper("test"),
            address="sim:tank",
        )
        supervisor.run(700)
    report = shadow_report(tmp_path / "audit", exported.path, tmp_path / "out", rules=Rules(days=0.01))
    content = report.content
    assert content["provenance"]["log"]["malformed"] == 0, content["provenance"]["log"]["examples"]
    assert content["coverage"]["by_mode"]["SHADOW"] >= 690
    assert content["commands"]["pairs"] >= 690
    assert content["coverage"]["coverage"] == pytest.approx(1.0, abs=0.01)
    assert not {"audit log whole", "commands safe", "rows readable", "sensors usable", "few gaps"} & set(failed(report))
    assert content["baseline"]["steps"] >= 690
    assert content["drift"]["mean_shortfall"] is not None
    assert content["runtime"]["counts"]["start"] == content["runtime"]["counts"]["stop"] == 1


# Bounded memory.


def test_a_time_line_keeps_sums_and_extremes_however_long_it_grows() -> None:
    line = Timeline(0, 10, 2, most=8)
    rng = np.random.default_rng(0)
    times = np.sort(rng.integers(0, 10_000, 5000))
    values = rng.normal(size=(5000, 2))
    values[::7, 1] = np.nan
    for part in np.array_split(np.arange(5000), 13):
        line.add(times[part], values[part])
    found = line.stretches()
    assert len(found.count) <= 8
    assert found.width_ns == 10 * 2**7
    assert found.count[:, 0].sum() == 5000
    assert (found.mean * found.count).sum(axis=0) == pytest.approx(np.nansum(values, axis=0))
    assert found.low.min(axis=0) == pytest.approx(np.nanmin(values, axis=0))
    coarse = found.coarse(3)
    assert len(coarse.count) <= 3
    assert (coarse.mean * coarse.count).sum(axis=0) == pytest.approx(np.nansum(values, axis=0))
    assert coarse.high.max(axis=0) == pytest.approx(np.nanmax(values, axis=0))


def test_a_time_line_shows_gaps_and_takes_disorder() -> None:
    line = Timeline(100, 10, 1)
    line.add(np.array([125, 101, 50, 191]), np.array([[3.0], [1.0], [5.0], [np.nan]]))
    found = line.stretches()
    assert found.mean[:3, 0].tolist() == [3.0, pytest.approx(np.nan, nan_ok=True), 3.0]
    assert len(found.count) == 10
    assert np.isnan(found.mean[9, 0])


def test_peaks_keep_the_largest_apart() -> None:
    peaks = Peaks(0, 1, most=64)
    size = np.abs(np.sin(np.arange(10_000) / 7.0))
    size[1234], size[1240], size[7000] = 9.0, 8.0, 7.0
    for part in np.array_split(np.arange(10_000), 9):
        peaks.add(part, size[part], size[part, None])
    found = peaks.largest(3, apart_ns=500)
    assert [(peak.time_ns, peak.size) for peak in found[:2]] == [(1234, 9.0), (7000, 7.0)]
    assert len(found) == 3
    assert found[2].size <= 1.0


def test_blocks_are_bounded(mixer: Bundle) -> None:
    told = story(mixer, 2 * BLOCK + 10)
    reader = Reader(mixer, "log", TIMES_NS, lambda *row: None)
    sizes = [(block.carried, len(block.time_ns)) for block in reader.blocks(told.rows())]
    assert sizes == [(0, BLOCK), (1, BLOCK), (1, 12)]
