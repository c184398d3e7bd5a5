"""The verdict: stated rules over numbers, and nothing else.

A verdict never says that a policy may act: the best one is GO TO SHADOW, where the controller runs beside the
operator without being obeyed. The checks come in two kinds. *Trust* checks ask whether the data can answer at all;
if one of them fails there is NO VERDICT, whatever the estimates say. *Merit* checks ask whether the policy is better
and keeps the limits. The cuts are design values, stated before any plant was looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["GO TO SHADOW", "INCONCLUSIVE", "NO-GO", "NO VERDICT"]

EXIT_CODES: Mapping[Verdict, int] = {"GO TO SHADOW": 0, "INCONCLUSIVE": 10, "NO-GO": 11, "NO VERDICT": 12}

# Errors are judged in units of the spread of logged returns, never of a value, which changes with any constant.
AGREEMENT = 0.25
MIN_SUPPORT, AMBER_SUPPORT = 0.80, 0.95
# Share of recorded values that the back-test's 90 % fan must hold.
FAN_LEVEL, MIN_FAN_COVERAGE = 0.90, 0.80
# Autocorrelation of commands that the logged tags do not explain, from which on a warning is given.
UNEXPLAINED = 0.5
# Independent stretches of the log that an interval must rest on.
MIN_BLOCKS = 10
# Share of the discounted sum's weight that must lie inside the horizon.
MIN_WEIGHT = 0.90

Kind = Literal["trust", "merit"]


@dataclass(frozen=True)
class LimitEvidence:
    """How often a limit is left in rollouts of the policy and of the operator.

    Attributes:
        name: the limit, in words.
        allowed: tolerated share of samples.
        policy, low, high: share by the policy, with its interval.
        operator: share by the cloned operator from the same starts.
        worse_low: low end of the interval of (policy - operator).
    """

    name: str
    allowed: float
    policy: float
    low: float
    high: float
    operator: float
    worse_low: float

    @property
    def holds(self) -> bool:
        """Whether the tolerated share is kept, the doubt included."""
        return self.policy <= self.allowed and (self.policy == 0.0 or self.high <= self.allowed)

    @property
    def broken(self) -> bool:
        """Whether it is surely exceeded, and surely more than by the operator."""
        return self.low > self.allowed and self.worse_low > 0.0


@dataclass(frozen=True)
class Evidence:
    """What the verdict is based on. Values and differences are in plant units per period; `spread` has the same unit.

    Attributes:
        spread: standard deviation of the logged returns.
        blocks: independent stretches of the evaluation part; weight: share of the discount inside the horizon.
        back_test_bias: predicted minus realised value of the operator on withheld blocks of time.
        fan_coverage: share of recorded values inside the 90 % fan.
        self_check_model, self_check_fqe: cloned operator's value by each estimator minus the realised value.
        unexplained: largest autocorrelation of the operator's commands beyond what the observation explains.
        support: share of the policy's own steps that the log supports, 0 .. 1, weighted as the value is.
        late_support: the same over the last quarter of the horizon, every step counted alike: where the plant is when
            the horizon ends, and goes on from.
        gain_model, gain_fqe: policy minus operator, by each estimator.
        gain_low, gain_high: the interval that holds both estimators' intervals.
        limits: one entry per limit or constraint.
    """

    spread: float
    blocks: float
    weight: float
    back_test_bias: float
    fan_coverage: float
    self_check_model: float
    self_check_fqe: float
    unexplained: float
    support: float
    late_support: float
    gain_model: float
    gain_fqe: float
    gain_low: float
    gain_high: float
    limits: tuple[LimitEvidence, ...]


@dataclass(frozen=True)
class Check:
    """One rule.

    Attributes:
        name: short name.
        kind: `trust` (can the data answer?) or `merit` (is the policy good?).
        passed: whether it holds.
        statement: one sentence with the figure and the cut.
        missing: what data would mend a failure; empty where none would.
    """

    name: str
    kind: Kind
    passed: bool
    statement: str
    missing: str = ""


@dataclass(frozen=True)
class Decision:
    """Verdict, the reasons for it (sentences), warnings, the missing data, and every check."""

    verdict: Verdict
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]
    missing: tuple[str, ...]
    checks: tuple[Check, ...]


def decide(evidence: Evidence) -> Decision:
    """Applies the rules. A figure that is no number fails its check."""
    checks = (*_trust(evidence), *_merit(evidence))
    failed = [check for check in checks if not check.passed]
    if any(check.kind == "trust" for check in failed):
        verdict: Verdict = "NO VERDICT"
        decisive = [check for check in failed if check.kind == "trust"]
    elif evidence.gain_high < 0.0 or any(limit.broken for limit in evidence.limits):
        verdict, decisive = "NO-GO", failed
    elif failed:
        verdict, decisive = "INCONCLUSIVE", failed
    else:
        verdict, decisive = "GO TO SHADOW", list(checks)
    warnings = []
    if MIN_SUPPORT <= evidence.late_support < AMBER_SUPPORT <= evidence.support:
        warnings.append(
            f"At the end of the horizon the log supports {evidence.late_support:.1%} of the policy's steps, less than "
            f"the {evidence.support:.1%} of all: it may be on its way out of the log."
        )
    if MIN_SUPPORT <= evidence.support < AMBER_SUPPORT:
        warnings.append(
            f"The log supports {evidence.support:.1%} of the policy's steps: enough for a verdict, but less than "
            f"{AMBER_SUPPORT:.0%}; the steps outside rest on extrapolation."
        )
    if not abs(evidence.unexplained) <= UNEXPLAINED:
        warnings.append(
            f"What the logged tags do not explain of the operator's commands goes on from step to step "
            f"(autocorrelation {evidence.unexplained:.2f}). If the operator answers something that is not logged and "
            f"that moves the plant, all estimates are confounded: find out what it is, and log it."
        )
    missing = tuple(dict.fromkeys(check.missing for check in failed if check.missing))
    return Decision(verdict, tuple(check.statement for check in decisive), tuple(warnings), missing, checks)


def _trust(e: Evidence) -> tuple[Check, ...]:
    usable = e.spread > 0.0
    scale = e.spread if usable else float("nan")
    disagreement = abs(e.gain_model - e.gain_fqe) / scale
    model, fqe, bias = (abs(x) / scale for x in (e.self_check_model, e.self_check_fqe, e.back_test_bias))
    return (
        Check(
            "enough data",
            "trust",
            usable and e.blocks >= MIN_BLOCKS and e.weight >= MIN_WEIGHT,
            f"The evaluation part holds {e.blocks:.0f} independent stretches (at least {MIN_BLOCKS}), the horizon "
            f"{e.weight:.0%} of the discount's weight (at least {MIN_WEIGHT:.0%})"
            + ("." if usable else ", and its returns never vary, so that no difference can be scaled."),
            "A longer log: more, and longer, unbroken stretches of normal operation in the evaluation part.",
        ),
        Check(
            "back-test",
            "trust",
            bias <= AGREEMENT and e.fan_coverage >= MIN_FAN_COVERAGE,
            f"On withheld operation the model misses the realised value by {bias:.0%} of the spread of logged returns "
            f"(at most {AGREEMENT:.0%}), and its {FAN_LEVEL:.0%} fan holds {e.fan_coverage:.0%} of the recorded values "
            f"(at least {MIN_FAN_COVERAGE:.0%}).",
            "Tags that explain what the model cannot predict, or a longer log of the regimes in which it fails.",
        ),
        Check(
            "self-check",
            "trust",
            model <= AGREEMENT and fqe <= AGREEMENT,
            f"The operator's own value, estimated as if it were a new policy, is missed by {model:.0%} (model) and "
            f"{fqe:.0%} (FQE) of the spread (at most {AGREEMENT:.0%}).",
            "A log in which the operator's commands follow from the logged tags; an unlogged cause may be at work.",
        ),
        Check(
            "support",
            "trust",
            e.support >= MIN_SUPPORT,
            f"The log supports {e.support:.1%} of the steps that the policy takes (at least {MIN_SUPPORT:.0%}).",
            "Recorded operation in the ranges named in the support section, by a step test or a cautious trial.",
        ),
        Check(
            "support to the end",
            "trust",
            e.late_support >= MIN_SUPPORT,
            f"In the last quarter of the horizon the log supports {e.late_support:.1%} of the policy's steps (at least "
            f"{MIN_SUPPORT:.0%}): from there the plant goes on, beyond what a discounted value sees.",
            "Recorded operation where the policy takes the plant in the long run, or a policy held nearer to the log "
            "(filter.support, policy.behaviour_anchor).",
        ),
        Check(
            "agreement",
            "trust",
            disagreement <= AGREEMENT,
            f"Model rollouts and FQE differ by {disagreement:.0%} of the spread about the gain (at most "
            f"{AGREEMENT:.0%}).",
            "More operation like the policy's own, so that both estimators are held to the same data.",
        ),
    )


def _merit(e: Evidence) -> tuple[Check, ...]:
    if e.gain_low > 0.0:
        outcome = "lies above zero"
    elif e.gain_high < 0.0:
        outcome = "lies below zero"
    else:
        outcome = "does not exclude zero"
    gain = Check(
        "gain",
        "merit",
        e.gain_low > 0.0,
        f"The interval of the gain over the operator, {e.gain_low:.4g} to {e.gain_high:.4g} per period, {outcome}.",
        "" if e.gain_high < 0.0 else "A longer log: the interval narrows with the number of independent stretches.",
    )
    return (gain, *(_limit(limit) for limit in e.limits))


def _limit(limit: LimitEvidence) -> Check:
    if limit.holds:
        tail = "holds"
    elif limit.broken:
        tail = "is broken, and more often than by the operator"
    elif limit.policy > limit.allowed:
        tail = "is exceeded"
    else:
        tail = "may be exceeded"
    return Check(
        limit.name,
        "merit",
        limit.holds,
        f"{limit.name} {tail}: {limit.policy:.2%} of the simulated samples are outside ({limit.low:.2%} to "
        f"{limit.high:.2%}; tolerated {limit.allowed:.2%}; operator {limit.operator:.2%}).",
        "" if limit.broken else "Recorded operation near this limit.",
    )
