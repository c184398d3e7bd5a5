"""Faults with a real OPC UA server: what the plant sees, within how many periods, and what log and page say.

Every test arms the controller on the tank, injects one fault, and checks that the plant was never given an unsafe
command. The table of docs/edge.md follows these tests.
"""

from __future__ import annotations

import json
import math
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("asyncua", reason="OPC UA is the extra [opcua]")

from asyncua.ua.status_codes import StatusCodes

from controlkit.errors import ControlkitError
from controlkit.spec import PlantSpec
from deploy.bundle import Bundle, load_bundle, new_key, write_bundle
from deploy.bundle.manifest import MODEL, SIGNATURE
from deploy.runtime.control import Wish, ask
from tests.deploy.conftest import Exported
from tests.deploy.faults.plant import PERIOD_S, RECORD, SPEED, TOKEN, Trial, running

# A value that is not renewed is used while it is no older than three periods; three faulty cycles follow.
AGED = 3 + 3 + 3
LEVEL = "level"


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Bundle:
    return load_bundle(exported.path, exported.public_key)


@pytest.fixture(scope="module")
def trial(exported: Exported, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    state = tmp_path_factory.mktemp("runtime") / "state"
    with running(bundle, state, public_key=exported.public_key) as trial:
        yield trial


@pytest.fixture
def armed(trial: Trial) -> Iterator[Trial]:
    """Armed and trusted; afterwards, no command that the plant was ever given was unsafe."""
    trial.arm()
    before = trial.mode
    yield trial
    trial.server.faults.clear()
    assert before == "ARMED"
    assert trial.unsafe() == 0


def page(trial: Trial) -> dict[str, object]:
    """What the status page is fed with."""
    with urllib.request.urlopen(trial.runtime.status.address + "status.json", timeout=5) as answer:
        content: dict[str, object] = json.load(answer)
    return content


def disarmed(trial: Trial, within: float, because: str) -> float:
    """Waits for SHADOW; the log's last change of mode must say why, and the page must show it."""
    took = trial.until(lambda: trial.mode == "SHADOW", within, f"SHADOW because of {because}")
    trial.periods(1)
    fell = [row for row in trial.rows("mode") if row["from"] == "ARMED"][-1]
    assert because in fell["why"], fell
    assert because in json.dumps(page(trial))
    return took


@pytest.mark.parametrize(
    ("inject", "because"),
    [
        (lambda faults: faults.show(LEVEL, math.nan), "no usable value of 'level'"),
        (lambda faults: faults.show(LEVEL, math.inf), "no usable value of 'level'"),
        (lambda faults: faults.show(LEVEL, 40.0), "no usable value of 'level'"),
        (lambda faults: faults.status(LEVEL, StatusCodes.BadSensorFailure), "no usable value of 'level'"),
        (lambda faults: faults.status(LEVEL, StatusCodes.UncertainLastUsableValue), "no usable value of 'level'"),
        (lambda faults: faults.stop_stamping(LEVEL), "no usable value of 'level'"),
        (lambda faults: faults.no_source_time(LEVEL), "'level' comes without a source time"),
        (lambda faults: faults.shift_source_time(LEVEL, 3600.0), "'level' is stamped"),
        (lambda faults: faults.shift_clock(3600.0), "ahead of this clock"),
        (lambda faults: faults.shift_clock(-3600.0), "no usable value of"),
        (lambda faults: faults.remove(LEVEL), "no usable value of 'level'"),
    ],
    ids=[
        "nan", "infinite", "out-of-range", "bad-quality", "uncertain-quality", "old-stamp", "no-stamp",
        "stamp-an-hour-ahead", "server-clock-ahead", "server-clock-behind", "tag-gone",
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used(armed: Trial, inject: Callable[[object], None], because: str) -> None:
    """It is held while its age allows, then the fallback acts, and three cycles later the plant is left to itself."""
    inject(armed.server.faults)
    armed.until(lambda: "input_unusable" in armed.latest.faults or armed.mode == "SHADOW", AGED, "the fault's notice")
    took = armed.until(lambda: armed.mode == "SHADOW", AGED, "SHADOW")
    assert took <= AGED
    noticed = [row for row in armed.rows("cycle") if "input_unusable" in row["faults"]]
    assert any(because in row["faults"]["input_unusable"] for row in noticed)
    assert [row["mode"] for row in noticed[:3]].count("ARMED") <= 3
    # Until then the fallback commanded, within limits and rates, and nobody else.
    assert all(row["trust"] == 0.0 for row in noticed if row["trust"] is not None and row["mode"] == "ARMED")


def test_a_frozen_sensor_is_found_by_its_repeats(armed: Trial, bundle: Bundle) -> None:
    """Time stamps go on, and a steady value is likely: only the frozen rule sees it."""
    limit = bundle.manifest.thresholds.frozen_repeats[LEVEL]
    assert limit is not None
    armed.server.faults.freeze(LEVEL)
    armed.until(lambda: "input_frozen" in armed.latest.flags, limit + 6, "the frozen flag")
    disarmed(armed, 6, "input_unusable")


def test_the_server_stops_and_comes_back(armed: Trial) -> None:
    armed.server.stop_server()
    disarmed(armed, 6, "plant_silent")
    armed.periods(4)
    assert not armed.server.controlled  # the plant's own watchdog saw it, too
    armed.server.restart_server()
    armed.until(lambda: not armed.latest.faults, 60, "the plant answers again")
    assert armed.mode == "SHADOW"  # never armed again by itself


def test_the_server_hangs(armed: Trial) -> None:
    armed.server.faults.hang()
    disarmed(armed, 6, "plant_silent")
    armed.server.faults.clear()
    armed.until(lambda: not armed.latest.faults, 120, "the plant answers again")


def test_half_of_the_writes_are_lost(armed: Trial) -> None:
    """They are answered with Good and forgotten: the lease, another text every period, shows it, or the command does.

    Where half is lost, three such periods in a row take their time.
    """
    armed.server.faults.drop_writes(0.5)
    told = ("write_lost", "write_not_confirmed")
    armed.until(lambda: any(name in armed.latest.faults for name in told) or armed.mode == "SHADOW", 12, "the notice")
    armed.until(lambda: armed.mode == "SHADOW", 120, "SHADOW")
    armed.periods(1)  # for its row
    fell = [row for row in armed.rows("mode") if row["from"] == "ARMED"][-1]
    assert any(why in fell["why"] for why in (*told, "somebody else moved"))


def test_all_writes_are_lost(armed: Trial) -> None:
    """However little the commands change."""
    armed.server.faults.drop_writes(1.0)
    armed.until(lambda: armed.mode == "SHADOW", 6, "SHADOW")
    armed.periods(1)  # for its row
    fell = [row for row in armed.rows("mode") if row["from"] == "ARMED"][-1]
    assert any(why in fell["why"] for why in ("write_lost", "write_not_confirmed", "somebody else moved"))


def test_one_command_is_refused(armed: Trial) -> None:
    armed.server.faults.refuse("valve")
    disarmed(armed, 6, "refused.valve")
    assert armed.runtime.supervisor.counters["refused"] >= 3


def test_the_operator_takes_over_by_the_switch(armed: Trial) -> None:
    armed.server.set_auto(False)
    assert disarmed(armed, 3, "the operator took over") <= 3
    row = [row for row in armed.rows("mode") if row["from"] == "ARMED"][-1]
    assert (row["operator"], row["change_record"]) == ("anna", RECORD)


def test_somebody_moves_an_actuator_by_hand(armed: Trial) -> None:
    armed.until(lambda: armed.runtime.supervisor._writer.confirmed is not None, 5, "a confirmed command")
    now = armed.server.spec.limits("pump")
    armed.server._call(armed.server._server.publish({"pump": now[1]}, armed.server._now_ns()))
    armed.until(lambda: armed.mode == "SHADOW", 4, "SHADOW")
    armed.periods(1)  # for its row
    fell = [row for row in armed.rows("mode") if row["from"] == "ARMED"][-1]
    assert "somebody else moved 'pump'" in fell["why"] or "write_not_confirmed" in fell["why"]


def test_another_master_writes_the_lease(armed: Trial) -> None:
    """One that lives: a single text may be overwritten by the renewal that was already under way."""

    def taken() -> bool:
        armed.server.set_lease(f"stranger {time.monotonic_ns() % 1_000_000}")
        return armed.mode == "SHADOW"

    armed.until(taken, 5, "SHADOW because of the lease")
    armed.periods(1)
    fell = [row for row in armed.rows("mode") if row["from"] == "ARMED"][-1]
    assert "another controller commands (stranger)" in fell["why"]
    armed.server.set_lease("")


def test_the_wall_clock_jumps_while_armed(armed: Trial) -> None:
    """Control goes on by the monotonic clock; the jump is shown, and taken over where nobody is commanded."""
    for hours in (1, -1):
        writes = armed.runtime.supervisor.counters["writes"]
        armed.clock.set_wall(hours * 3600.0)
        armed.periods(6)
        assert armed.mode == "ARMED"
        assert armed.runtime.supervisor.counters["writes"] >= writes + 3
        if hours == 1:
            assert any(notice.name == "clock_set" and notice.active for notice in armed.latest.notices)
    assert any(row["name"] == "clock_set" for row in armed.rows("alarm"))


def test_the_wall_clock_jumps_in_shadow(armed: Trial) -> None:
    """History starts anew by the new clock, so that stamps of the plant's right clock do not fit until it is back."""
    ask(armed.runtime.state, Wish(action="mode", mode="SHADOW"))
    armed.clock.set_wall(3600.0)
    armed.until(lambda: "input_unusable" in armed.latest.faults, 12, "stamps that are an hour old")
    armed.clock.set_wall(-3600.0)
    armed.until(lambda: not armed.latest.faults, 12, "everything fits again")


def test_the_controller_is_slow(armed: Trial) -> None:
    """Late results are not written; three in a row and the plant is left to itself."""
    session = armed.runtime.supervisor.slots.active.session
    compute, commands = session.compute, len(armed.env.commands)

    def slow(*args: object, **options: object) -> object:
        time.sleep(0.7 * PERIOD_S / SPEED)
        return compute(*args, **options)  # type: ignore[arg-type]

    session.compute = slow  # type: ignore[method-assign, assignment]
    try:
        disarmed(armed, 10, "compute_late")
    finally:
        session.compute = compute  # type: ignore[method-assign]
    late = [row for row in armed.rows("cycle") if "compute_late" in row["faults"]]
    assert not any(row["written"] for row in late)
    assert len(armed.env.commands) > commands  # the plant went on


def test_the_controller_gives_no_number(armed: Trial) -> None:
    """The graph sees to that itself; if the machine breaks, the loop still writes no such thing."""
    session = armed.runtime.supervisor.slots.active.session
    run = session._session.run

    class Broken:
        def run(self, names: list[str], feed: dict[str, object]) -> list[np.ndarray]:
            out = [np.array(value) for value in run(names, feed)]
            out[0][:] = np.nan
            return out

    kept, session._session = session._session, Broken()
    try:
        disarmed(armed, 8, "action_unsafe")
    finally:
        session._session = kept
    assert all(np.isfinite(command).all() for command, _ in armed.env.commands)


def test_the_controller_crashes(armed: Trial) -> None:
    session = armed.runtime.supervisor.slots.active.session

    class Broken:
        def run(self, names: list[str], feed: dict[str, object]) -> list[np.ndarray]:
            raise RuntimeError("out of memory")

    kept, session._session = session._session, Broken()
    try:
        disarmed(armed, 8, "compute_failed")
    finally:
        session._session = kept


def spoiled_bundles(exported: Exported, folder: Path) -> dict[Path, str]:
    """Bundles that no runtime may load, and what it must say of each."""
    manifest, graph = exported.result.manifest, (exported.path / MODEL).read_bytes()
    # A whole, rightly signed bundle whose plant file has another name: another plant's.
    spec = PlantSpec.from_dict({**manifest.spec, "name": "boiler"})
    training = manifest.training.model_copy(update={"spec_sha256": spec.sha256()})
    theirs = {"plant": "boiler", "spec": spec.to_dict(), "training": training, "signer": None}
    ours = manifest.model_copy(update={"signer": None})
    write_bundle(folder / "foreign", manifest.model_copy(update=theirs), graph, exported.private_key)
    new_key(folder / "stranger.pem")
    write_bundle(folder / "stranger", ours, graph, folder / "stranger.pem")
    write_bundle(folder / "unsigned", ours, graph)
    for name, content in (
        ("truncated", graph[:-9]),
        ("corrupted", graph[:500] + bytes([graph[500] ^ 1]) + graph[501:]),
    ):
        shutil.copytree(exported.path, folder / name)
        (folder / name / MODEL).write_bytes(content)
    shutil.copytree(exported.path, folder / "forged")
    (folder / "forged" / SIGNATURE).write_bytes(bytes(64))
    return {
        folder / "truncated": "hash",
        folder / "corrupted": "hash",
        folder / "unsigned": "is not signed",
        folder / "stranger": "signed with another key",
        folder / "forged": "the signature is wrong",
        folder / "foreign": "is made for plant 'boiler'",
        folder / "nothing": "is no bundle",
        exported.path: "controller in charge",
    }


def test_a_wrong_bundle_is_not_loaded(armed: Trial, exported: Exported, tmp_path: Path) -> None:
    """Refused with a reason; the controller in charge does not notice, and the second slot stays empty."""
    spoiled = spoiled_bundles(exported, tmp_path)
    before = armed.runtime.supervisor.counters["writes"]
    for path, because in spoiled.items():
        with pytest.raises(ControlkitError, match=because):
            ask(armed.runtime.state, Wish(action="load", bundle=str(path), token=TOKEN))
    armed.periods(4)
    assert armed.mode == "ARMED"
    assert armed.runtime.supervisor.slots.standby is None
    told = [row["text"] for row in armed.rows("alarm") if row["name"] == "request_refused"]
    for path, because in spoiled.items():
        assert any(because in text and str(path) in text for text in told), (path, told)
    assert "is made for plant 'boiler'" in json.dumps(page(armed))
    assert armed.runtime.supervisor.counters["writes"] > before


def test_a_mode_change_is_no_jump(armed: Trial) -> None:
    """Arming starts from the command in force, and trust climbs: the first commands stay near the operator's."""
    ask(armed.runtime.state, Wish(action="mode", mode="SHADOW"))
    armed.periods(15)
    armed.runtime.ask("ARMED", TOKEN, RECORD)
    armed.until(lambda: armed.mode == "ARMED", 60, "arming")
    armed.until(lambda: armed.latest.trust >= 1.0, 40, "full trust")
    rows = armed.rows("cycle")
    first = max(i for i, row in enumerate(rows) if row["mode"] == "ARMED" and rows[i - 1]["mode"] != "ARMED")
    span = np.array([b - a for a, b in (armed.server.spec.limits(tag) for tag in armed.server.spec.action_tags)])
    step = np.abs(np.array(rows[first]["action"]) - np.array(rows[first]["act_prev"])) / span
    assert rows[first]["trust"] <= 0.1 + 1e-6
    assert step.max() <= 0.11


def test_the_chain_of_the_log_holds_to_the_end(armed: Trial) -> None:
    from deploy.runtime.audit_reader import verify_audit

    check = verify_audit(armed.runtime.state / "audit")
    assert check.problem == ""
    cycles = [row["cycle"] for row in armed.rows("cycle")]
    assert cycles == sorted(set(cycles))
