"""The data-quality report of an ingest: what came in, what was used, what was left out and why."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from controlkit.ingest.checks import Account
from controlkit.ingest.timestamps import iso

LISTED_GAPS = 20


@dataclass(frozen=True)
class SourceQuality:
    """One log file: name, SHA-256, form (`long` or `wide`), records, and samples of tags with role `ignore`."""

    name: str
    sha256: str
    form: str
    rows: int
    ignored: int


@dataclass(frozen=True)
class TagQuality:
    """One tag: the account of its samples and the statistics of the used ones, in its unit.

    `held_share` is the share of the kept rows whose value (or command) is a period old or older; None for tags that are
    not in the data set.
    """

    role: str
    unit: str
    account: Account
    low: float | None
    mean: float | None
    high: float | None
    std: float | None
    held_share: float | None


@dataclass(frozen=True)
class QualityReport:
    """What an ingest found.

    Attributes:
        plant: its name.
        first, last: time stamps of the first and last measurement (ISO, UTC).
        span_s: seconds between them.
        rows: sample times in the log, without those in gaps; `rows_kept` of them are in the data set.
        episodes, steps: in the data set; `transitions` of the steps have a full window of history.
        sources, tags: by file, and by name of the tag.
        rows_removed, cuts: rule -> rows left out; rule -> ends of episodes.
        unusable_rows: measured tag -> rows in which it was unknown or too old.
        gaps: from, to, seconds, of the longest gaps.
        gap_count, gap_s: all gaps.
        episode_rows: rows of the shortest, the median and the longest episode.
        changed_share: action -> share of the steps inside which its command changes.
        warnings: what an engineer should look at.
    """

    plant: str
    first: str
    last: str
    span_s: float
    rows: int
    rows_kept: int
    episodes: int
    steps: int
    transitions: int
    sources: tuple[SourceQuality, ...]
    tags: Mapping[str, TagQuality]
    rows_removed: Mapping[str, int]
    cuts: Mapping[str, int]
    unusable_rows: Mapping[str, int]
    gaps: tuple[tuple[str, str, float], ...]
    gap_count: int
    gap_s: float
    episode_rows: tuple[int, int, int]
    changed_share: Mapping[str, float]
    warnings: tuple[str, ...]

    def totals(self) -> dict[str, int]:
        """Samples that came in, and what became of them: `in` is the sum of the others."""
        accounts = [tag.account for tag in self.tags.values()]
        parts = {
            name: sum(getattr(account, name) for account in accounts)
            for name in ("used", "bad_quality", "empty", "out_of_range", "merged")
        }
        parts["ignored"] = sum(source.ignored for source in self.sources)
        return {"in": sum(account.samples for account in accounts) + parts["ignored"], **parts}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for `quality.json`."""
        return {"schema": 1, "samples": self.totals(), **asdict(self)}

    def to_text(self) -> str:
        """A few lines for a terminal."""
        totals = self.totals()
        removed = {name: count for name, count in self.rows_removed.items() if count}
        cuts = {name: count for name, count in self.cuts.items() if count}
        lines = [
            f"{self.plant}: {self.first} to {self.last} ({duration(self.span_s)})",
            f"samples in {totals['in']} = used {totals['used']} + bad quality {totals['bad_quality']} + empty "
            f"{totals['empty']} + out of range {totals['out_of_range']} + merged {totals['merged']} + ignored "
            f"{totals['ignored']}",
            f"gaps: {self.gap_count} ({duration(self.gap_s)})",
            f"rows: {self.rows}, kept {self.rows_kept}" + "".join(f", {name} {n}" for name, n in removed.items()),
            f"episodes: {self.episodes} with {self.steps} steps, {self.transitions} with a full window of history"
            + (f"; cut by {', '.join(f'{name} {n}' for name, n in cuts.items())}" if cuts else ""),
        ]
        width = max(len(name) for name in self.tags)
        lines.append(
            f"{'tag':<{width}}  {'used':>9} {'bad':>7} {'range':>6} {'min':>10} {'mean':>10} {'max':>10}  unit"
        )
        for name, tag in self.tags.items():
            figures = " ".join(f"{_figure(value):>10}" for value in (tag.low, tag.mean, tag.high))
            bad = tag.account.bad_quality + tag.account.empty
            lines.append(
                f"{name:<{width}}  {tag.account.used:>9} {bad:>7} {tag.account.out_of_range:>6} {figures}  {tag.unit}"
            )
        return "\n".join([*lines, *(f"warning: {warning}" for warning in self.warnings)])

    def to_html(self) -> str:
        """A page that opens offline: nothing in it is loaded from elsewhere."""
        warnings = "".join(f"<li>{html.escape(text)}</li>" for text in self.warnings)
        totals = self.totals()
        sum_line = " + ".join(
            f"{count} {html.escape(name.replace('_', ' '))}" for name, count in totals.items() if name != "in"
        )
        shortest, median, longest = self.episode_rows
        facts = {
            "from": self.first,
            "to": self.last,
            "span": duration(self.span_s),
            "episodes": f"{self.episodes}, with {shortest} to {longest} rows (median {median})",
            "steps": f"{self.steps}, {self.transitions} of them with a full window of history",
            "rows": f"{self.rows} sample times, {self.rows_kept} kept",
            "gaps": f"{self.gap_count}, {duration(self.gap_s)} in all",
        }
        tag_rows = [
            [
                name, tag.role, tag.unit, *(str(count) for count in asdict(tag.account).values()), _figure(tag.low),
                _figure(tag.mean), _figure(tag.high), _figure(tag.std), _share(tag.held_share),
                _share(self.changed_share.get(name)),
            ]
            for name, tag in self.tags.items()
        ]  # fmt: skip
        tag_heads = [
            "tag", "role", "unit", "samples", "used", "bad quality", "empty", "out of range", "merged", "min", "mean",
            "max", "std", "held", "changed inside",
        ]  # fmt: skip
        sources = [[s.name, s.form, str(s.rows), str(s.ignored), s.sha256] for s in self.sources]
        gaps = [[start, end, duration(seconds)] for start, end, seconds in self.gaps]
        return _PAGE.format(
            title=f"Data quality: {html.escape(self.plant)}",
            warnings=f"<h2>Look at this</h2><ul class='warnings'>{warnings}</ul>" if warnings else "",
            facts=_table([], [[name, value] for name, value in facts.items()]),
            samples=f"{totals['in']} samples in = {sum_line}",
            tags=_table(tag_heads, tag_rows),
            removed=_table(["rows left out", "rows"], _counts(self.rows_removed)),
            cuts=_table(["episodes ended by", "times"], _counts(self.cuts)),
            unusable=_table(["unknown or too old", "rows"], _counts(self.unusable_rows)),
            gaps=_table(["longest gaps from", "to", "duration"], gaps) if gaps else "<p>No gaps.</p>",
            sources=_table(["file", "form", "records", "ignored samples", "SHA-256"], sources),
        )


def duration(seconds: float) -> str:
    """Seconds as people say them: `2 d 3 h`, `45 s`."""
    rest, parts = round(seconds), []
    if rest < 60:
        return f"{seconds:.3g} s"
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


def gap_row(from_ns: int, to_ns: int) -> tuple[str, str, float]:
    """From, to and seconds of a gap."""
    return iso(from_ns), iso(to_ns), (to_ns - from_ns) / 1e9


def _counts(counts: Mapping[str, int]) -> list[list[str]]:
    return [[name, str(count)] for name, count in counts.items()]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<thead><tr>{head}</tr></thead>' if heads else ''}<tbody>{body}</tbody></table>"


_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem; color: #1b1f24; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 1.8rem; }}
table {{ border-collapse: collapse; margin: .5rem 0; display: block; overflow-x: auto; }}
th, td {{ border-bottom: 1px solid #d5dae0; padding: .25rem .7rem; text-align: left; white-space: nowrap; }}
th {{ background: #f3f5f7; }} td {{ font-variant-numeric: tabular-nums; }}
.warnings {{ background: #fff4d6; border-left: 4px solid #d69e00; padding: .6rem .6rem .6rem 2rem; }}
</style></head><body>
<h1>{title}</h1>
{warnings}
<h2>The log</h2>
{facts}
<p>{samples}</p>
<h2>Tags</h2>
{tags}
<h2>What was left out</h2>
{removed}
{cuts}
{unusable}
<h2>Gaps</h2>
{gaps}
<h2>Sources</h2>
{sources}
</body></html>
"""
