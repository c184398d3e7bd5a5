"""The observation layout: names, order, windows, and the check at every border."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.errors import ArtifactError
from controlkit.layout import Layout
from controlkit.spec import PlantSpec


def plant(histories=(2, 0, 1), *, rate=None, cost=False):
    level, door, valve = histories
    objective = [{"kind": "track", "tag": "level", "setpoint": 1}]
    if cost:
        objective.append({"kind": "cost", "tag": "pump", "of": "change"})
    valve_tag = {"role": "action", "unit": "%", "range": [0, 100], "limits": [5, 95], "safe": 10, "history": valve}
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": 1,
            "tags": {
                "door": {"role": "exogenous", "unit": "1", "range": [0, 1], "history": door},
                "valve": {**valve_tag, "fallback": {"kind": "hold"}, **({"max_rate_per_s": rate} if rate else {})},
                "level": {"role": "state", "unit": "m", "range": [0, 5], "history": level},
                "mode": {"role": "mode", "unit": "1", "range": [0, 1], "accept": [1]},
                "pump": {"role": "action", "unit": "1", "range": [0, 1], "safe": 0, "fallback": {"kind": "hold"}},
            },
            "objective": objective,
        }
    )


def test_order_is_frame_then_past_frames_then_past_commands():
    layout = Layout.from_spec(plant())
    assert layout.names == ("door", "level", "level@-1", "level@-2", "valve@-1")
    assert (layout.frame_tags, layout.state_tags, layout.action_tags) == (
        ("door", "level"),
        ("level",),
        ("valve", "pump"),
    )
    assert (layout.size, layout.depth) == (5, 2)
    assert layout.state_columns.tolist() == [1]
    assert layout.low.tolist() == [0, 0, 0, 0, 5]
    assert layout.high.tolist() == [1, 5, 5, 5, 95]
    assert layout.current_slots.tolist() == [0, 1, 4]
    assert layout.previous_command() == [4, None]
    assert layout.index("level@-2") == 3
    with pytest.raises(KeyError, match="level@-3"):
        layout.index("level@-3")


def test_the_last_command_is_there_where_its_change_matters():
    assert "valve@-1" not in Layout.from_spec(plant((0, 0, 0))).names
    assert "valve@-1" in Layout.from_spec(plant((0, 0, 0), rate=2)).names
    assert "pump@-1" in Layout.from_spec(plant((0, 0, 0), cost=True)).names


histories = st.tuples(*[st.integers(0, 4)] * 3)


@given(histories, st.integers(0, 2**32 - 1))
def test_observe_is_what_the_names_say_and_shifts_exactly(lengths, seed):
    layout = Layout.from_spec(plant(lengths))
    rng = np.random.default_rng(seed)
    frames = rng.normal(size=(12, 2)).astype(np.float32)
    actions = rng.normal(size=(12, 2)).astype(np.float32)
    rows = np.arange(layout.depth, 12)
    observation = layout.observe(frames, actions, rows)
    for i, row in enumerate(rows):
        for j, name in enumerate(layout.names):
            tag, _, lag = name.partition("@-")
            table, tags = (actions, layout.action_tags) if tag in layout.action_tags else (frames, layout.frame_tags)
            assert observation[i, j] == table[row - int(lag or 0), tags.index(tag)]
    now = rows[:-1]
    stacked = np.concatenate([frames[now + 1], actions[now], observation[:-1]], axis=1)
    np.testing.assert_array_equal(stacked[:, layout.shift_index], observation[1:])


@given(histories)
def test_json_round_trip(lengths):
    layout = Layout.from_spec(plant(lengths))
    again = Layout.from_dict(json.loads(json.dumps(layout.to_dict())))
    assert again == layout
    layout.require_same(again, "here")


def test_a_damaged_layout_is_an_artifact_error():
    content = Layout.from_spec(plant()).to_dict()
    for broken in ({k: v for k, v in content.items() if k != "slots"}, {**content, "slots": [{"name": "x"}]}, {}):
        with pytest.raises(ArtifactError, match="layout is damaged"):
            Layout.from_dict(broken)


def test_the_first_difference_is_named():
    layout = Layout.from_spec(plant())
    unit = replace(layout, slots=(layout.slots[0], replace(layout.slots[1], unit="cm"), *layout.slots[2:]))
    for other, expected in (
        (
            Layout.from_spec(plant((3, 0, 1))),
            r"slot 'level@-3' stands where 'valve@-1' is expected \(6 slots against 5\)",
        ),
        (replace(layout, slots=layout.slots[:-1]), "slot 'nothing' stands where 'valve@-1' is expected"),
        (replace(layout, slots=(*layout.slots, layout.slots[0])), "slot 'door' stands where 'nothing' is expected"),
        (replace(layout, period_s=2.0), "the sample period is 2.0 s, not 1.0 s"),
        (unit, "slot 'level' differs in unit or range"),
        (replace(layout, state_tags=("door",)), "the tags' roles differ"),
    ):
        with pytest.raises(ArtifactError, match=expected) as caught:
            layout.require_same(other, "runs/demo")
        assert caught.value.where == "runs/demo"
        assert "same plant file" in caught.value.cure
