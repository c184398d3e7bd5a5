"""Risks, ranked: what of the measured findings comes near its cut, or beyond it, and what can be done about it.

Every risk is one figure of this evaluation divided by the cut that it is held against: 1 is at the cut. Figures below a
quarter of their cut are not listed. Nothing is listed that was not measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from controlkit.evaluation.envelope import GO, Envelope
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.limits import ActuatorUse
from controlkit.evaluation.model_rollouts import values
from controlkit.evaluation.regimes import TOO_LITTLE, RegimeFindings
from controlkit.evaluation.verdict import (
    AGREEMENT,
    AMBER_SUPPORT,
    FAN_LEVEL,
    MIN_FAN_COVERAGE,
    MIN_SUPPORT,
    UNEXPLAINED,
)

# From this share of its cut on a figure is listed, and so many at most.
LISTED, MOST = 0.25, 12
# Where no violation is tolerated: a share of samples that cannot be told from none by this many rollouts.
HARDLY_ANY = 0.001
# Wear and saturation, as `controlkit shadow` asks about them.
TRAVEL, SATURATED = 3.0, 0.10
# Share of the start states that counts as the worst, and the loss there (in spreads) that is too much.
WORST, WORST_LOSS = 0.05, 1.0


@dataclass(frozen=True)
class Risk:
    """One finding that may harm.

    Attributes:
        name: what is at risk, in a few words.
        severity: the figure over its cut; NaN where the figure is none, which is the worst.
        evidence: a sentence with the figure and the cut.
        mitigation: what to do about it.
    """

    name: str
    severity: float
    evidence: str
    mitigation: str


def rank_risks(
    c: CandidateFindings,
    found: Findings,
    regimes: Sequence[RegimeFindings],
    envelope: Envelope,
    uses: Sequence[tuple[ActuatorUse, ActuatorUse]],
    unit: str,
) -> list[Risk]:
    """What was found to be near or beyond its cut, the worst first.

    Args:
        c: the policy; found: the whole evaluation.
        regimes: the policy in each of them.
        envelope: where the evidence holds.
        uses: per actuator the use by the policy and in the record.
        unit: of the reward per period.
    """
    risks = [
        *_unknown(c, found),
        *_model(c, found),
        *_limits(c),
        *_losses(c, found, unit),
        *_regimes(regimes, found, unit),
        *_actuators(envelope, uses),
    ]
    listed = [risk for risk in risks if not risk.severity < LISTED]  # a NaN is listed
    return sorted(listed, key=lambda risk: -math.inf if math.isnan(risk.severity) else -risk.severity)[:MOST]


def _unknown(c: CandidateFindings, found: Findings) -> Iterator[Risk]:
    """Operation that the log does not know."""
    e = c.evidence
    where, cure = "", "Hold the policy nearer to the log (filter.support, policy.behaviour_anchor)."
    if c.support.outside:
        tag = c.support.outside[0]
        tail = "" if found.units[tag.tag] == "1" else f" {found.units[tag.tag]}"
        where = f" It leaves it chiefly along {tag.tag}, at {tag.low:.3g} to {tag.high:.3g}{tail}."
        cure = (
            f"Record {tag.tag} at {tag.low:.3g} to {tag.high:.3g}{tail} in these situations; the nearest recorded "
            f"steps have {tag.nearest_low:.3g} to {tag.nearest_high:.3g}{tail}."
        )
    yield Risk(
        "operation unlike the log",
        (1.0 - e.support) / (1.0 - MIN_SUPPORT),
        f"{1 - e.support:.1%} of the policy's steps are outside the support (at most {1 - MIN_SUPPORT:.0%}).{where}",
        cure,
    )
    yield Risk(
        "drifting out of the log",
        (1.0 - e.late_support) / (1.0 - MIN_SUPPORT),
        f"In the last quarter of the horizon {1 - e.late_support:.1%} of the steps are outside the support (at most "
        f"{1 - MIN_SUPPORT:.0%}); over the whole horizon {1 - e.support:.1%}.",
        "Look at the late steps of the rollouts; evaluate with a longer discount (--gamma) before any trial.",
    )


def _model(c: CandidateFindings, found: Findings) -> Iterator[Risk]:
    """Estimates that may be wrong."""
    e = c.evidence
    scale = e.spread if e.spread > 0 else math.nan
    apart = abs(e.gain_model - e.gain_fqe) / scale / AGREEMENT
    yield Risk(
        "the estimators differ",
        apart,
        f"Model rollouts say {e.gain_model:+.4g}, FQE {e.gain_fqe:+.4g}: {apart * AGREEMENT:.0%} of the spread apart "
        f"(at most {AGREEMENT:.0%}).",
        f"Count on the lower one, {min(e.gain_model, e.gain_fqe):+.4g}, and on nothing below the interval's lower end, "
        f"{e.gain_low:+.4g}.",
    )
    robust = abs(c.doubly_robust.gain.value - c.gain.value) / scale / AGREEMENT
    yield Risk(
        "the doubly robust estimate differs",
        robust,
        f"It gives a gain of {c.doubly_robust.gain.value:+.4g}, {robust * AGREEMENT:.0%} of the spread from the "
        f"model's {c.gain.value:+.4g} ({AGREEMENT:.0%} is the cut of the other estimators).",
        f"It rests on an effective {c.doubly_robust.effective:.0%} of the recorded steps: more operation like the "
        "policy's own tells which of them is right.",
    )
    bias = abs(e.back_test_bias) / scale / AGREEMENT
    missed = (1.0 - e.fan_coverage) / (1.0 - MIN_FAN_COVERAGE)
    yield Risk(
        "the model misses withheld operation",
        max(bias, missed) if not math.isnan(bias) else bias,
        f"Its value is off by {bias * AGREEMENT:.0%} of the spread (at most {AGREEMENT:.0%}), and "
        f"{1 - e.fan_coverage:.0%} of the recorded values lie outside its {FAN_LEVEL:.0%} fan (at most "
        f"{1 - MIN_FAN_COVERAGE:.0%}).",
        "See in the back-test which tag it is and how many steps ahead; log what moves it.",
    )
    yield Risk(
        "an unlogged cause of the operator's moves",
        abs(e.unexplained) / UNEXPLAINED,
        f"What the logged tags do not explain of the commands goes on from step to step: autocorrelation "
        f"{e.unexplained:.2f} (warned of from {UNEXPLAINED:g} on).",
        "Ask the operators what they look at that is not logged; add it to the log.",
    )
    auto = found.model.autocorrelation.abs()
    worst = int(auto.argmax())
    tag = found.log.layout.state_tags[worst]
    yield Risk(
        f"a cause that moves {tag} unseen",
        float(auto[worst]) / UNEXPLAINED,
        f"The one-step errors at {tag} go on from step to step: autocorrelation "
        f"{float(found.model.autocorrelation[worst]):+.2f} (cut {UNEXPLAINED:g}).",
        f"More history of {tag} in the plant file, or the tag that moves it in the log.",
    )


def _limits(c: CandidateFindings) -> Iterator[Risk]:
    for limit in c.evidence.limits:
        cut = max(limit.allowed, HARDLY_ANY)
        yield Risk(
            limit.name,
            0.0 if limit.policy == 0.0 and limit.low == 0.0 else max(limit.high, limit.policy) / cut,
            f"{limit.policy:.2%} of the simulated samples are outside, up to {limit.high:.2%} within the interval "
            f"(cut {cut:.2%}; operator {limit.operator:.2%}).",
            "Train with the limit as a constraint of a smaller share, and alarm before it."
            if limit.policy > limit.operator
            else "The operator leaves it as often: the alarm that guards it today must stay.",
        )


def _losses(c: CandidateFindings, found: Findings, unit: str) -> Iterator[Risk]:
    """What the mean gain hides: parts of the objective that lose, and start states that lose."""
    scale = c.evidence.spread if c.evidence.spread > 0 else math.nan
    if len(c.terms) > 1:
        for name, gain in c.terms.items():
            if gain.high < 0.0:
                yield Risk(
                    f"{name} gets worse",
                    -gain.value / scale / AGREEMENT,
                    f"This term of the objective loses {-gain.value:.4g} {unit} per period ({gain.low:+.4g} to "
                    f"{gain.high:+.4g}); {AGREEMENT:.0%} of the spread is {AGREEMENT * scale:.4g}.",
                    "Decide whether this is wanted; the weights of the objective say so far that it is.",
                )
    difference = (values(c.rolled) - values(found.operator_rolled)).mean(dim=0)  # (N,)
    tail = float(torch.quantile(difference, WORST))
    yield Risk(
        "single situations that lose",
        max(0.0, -tail) / scale / WORST_LOSS,
        f"From the worst {WORST:.0%} of the start states the policy earns at least {-tail:.4g} {unit} per period less "
        f"than the operator ({WORST_LOSS:g} spread is {scale:.4g}).",
        "Look at the ten worst rollouts with the operators before the trial, and name what they have in common.",
    )


def _regimes(regimes: Sequence[RegimeFindings], found: Findings, unit: str) -> Iterator[Risk]:
    if len(regimes) < 2:
        return
    spread = float(found.starts.returns.std())
    scale = spread if spread > 0 else math.nan
    for regime in regimes:
        if regime.word == TOO_LITTLE or regime.gain is None:
            yield Risk(
                f"hardly known: {regime.name}",
                max(regime.share, 1.0 - regime.support) / (1.0 - MIN_SUPPORT),
                f"{regime.share:.0%} of the start states, {regime.stretches:.1f} independent stretches: too little for "
                f"a word. {1 - regime.support:.0%} of the policy's steps from there are outside the support (either "
                f"share is held against {1 - MIN_SUPPORT:.0%}).",
                "Record more of it; until then keep the controller out of it.",
            )
        elif regime.word != GO:
            lost = max(0.0, -regime.gain.low) / scale / AGREEMENT
            unknown = (1.0 - regime.support) / (1.0 - MIN_SUPPORT)
            yield Risk(
                f"{regime.word} where {regime.name}",
                lost if math.isnan(lost) else max(lost, unknown, 1.0),
                f"{regime.share:.0%} of the start states: gain {regime.gain.value:+.4g} {unit} ({regime.gain.low:+.4g} "
                f"to {regime.gain.high:+.4g}), support {regime.support:.1%}. {regime.reasons[0]}",
                "This is most of the operation: no trial before it is settled."
                if regime.share > 0.5
                else "Keep the controller out of this regime until what it does there is settled.",
            )


def _actuators(envelope: Envelope, uses: Sequence[tuple[ActuatorUse, ActuatorUse]]) -> Iterator[Risk]:
    for (mine, record), rate in zip(uses, envelope.rates, strict=True):
        tail = "" if mine.unit == "1" else f" {mine.unit}"
        still = record.travel == 0.0
        ratio = (0.0 if mine.travel == 0.0 else math.inf) if still else mine.travel / record.travel
        yield Risk(
            f"wear of {mine.tag}",
            ratio / TRAVEL if ratio > 1.0 else 0.0,
            f"It travels {mine.travel:.3g}{tail} per period, the operator {record.travel:.3g} "
            + ("" if still else f"({ratio:.2g} times as far; cut {TRAVEL:g}) ")
            + f"and turns round in {mine.reversals:.1%} of the periods (operator {record.reversals:.1%}).",
            "A cost of change in the objective, or a smaller rate limit in the plant file.",
        )
        cut = max(SATURATED, 2.0 * record.saturated)
        yield Risk(
            f"{mine.tag} at its limits",
            mine.saturated / cut if mine.saturated > record.saturated else 0.0,
            f"It is at an absolute limit in {mine.saturated:.1%} of the periods (operator {record.saturated:.1%}; cut "
            f"{cut:.1%}).",
            "Check that the limits in the plant file are meant to be used that much.",
        )
        yield Risk(
            f"{mine.tag} moves faster than recorded",
            rate.beyond / (1.0 - AMBER_SUPPORT),
            f"In {rate.beyond:.1%} of the periods it changes faster than {rate.allowed:.3g}{tail} per second, which "
            f"99 % of the recorded changes are not (cut {1 - AMBER_SUPPORT:.0%}).",
            f"A rate limit of {rate.allowed:.3g}{tail} per second in the plant file (max_rate_per_s), and train again.",
        )
