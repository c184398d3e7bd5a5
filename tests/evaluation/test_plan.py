"""What follows from an evaluation: ranked risks, the envelope, and a shadow plan that agrees with the shadow report."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

import deploy.shadow.sections
from controlkit.evaluation.advice import SHADOW, next_steps, shadow_plan
from controlkit.evaluation.envelope import Envelope, RateRange, find_envelope, recorded_actions
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.limits import ActuatorUse, actuator_use
from controlkit.evaluation.regimes import find_regimes, judge_regimes
from controlkit.evaluation.risks import LISTED, Risk, rank_risks
from controlkit.evaluation.verdict import LimitEvidence
from controlkit.objective import CommandLimits
from deploy.shadow.verdict import Rules
from tests.evaluation.conftest import LinearPlant

STILL = ActuatorUse("u", "1", -1.0, 1.0, 0.1, 0.4, 0.5, 0.0)


def named(found: Findings, name: str) -> CandidateFindings:
    return next(candidate for candidate in found.candidates if candidate.name == name)


def envelope_of(c: CandidateFindings, found: Findings, plant: LinearPlant, **more: object) -> Envelope:
    regimes = judge_regimes(c, found, find_regimes(found, "x"), plant.spec())
    return find_envelope(c, found, regimes, plant.spec(**more))


def risks_of(
    c: CandidateFindings, found: Findings, plant: LinearPlant, use: ActuatorUse = STILL, record: ActuatorUse = STILL
) -> list[Risk]:
    regimes = judge_regimes(c, found, find_regimes(found, "x"), plant.spec())
    envelope = find_envelope(c, found, regimes, plant.spec())
    return rank_risks(c, found, regimes, envelope, [(use, record)], "(K)²")


def test_a_policy_outside_the_log_has_that_as_a_risk_with_the_tag_named(found: Findings, plant: LinearPlant) -> None:
    outside = named(found, "far outside")
    risks = risks_of(outside, found, plant)
    mine = next(risk for risk in risks if risk.name == "operation unlike the log")
    assert mine.severity == pytest.approx((1 - outside.support.share) / 0.2)
    assert outside.support.outside[0].tag in mine.mitigation
    assert f"{1 - outside.support.share:.1%}" in mine.evidence
    severities = [risk.severity for risk in risks]
    assert severities == sorted(severities, reverse=True)
    assert min(severities) >= LISTED


def test_a_good_policy_has_none_of_these(found: Findings, plant: LinearPlant) -> None:
    names = {risk.name for risk in risks_of(named(found, "better"), found, plant)}
    assert not names & {"operation unlike the log", "drifting out of the log", "wear of u", "u at its limits"}


def test_wear_and_saturation_are_held_against_the_record(found: Findings, plant: LinearPlant) -> None:
    better = named(found, "better")
    busy = replace(STILL, travel=0.45, saturated=0.3)
    by_name = {risk.name: risk for risk in risks_of(better, found, plant, use=busy)}
    assert by_name["wear of u"].severity == pytest.approx(1.5)
    assert by_name["u at its limits"].severity == pytest.approx(3.0)
    alike = replace(busy, travel=0.4, saturated=0.2)
    less = {risk.name: risk for risk in risks_of(better, found, plant, use=busy, record=alike)}
    assert less["u at its limits"].severity == pytest.approx(0.75)
    assert less["wear of u"].severity == pytest.approx(0.45 / 0.4 / 3)
    same = {risk.name for risk in risks_of(better, found, plant, use=busy, record=busy)}
    assert not same & {"wear of u", "u at its limits"}
    never = risks_of(better, found, plant, record=replace(STILL, travel=0.0))
    assert (never[0].name, never[0].severity) == ("wear of u", math.inf)


def test_limits_and_figures_that_are_none_come_first(found: Findings, plant: LinearPlant) -> None:
    better = named(found, "better")
    broken = LimitEvidence("Limit of x", 0.02, 0.05, 0.03, 0.08, 0.01, 0.01)
    kept = LimitEvidence("Limit of y", 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    c = replace(better, evidence=replace(better.evidence, limits=(kept, broken), unexplained=math.nan))
    risks = risks_of(c, found, plant)
    assert risks[0].name == "an unlogged cause of the operator's moves"
    assert next(risk for risk in risks if risk.name == "Limit of x").severity == pytest.approx(4.0)
    assert "Limit of y" not in {risk.name for risk in risks}


def test_the_envelope_is_where_supported_steps_are(found: Findings, plant: LinearPlant) -> None:
    better = named(found, "better")
    envelope = envelope_of(better, found, plant)
    assert [each.tag for each in envelope.ranges] == ["x", "u"]
    for column, each in enumerate(envelope.ranges):
        mine = better.support.points[better.support.supported][:, column]
        assert each.low is not None
        assert each.high is not None
        share = float(((mine >= each.low) & (mine <= each.high)).double().mean())
        assert share == pytest.approx(0.98, abs=0.005)
        assert each.limit_low < each.log_low < each.log_high < each.limit_high
    assert len(envelope.regimes) + len(envelope.excluded) == 4
    far = envelope_of(named(found, "far outside"), found, plant)
    assert far.regimes == ()


def test_nothing_is_allowed_where_nothing_is_supported(found: Findings, plant: LinearPlant) -> None:
    better = named(found, "better")
    none = replace(better, support=replace(better.support, supported=torch.zeros_like(better.support.supported)))
    assert [(each.low, each.high) for each in envelope_of(none, found, plant).ranges] == [(None, None)] * 2


def test_rates_are_those_of_the_record_and_of_the_plant_file(found: Findings, plant: LinearPlant) -> None:
    better = named(found, "better")
    (rate,) = envelope_of(better, found, plant).rates
    changes = recorded_actions(found)[..., 0].diff(dim=0).abs().flatten()
    assert rate.allowed == rate.recorded == pytest.approx(float(torch.quantile(changes.double(), 0.99)), rel=1e-3)
    assert rate.limit is None
    assert 0.0 <= rate.beyond < 0.05
    slow = {"u": {"max_rate_per_s": 0.01}}
    (limited,) = envelope_of(better, found, plant, tags=slow).rates
    assert limited == RateRange("u", "1", 0.01, rate.recorded, rate.policy, 0.01, limited.beyond)
    assert limited.beyond > 0.8


def test_the_plan_uses_the_cuts_and_the_sections_of_the_shadow_report(found: Findings, plant: LinearPlant) -> None:
    better, rules = named(found, "better"), asdict(Rules())
    assert better.decision.verdict == "GO TO SHADOW"
    shared = {name: value for name, value in asdict(SHADOW).items() if name in rules}
    assert len(shared) == 6
    assert shared == {name: rules[name] for name in shared}
    spec = plant.spec()
    actions = recorded_actions(found)
    recorded = list(actuator_use(spec, CommandLimits(spec), actions, torch.ones(actions.shape[:2], dtype=torch.bool)))
    plan = shadow_plan(better, found, envelope_of(better, found, plant), recorded, "(K)²", 1.0)
    assert plan is not None
    assert plan.days == rules["days"]
    assert plan.periods == 14 * 86_400
    source = Path(deploy.shadow.sections.__file__).read_text(encoding="utf-8")
    sections = set(re.findall(r'Section\("[^"]+", "[^"]+", "([^"]+)"', source))
    assert len(sections) > 5
    assert {rule.section for rule in plan.stop} <= sections
    assert all(re.search(r"\d", rule.stop_at) for rule in plan.stop)
    error = next(rule for rule in plan.stop if rule.section == "Prediction")
    here, still = float(found.model.one_step_rmse[0]), float(found.back_test.persistence[0, 0])
    assert f"{min(2 * here, 1.25 * still):.3g} K" in error.stop_at
    steps = next_steps(better, found, plan, "(K)²")
    assert any("SHADOW" in step and "14 days" in step for step in steps)
    assert any(f"{better.gain.low:.4g}" in step for step in steps)


def test_a_slow_plant_is_tried_for_longer(found: Findings, plant: LinearPlant) -> None:
    better = named(found, "better")
    plan = shadow_plan(better, found, envelope_of(better, found, plant), [STILL], "(K)²", 3600.0)
    assert plan is not None
    assert plan.days == pytest.approx(50 * found.estimand.block / 24)


def test_no_plan_without_a_go(found: Findings, plant: LinearPlant) -> None:
    outside = named(found, "far outside")
    assert shadow_plan(outside, found, envelope_of(outside, found, plant), [STILL], "(K)²", 1.0) is None
    steps = next_steps(outside, found, None, "(K)²")
    assert "Keep the present controller" in steps[-1]
    assert any(step.startswith(f"Record operation with {outside.support.outside[0].tag}") for step in steps)
