"""The part that each tag plays: from its name where that tells, otherwise from what it does to the others.

An action moves other tags more than they move it, and reacts (a controller or an operator moves it), or nothing does. A
state is moved by an action, or by a state that is. An exogenous tag is moved by nothing here and moves a state. What
has no relation to the others at all is ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError
from controlkit.ingest.draft.relations import Relations
from controlkit.ingest.draft.signals import FEWEST, Signal
from controlkit.ingest.draft.tag_names import NameHint
from controlkit.spec import Role

# A mode, and what is written in words of numbers, has so few values.
FEW_LEVELS = 8
# How much stronger an action's effect is than what comes back.
_MARGIN = 0.1
# A command may follow what it moves a little more closely than it moves it.
_BACK = 0.8
_REACTS_WITHIN = 3  # sample times
# Share of its effect that what a command does not follow at once may move it, by way of the plant.
_BACKGROUND = 0.6
_LEAST = 0.05
# Share of a tag's variance that lies between two samples, above which it does not drift.
_ROUGH = 0.05
# Beside actions that react, one that does not has about as much effect.
_AS_MUCH = 0.75
# Effect of a further action, as a share of the strongest one's.
_SHARE = 0.25


@dataclass(frozen=True)
class Part:
    """A tag's role, and why.

    Attributes:
        role: the role.
        why: the reason.
        sure: whether the name says so; otherwise it is told from the data, and the engineer should look.
        of: for a feedback, its action.
    """

    role: Role
    why: str
    sure: bool = False
    of: str | None = None


def parts_of(signals: Mapping[str, Signal], hints: Mapping[str, NameHint], relations: Relations) -> dict[str, Part]:
    """The part of every tag.

    Args:
        signals: by tag.
        hints: what the names say.
        relations: of the tags that move, by name.

    Raises:
        DataError: fewer than two tags move.
    """
    if len(relations.names) < 2:
        raise DataError(
            f"{len(relations.names)} tag(s) of the log move; a plant has at least one that is commanded and one that "
            "is measured",
            cure="Export the commands and the measurements, over a time in which they move.",
        )
    parts = _told(signals, hints)
    actions = {name for name, part in parts.items() if part.role == "action"}
    if not actions:
        actions = _find_actions(relations, [name for name in relations.names if name not in parts], parts, signals)
    _mark_feedbacks(parts, hints, actions, signals)
    open_names = [name for name in relations.names if name not in parts]
    parts |= _moved(relations, open_names, actions, hints)
    if not any(part.role == "state" for part in parts.values()):
        _force_state(relations, parts, actions)
    return {name: parts[name] for name in signals}


def _told(signals: Mapping[str, Signal], hints: Mapping[str, NameHint]) -> dict[str, Part]:
    """What is known without looking at other tags."""
    parts: dict[str, Part] = {}
    for name, signal in signals.items():
        hint = hints[name]
        if len(signal.value) < FEWEST:
            count = len(signal.value)
            why = "it holds no numbers" if not count else f"only {count} good samples of it were seen"
            parts[name] = Part("ignore", why)
        elif hint.kind == "mode" and signal.levels <= FEW_LEVELS and _whole(signal):
            parts[name] = Part("mode", hint.why, sure=True)
        elif signal.constant:
            value = signal.value[0]
            parts[name] = Part("static" if hint.kind == "setpoint" else "ignore", f"it is {value:g} throughout")
        elif hint.kind == "alarm":
            parts[name] = Part("ignore", hint.why, sure=True)
        elif hint.kind == "setpoint":
            parts[name] = Part("exogenous", f"a setpoint: {hint.why}", sure=True)
        elif hint.kind == "command":
            parts[name] = Part("action", hint.why, sure=True)
    return parts


def _find_actions(
    relations: Relations, candidates: list[str], parts: dict[str, Part], signals: Mapping[str, Signal]
) -> set[str]:
    """Actions by what they do; their parts are added."""
    out, follows = relations.strength(), _follows(relations)
    index = {name: relations.names.index(name) for name in candidates}
    # What a command follows at once is its controller's input; only what else moves a tag speaks against an action.
    moved = np.where(follows, 0.0, out.T).max(axis=1)
    score = {name: float(out[i].max() - moved[i]) for name, i in index.items()}
    reacting = [name for name, i in index.items() if follows[i].any() and moved[i] <= _BACKGROUND * out[i].max()]
    why = "it moves other tags and follows some at once: a controller's or an operator's command"
    chosen = dict.fromkeys(_strongest(reacting, score, out, index, _LEAST), why)
    # What nothing moves may be a disturbance. These drift; commands that are moved freely are rough.
    plain = [name for name in candidates if name not in chosen]
    rough = [name for name in plain if signals[name].roughness > _ROUGH and score[name] > _MARGIN]
    if chosen:
        best = max(score[name] for name in chosen)
        # A disturbance of a controlled plant moves the command, too, by way of the controller.
        plain = [name for name in rough if not any(out[index[name], index[action]] for action in chosen)]
        least = max(_MARGIN, _AS_MUCH * best)
    else:
        plain, least = rough or plain, _MARGIN
    why = "it moves other tags, and nothing in the log moves it: an action, or a disturbance"
    chosen |= dict.fromkeys(_strongest(plain, score, out, index, least), why)
    for name, why in chosen.items():
        parts[name] = Part("action", f"{why} (correlation {out[index[name]].max():.2f})")
    if chosen:
        return set(chosen)
    # Nothing shows: the tag that looks most like a command by itself.
    names = candidates or list(relations.names)
    last = max(names, key=lambda name: (score.get(name, 0.0), signals[name].repeats, signals[name].at_ends))
    parts[last] = Part("action", "a GUESS: no tag is seen to move another")
    return {last}


def _strongest(
    pool: list[str], score: Mapping[str, float], out: npt.NDArray[np.float64], index: Mapping[str, int], least: float
) -> list[str]:
    """Tags that move others much more than they are moved, each but those that one before it moves."""
    chosen: list[str] = []
    best = max((score[name] for name in pool), default=0.0)
    for name in sorted(pool, key=lambda name: -score[name]):
        i = index[name]
        moved = any(out[index[other], i] >= max(_MARGIN, out[i, index[other]]) for other in chosen)
        if not moved and score[name] > max(least, _SHARE * best):
            chosen.append(name)
    return chosen


def _follows(relations: Relations) -> npt.NDArray[np.bool_]:
    """(n, n) whether tag i follows tag j at once, as a command follows what its controller reads: at the same time.

    What a command moves follows a sample later at the earliest, as it is measured before the command goes out.
    """
    soon = np.abs(relations.correlation[1 : 1 + _REACTS_WITHIN]).max(axis=0)  # [j, i]
    back = np.where(soon > relations.bound, relations.strength(), 0.0).T
    return np.asarray((back > 0) & (relations.together() >= 0.5 * back))


def _mark_feedbacks(
    parts: dict[str, Part], hints: Mapping[str, NameHint], actions: set[str], signals: Mapping[str, Signal]
) -> None:
    """A measured position belongs to the action of its loop, or to the one that it is closest to."""
    for name, hint in hints.items():
        if name in parts or hint.kind != "feedback" or not actions:
            continue
        number = (hint.loop or "")[1:]
        same = [action for action in sorted(actions) if number and (hints[action].loop or "")[1:] == number]
        action = same[0] if same else min(sorted(actions), key=lambda a: _distance(signals[name], signals[a]))
        if _distance(signals[name], signals[action]) < 0.3:
            parts[name] = Part("feedback", f"{hint.why}; it follows '{action}'", sure=bool(same), of=action)


def _moved(relations: Relations, names: list[str], actions: set[str], hints: Mapping[str, NameHint]) -> dict[str, Part]:
    """States, exogenous tags and those without relation among the rest."""
    out = relations.strength()
    index = {name: i for i, name in enumerate(relations.names)}
    parts: dict[str, Part] = {}
    driven_loops = {hints[name].loop for name in actions} - {None}
    for name in names:
        causes = [a for a in actions if out[index[a], index[name]] > _BACK * out[index[name], index[a]]]
        strongest = max(causes, key=lambda a: out[index[a], index[name]], default=None)
        if strongest is not None:
            delay = relations.delay(strongest, name)
            parts[name] = Part("state", f"'{strongest}' moves it after {(delay or 1) * relations.period_s:g} s")
        elif hints[name].loop in driven_loops and hints[name].kind == "measured":
            parts[name] = Part("state", f"{hints[name].why}, and its loop has a command", sure=True)
    grown = True
    while grown:  # what a state moves is a state
        grown = False
        states = [name for name, part in parts.items() if part.role == "state"]
        for name in names:
            by = [s for s in states if out[index[s], index[name]] > max(_MARGIN, out[index[name], index[s]])]
            if name not in parts and by:
                cause = max(by, key=lambda s: out[index[s], index[name]])
                parts[name] = Part("state", f"state '{cause}' moves it")
                grown = True
    for name in names:
        if name in parts:
            continue
        column = out[index[name]]
        moved = [other for other in (*parts, *actions) if other != name and column[index[other]] > 0]
        if moved:
            other = max(moved, key=lambda o: column[index[o]])
            parts[name] = Part("exogenous", f"it comes before '{other}', and no action moves it")
        else:
            parts[name] = Part("ignore", "no relation to the actions and states is seen")
    return parts


def _force_state(relations: Relations, parts: dict[str, Part], actions: set[str]) -> None:
    """A plant has a state: the tag that comes nearest to one."""
    out = relations.strength()
    index = {name: i for i, name in enumerate(relations.names)}
    left = [name for name in index if name not in actions]
    if not left:
        weakest = min(actions, key=lambda name: (out[index[name]].max(), name))
        actions.discard(weakest)
        left = [weakest]
    measured = [name for name in left if parts[name].role in ("ignore", "exogenous") and not parts[name].sure] or left
    name = max(measured, key=lambda n: max(abs(relations.correlation[:, index[a], index[n]]).max() for a in actions))
    parts[name] = Part("state", "a GUESS: no tag is seen to follow an action, this one comes nearest")


def _distance(one: Signal, other: Signal) -> float:
    """How far a measured position is from a command, in the command's span."""
    at = np.searchsorted(other.time_ns, one.time_ns, side="right") - 1
    known = at >= 0
    span = float(np.ptp(other.value)) or 1.0
    return float(np.mean(np.abs(one.value[known] - other.value[at[known]]))) / span if known.any() else np.inf


def _whole(signal: Signal) -> bool:
    return bool((signal.value == np.round(signal.value)).all())
