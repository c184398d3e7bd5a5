"""Operating regimes: every start in one of them, gains that add up to the whole, and too little data that says so."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from controlkit.dataset import TransitionDataset
from controlkit.errors import ConfigError
from controlkit.evaluation.borders import require_regime_tag
from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.regimes import (
    PARTS,
    TOO_LITTLE,
    WHOLE,
    Regime,
    Regimes,
    find_regimes,
    judge_regimes,
)
from controlkit.evaluation.verdict import MIN_BLOCKS
from tests.evaluation.conftest import TINY, LinearPlant


def named(found: Findings, name: str) -> CandidateFindings:
    return next(candidate for candidate in found.candidates if candidate.name == name)


def test_parts_of_a_tag_hold_every_start_once_in_order_of_value(found: Findings) -> None:
    regimes = find_regimes(found, "x")
    assert len(regimes.members) == PARTS
    assert regimes.tag == "x"
    assert "--regime" not in regimes.rule
    every = torch.cat([regime.starts for regime in regimes.members])
    assert sorted(every.tolist()) == list(range(len(found.starts.rows)))
    values = [found.log.frames[found.starts.rows[regime.starts], 0] for regime in regimes.members]
    assert all(one.max() <= other.min() for one, other in pairwise(values))
    assert all(str(f"{float(value.min()):.3g}") in r.name for r, value in zip(regimes.members, values, strict=True))


@pytest.mark.parametrize("tag", ["x", None])
def test_gains_of_the_regimes_add_up_to_the_whole(found: Findings, plant: LinearPlant, tag: str | None) -> None:
    better = named(found, "better")
    judged = judge_regimes(better, found, find_regimes(found, tag), plant.spec())
    assert all(each.gain is not None for each in judged)
    for which, whole in (("gain_model", better.gain_model), ("gain_fqe", better.gain_fqe)):
        total = sum(each.share * getattr(each, which).value for each in judged)
        assert total == pytest.approx(whole.value, rel=1e-5)
    assert sum(each.starts for each in judged) == len(found.starts.rows)


def test_a_regime_is_judged_by_its_own_figures(found: Findings, plant: LinearPlant) -> None:
    """Far from the setpoint a larger gain pays, near to it it does not; intervals are wider than that of the whole."""
    x = found.log.frames[found.starts.rows, 0].abs()
    far = torch.nonzero(x > x.median()).squeeze(1)
    near = torch.nonzero(x <= x.median()).squeeze(1)
    regimes = Regimes("", "", float("nan"), (Regime("far", far, {}), Regime("near", near, {})))
    better = named(found, "better")
    one, other = judge_regimes(better, found, regimes, plant.spec())
    assert one.gain is not None
    assert other.gain is not None
    assert one.gain.value > other.gain.value
    assert one.gain.level == pytest.approx(1.0 - (1.0 - better.gain.level) / 2)
    outside = judge_regimes(named(found, "far outside"), found, regimes, plant.spec())
    assert {each.word for each in outside} == {"NO VERDICT"}
    assert all(each.support < 0.5 for each in outside)


def test_too_little_data_says_so_and_gives_no_gain(found: Findings, plant: LinearPlant) -> None:
    few = torch.arange(3)
    rest = torch.arange(3, len(found.starts.rows))
    regimes = Regimes("", "", float("nan"), (Regime("few", few, {}), Regime("rest", rest, {})))
    one, other = judge_regimes(named(found, "better"), found, regimes, plant.spec())
    assert (one.word, one.gain, one.gain_model, one.gain_fqe) == (TOO_LITTLE, None, None, None)
    assert one.stretches < MIN_BLOCKS
    assert str(MIN_BLOCKS) in one.reasons[0]
    assert other.word != TOO_LITTLE


def test_a_tag_with_few_values_gives_one_regime_for_each(plant: LinearPlant) -> None:
    spec = plant.spec(tags={"door": {"role": "exogenous", "unit": "1", "range": [0, 1]}})
    base = plant.log(rows=1200)
    door = (np.arange(1200) // 40 % 3 == 0).astype(np.float32)[:, None]
    data = TransitionDataset.from_frames(
        spec,
        frames=np.concatenate([base.frames, door], axis=1),
        actions=base.actions,
        episode=base.episode,
        time_ns=base.time_ns,
    )
    found = plant.assess(data, plant.policy(0.6), effort=TINY)
    regimes = find_regimes(found, "door")
    assert [regime.name for regime in regimes.members] == ["door 0", "door 1"]
    shut = found.log.frames[found.starts.rows[regimes.members[0].starts], 1]
    assert float(shut.max()) == 0.0
    again = find_regimes(found, None)
    assert [r.name for r in again.members] == [r.name for r in find_regimes(found, None).members]
    assert all("door" in regime.name for regime in again.members if len(again.members) > 1) or (
        [regime.name for regime in again.members] == [WHOLE]
    )


def test_a_tag_that_is_not_measured_is_refused(plant: LinearPlant) -> None:
    require_regime_tag(plant.spec(), None)
    require_regime_tag(plant.spec(), "x")
    with pytest.raises(ConfigError, match="'u' cannot tell operating regimes"):
        require_regime_tag(plant.spec(), "u")
    with pytest.raises(ConfigError, match="did you mean 'x'"):
        require_regime_tag(plant.spec(), "X")
