"""What a plant file says about the historian that wrote the log: section `log` and the quality rules of a tag.

The defaults refuse to guess: what a rule here does not allow is quarantined with file, line and reason.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from controlkit.strict_yaml import Strict


class Compression(Strict):
    """How a historian thinned a tag out: while no sample comes, the value stays within `deviation` of the last one.

    Attributes:
        deviation: exception or compression deviation, in the tag's unit.
        max_interval_s: the longest the historian stays silent; the tag's `max_age_s` where that is not given.
    """

    deviation: Annotated[float, Field(ge=0)]
    max_interval_s: Annotated[float, Field(gt=0)]


class Frozen(Strict):
    """A sensor that repeats the same good value for longer than `after_s` is taken for dead: not usable from then on.

    Attributes:
        after_s: seconds.
        within: values this close together count as the same (0: equal to the last bit).
    """

    after_s: Annotated[float, Field(gt=0)]
    within: Annotated[float, Field(ge=0)] = 0.0


class LogColumns(Strict):
    """Names of a log's columns, where neither their usual names nor a preset tell."""

    timestamp: str | None = None
    tag: str | None = None
    value: str | None = None
    quality: str | None = None
    unit: str | None = None


class LogRules(Strict):
    """How the plant's logs are read.

    Attributes:
        preset: the historian whose columns and quality codes they use.
        columns: names of columns.
        delimiter, decimal, encoding: of CSV; found out where not given.
        day_first: whether 03/04/2024 is the third of April, where no stamp of any source tells.
        on_fold: a naive stamp that the clock shows twice: `reject` it, take the `earlier` or the `later` meaning, or
            tell them apart `by_order` of the rows.
        on_skip: a naive stamp that the clock never showed: `reject` it, or `shift` it on by the change.
        on_duplicate: good samples of one tag and stamp with different values: `reject` all but the first (of a command
            or a mode that one, too: it is unknown then), or keep the
            `first`, the `last` or the `mean`.
        on_backward: a stamp before its predecessor's in the same file: `reject` it, or `sort` the file.
        uncertain, substituted: what a sample of this quality is worth.
        future_s: how far ahead of the time of the ingest a stamp may lie.
        max_quarantined: the largest share of rows in quarantine.
    """

    preset: Literal["pi", "ip21", "ignition", "influxdb", "timescaledb"] | None = None
    columns: LogColumns = LogColumns()
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    decimal: Literal[".", ","] | None = None
    encoding: str | None = None
    day_first: bool | None = None
    on_fold: Literal["reject", "earlier", "later", "by_order"] = "reject"
    on_skip: Literal["reject", "shift"] = "reject"
    on_duplicate: Literal["reject", "first", "last", "mean"] = "reject"
    on_backward: Literal["reject", "sort"] = "reject"
    uncertain: Literal["use", "leave_out"] = "leave_out"
    substituted: Literal["use", "leave_out"] = "leave_out"
    future_s: Annotated[float, Field(ge=0)] = 300.0
    max_quarantined: Annotated[float, Field(ge=0, le=1)] = 0.01

    @model_validator(mode="after")
    def _marks_differ(self) -> LogRules:
        if self.delimiter is not None and self.delimiter == self.decimal:
            raise ValueError(f"delimiter and decimal mark cannot both be '{self.delimiter}'")
        return self
