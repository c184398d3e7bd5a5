"""The verdict on a time in SHADOW: stated rules over numbers, and nothing else.

READY TO ADVISE says that the policy's commands may be shown to the operator, who decides (ADVISORY). It never says that
the controller may act: what the plant would have done under the policy, a log of somebody else's commands cannot show.
Rules come in two kinds. *Forbidding* ones find something wrong: NO. *Waiting* ones find something missing: NOT YET. A
figure that is no number fails its rule. The cuts are design values; `Rules` holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["READY TO ADVISE", "NOT YET", "NO"]

EXIT_CODES: Mapping[Verdict, int] = {"READY TO ADVISE": 0, "NOT YET": 10, "NO": 11}

Kind = Literal["forbidding", "waiting"]


@dataclass(frozen=True)
class Rules:
    """The cuts.

    Attributes:
        days: of SHADOW at least, so that every weekday and shift is in it twice.
        coverage: share of the time between first and last cycle that has cycles.
        malformed: share of rows that may be unreadable.
        trusted: share of SHADOW cycles in which the policy would have had half the action or more.
        scored: share of SHADOW cycles whose observed transition the dynamics reward could score.
        usable: share of cycles in which each tag had a usable value.
        faulty, late: share of cycles in which the runtime found a fault, or computed beyond its deadline, at most.
        alarmed: share of SHADOW cycles with EWMA or CUSUM beyond its limit, at most.
        drift: rise of the shortfall over the whole time, by a significant trend or change of level, that is drift; in
            healthy standard deviations.
        near_steps: compared predictions from which the model's one-step error is judged.
        error_ratio: that error against the error of saying that nothing changes, at most, for every state tag.
        shortfall: mean shortfall of observed transitions, in healthy standard deviations, at most; judged where the
            predictions cannot be.
    """

    days: float = 14.0
    coverage: float = 0.90
    malformed: float = 0.001
    trusted: float = 0.90
    scored: float = 0.80
    usable: float = 0.95
    faulty: float = 0.01
    late: float = 0.001
    alarmed: float = 0.01
    drift: float = 0.5
    near_steps: int = 300
    error_ratio: float = 1.25
    shortfall: float = 1.0


@dataclass(frozen=True)
class Evidence:
    """What the rules look at; shares are 0 .. 1, shortfalls in healthy standard deviations.

    Attributes:
        chain_problem: where the chain of hashes breaks, or reading had to stop; empty if the log is whole.
        lost_rows: whether the log itself tells of rows that it lost.
        malformed: share of rows that could not be used.
        shadow_days: cycles in SHADOW times the period; coverage: see `Rules`.
        trusted, scored, faulty, late, alarmed: see `Rules`.
        doubt: the flags most often raised while the policy was not trusted, in words.
        least_usable: tag with the smallest usable share, and that share.
        unsafe: cycles whose command lay outside a limit or beyond a rate.
        active_alarms: names of alarms that hold at the end of the log.
        trend_known, trend_found, trend_change: whether the shortfall's trend could be tested, whether there is one, and
            the change over the whole time.
        level_change: last level of the shortfall minus the first, where its level changed; else 0.
        mean_shortfall: of observed transitions.
        errors: (tag, error ratio, steps) of every state tag, from steps in which policy and operator were near.
    """

    chain_problem: str
    lost_rows: bool
    malformed: float
    shadow_days: float
    coverage: float
    trusted: float
    scored: float
    faulty: float
    late: float
    alarmed: float
    doubt: str
    least_usable: tuple[str, float]
    unsafe: int
    active_alarms: tuple[str, ...]
    trend_known: bool
    trend_found: bool
    trend_change: float
    level_change: float
    mean_shortfall: float
    errors: tuple[tuple[str, float, int], ...]


@dataclass(frozen=True)
class Check:
    """One rule: its name, kind, whether it holds, a sentence with figure and cut, and what would mend a failure."""

    name: str
    kind: Kind
    passed: bool
    statement: str
    missing: str


@dataclass(frozen=True)
class Decision:
    """Verdict, the statements behind it, what is missing, and every rule."""

    verdict: Verdict
    reasons: tuple[str, ...]
    missing: tuple[str, ...]
    checks: tuple[Check, ...]


def decide(evidence: Evidence, rules: Rules) -> Decision:
    """Applies the rules."""
    checks = (*_forbidding(evidence, rules), *_waiting(evidence, rules))
    failed = [check for check in checks if not check.passed]
    forbidden = [check for check in failed if check.kind == "forbidding"]
    verdict: Verdict = "NO" if forbidden else "NOT YET" if failed else "READY TO ADVISE"
    decisive = forbidden or failed or list(checks)
    return Decision(
        verdict,
        tuple(check.statement for check in decisive),
        tuple(dict.fromkeys(check.missing for check in failed)),
        checks,
    )


def _forbidding(e: Evidence, r: Rules) -> tuple[Check, ...]:
    drifting = (e.trend_found and not e.trend_change < r.drift) or not e.level_change < r.drift
    if not e.trend_known:
        trend = "There is too little of it for a test of trend."
    else:
        trend = (
            f"Its shortfall shows a trend of {e.trend_change:+.2f}" if e.trend_found else "Its shortfall shows no trend"
        )
        trend += (
            f" and a change of level of {e.level_change:+.2f}" if e.level_change else " and no lasting change of level"
        )
        trend += f", in healthy standard deviations over the whole time (drift from {r.drift:+g} on)."
    return (
        Check(
            "audit log whole",
            "forbidding",
            not e.chain_problem,
            f"The audit log is broken: {e.chain_problem}." if e.chain_problem else "The audit log's chain holds.",
            "An audit log whose chain holds: keep this one as evidence, find out who or what changed it, and begin "
            "anew.",
        ),
        Check(
            "commands safe",
            "forbidding",
            e.unsafe == 0,
            f"{e.unsafe} commands of the controller lay outside a limit or beyond a rate (none may).",
            "The reason for commands outside the limits: do not use this bundle; verify it and export it again.",
        ),
        Check(
            "no drift",
            "forbidding",
            e.alarmed <= r.alarmed and not drifting,
            f"The dynamics reward's moving average or cumulative sum was beyond its limit in {_percent(e.alarmed)} of "
            f"the cycles in SHADOW (at most {_percent(r.alarmed)}). {trend}",
            "A plant that behaves as in the log that the controller was trained on: find the sensor or the change of "
            "the plant behind the drift, and mend it or train again with newer data.",
        ),
        _model(e, r),
    )


def _model(e: Evidence, r: Rules) -> Check:
    judged = [(tag, ratio) for tag, ratio, steps in e.errors if steps >= r.near_steps]
    if judged and len(judged) == len(e.errors):
        # A tag that never changed has no ratio; NaN sorts first by this key, so that it fails like any other figure.
        tag, ratio = max(judged, key=lambda each: float("inf") if each[1] != each[1] else each[1])
        passed = all(one <= r.error_ratio for _, one in judged)
        said = f"Where the operator did what the policy would have, the model's one-step error is at worst {ratio:.2f} "
        said += f"times that of saying that nothing changes ('{tag}'; at most {r.error_ratio:g})."
    else:
        passed = e.mean_shortfall <= r.shortfall
        said = "The operator too seldom did what the policy would have for the model's predictions to be judged; the "
        said += f"observed transitions fall short of what the model expects by {e.mean_shortfall:.2f} healthy standard "
        said += f"deviations on average (at most {r.shortfall:g})."
    return Check(
        "model foresees a step",
        "forbidding",
        passed,
        said,
        "A model that foresees this plant's next step: check units, nodes and period against the training log, and "
        "train again with this plant's data.",
    )


def _waiting(e: Evidence, r: Rules) -> tuple[Check, ...]:
    tag, usable = e.least_usable
    doubt = f" What stood against it most often: {e.doubt}." if e.doubt else ""
    return (
        Check(
            "long enough",
            "waiting",
            e.shadow_days >= r.days,
            f"The log holds {e.shadow_days:.2f} days of SHADOW (at least {r.days:g}).",
            f"More time in SHADOW: {max(r.days - e.shadow_days, 0.0):.2f} days.",
        ),
        Check(
            "few gaps",
            "waiting",
            e.coverage >= r.coverage,
            f"There are cycles in {_percent(e.coverage)} of the time (at least {_percent(r.coverage)}).",
            "A runtime that runs without long breaks.",
        ),
        Check(
            "rows readable",
            "waiting",
            e.malformed <= r.malformed and not e.lost_rows,
            f"{_percent(e.malformed)} of the rows could not be used (at most {_percent(r.malformed)})"
            + ("; the log tells of rows that it lost, as the disk refused them." if e.lost_rows else "."),
            "A log written whole by one version of the runtime, on a disk with space.",
        ),
        Check(
            "policy trusted",
            "waiting",
            e.trusted >= r.trusted,
            f"The policy would have had half the action or more in {_percent(e.trusted)} of the cycles in SHADOW (at "
            f"least {_percent(r.trusted)}).{doubt}",
            "A policy that is trusted most of the time: see which flags stand against it.",
        ),
        Check(
            "transitions scored",
            "waiting",
            e.scored >= r.scored,
            f"The dynamics reward could score {_percent(e.scored)} of the cycles in SHADOW (at least "
            f"{_percent(r.scored)}).",
            "Unbroken cycles with usable sensors and a known command in force, so that drift can be seen.",
        ),
        Check(
            "drift testable",
            "waiting",
            e.trend_known,
            "The shortfall's trend could be tested." if e.trend_known else "The shortfall's trend could not be tested.",
            "Scored transitions throughout the time in SHADOW.",
        ),
        Check(
            "sensors usable",
            "waiting",
            usable >= r.usable,
            f"The least usable tag is '{tag}', in {_percent(usable)} of the cycles (at least {_percent(r.usable)}).",
            f"A usable '{tag}': see quality, age and range in the section on sensors.",
        ),
        Check(
            "runtime healthy",
            "waiting",
            e.faulty <= r.faulty and e.late <= r.late,
            f"The runtime found a fault in {_percent(e.faulty)} of the cycles (at most {_percent(r.faulty)}) and "
            f"computed beyond its deadline in {_percent(e.late)} (at most {_percent(r.late)}).",
            "A runtime, a network and a machine that keep the period: see faults and latency.",
        ),
        Check(
            "no alarm at the end",
            "waiting",
            not e.active_alarms,
            f"Alarms that hold at the end: {', '.join(e.active_alarms)}."
            if e.active_alarms
            else "No alarm holds at the end of the log.",
            "An end to the alarms that hold: see the section on the runtime.",
        ),
    )


def _percent(share: float) -> str:
    return f"{share:.4g}" if share != share else f"{100 * share:.4g} %"
