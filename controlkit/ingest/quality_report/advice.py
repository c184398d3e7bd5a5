"""What the figures mean for training: sentences, each with the tag, the number and what to do, and a verdict.

`stop`: training on this would be a waste of time, or worse. `look`: it may be right, and costs quality if it is not.
`note`: good to know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from controlkit.ingest.analysis import Analysis
from controlkit.ingest.episodes import Rules
from controlkit.ingest.excitation import Excitation
from controlkit.ingest.quality_report.record import Advice, SourceQuality, TagQuality, Verdict
from controlkit.ingest.quality_report.text import duration, share
from controlkit.spec import PlantSpec

LEAST_TRANSITIONS = 1000
# From these shares on something is told.
KEPT, HELD, CHANGED, AT_LIMIT, NARROW, RANGE_USED = 0.5, 0.9, 0.2, 0.2, 0.1, 0.02
FEW_LEVELS, FEW_MOVES, LOW_ORDER = 3, 50, 5
CLOSED, PARTLY = 0.9, 0.2


def advise(
    spec: PlantSpec,
    transitions: int,
    rules: Rules,
    sources: Sequence[SourceQuality],
    tags: Mapping[str, TagQuality],
    warnings: Sequence[str],
    analysis: Analysis,
) -> tuple[Advice, ...]:
    """All advice, the gravest first.

    Args:
        spec: the plant.
        transitions: steps with a full window of history.
        rules: what each rule removed.
        sources, tags, analysis: as in the report.
        warnings: sentences from the assessment of the samples.
    """
    found = [*_amount(spec, transitions, rules)]
    for moved in analysis.excitation:
        found += _action(spec, moved, analysis)
    found += _history(spec, analysis)
    found += [Advice("look", text if text.endswith(".") else f"{text}.") for text in warnings]
    for name, tag in tags.items():
        found += _tag(spec, name, tag)
    found += [
        Advice("look", f"{source.name}: unknown quality words count as not good: {', '.join(source.unknown_codes)}")
        for source in sources
        if source.unknown_codes
    ]
    order = {"stop": 0, "look": 1, "note": 2}
    return tuple(sorted(dict.fromkeys(found), key=lambda advice: order[advice.level]))


def verdict(advice: Sequence[Advice]) -> Verdict:
    """In one word."""
    levels = {one.level for one in advice}
    return "not usable yet" if "stop" in levels else "usable with care" if "look" in levels else "usable"


def headline(spec: PlantSpec, transitions: int, episodes: int, kept_s: float, advice: Sequence[Advice]) -> str:
    """The verdict's reason in a sentence or two."""
    what = (
        f"{duration(kept_s)} of usable data in {_many(episodes, 'episode')}: "
        f"{_many(transitions, 'step')} with a full window of history."
    )
    stops = sum(one.level == "stop" for one in advice)
    looks = sum(one.level == "look" for one in advice)
    if stops:
        return f"{what} {_many(stops, 'thing')} must be mended before training."
    return f"{what} {_many(looks, 'thing')} to look at." if looks else f"{what} Nothing stands against training on it."


def _amount(spec: PlantSpec, transitions: int, rules: Rules) -> Iterator[Advice]:
    if transitions < LEAST_TRANSITIONS:
        yield Advice(
            "stop",
            f"Only {_many(transitions, 'step')} with a full window of history: fewer than {LEAST_TRANSITIONS} teach a "
            "model little. Bring a longer log, or ask for less history.",
        )
    if rules.rows and rules.rows_kept < KEPT * rules.rows:
        rule, rows = max(rules.rows_removed.items(), key=lambda item: item[1])
        worst, times = max(rules.unusable.items(), key=lambda item: item[1], default=("", 0))
        detail = f"; '{worst}' alone was unknown or too old in {times} rows" if rule == "measurement unknown" else ""
        yield Advice(
            "look",
            f"Only {share(rules.rows_kept / rules.rows)} of the log's rows are kept. The rule '{rule}' removed most, "
            f"{share(rows / rules.rows)}{detail}. Look at 'max_age_s', 'max_gap_s' and 'accept' in the plant file.",
        )


def _action(spec: PlantSpec, moved: Excitation, analysis: Analysis) -> Iterator[Advice]:
    name, unit = moved.action, "" if moved.unit == "1" else f" {moved.unit}"
    if moved.low == moved.high:
        yield Advice("stop", f"{name}: never moves, it stays at {moved.low:.4g}{unit}. What it does cannot be learned.")
        return
    responses = [r for r in analysis.responses if r.action == name]
    seen, feedback = any(r.seen for r in responses), moved.feedback_share or 0.0
    if responses and not seen:
        nothing = not any(r.seen for r in analysis.responses)
        why = (
            f"{share(feedback)} of its moves follow from the measurements, so that cause and effect cannot be told "
            "apart. Make a few step tests, or log its setpoint changes."
            if feedback >= CLOSED
            else "Check that it is the right column, that its stamps are right and that the loop was in use."
        )
        reach = duration(analysis.searched * analysis.period_s)
        yield Advice("stop" if nothing else "look", f"{name}: no effect on any state seen within {reach}. {why}")
    low, high = moved.middle
    if moved.range_share < NARROW:
        yield Advice(
            "look",
            f"{name}: 98 % of its commands lie in {low:.4g} .. {high:.4g}{unit}, {share(moved.range_share)} of its "
            "limits. Beyond that a policy is a guess: make step tests there, or set narrower 'limits'.",
        )
    if moved.moves_per_day < FEW_MOVES or moved.levels < FEW_LEVELS:
        yield Advice(
            "look",
            f"{name}: moves {moved.moves_per_day:.3g} times a day between {_many(moved.levels, 'level')}. Few moves "
            "teach little: bring a longer log or make step tests.",
        )
    elif moved.order < LOW_ORDER:
        yield Advice(
            "look",
            f"{name}: its moves are too regular (persistently exciting of order {moved.order}). Delays and dynamics "
            "beyond that number of coefficients cannot be told: vary the size and the time of its moves.",
        )
    if moved.limit_share > AT_LIMIT:
        yield Advice(
            "look",
            f"{name}: lies at a limit {share(moved.limit_share)} of the time. Check 'limits'; there the log shows only "
            "one direction of its moves.",
        )
    if seen and feedback >= PARTLY:
        kind = "almost nothing else moves it" if feedback >= CLOSED else "the rest are moves of its own"
        yield Advice(
            "look" if feedback >= CLOSED else "note",
            f"{name}: in closed loop, {share(feedback)} of its moves follow from the measurements and {kind}."
            + (" Make step tests, so that its effect can be told from its cause." if feedback >= CLOSED else ""),
        )


def _history(spec: PlantSpec, analysis: Analysis) -> Iterator[Advice]:
    period = analysis.period_s
    for item in analysis.history:
        if item.needed is None:
            continue
        back = f"{duration(item.needed * period)} back"
        what = "commands" if item.role == "action" else "values"
        if item.needed > item.asked:
            beyond = " or more (the search went no further)" if item.reaches_end else ""
            yield Advice(
                "look",
                f"{item.tag}: {what} from {back} still matter. Set its 'history' to {item.needed}{beyond}; the plant "
                f"file asks for {item.asked}.",
            )
        elif item.asked > 2 * item.needed + 5 and item.asked <= item.searched:
            yield Advice(
                "note",
                f"{item.tag}: the plant file asks for a history of {item.asked}; a linear model needs {item.needed}. "
                "Less history makes training faster.",
            )


def _tag(spec: PlantSpec, name: str, tag: TagQuality) -> Iterator[Advice]:
    unit, thinned = "" if tag.unit == "1" else f" {tag.unit}", spec.tags[name].compression is not None
    if tag.role in ("state", "exogenous") and tag.held_share is not None and tag.held_share > HELD and not thinned:
        yield Advice(
            "look",
            f"{name}: its value is a period old or older in {share(tag.held_share)} of the rows. Take a longer "
            "'period_s', or say how the historian thinned it out ('compression').",
        )
    if tag.changed_share is not None and tag.changed_share > CHANGED:
        yield Advice(
            "look",
            f"{name}: changes inside the period in {share(tag.changed_share)} of the rows. A shorter 'period_s', or "
            "one that meets the controller's cycle, would show its moves as they were.",
        )
    low, high = spec.tags[name].range
    if tag.role == "state" and tag.low is not None and tag.high is not None:
        used = (tag.high - tag.low) / (high - low)
        if 0 < used < RANGE_USED:
            yield Advice(
                "look",
                f"{name}: uses {share(used)} of its range [{low:g}, {high:g}]{unit}. The range scales the networks' "
                "inputs: set a narrower one.",
            )


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
