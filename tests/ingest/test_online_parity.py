"""What the edge observes sample by sample is what an ingest makes of the same samples, to the last bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controlkit.ingest import sample_rules
from controlkit.ingest.assess import assess
from controlkit.ingest.blocks import aligned_blocks
from controlkit.ingest.stage import SAMPLE, USABLE, Code, Stage
from controlkit.online import ROUNDING, OnlineAligner, OnlineCommands
from controlkit.spec import PlantSpec
from tests.ingest.staged import NS, START, log_of

SECONDS = 600


def plant(on_duplicate: str) -> PlantSpec:
    hold = {"safe": 0, "fallback": {"kind": "hold"}}
    tags = {
        "level": {"role": "state", "unit": "m", "range": [-5, 5], "frozen": {"after_s": 5, "within": 0.2}},
        "inflow": {"role": "exogenous", "unit": "L/s", "range": [-5, 5], "interpolation": "linear", "max_age_s": 5},
        "valve": {"role": "action", "unit": "%", "range": [-9, 9], "limits": [-5, 5], "max_age_s": 9, **hold},
    }
    objective = [{"kind": "track", "tag": "level", "setpoint": 1}]
    log = {"on_duplicate": on_duplicate, "uncertain": "use"}
    return PlantSpec.from_dict({"name": "tank", "period_s": 2, "tags": tags, "objective": objective, "log": log})


def samples(seed: int) -> np.ndarray:
    """A tag's samples: late ones, said twice or contradicted, bad, out of range, no number, doubtful, repeated."""
    rng = np.random.default_rng(seed)
    made = np.zeros(SECONDS, dtype=SAMPLE)
    second = np.arange(SECONDS) + rng.choice([0.0, 0.25, 0.9], SECONDS)
    made["time_ns"] = START + (second * NS).astype(np.int64)
    made["value"] = np.round(np.cumsum(rng.normal(scale=0.2, size=SECONDS)).clip(-4, 4), 1)
    made["value"][200:230] = 1.5
    made["value"][rng.choice(SECONDS, 3)] = 20.0
    made["value"][rng.choice(SECONDS, 2)] = np.nan
    made["value"][rng.choice(SECONDS, 2)] = 5 + 1e-6
    made["code"] = rng.choice(
        [Code.GOOD, Code.BAD, Code.UNCERTAIN, Code.SUBSTITUTED], SECONDS, p=[0.8, 0.05, 0.1, 0.05]
    )
    made = made[np.r_[0:300, 360:SECONDS]]
    twice = rng.choice(len(made) - 1, 60, replace=False)
    made["time_ns"][twice + 1] = made["time_ns"][twice]
    same = twice[::2]
    made["value"][same + 1] = made["value"][same]
    late = rng.choice(len(made), 10, replace=False)
    made["time_ns"][late] -= 3 * NS
    made["row"] = np.arange(len(made))
    return made


@pytest.mark.parametrize("on_duplicate", ["reject", "first", "last", "mean"])
def test_the_edge_observes_what_the_ingest_makes_of_the_same_samples(on_duplicate: str, tmp_path: Path) -> None:
    spec = plant(on_duplicate)
    raw = {tag: samples(seed) for seed, tag in enumerate(spec.tags)}
    stage, usable = Stage(tmp_path / "staged", tuple(raw)), Stage(tmp_path / "usable", tuple(raw), USABLE)
    for tag, found in raw.items():
        stage.append_tag(tag, found)
    log = log_of(stage, 3 * SECONDS)
    accounts = [assess(spec, tag, log, usable).account for tag in raw]
    assert min(account.used for account in accounts) > 200
    assert accounts[0].frozen > 0
    blocks = [block for _, block in aligned_blocks(spec, usable, [(START, START + SECONDS * NS)], rows=37)]
    frames, ages, masks = (np.concatenate([getattr(b, name) for b in blocks]) for name in ("frames", "age_s", "mask"))
    actions, changes, known = (
        np.concatenate([getattr(b, name) for b in blocks]) for name in ("actions", "changed", "action_mask")
    )
    aligner, commands = OnlineAligner(spec), OnlineCommands(spec)
    waiting = {tag: found.tolist() for tag, found in raw.items()}
    for row, now in enumerate(int(time) for block in blocks for time in block.time_ns):
        for tag, queue in waiting.items():
            while queue and queue[0][0] <= now:
                time_ns, value, _, _, code, *_ = queue.pop(0)
                good, doubtful = code in (Code.GOOD, Code.UNCERTAIN), code == Code.UNCERTAIN
                (commands if tag == "valve" else aligner).push(tag, time_ns, value, good, doubtful)
            if row % 17 == 0:  # a clock that runs far ahead for a moment; the reading of a log leaves such samples out
                (commands if tag == "valve" else aligner).push(tag, now + 310 * NS, 1.0)
        for mine, theirs in zip(aligner.frame(now), (frames[row], masks[row], ages[row]), strict=True):
            assert mine.tobytes() == theirs.tobytes()
        if row:
            past = (actions[row - 1], changes[row - 1], known[row - 1])
            for mine, theirs in zip(commands.over_period(now), past, strict=True):
                assert mine.tobytes() == theirs.tobytes()
    assert 0.5 < masks.mean() < 1
    assert changes.any()
    assert 0.3 < known.mean() < 0.95


def test_a_rounding_of_a_command_is_the_same_everywhere() -> None:
    assert ROUNDING == sample_rules.ROUNDING
