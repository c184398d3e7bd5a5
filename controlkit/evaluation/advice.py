"""What to do next, by verdict: a shadow plan with a stop rule, or the data that would change the answer."""

from __future__ import annotations

import math

from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.support import OutsideTag

# A shadow trial lasts so many independent stretches, like the evidence that it is to confirm.
SHADOW_STRETCHES = 50


def next_steps(c: CandidateFindings, found: Findings, unit: str, period_s: float) -> list[str]:
    """Sentences, in the order in which to act."""
    verdict = c.decision.verdict
    if verdict == "GO TO SHADOW":
        return _shadow_plan(c, found, unit, period_s)
    steps = [*c.decision.missing]
    steps += [_outside(tag, found) for tag in c.support.outside[:5]]
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


def _shadow_plan(c: CandidateFindings, found: Findings, unit: str, period_s: float) -> list[str]:
    rows = SHADOW_STRETCHES * found.estimand.block
    hours = rows * period_s / 3600.0
    doubt = max(abs(c.gain.high - c.gain.value), abs(c.gain.value - c.gain.low))
    steps = [
        f"Run the exported controller in shadow (it computes, nobody obeys) for at least {_hours(hours)} "
        f"({rows} periods) that cover the plant's usual regimes.",
        f"Hold its one-step predictions against the plant: the error must stay near what was found here "
        f"({_errors(found)}).",
        f"Stop and evaluate again if more than {_tolerated(c):.0%} of its proposed steps lie outside "
        f"the log's support, or if its own monitors distrust the plant for longer than {found.estimand.block} periods.",
        f"After the trial, evaluate again with the shadow data added: the gain must stay within {doubt:.3g} {unit} of "
        f"{c.gain.value:.4g} {unit} per period.",
    ]
    return [*steps, *(_outside(tag, found) for tag in c.support.outside[:3])]


def _outside(tag: OutsideTag, found: Findings) -> str:
    unit = found.units[tag.tag]
    asked = f"{tag.low:.3g} to {tag.high:.3g}" + ("" if unit == "1" else f" {unit}")
    return (
        f"Record operation with {tag.tag} at {asked} in the situations in which the policy goes there: the nearest "
        f"recorded steps have {tag.nearest_low:.3g} to {tag.nearest_high:.3g} ({tag.share:.1%} of the policy's steps)."
    )


def _tolerated(c: CandidateFindings) -> float:
    """What the rollouts show already, and a twentieth more."""
    return 1.0 - min(c.support.share, c.support.held_out) + 0.05


def _errors(found: Findings) -> str:
    pairs = zip(found.log.layout.state_tags, found.model.one_step_rmse.tolist(), strict=True)
    return ", ".join(f"{tag} {rmse:.3g} {found.units[tag]}" for tag, rmse in pairs)


def _hours(hours: float) -> str:
    if hours < 1.0:
        return f"{math.ceil(hours * 60.0)} minutes"
    return f"{math.ceil(hours)} hours" if hours < 72.0 else f"{math.ceil(hours / 24.0)} days"
