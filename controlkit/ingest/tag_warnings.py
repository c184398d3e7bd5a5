"""What an engineer should look at before training on a log: sentences about each tag, and about tags side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controlkit.align import NS
from controlkit.ingest.figures import Figures, Spread, missing_share
from controlkit.ingest.quarantine import Quarantine
from controlkit.ingest.sample_rules import Account
from controlkit.ingest.timestamps import iso
from controlkit.spec import FRAME_ROLES, PlantSpec

if TYPE_CHECKING:
    from controlkit.ingest.assess import TagAssessment

# A tag that says nothing for this share of the log, at its beginning or end, may have gone by another name then.
_LONG_SILENT = 0.05


@dataclass
class Strays:
    """Samples that stick out: the lowest and highest good value, how many negative ones no range allows, and spikes."""

    low: float = np.inf
    high: float = -np.inf
    negative: int = 0
    spikes: int = 0


def tag_warnings(
    spec: PlantSpec,
    tag: str,
    account: Account,
    figures: Figures,
    strays: Strays,
    intervals: Spread,
    max_bad_share: float,
) -> tuple[str, ...]:
    """Sentences about one tag, each beginning with its name.

    Args:
        spec: the plant.
        tag: its name.
        account: what became of its samples.
        figures: of the used ones.
        strays: what sticks out of them.
        intervals: between the stamps of its samples, used or not.
        max_bad_share: the share of samples that are not good, or missing, from which on it is worth a sentence.
    """
    found = _left_out(spec, tag, account, strays, max_bad_share)
    lost = missing_share(intervals.values()) if spec.tags[tag].compression is None else None
    if lost is not None and lost[0] > max_bad_share:
        found.append(f"{100 * lost[0]:.1f} % of its samples are missing (one comes every {lost[1]:g} s)")
    found += _shape(spec, tag, figures)
    return tuple(f"{tag}: {what}" for what in found)


def _left_out(spec: PlantSpec, tag: str, account: Account, strays: Strays, max_bad_share: float) -> list[str]:
    rule, found = spec.tags[tag], []
    counted = account.samples - account.empty
    bad = account.bad_quality + account.uncertain + account.substituted
    if bad > max_bad_share * counted:
        found.append(f"{100 * bad / counted:.1f} % of its samples are not good")
    if account.out_of_range:
        found.append(f"{account.out_of_range} samples lie outside its range and were not used")
    if strays.negative:
        found.append(
            f"{strays.negative} values are negative (down to {strays.low:g} {rule.unit}), which its range does not "
            "allow: look at the sign and the zero of the measurement"
        )
    if account.quarantined:
        found.append(f"{account.quarantined} samples contradict the log or the plant file and are in quarantine")
    if account.frozen and rule.frozen is not None:
        found.append(
            f"{account.frozen} samples say the same for longer than {rule.frozen.after_s:g} s, as a frozen sensor "
            "does, and were not used"
        )
    if strays.spikes:
        found.append(f"{strays.spikes} samples are spikes; they were used as they are")
    return found


def _shape(spec: PlantSpec, tag: str, figures: Figures) -> list[str]:
    role = spec.tags[tag].role
    if not figures.count:
        return ["no good sample"]
    if role == "exogenous" and figures.low == figures.high:
        return [f"never changes ({figures.low:g}); no model can learn what it does"]
    if role in FRAME_ROLES and figures.wraps():
        return [
            f"rises all the time and falls by most of its span {_times(figures.falls)}, as a counter that wraps: no "
            "model can predict that; log what it counts per unit of time"
        ]
    return []


def log_warnings(
    spec: PlantSpec, assessments: Mapping[str, TagAssessment], quarantine: Quarantine | None = None
) -> tuple[str, ...]:
    """Sentences about tags of which some samples could not be read, and about those that do not last as the log does.

    One that ends before the log, or begins after it, may have been renamed.
    """
    unread = [] if quarantine is None else _unread(assessments, quarantine)
    return (*unread, *_spans(spec, assessments))


def _unread(assessments: Mapping[str, TagAssessment], quarantine: Quarantine) -> list[str]:
    """What was put into quarantine while the log was read, before it was a sample of the tag."""
    found = []
    for tag, one in assessments.items():
        count = sum(quarantine.counts(tag).values()) - one.account.quarantined
        if count:
            share = 100 * count / (one.account.samples + count)
            found.append(f"{tag}: {count} samples ({share:.3g} %) could not be read and are in quarantine")
    return found


def _spans(spec: PlantSpec, assessments: Mapping[str, TagAssessment]) -> tuple[str, ...]:
    spans = {
        tag: (found.first_ns, found.last_ns)
        for tag, found in assessments.items()
        if found.first_ns is not None and found.last_ns is not None
    }
    frames = [spans[tag] for tag in spec.frame_tags if tag in spans]
    if not frames:
        return ()
    begin, end = min(first for first, _ in frames), max(last for _, last in frames)
    margin = _LONG_SILENT * (end - begin)
    ended = [tag for tag, (_, last) in spans.items() if end - last > margin]
    begun = [tag for tag, (first, _) in spans.items() if first - begin > margin]
    renamed = _renamed(spec, assessments, spans, ended, begun, max(spec.max_gap_s * NS, 0.1 * margin))
    found = [
        f"{old}, {new}: {old} ends at {iso(spans[old][1])} and {new} begins at {iso(spans[new][0])}; if this is one "
        "tag that was renamed, give both parts one name in the log"
        for old, new in renamed.items()
    ]
    for tag, (_, last) in spans.items():
        held = spec.tags[tag].role in ("action", "mode") and end - last > spec.max_gap_s * NS
        if tag not in renamed and (tag in ended or held):
            found.append(
                f"{tag}: its last sample is {_duration((end - last) / NS)} before the log's end"
                + ("; it was held since" if held and spec.max_age_s(tag) == float("inf") else "")
            )
    return tuple(found)


def _renamed(
    spec: PlantSpec,
    assessments: Mapping[str, TagAssessment],
    spans: Mapping[str, tuple[int, int]],
    ended: Sequence[str],
    begun: Sequence[str],
    near_ns: float,
) -> dict[str, str]:
    """Old -> new: tags of one unit of which one ends where the other begins, those most alike in their mean first."""

    def apart(pair: tuple[str, str]) -> float:
        old, new = (assessments[tag].mean or 0.0 for tag in pair)
        return abs(old - new)

    pairs = [
        (old, new)
        for old in ended
        for new in begun
        if spec.tags[old].unit == spec.tags[new].unit and 0 < spans[new][0] - spans[old][1] <= near_ns
    ]
    found: dict[str, str] = {}
    for old, new in sorted(pairs, key=apart):
        if old not in found and new not in found.values():
            found[old] = new
    return found


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _duration(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:g} s"
