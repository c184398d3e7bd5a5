"""What a data set can teach: after what delay each action moves each state, and how well each action was moved.

At most `MOST_ROWS` rows are looked at, in contiguous stretches spread over all of the data; the same data give the same
figures.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlkit.dataset import TransitionDataset
from controlkit.ingest.excitation import Excitation, excitation, feedback_shares
from controlkit.ingest.responses import Response, fit_responses, most_rows
from controlkit.ingest.stretches import stretches

MOST_ROWS = 300_000
# Past commands to look at: at least so many, at most so many, between them three times what the plant file asks for.
_DEPTH = (60, 240)


@dataclass(frozen=True)
class NeededHistory:
    """Past samples of a tag that an observation needs, beside what the plant file asks for.

    Attributes:
        asked: by the plant file.
        needed: by the data; None where no effect of the tag was seen.
        searched: how far back was looked; where `needed` comes near, the truth may lie beyond.
    """

    tag: str
    role: str
    asked: int
    needed: int | None
    searched: int

    @property
    def reaches_end(self) -> bool:
        """Whether the search may have been too short."""
        return self.needed is not None and self.needed >= self.searched - 1


@dataclass(frozen=True)
class Analysis:
    """What was found; times are in sample periods of `period_s`.

    Attributes:
        rows: that were looked at.
        searched: past commands that were looked at; 0 where the data are too short for it, and `responses` are empty.
    """

    rows: int
    period_s: float
    searched: int
    responses: tuple[Response, ...]
    history: tuple[NeededHistory, ...]
    excitation: tuple[Excitation, ...]


def analyse(data: TransitionDataset) -> Analysis:
    """Looks at a data set."""
    spec = data.spec
    asked = max(spec.past_commands(tag) for tag in spec.action_tags)
    ask = max(_DEPTH[0], min(3 * asked, _DEPTH[1]))
    most = min(MOST_ROWS, most_rows(len(spec.frame_tags), len(spec.action_tags), ask))
    found = stretches(data, most)
    rows = sum(len(stretch) for stretch in found)
    if not rows:
        return Analysis(0, spec.period_s, 0, (), (), ())
    fit = fit_responses(found, spec.frame_tags, spec.state_tags, spec.action_tags, ask)
    feedback = feedback_shares(found)
    moved = tuple(
        excitation(found, tag, spec.tags[tag].unit, i, spec.limits(tag), spec.period_s, feedback[i])
        for i, tag in enumerate(spec.action_tags)
    )
    if fit is None:
        return Analysis(rows, spec.period_s, 0, (), (), moved)
    history = []
    for tag in spec.action_tags:
        reach = [r.last_periods for r in fit.responses if r.action == tag and r.last_periods is not None]
        history.append(NeededHistory(tag, "action", spec.past_commands(tag), max(reach, default=None), fit.depth - 1))
    for tag, reach_back in fit.measured_past.items():
        role, asks = spec.tags[tag].role, spec.tags[tag].history
        history.append(NeededHistory(tag, role, asks, reach_back, fit.measured_depth))
    return Analysis(rows, spec.period_s, fit.depth, fit.responses, tuple(history), moved)
