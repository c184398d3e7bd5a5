"""The report as a record: everything that its text and its page show, and what `quality.json` holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from controlkit.errors import ArtifactError
from controlkit.ingest.analysis import Analysis
from controlkit.ingest.responses import Response

SCHEMA = 2

Numbers = tuple[float | None, ...]
Level = Literal["stop", "look", "note"]
Verdict = Literal["usable", "usable with care", "not usable yet"]


@dataclass(frozen=True)
class SourceQuality:
    """One source: records, samples in them, those of tags with role `ignore`, first and last stamp (ISO, UTC).

    `unknown_codes` are words in its quality column that nobody here knows; they count as not good.
    """

    name: str
    location: str
    sha256: str
    form: str
    rows: int
    samples: int
    ignored: int
    first: str
    last: str
    unknown_codes: tuple[str, ...]


@dataclass(frozen=True)
class SampleCounts:
    """What became of the samples of a tag; `samples` is the sum of the others."""

    samples: int
    used: int
    bad_quality: int
    uncertain: int
    substituted: int
    empty: int
    out_of_range: int
    frozen: int
    quarantined: int
    merged: int


@dataclass(frozen=True)
class FlaggedStretch:
    """A stretch of a tag that deserves a look: why, from and to in ns since 1970 UTC, samples in it."""

    reason: str
    from_ns: int
    to_ns: int
    samples: int


@dataclass(frozen=True)
class Histogram:
    """Kept rows (K,) between edges (K + 1,), in the tag's unit."""

    edges: tuple[float, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Trend:
    """A tag in the buckets of the time line: least, mean, largest usable value, share of usable rows; None: no row."""

    low: Numbers
    mean: Numbers
    high: Numbers
    usable: Numbers


@dataclass(frozen=True)
class TagQuality:
    """One tag.

    Attributes:
        role, unit: from the plant file.
        counts: of its samples.
        low, mean, high, std: of the used samples, in the tag's unit.
        held_share: share of the kept rows whose value is a period old or older; of a command, which repeat the row
            before. None, as the next three, for tags that are not in the data set.
        changed_share: of a command, share of the kept rows inside which it changes.
        histogram, trend: what is plotted.
        flags: stretches to look at.
    """

    role: str
    unit: str
    counts: SampleCounts
    low: float | None
    mean: float | None
    high: float | None
    std: float | None
    held_share: float | None
    changed_share: float | None
    histogram: Histogram | None
    trend: Trend | None
    flags: tuple[FlaggedStretch, ...]


@dataclass(frozen=True)
class TimeLine:
    """Buckets of time: where the first begins, how long one is, rows it can hold; rows of the log, kept rows: (B,)."""

    start_ns: int
    width_ns: int
    full: float
    rows: tuple[int, ...]
    kept: tuple[int, ...]


@dataclass(frozen=True)
class EpisodeSpan:
    """`episodes` of them in a row, from and to in ns since 1970 UTC, rows in them."""

    from_ns: int
    to_ns: int
    rows: int
    episodes: int


@dataclass(frozen=True)
class QuarantineExample:
    """One row that could not be used: file and line, tag where one cell is meant, what stands there, why not."""

    place: str
    tag: str
    text: str
    reason: str


@dataclass(frozen=True)
class Advice:
    """One sentence for the engineer: `stop` before training, `look` at it, or just `note` it."""

    level: Level
    text: str


@dataclass(frozen=True)
class QualityReport:
    """What an ingest found.

    Attributes:
        plant, description, period_s: from the plant file.
        first, last: time stamps of the first and last measurement (ISO, UTC); `span_s` seconds between them.
        rows: sample times in the log, without those in gaps; `rows_kept` of them are in the data set.
        episodes, steps: in the data set; `transitions` of the steps have a full window of history.
        verdict, headline, advice: whether to train on it.
        samples: that came in.
        sources, tags: by file, and by name of the tag.
        rows_removed, cuts: rule -> rows left out; rule -> ends of episodes.
        unusable_rows: measured tag -> rows in which it was unknown or too old.
        gaps: from, to, seconds, of the longest gaps; `gap_count`, `gap_s` of all.
        episode_rows: rows of the shortest, the median and the longest episode.
        spans: where the episodes lie.
        time_line: where the log has rows, and which are kept.
        analysis: delays, needed history, excitation.
        quarantine: reason -> rows that could not be used; `examples` the first ones of each.
    """

    plant: str
    description: str
    period_s: float
    first: str
    last: str
    span_s: float
    rows: int
    rows_kept: int
    episodes: int
    steps: int
    transitions: int
    verdict: Verdict
    headline: str
    advice: tuple[Advice, ...]
    samples: int
    sources: tuple[SourceQuality, ...]
    tags: Mapping[str, TagQuality]
    rows_removed: Mapping[str, int]
    cuts: Mapping[str, int]
    unusable_rows: Mapping[str, int]
    gaps: tuple[tuple[str, str, float], ...]
    gap_count: int
    gap_s: float
    episode_rows: tuple[int, int, int]
    spans: tuple[EpisodeSpan, ...]
    time_line: TimeLine
    analysis: Analysis
    quarantine: Mapping[str, int]
    examples: tuple[QuarantineExample, ...]

    def totals(self) -> dict[str, int]:
        """Samples that came in (`in`), and what became of them: the other entries, which add up to it."""
        names = [field.name for field in fields(SampleCounts) if field.name != "samples"]
        parts = {name: sum(getattr(tag.counts, name) for tag in self.tags.values()) for name in names}
        parts["quarantined"] = sum(self.quarantine.values())
        parts["ignored"] = sum(source.ignored for source in self.sources)
        return {"in": self.samples, **parts}

    @property
    def unaccounted(self) -> int:
        """Samples of which nobody knows what became; anything but 0 is a fault of the ingest."""
        totals = self.totals()
        return 2 * totals["in"] - sum(totals.values())

    def response(self, action: str, state: str) -> Response | None:
        """What an action does to a state; None where the data were too short to look."""
        found = [r for r in self.analysis.responses if (r.action, r.state) == (action, state)]
        return found[0] if found else None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `quality.json`."""
        return {"schema": SCHEMA, "totals": self.totals(), **asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "") -> QualityReport:
        """Reads what `to_dict` wrote; `where` names the file in an error.

        Raises:
            ArtifactError: it is of another version, or damaged.
        """
        from pydantic import TypeAdapter, ValidationError

        if content.get("schema") != SCHEMA:
            found = content.get("schema")
            raise ArtifactError(f"has schema {found}, this version reads {SCHEMA}", where=where, cure="Ingest again.")
        try:
            return TypeAdapter(cls).validate_python({field.name: content[field.name] for field in fields(cls)})
        except (KeyError, ValidationError) as problem:
            detail = str(problem).splitlines()[0]
            raise ArtifactError(f"the report is damaged ({detail})", where=where, cure="Ingest again.") from None

    def to_text(self) -> str:
        """A few lines for a terminal."""
        from controlkit.ingest.quality_report.text import to_text

        return to_text(self)

    def to_html(self) -> str:
        """A page that opens offline: nothing in it is loaded from elsewhere."""
        from controlkit.ingest.quality_report.page import render

        return render(self)
