"""What to do next, by verdict: a shadow plan with a stop rule in numbers, or the data that would change the answer.

Every number of the stop rule is one that `controlkit shadow` reports; its own cuts are repeated in `SHADOW`.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlkit.evaluation.envelope import GO, Envelope
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.limits import ActuatorUse
from controlkit.evaluation.support import OutsideTag

# A shadow trial lasts so many independent stretches at least, more than the evidence that it is to confirm.
SHADOW_STRETCHES = 50
# The model's one-step error in the trial may be so many times the one on withheld operation.
WORSE_ERROR = 2.0


@dataclass(frozen=True)
class ShadowCuts:
    """Cuts of the shadow report's verdict, as `deploy.shadow.Rules` has them, and of its advice on commands.

    Attributes:
        days: of SHADOW at least.
        trusted: share of the cycles in which the policy is trusted, at least.
        alarmed: share of the cycles with EWMA or CUSUM beyond its limit, at most.
        drift: rise of the dynamics reward's shortfall, in healthy standard deviations.
        error_ratio: one-step error against the error of saying that nothing changes, at most; near_steps: from so many
            comparable steps on.
        travel: of the policy's wishes against the operator's commands; saturated: share of the cycles at a limit.
    """

    days: float = 14.0
    trusted: float = 0.90
    alarmed: float = 0.01
    drift: float = 0.5
    error_ratio: float = 1.25
    near_steps: int = 300
    travel: float = 3.0
    saturated: float = 0.10


SHADOW = ShadowCuts()


@dataclass(frozen=True)
class StopRule:
    """When a trial ends.

    Attributes:
        section: of the shadow report, where the figure stands, as its navigation names it.
        measure: the figure.
        stop_at: the value at which to stop.
        reason: what it would mean.
    """

    section: str
    measure: str
    stop_at: str
    reason: str


@dataclass(frozen=True)
class ShadowPlan:
    """A time in SHADOW.

    Attributes:
        days: at least; periods: the same in samples.
        regimes: in which it counts; excluded: in which not.
        stop: one of these is enough.
    """

    days: float
    periods: int
    regimes: tuple[str, ...]
    excluded: tuple[str, ...]
    stop: tuple[StopRule, ...]


def shadow_plan(
    c: CandidateFindings, found: Findings, envelope: Envelope, recorded: list[ActuatorUse], unit: str, period_s: float
) -> ShadowPlan | None:
    """The trial that a GO TO SHADOW is leave for; `None` for any other verdict.

    Args:
        c: the policy; found: the whole evaluation.
        envelope: where the evidence holds.
        recorded: what the operator asks of the actuators.
        unit: of the reward per period.
        period_s: sample period.
    """
    if c.decision.verdict != GO:
        return None
    days = max(SHADOW.days, SHADOW_STRETCHES * found.estimand.block * period_s / 86_400.0)
    return ShadowPlan(
        days,
        round(days * 86_400.0 / period_s),
        envelope.regimes,
        tuple(name for name, _ in envelope.excluded),
        (
            StopRule(
                "Verdict",
                "commands of the controller outside a limit or beyond a rate",
                "1 command",
                "The bundle does not do what it was verified to do.",
            ),
            *_model(found),
            StopRule(
                "Drift",
                "cycles in which EWMA or CUSUM of the dynamics reward is beyond its limit",
                f"more than {SHADOW.alarmed:.0%}",
                "The plant or a sensor is no longer what the log shows.",
            ),
            StopRule(
                "Drift",
                "rise of the shortfall, by a trend or a change of level",
                f"{SHADOW.drift:g} healthy standard deviations",
                "The plant has drifted away from the log.",
            ),
            StopRule(
                "Time and trust",
                "cycles in which the policy had half the action or more",
                f"less than {SHADOW.trusted:.0%}",
                f"Its monitors doubt the policy more often than its support here, {c.support.share:.1%}, lets expect.",
            ),
            *_commands(recorded),
            StopRule(
                "Baseline",
                f"objective under the operator, {unit} per period",
                f"its interval wholly below {found.logged.low:.4g} or wholly above {found.logged.high:.4g}",
                "The plant runs in another way than in the log that this evaluation rests on: evaluate again.",
            ),
        ),
    )


def next_steps(c: CandidateFindings, found: Findings, plan: ShadowPlan | None, unit: str) -> list[str]:
    """Sentences, in the order in which to act."""
    if plan is not None:
        return _try(c, found, plan, unit)
    steps = [*c.decision.missing]
    steps += [_outside(tag, found) for tag in c.support.outside[:5]]
    verdict = c.decision.verdict
    if verdict == "NO-GO":
        steps.append(
            "Do not try this policy. Train again with the limits as constraints, or with a stronger behaviour anchor."
        )
    elif verdict == "INCONCLUSIVE":
        steps.append(
            "Keep the present controller. Evaluate again once the log has grown; the interval tells how far off it is."
        )
    else:
        steps.append("Keep the present controller: from this log nobody can say what the policy would do.")
    return steps


def _try(c: CandidateFindings, found: Findings, plan: ShadowPlan, unit: str) -> list[str]:
    where = "" if not plan.excluded else f", outside of {'; '.join(plan.excluded)}"
    steps = [
        "Export the run and verify the bundle; check its manifest's limits against the envelope above.",
        f"Run it in SHADOW (it computes, nobody obeys) for at least {plan.days:.3g} days ({plan.periods:,} periods) of "
        f"the plant's usual operation{where}.",
        "Make the shadow report (controlkit shadow) every day, and stop the trial as soon as one of the stop rules "
        "below is met.",
        "If none is met, let operators judge the largest disagreements; only the shadow report's READY TO ADVISE leads "
        "on, to ADVISORY.",
        f"Evaluate again with the data of the trial added. The gain must stay within {c.gain.low:.4g} to "
        f"{c.gain.high:.4g} {unit} per period, and its lower end above zero.",
    ]
    return [*steps, *(_outside(tag, found) for tag in c.support.outside[:3])]


def _model(found: Findings) -> list[StopRule]:
    """Per state tag: the error found here, and the shadow report's own cut."""
    rules = []
    for i, tag in enumerate(found.log.layout.state_tags):
        unit = "" if found.units[tag] == "1" else f" {found.units[tag]}"
        here, still = float(found.model.one_step_rmse[i]), float(found.back_test.persistence[0, i])
        at = min(WORSE_ERROR * here, SHADOW.error_ratio * still) if still > 0.0 else WORSE_ERROR * here
        rules.append(
            StopRule(
                "Prediction",
                f"root mean square error at {tag}, from {SHADOW.near_steps} steps near the operator's on",
                f"more than {at:.3g}{unit}",
                f"On withheld operation it was {here:.3g}{unit}; saying that nothing changes, {still:.3g}{unit}.",
            )
        )
    return rules


def _commands(recorded: list[ActuatorUse]) -> list[StopRule]:
    rules = []
    for use in recorded:
        cut = max(SHADOW.saturated, 2.0 * use.saturated)
        rules.append(
            StopRule(
                "Commands",
                f"{use.tag}: the policy's wishes at a limit, and their travel",
                f"more than {cut:.0%} of the cycles, or {SHADOW.travel:g} times the operator's travel",
                f"Wear that the rollouts do not show; in the record it is at a limit in {use.saturated:.1%}.",
            )
        )
    return rules


def _outside(tag: OutsideTag, found: Findings) -> str:
    unit = found.units[tag.tag]
    asked = f"{tag.low:.3g} to {tag.high:.3g}" + ("" if unit == "1" else f" {unit}")
    return (
        f"Record operation with {tag.tag} at {asked} in the situations in which the policy goes there: the nearest "
        f"recorded steps have {tag.nearest_low:.3g} to {tag.nearest_high:.3g} ({tag.share:.1%} of the policy's steps)."
    )
