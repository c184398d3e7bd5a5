"""From an unknown log to a plant file: reads a sample, guesses what each tag is, and writes YAML that a person edits.

Every guess stands there with its reason. The file loads as it is, and the log can be ingested with it; whether the
roles are right only somebody who knows the plant can say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Draft:
    """A proposed plant file, and what the reader should know first.

    Attributes:
        yaml: the file's content.
        notes: sentences for the terminal.
    """

    yaml: str
    notes: tuple[str, ...]


def draft_plant(sources: Sequence[Path | str], *, name: str = "plant") -> Draft:
    """Proposes a plant file for a log.

    Args:
        sources: the log's files, folders of them, or patterns such as `logs/*.csv`.
        name: of the plant; letters, digits, '_' and '-', a letter first.

    Raises:
        DataError: a source cannot be read, or fewer than two of its tags move.
        SpecError: the name is none.
    """
    import yaml

    from controlkit.ingest.draft.logs import merged, read_sources
    from controlkit.ingest.draft.proposal import propose
    from controlkit.ingest.draft.text import notes_of, yaml_of
    from controlkit.spec import PlantSpec

    logs = read_sources(sources)
    proposal = propose(merged(logs))
    text = yaml_of(proposal, logs, name)
    PlantSpec.from_dict(yaml.safe_load(text), source="the proposed plant file")
    return Draft(text, notes_of(proposal, logs))
