"""Two bundle slots: what may be loaded, swapped and rolled back, and what is written into a controller's state."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from controlkit.errors import ControlkitError
from deploy.bundle.store import Bundle, load_bundle
from deploy.runtime.recalibration import Calibration
from deploy.runtime.sensing import Inputs
from deploy.runtime.slots import Slot, Slots
from tests.deploy.conftest import Exported
from tests.deploy.plants import PERIOD_S

FRAME, COMMAND = [4.0, 5.0, 30.0, 1.2, 2.0], [2.4, 0.5, 1.0]
LEARNED = Calibration(1.25, 0.5)
SCHEMA1 = Path(__file__).parent.parent / "schema1" / "bundle"


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Bundle:
    return load_bundle(exported.path, exported.public_key)


@pytest.fixture(scope="module")
def second(bundle: Bundle) -> Bundle:
    """Another controller of the same plant."""
    graph = onnx.load_model_from_string(bundle.model)
    graph.doc_string = "a later training"
    model = graph.SerializeToString()
    facts = bundle.manifest.model.model_copy(update={"sha256": hashlib.sha256(model).hexdigest(), "bytes": len(model)})
    return replace(bundle, model=model, manifest=bundle.manifest.model_copy(update={"model": facts}))


def inputs(step: int = 0, command: list[float] | None = None) -> Inputs:
    """A plant that wobbles a little."""
    frame = np.array(FRAME, dtype=np.float32) + 0.01 * np.float32(step % 3)
    given = np.array(COMMAND if command is None else command, dtype=np.float32)
    return Inputs(frame, np.ones(5, np.bool_), np.zeros(5, np.float32), given)


def warmed(slot: Slot, steps: int = 8) -> Slot:
    for step in range(steps):
        slot.step(inputs(step), PERIOD_S)
    assert slot.warm
    return slot


def place(slot: Slot, *names: str) -> list[float]:
    return [float(slot.session.state[slot.bundle.manifest.state_index(name)]) for name in names]


def changed(slot: Slot, before: np.ndarray) -> set[str]:
    """Names of the state's slots that differ."""
    names = [described.name for described in slot.bundle.manifest.inputs["state_in"]]
    return {names[i] for i in np.flatnonzero(slot.session.state != before)}


def test_a_slot_is_cold_until_its_history_is_full(bundle: Bundle) -> None:
    slot = Slot("A", bundle)
    assert (slot.warm, slot.shortfall, slot.sums, slot.learn()) == (False, None, (0.0, 0.0), None)
    slot.step(inputs(), PERIOD_S)
    assert not slot.warm
    warmed(slot)
    assert slot.shortfall is not None
    assert slot.shortfall == place(slot, "shortfall")[0]
    slot.restart()
    assert not slot.warm
    assert not slot.session.state.any()


def test_what_was_learned_before_holds_after_every_restart(bundle: Bundle) -> None:
    slot = Slot("A", bundle, LEARNED)
    for _ in range(2):
        assert place(slot, "shortfall_shift", "shortfall_stretch") == [1.25, 0.5]
        warmed(slot)
        assert place(slot, "shortfall_shift", "shortfall_stretch") == [1.25, 0.5]
        slot.restart()
    slot.forget()
    assert slot.recalibrator is not None
    assert slot.recalibrator.result is None
    assert place(slot, "shortfall_shift", "shortfall_stretch") == [0.0, 0.0]


def test_what_was_learned_beyond_the_bounds_is_learned_anew(bundle: Bundle) -> None:
    slot = Slot("A", bundle, Calibration(3.5, 0.0))
    assert place(slot, "shortfall_shift", "shortfall_stretch") == [0.0, 0.0]
    assert "state_invalid" not in slot.step(inputs(), PERIOD_S).raised


def test_a_state_that_is_none_does_not_cost_what_was_learned(bundle: Bundle) -> None:
    slot = warmed(Slot("A", bundle, LEARNED))
    slot.session.state[slot.bundle.manifest.state_index("trust")] = 7.0
    assert "state_invalid" in slot.step(inputs(), PERIOD_S).raised
    assert place(slot, "shortfall_shift", "shortfall_stretch") == [1.25, 0.5]


def test_every_scored_step_is_learned_once(bundle: Bundle) -> None:
    slot = warmed(Slot("A", bundle))
    assert slot.recalibrator is not None
    for _ in range(3):  # such as cycles whose own step came late
        slot.learn()
    assert slot.recalibrator.progress.startswith("1 of ")
    slot.step(inputs(1), PERIOD_S)
    slot.learn()
    assert slot.recalibrator.progress.startswith("2 of ")


def test_a_calibration_is_applied_in_the_step_in_which_it_is_found(bundle: Bundle) -> None:
    few = bundle.manifest.recalibration
    assert few is not None
    slot = Slot("A", replace(bundle, manifest=bundle.manifest.model_copy(
        update={"recalibration": few.model_copy(update={"steps": 12})}
    )))  # fmt: skip
    rng, found = np.random.default_rng(0), []
    # Commands that hold the level, so that healthy steps look healthy.
    for step in range(60):
        level = np.float32(0.01 * rng.standard_normal())
        frame = np.array([5.0, 5.0, 30.0, 1.2, 2.0], dtype=np.float32) + np.array([level, 0, level, 0, 0], np.float32)
        slot.step(Inputs(frame, np.ones(5, np.bool_), np.zeros(5, np.float32), np.float32([2.8, 0.5, 1.0])), PERIOD_S)
        if (calibration := slot.learn()) is not None:
            found.append((step, calibration))
            assert slot.sums == (0.0, 0.0)
    assert len(found) == 1
    _, calibration = found[0]
    assert place(slot, "shortfall_shift", "shortfall_stretch") == pytest.approx(
        [calibration.shift, calibration.stretch]
    )


def test_distrust_changes_the_trust_and_nothing_else(bundle: Bundle) -> None:
    slot = warmed(Slot("A", bundle))
    slot.session.state[bundle.manifest.state_index("trust")] = 0.5
    before = slot.session.state.copy()
    slot.distrust()
    assert changed(slot, before) == {"trust"}
    assert place(slot, "trust") == [0.0]


def test_a_command_that_was_not_issued_changes_the_known_commands_and_nothing_else(bundle: Bundle) -> None:
    slot = warmed(Slot("A", bundle))
    before, issued = slot.session.state.copy(), place(slot, "command.valve", "command.heater", "command.pump")
    slot.not_issued(np.array([1.5, np.nan, 2.5], dtype=np.float32))
    assert changed(slot, before) == {"command.valve", "command.pump"}
    assert place(slot, "command.valve", "command.heater", "command.pump") == [1.5, issued[1], 2.5]
    slot.session.state[:] = before
    for nothing in (np.nan, np.inf, -np.inf):
        slot.not_issued(np.full(3, nothing, dtype=np.float32))
    assert changed(slot, before) == set()


def test_an_operators_command_beyond_the_limits_does_not_spoil_the_state(bundle: Bundle) -> None:
    """By hand a valve may go where the controller may not (7.7): history, sums and what was learned stay."""
    slot = warmed(Slot("A", bundle, LEARNED))
    slot.not_issued(np.array([7.9, -30.0, 1.0], dtype=np.float32))
    assert place(slot, "command.valve", "command.heater") == [float(slot.session.high[0]), -1.0]
    raised = slot.step(inputs(1), PERIOD_S).raised
    assert "state_invalid" not in raised
    assert "history_filling" not in raised
    assert place(slot, "shortfall_shift", "shortfall_stretch") == [1.25, 0.5]


def test_a_bundle_that_cannot_be_recalibrated_learns_nothing() -> None:
    slot = warmed(Slot("A", load_bundle(SCHEMA1), LEARNED))
    assert (slot.recalibrator, slot.shortfall, slot.learn()) == (None, None, None)
    slot.forget()
    slot.restart()
    assert not slot.session.state.any()


def test_loading_refuses_another_plant_and_the_same_controller(bundle: Bundle, second: Bundle) -> None:
    slots = Slots(Slot("A", bundle))
    training = second.manifest.training.model_copy(update={"spec_sha256": "0" * 64})
    other = replace(second, manifest=second.manifest.model_copy(update={"training": training}))
    with pytest.raises(ControlkitError, match="is made for plant 'tank' as another plant file describes it"):
        slots.load(Slot("", other))
    with pytest.raises(ControlkitError, match="is the controller in charge"):
        slots.load(Slot("", bundle))
    assert slots.standby is None
    assert slots.load(Slot("", second)) is slots.standby
    assert slots.standby is not None
    assert slots.standby.name == "B"
    assert slots.load(Slot("", second)) is slots.standby  # once more: cold again


def test_swap_and_roll_back_keep_both_states(bundle: Bundle, second: Bundle) -> None:
    slots = Slots(warmed(Slot("A", bundle, LEARNED)))
    with pytest.raises(ControlkitError, match="the second slot is empty"):
        slots.swap()
    standby = slots.load(Slot("", second))
    with pytest.raises(ControlkitError, match="slot B: its history is not full yet"):
        slots.swap()
    assert slots.active.name == "A"
    warmed(standby)
    states = slots.active.session.state.copy(), standby.session.state.copy()
    first = slots.active
    assert slots.swap() is standby
    assert (slots.active, slots.standby) == (standby, first)
    assert slots.describe() == {
        "A": f"{bundle.manifest.model.sha256[:12]}, standing by, warm",
        "B": f"{second.manifest.model.sha256[:12]}, in charge, warm",
    }
    assert slots.swap() is first
    assert (slots.active, slots.standby) == (first, standby)
    np.testing.assert_array_equal(first.session.state, states[0])
    np.testing.assert_array_equal(standby.session.state, states[1])
    # What was learned with one controller is not the other's.
    assert place(standby, "shortfall_shift") == [0.0]
    # After a swap the free place is the other one.
    slots.swap()
    slots.standby = None
    assert slots.load(Slot("", bundle)).name == "A"
    assert slots.describe()["A"].endswith("standing by, filling its history")
