"""The plant description: what it derives, and every mistake with its line, its field and the nearest valid name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from controlkit.errors import SpecError
from controlkit.spec import OperatorFallback, PlantSpec

GOOD = """\
name: tank
period_s: 2
tags:
  level:
    role: state
    unit: m
    range: [0, 5]
    limits: [1, 4]
    history: 3
  demand: {role: exogenous, unit: L/s, range: [0, 9], max_age_s: 60}
  area: {role: static, unit: m^2, range: [0, 9]}
  valve:
    role: action
    unit: "%"
    range: [0, 100]
    limits: [5, 95]
    max_rate_per_s: 2
    safe: 10
    fallback: {kind: pi, measured: level, setpoint: demand, gain: -1e-3, reset_time_s: 20}
  pump: {role: action, unit: 1, range: [0, 1], safe: 0, fallback: {kind: ramp, rate_per_s: 0.5}}
  position: {role: feedback, unit: "%", range: [0, 100], of: valve}
  auto: {role: mode, unit: 1, range: [0, 2], accept: [1]}
  spare: {role: ignore, unit: V, range: [0, 1], column: X-1}
objective:
  - {kind: track, tag: level, setpoint: 2.5}
  - {kind: cost, tag: pump, of: change, weight: 0.1}
constraints:
  - {tag: level, low: 1}
episodes:
  terminated:
    - {tag: level, above: 4.9}
"""


@pytest.fixture
def load(tmp_path):
    def load(text: str) -> PlantSpec:
        path = tmp_path / "plant.yaml"
        path.write_text(text, encoding="utf-8")
        return PlantSpec.load(path)

    return load


def test_what_follows_from_a_description(load):
    spec = load(GOOD)
    assert spec.frame_tags == ("level", "demand", "area")
    assert (spec.state_tags, spec.action_tags) == (("level",), ("valve", "pump"))
    assert [spec.max_age_s(tag) for tag in ("level", "demand", "area", "valve", "auto")] == [6, 60, *[float("inf")] * 3]
    assert spec.max_gap_s == 6
    assert spec.limits("valve") == (5, 95)
    assert spec.limits("pump") == (0, 1)
    assert [spec.past_commands(tag) for tag in spec.action_tags] == [1, 1]
    assert spec.tags["valve"].fallback.gain == -0.001  # YAML 1.1 would take 1e-3 for a word


def test_the_cloned_operator_is_a_fallback_that_needs_nothing_more(load):
    spec = load(GOOD.replace("kind: ramp, rate_per_s: 0.5", "kind: operator"))
    assert spec.tags["pump"].fallback == OperatorFallback(kind="operator")
    assert PlantSpec.from_dict(spec.to_dict()) == spec
    assert spec.sha256() != load(GOOD).sha256()


def test_a_compressed_tag_is_known_for_as_long_as_its_historian_is_silent(load):
    spec = load(GOOD.replace("history: 3", "history: 3\n    compression: {deviation: 0.1, max_interval_s: 600}"))
    assert spec.max_age_s("level") == 600
    assert load(GOOD).max_age_s("level") == 6


def test_a_description_survives_being_written(load, tmp_path):
    spec = load(GOOD)
    again = load(yaml.safe_dump(spec.to_dict(), sort_keys=False))
    assert again == spec
    assert again.sha256() == spec.sha256()
    assert PlantSpec.from_dict(spec.to_dict()) == spec


def test_the_hash_counts_what_matters(load):
    spec = load(GOOD)
    moved = "  demand: {role: exogenous, unit: L/s, range: [0, 9], max_age_s: 60}\n"
    same = load("# a comment\n" + GOOD.replace("    unit: m\n    range: [0, 5]\n", "    range: [0, 5]\n    unit: m\n"))
    order = load(GOOD.replace(moved, "").replace("tags:\n", "tags:\n" + moved))
    value = load(GOOD.replace("setpoint: 2.5", "setpoint: 2.6"))
    assert same.sha256() == spec.sha256()
    assert len({spec.sha256(), order.sha256(), value.sha256()}) == 3


MISTAKES: list[tuple[str, str, list[str]]] = [
    ("history: 3", "histroy: 3", ["tags.level.histroy", "unknown key", "Did you mean 'history'?"]),
    ("role: state", "role: stat", ["tags.level.role", "'stat'", "Did you mean 'state'?"]),
    ("unit: m\n", "unit: metre\n", ["tags.level.unit", "'metre' is not a known unit"]),
    ("unit: m\n", "unit: m\n    log_unit: metre\n", ["tags.level.log_unit", "'metre' is not a known unit"]),
    ("unit: L/s", "unit: l/s", ["tags.demand.unit", "did you mean 'L/s'?"]),
    ("range: [0, 5]", "range: [5, 0]", ["tags.level", "must rise from low to high"]),
    ("range: [0, 5]", "range: [0, .nan]", ["tags.level.range", "finite number"]),
    ("range: [0, 5]", "range: [0]", ["tags.level.range"]),
    ("limits: [5, 95]", "limits: [99.99999, 100]", ["tags.valve", "too narrow for numbers of seven digits"]),
    ("limits: [1, 4]", "limits: [1, 6]", ["tags.level", "must lie inside range"]),
    ("history: 3", "history: -3", ["tags.level.history", "greater than or equal to 0"]),
    ("safe: 10\n", "safe: 3\n", ["tags.valve", "safe 3.0 must lie inside the limits [5.0, 95.0]"]),
    ("    safe: 10\n", "", ["tags.valve", "needs 'safe'"]),
    ("history: 3", "safe: 3", ["tags.level", "'safe' belongs to an action"]),
    ("range: [0, 9]}", "range: [0, 9], history: 2}", ["tags.area", "has no history"]),
    (", of: valve", "", ["tags.position", "'of' names the action"]),
    ("of: valve", "of: vale", ["tags.position.of", "unknown tag 'vale'", "did you mean 'valve'?"]),
    ("of: valve", "of: level", ["tags.position.of", "tag 'level' has role 'state'"]),
    (", accept: [1]", "", ["tags.auto", "'accept'"]),
    ("measured: level", "measured: lvl", ["tags.valve.fallback.measured", "did you mean 'level'?"]),
    ("setpoint: demand", "setpoint: demmand", ["tags.valve.fallback.setpoint", "did you mean 'demand'?"]),
    ("kind: pi,", "kind: pd,", ["tags.valve.fallback", "unknown kind 'pd'", "Did you mean 'pi'?"]),
    ("kind: ramp, rate_per_s: 0.5", "kind: oprator", ["tags.pump.fallback", "Did you mean 'operator'?"]),
    ("kind: ramp, rate", "kind: operator, rate", ["tags.pump.fallback.rate_per_s", "unknown key"]),
    ("kind: ramp, rate_per_s: 0.5", "kind: ramp", ["tags.pump.fallback", "a ramp needs 'rate_per_s'"]),
    ("kind: track,", "kind: trak,", ["objective.0", "unknown kind 'trak'", "Did you mean 'track'?"]),
    ("{kind: track, ", "{", ["objective.0", "'kind' is missing"]),
    ("setpoint: 2.5", "setpiont: 2.5", ["objective.0"]),
    ("tag: pump", "tag: pmp", ["objective.1.tag", "did you mean 'pump'?"]),
    ("tag: level, low: 1", "tag: demand, low: 1", ["constraints.0.tag", "role 'exogenous'"]),
    ("{tag: level, low: 1}", "{tag: level}", ["constraints.0", "needs 'low', 'high' or both"]),
    ("above: 4.9", "abvoe: 4.9", ["episodes.terminated.0", "Did you mean 'above'?"]),
    ("above: 4.9", 'function: "a:b"', ["episodes.terminated.0", "needs either 'tag' or 'function'"]),
    ("tag: level, above: 4.9", 'function: "a:b", above: 4.9', ["episodes.terminated.0", "belong to a tag"]),
    ("tag: level, above: 4.9", "function: a.b", ["episodes.terminated.0.function", "should match pattern"]),
    ("terminated:\n    - {tag: level, above: 4.9}", "recorded_ends: true", ["episodes", "needs rules"]),
    ("period_s: 2", "period_s: 0", ["period_s"]),
    ("period_s: 2", "period_s: two", ["period_s", "'two'"]),
    ("name: tank", "name: tank\ntime_zone: Europe/Atlantis", ["time_zone", "not an IANA time zone"]),
    ("name: tank", "name: tank\nlog: {preset: pie}", ["log.preset", "'pi'"]),
    ("name: tank", "name: tank\nlog: {delimiter: ',', decimal: ','}", ["log", "cannot both be ','"]),
    ("name: tank", "name: tank\nlog: {on_fold: first}", ["log.on_fold", "by_order"]),
    ("history: 3", "tolerance: 3", ["tags.level", "belong to a feedback"]),
    ("    safe: 10\n", "    safe: 10\n    frozen: {after_s: 9}\n", ["tags.valve", "'frozen' is for measurements"]),
    (
        "history: 3", "frozen: {after_s: 9}\n    compression: {deviation: 0.1, max_interval_s: 60}",
        ["tags.level", "frozen.after_s 9 is shorter than the historian's longest silence 60 s"],
    ),
    ("column: X-1", "column: level", ["tags", "two tags read the same column 'level'"]),
    ("  spare:", "  2spare:", ["tags", "'2spare' is not a tag name"]),
    ("  spare:", "  reward:", ["tags", "'reward' is a column of every data set"]),
    ("  area:", "  demand:", ["the key 'demand' appears twice"]),
    ("name: tank\n", "", ["name", "is missing"]),
    ("name: tank\n", "name: [tank\n", ["not valid YAML"]),
    ("name: tank\n", "name: 2024-13-01\n", ["not valid YAML", "month must be in 1..12"]),
    ("name: tank\n", "name: tank\n[1, 2]: 3\n", ["a key must be a name"]),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "parts"), MISTAKES, ids=[new.strip()[:30] for _, new, _ in MISTAKES])
def test_a_mistake_names_file_line_field_and_cure(old, new, parts, load, tmp_path):
    assert GOOD.count(old) >= 1
    text = GOOD.replace(old, new, 1)
    with pytest.raises(SpecError) as caught:
        load(text)
    message = str(caught.value)
    assert caught.value.where.startswith(str(tmp_path / "plant.yaml"))
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("history: 3", "histroy: 3", "histroy"),
        ("unit: m\n", "unit: metre\n", "metre"),
        ("tag: pump", "tag: pmp", "pmp"),
        ("  area:", "  demand:", "demand: {role: static"),
        ("range: [0, 5]", "range: [5, 0]", "  level:"),
        ("above: 4.9", "abvoe: 4.9", "abvoe"),
        ("of: valve", "of: vale", "vale}"),
    ],
)
def test_the_line_is_the_one_to_mend(old, new, shown, load, tmp_path):
    text = GOOD.replace(old, new, 1)
    line = next(number for number, content in enumerate(text.splitlines(), 1) if shown in content)
    with pytest.raises(SpecError) as caught:
        load(text)
    assert caught.value.where == f"{tmp_path / 'plant.yaml'}, line {line}"


def test_several_mistakes_are_counted(load):
    with pytest.raises(SpecError, match=r"\(2 more mistakes after this one\)"):
        load(GOOD.replace("history: 3", "histroy: 3").replace("unit: L/s", "unit: l/s").replace("unit: V", "unit: v"))


@pytest.mark.parametrize("role", ["state", "action"])
def test_a_plant_without_states_or_actions(role, load):
    content: dict[str, Any] = yaml.safe_load(GOOD)
    content["tags"] = {name: tag for name, tag in content["tags"].items() if tag["role"] != role}
    content["tags"].pop("position", None)
    with pytest.raises(SpecError, match=f"no tag has role '{role}'"):
        load(yaml.safe_dump(content))


def test_a_file_that_is_no_description(tmp_path, load):
    with pytest.raises(SpecError, match=r"none\.yaml: no such file\. Check the path"):
        PlantSpec.load(tmp_path / "none.yaml")
    with pytest.raises(SpecError, match="cannot be read"):
        PlantSpec.load(tmp_path)
    for text in ("", "just words", "- a\n- list"):
        with pytest.raises(SpecError, match="must hold a mapping"):
            load(text)
    with pytest.raises(SpecError, match="nested too deeply"):
        load("[" * 5000)
    with pytest.raises(SpecError, match="not valid YAML"):
        load("name: a\x00b")
    (tmp_path / "plant.yaml").write_bytes(b"name: t\xfcr")
    with pytest.raises(SpecError, match="cannot be read"):
        PlantSpec.load(tmp_path / "plant.yaml")


def test_yaml_cannot_run_code(load):
    with pytest.raises(SpecError, match="not valid YAML"):
        load("name: !!python/object/apply:os.system [true]")


def test_parts_may_be_shared_and_merged(load):
    merged = GOOD.replace(
        "pump: {role: action, unit: 1, range: [0, 1]", "pump: {<<: &p {role: action, unit: 1}, range: [0, 1]"
    )
    assert load(merged) == load(GOOD)


@pytest.mark.parametrize(
    "path", sorted(Path(__file__).parents[2].glob("configs/plants/**/*.yaml")), ids=lambda p: p.stem
)
def test_every_shipped_plant_loads(path):
    assert PlantSpec.load(path).name
