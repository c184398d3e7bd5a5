"""What the columns of a flat file are, where no plant file says it: history, constants, and what no action moves.

Three of the findings are exact: a column is another one (or a command) of an earlier step if it equals it in every row,
constant if it never changes, static if it never changes inside an episode. The fourth is statistical. A column is
called exogenous only if its next value, given its own past (and the past of columns already found exogenous), shows no
dependence on any command or other column; `controlkit.ingest.independence` has the test. A column that depends on
something, and one whose data could not have shown a dependence, is a state: that is what is safe to assume.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from controlkit.ingest.flat_file import FlatFile
from controlkit.ingest.independence import DETECTABLE, LEVEL, Independence, independence

Kind = Literal["constant", "static", "history", "past action", "exogenous", "state"]
# Rows in which a shift must show, so that a column which hardly ever moves is not called another's history by chance.
LEAST_EVIDENCE = 10
SAMPLE = 2000


@dataclass(frozen=True)
class ColumnFinding:
    """What one column of the observation is.

    Attributes:
        column: its place. kind: what it is.
        of: of a history, the column, or of a past action, the action that it shows; else None.
        lag: how many steps ago.
        evidence: why, in words.
    """

    column: int
    kind: Kind
    of: int | None = None
    lag: int = 0
    evidence: str = ""


@dataclass(frozen=True)
class FlatStructure:
    """The findings, one per column, and what deserves a warning.

    Attributes:
        columns: in the order of the file. actions: how many commands.
        messages: duplicated rows, one episode and the like.
    """

    columns: tuple[ColumnFinding, ...]
    actions: int
    messages: tuple[str, ...] = field(default=())

    def history(self, column: int) -> int:
        """How many past values of a column the observation holds."""
        return max((f.lag for f in self.columns if f.kind == "history" and f.of == column), default=0)

    def past_commands(self, action: int) -> int:
        """How many past values of an action the observation holds."""
        return max((f.lag for f in self.columns if f.kind == "past action" and f.of == action), default=0)

    def to_text(self) -> str:
        """A line per finding; neighbouring columns of one history share a line."""
        lines = list(self.messages)
        for group in _runs(self.columns):
            first, last = group[0], group[-1]
            place = f"column {first.column}" if len(group) == 1 else f"columns {first.column}-{last.column}"
            lags = f"{first.lag}" if len(group) == 1 else f"{first.lag}-{last.lag}"
            if first.kind == "history":
                what = f"column {first.of}, {lags} steps before"
            elif first.kind == "past action":
                what = f"action {first.of}, {lags} steps before"
            else:
                what = first.kind
            lines.append(f"{place}: {what} ({first.evidence})")
        return "\n".join(lines)


def find_structure(file: FlatFile, seed: int = 0) -> FlatStructure:
    """What the columns of a file are.

    Args:
        file: as `read_flat` gives it.
        seed: of the permutations of the test of independence.
    """
    now, after, columns = file.observation, file.next_observation, range(file.observation.shape[1])
    found: dict[int, ColumnFinding] = {}
    whole = np.concatenate([now, after])
    for column in columns:
        if np.ptp(whole[:, column]) == 0:
            found[column] = ColumnFinding(column, "constant", evidence=f"{now[0, column]:g} in every row")
    for column in columns:
        if column not in found and _is_static(file, column):
            count = len(np.unique(now[file.last, column]))
            evidence = f"never changes inside any of {int(file.last.sum())} episodes, {count} values"
            found[column] = ColumnFinding(column, "static", evidence=evidence)
    found |= _shifts(file, [column for column in columns if column not in found])
    found |= _moved_or_not(file, found, seed)
    return FlatStructure(
        tuple(found[column] for column in columns), file.action.shape[1], tuple(_messages(file, found))
    )


def _is_static(file: FlatFile, column: int) -> bool:
    stays = bool((file.observation[:, column] == file.next_observation[:, column]).all())
    inside = ~file.last[:-1]
    return stays and bool((file.observation[1:, column] == file.observation[:-1, column])[inside].all())


def _shifts(file: FlatFile, columns: list[int]) -> dict[int, ColumnFinding]:
    """Columns whose next value is, in every row, another column's value of now, or the command."""
    parents: dict[int, tuple[bool, int]] = {}  # column -> (is an action, which)
    shown: dict[int, int] = {}
    for column in columns:
        after, now = file.next_observation[:, column], file.observation[:, column]
        moves = after != now
        shown[column] = int(moves.sum())
        if shown[column] < LEAST_EVIDENCE:
            continue
        # Rows in which the column moves are those that tell a shift from a column that merely stays.
        some = np.flatnonzero(moves)[:SAMPLE]
        for is_action, values, numbers in (
            (True, file.action, range(file.action.shape[1])),
            (False, file.observation, columns),
        ):
            for source in numbers:
                own = not is_action and source == column
                if own or column in parents or (after[some] != values[some, source]).any():
                    continue
                if (after == values[:, source]).all():
                    parents[column] = (is_action, source)
    found: dict[int, ColumnFinding] = {}
    for column in parents:
        is_action, source, lag = *parents[column], 1
        seen = {column}
        while not is_action and source in parents and source not in seen:
            seen.add(source)
            is_action, source = parents[source]
            lag += 1
        if is_action or source not in seen:  # columns that only repeat each other have no beginning
            evidence = f"equal in all {len(file)} rows, moving in {shown[column]}"
            found[column] = ColumnFinding(column, "past action" if is_action else "history", source, lag, evidence)
    return found


def _moved_or_not(file: FlatFile, found: Mapping[int, ColumnFinding], seed: int) -> dict[int, ColumnFinding]:
    """Exogenous or state, for every column that is neither another's history nor still."""
    open_ = [column for column in range(file.observation.shape[1]) if column not in found]
    own = {
        column: [column, *(f.column for f in found.values() if f.kind == "history" and f.of == column)]
        for column in open_
    }
    past = {action: [f.column for f in found.values() if f.kind == "past action" and f.of == action]
            for action in range(file.action.shape[1])}  # fmt: skip
    exogenous: list[int] = []
    tests: dict[int, Independence] = {}
    while True:
        before = len(exogenous)
        for column in [c for c in open_ if c not in exogenous]:
            rng = np.random.default_rng([seed, column])
            given = [i for c in (column, *exogenous) for i in own[c]]
            others = {f"column {c}": own[c] for c in open_ if c not in (column, *exogenous)}
            others |= {f"action {a}, past": columns for a, columns in past.items() if columns}
            tests[column] = independence(file, column, given, others, rng)
            if tests[column].shows_none:
                exogenous.append(column)
        if len(exogenous) == before:
            break
    return {
        column: ColumnFinding(column, "exogenous" if column in exogenous else "state", evidence=tests[column].text)
        for column in open_
    }


def _messages(file: FlatFile, found: Mapping[int, ColumnFinding]) -> list[str]:
    again, episodes = file.duplicates, int(file.last.sum())
    messages = [
        f"{len(file)} rows in {episodes} episodes; dependence is tested at the {LEVEL:.0%} level, and none is claimed "
        f"where one of {DETECTABLE:.0%} of a column's variance could have gone unseen"
    ]
    if again.size:
        messages.append(f"{again.size} rows repeat an earlier one in every number (the first is row {again[0]})")
    if episodes == 1:
        messages.append("there is one episode: a column that never changes cannot be told from a static one")
    values = file.observation
    for column in found:
        for other in range(column):
            same = np.array_equal(values[:, column], values[:, other])
            if same and found[column].kind not in ("constant",):
                messages.append(f"column {column} repeats column {other} in every row; one of them is enough")
                break
    return messages


def _runs(columns: tuple[ColumnFinding, ...]) -> list[list[ColumnFinding]]:
    """Neighbouring columns that show one history with rising lags, together."""
    groups: list[list[ColumnFinding]] = []
    for finding in columns:
        last = groups[-1][-1] if groups else None
        same = last is not None and finding.lag > 1 and (finding.kind, finding.of) == (last.kind, last.of)
        if same and last is not None and finding.lag == last.lag + 1:
            groups[-1].append(finding)
        else:
            groups.append([finding])
    return groups
