"""The rules, as a table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from controlkit.evaluation.verdict import EXIT_CODES, Evidence, LimitEvidence, decide

KEPT = LimitEvidence("Limit of x", allowed=0.01, policy=0.002, low=0.0, high=0.006, operator=0.0, worse_low=-0.01)
GOOD = Evidence(
    spread=1.0,
    blocks=40,
    weight=0.98,
    back_test_bias=0.05,
    fan_coverage=0.9,
    self_check_model=0.02,
    self_check_fqe=-0.03,
    unexplained=0.1,
    support=0.97,
    late_support=0.96,
    gain_model=0.5,
    gain_fqe=0.45,
    gain_low=0.3,
    gain_high=0.7,
    limits=(KEPT,),
)
NAN = float("nan")


def test_a_policy_on_its_way_out_of_the_log_is_warned_about() -> None:
    decision = decide(replace(GOOD, late_support=0.85))
    assert decision.verdict == "GO TO SHADOW"
    assert any("85.0%" in warning and "on its way out" in warning for warning in decision.warnings)


def test_everything_in_order_goes_to_shadow() -> None:
    decision = decide(GOOD)
    assert decision.verdict == "GO TO SHADOW"
    assert all(check.passed for check in decision.checks)
    assert not decision.warnings
    assert not decision.missing
    assert len(decision.reasons) == len(decision.checks)


@pytest.mark.parametrize(
    ("changes", "verdict", "failed"),
    [
        ({"blocks": 9}, "NO VERDICT", "enough data"),
        ({"weight": 0.8}, "NO VERDICT", "enough data"),
        ({"spread": 0.0}, "NO VERDICT", "enough data"),
        ({"back_test_bias": -0.26}, "NO VERDICT", "back-test"),
        ({"fan_coverage": 0.79}, "NO VERDICT", "back-test"),
        ({"self_check_model": 0.3}, "NO VERDICT", "self-check"),
        ({"self_check_fqe": -0.3}, "NO VERDICT", "self-check"),
        ({"support": 0.79}, "NO VERDICT", "support"),
        ({"late_support": 0.79}, "NO VERDICT", "support to the end"),
        ({"late_support": NAN}, "NO VERDICT", "support to the end"),
        ({"gain_fqe": 0.2}, "NO VERDICT", "agreement"),
        ({"gain_low": -0.01}, "INCONCLUSIVE", "gain"),
        ({"gain_low": -0.7, "gain_high": -0.1, "gain_model": -0.5, "gain_fqe": -0.4}, "NO-GO", "gain"),
        # A refusal stands above all: what cannot be judged is not called worse, either.
        ({"support": 0.5, "gain_low": -0.7, "gain_high": -0.1}, "NO VERDICT", "support"),
        ({"support": NAN}, "NO VERDICT", "support"),
        ({"fan_coverage": NAN}, "NO VERDICT", "back-test"),
        ({"gain_fqe": NAN}, "NO VERDICT", "agreement"),
        ({"gain_low": NAN, "gain_high": NAN}, "INCONCLUSIVE", "gain"),
    ],
)
def test_one_rule_broken(changes: dict[str, Any], verdict: str, failed: str) -> None:
    decision = decide(replace(GOOD, **changes))
    assert decision.verdict == verdict
    assert failed in [check.name for check in decision.checks if not check.passed]
    assert decision.reasons


def test_a_refusal_lists_the_missing_data() -> None:
    for changes in ({"support": 0.5}, {"blocks": 3}, {"self_check_model": 1.0}, {"gain_low": -1.0}):
        assert decide(replace(GOOD, **changes)).missing


def test_amber_support_is_a_warning_and_still_a_go() -> None:
    decision = decide(replace(GOOD, support=0.9))
    assert decision.verdict == "GO TO SHADOW"
    assert "90.0%" in decision.warnings[0]


@pytest.mark.parametrize(
    ("limit", "verdict"),
    [
        (replace(KEPT, policy=0.008, high=0.012), "INCONCLUSIVE"),  # the doubt reaches beyond what is tolerated
        (replace(KEPT, policy=0.05, low=0.005, high=0.1), "INCONCLUSIVE"),  # exceeded, but not for sure
        (replace(KEPT, policy=0.05, low=0.03, high=0.07, worse_low=-0.01), "INCONCLUSIVE"),  # as often as the operator
        (replace(KEPT, policy=0.05, low=0.03, high=0.07, worse_low=0.02), "NO-GO"),
        (replace(KEPT, policy=0.0, low=0.0, high=0.0, allowed=0.0), "GO TO SHADOW"),
        (replace(KEPT, policy=0.001, low=0.0, high=0.002, allowed=0.0), "INCONCLUSIVE"),
        (replace(KEPT, policy=NAN), "INCONCLUSIVE"),
    ],
)
def test_limits(limit: LimitEvidence, verdict: str) -> None:
    assert decide(replace(GOOD, limits=(KEPT, limit))).verdict == verdict


def test_errors_are_judged_in_units_of_the_spread() -> None:
    wide = replace(GOOD, back_test_bias=0.5, gain_fqe=0.1)
    assert decide(wide).verdict == "NO VERDICT"
    assert decide(replace(wide, spread=3.0)).verdict == "GO TO SHADOW"


def test_exit_codes_are_those_of_the_command_line() -> None:
    assert dict(EXIT_CODES) == {"GO TO SHADOW": 0, "INCONCLUSIVE": 10, "NO-GO": 11, "NO VERDICT": 12}


def test_commands_that_follow_an_unlogged_cause_are_a_warning() -> None:
    decision = decide(replace(GOOD, unexplained=-0.8))
    assert "not logged" in decision.warnings[0]
