"""Sweeps and their cluster on a real Ray: two machines of one core each, as far as Ray can tell."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from controlkit.cluster import Cluster, Event, Item, connect
from controlkit.cluster.versions import Versions
from controlkit.dataset import RECORD
from controlkit.errors import ControlkitError
from controlkit.files import read_json
from controlkit.sweeps.ledger import Ledger
from controlkit.sweeps.plan import Plan, make_plan
from controlkit.sweeps.running import run_plan
from controlkit.sweeps.settings import parse_grid
from controlkit.sweeps.table import RunTable
from tests import small_plant
from tests.sweeps.short import SHORT
from tests.sweeps.sweep_work import DOOMED, misbehave, train_only

pytest.importorskip("ray")

GRID = ("policy.behaviour_anchor=0,0.5,1",)


@pytest.fixture(scope="session")
def two_machines() -> Iterator[Any]:
    """A head and a second machine, one core each."""
    from ray.cluster_utils import Cluster as Machines

    patch = pytest.MonkeyPatch()
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    machines = Machines(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    machines.second = machines.add_node(num_cpus=1)
    yield machines
    machines.shutdown()
    patch.undo()


@pytest.fixture
def cluster(two_machines: Any) -> Iterator[Cluster]:
    with connect(two_machines.address) as connected:
        yield connected


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweeps") / "data"
    small_plant.dataset(steps=40).save(folder)
    return folder


def plan_of(data: Path) -> Plan:
    return make_plan(small_plant.config(**SHORT), parse_grid(GRID), read_json(data / RECORD), seeds=1)


class Watched(RunTable):
    """A table that lets a test do something as things happen, and keeps what was told."""

    def __init__(self, total: int, then: Callable[[Watched, Event], None] = lambda table, event: None) -> None:
        super().__init__(total)
        self.told: list[Event] = []
        self._then = then

    def tell(self, event: Event, record: Any = None) -> str:
        line = super().tell(event, record)
        self.told.append(event)
        self._then(self, event)
        return line


def sweep(ledger: Ledger, data: Path, cluster: Cluster, table: RunTable | None = None) -> dict[str, Any]:
    """Name -> record."""
    table = table or Watched(ledger.plan.total)
    lines: list[str] = []
    records = run_plan(ledger, data, lambda: nullcontext(cluster), table, lines.append, retries=2, work=train_only)
    return {record.name: record for record in records}


def policies(records: dict[str, Any]) -> dict[str, str]:
    assert all(record.state == "done" for record in records.values()), records
    return {name: record.result["policy_sha256"] for name, record in records.items()}


def test_another_version_anywhere_is_refused_in_one_line(two_machines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    import controlkit

    def older(ray: Any, wait_s: float) -> dict[str, Versions]:
        return {"10.0.0.7": Versions(sys.version.split()[0], ray.__version__, "0.0.1")}

    monkeypatch.setattr("controlkit.cluster.connection.read_versions", older)
    expected = f"machine 10.0.0.7: runs controlkit 0.0.1, this machine {controlkit.__version__}"
    with pytest.raises(ControlkitError, match=re.escape(expected)), connect(two_machines.address):
        pytest.fail("the versions differ")
    assert not ray.is_initialized()


def test_each_item_has_an_outcome_and_none_stops_another(cluster: Cluster, tmp_path: Path) -> None:
    how = ("die", "full disk", "bug", "well", "die once")
    marker = str(tmp_path / "died")
    told: list[Event] = []
    items = [Item(word, {"how": word, "marker": marker}) for word in how]
    found = {outcome.name: outcome for outcome in cluster.run(items, misbehave, retries=1, on_event=told.append)}
    assert list(found) == list(how)
    assert found["well"].state == "done"
    assert found["well"].value == {"how": "well"}
    assert (found["die once"].state, found["die once"].tries) == ("done", 2)
    assert (found["die"].state, found["die"].tries) == ("lost", 2)
    assert found["full disk"].state == found["bug"].state == "failed"
    assert found["full disk"].message == "/data/runs/checkpoint.pt: No space left on device"
    assert "KeyError: 'level'" in found["bug"].message
    kinds = [event.kind for event in told if event.name == "die once"]
    assert [kind for kind in kinds if kind != "started"] == ["retried", "done"]


def test_an_item_that_fits_nowhere_is_refused_before_anything_runs(cluster: Cluster) -> None:
    told: list[Event] = []
    items = [Item("small", {"how": "well"}), Item("large", {"how": "well"}, cores=64, gpus=0.5)]
    with pytest.raises(ControlkitError, match=r"large: no machine has 64 cores and 0.5 of a GPU"):
        cluster.run(items, misbehave, on_event=told.append)
    assert not told


def test_a_sweep_ends_the_same_whatever_happens_to_it(
    cluster: Cluster, two_machines: Any, data: Path, tmp_path: Path
) -> None:
    """Undisturbed; and cut by Ctrl-C, gone on with, while a process is killed and a machine is lost."""
    plan = plan_of(data)
    expected = policies(sweep(Ledger(tmp_path / "undisturbed", plan), data, cluster))
    assert len(set(expected.values())) == plan.total == 3  # settings matter

    def interrupt(table: Watched, event: Event) -> None:
        if event.kind == "done":
            raise KeyboardInterrupt

    ledger = Ledger(tmp_path / "disturbed", plan)
    with pytest.raises(KeyboardInterrupt):
        sweep(ledger, data, cluster, Watched(3, interrupt))
    kept = [run.name for run in plan.grid_runs() if ledger.kept(run) is not None]
    left = [name for name in expected if name not in kept]
    assert len(left) == 2

    doomed = left[0]
    (ledger.folder / DOOMED).write_text(doomed)
    shutil.rmtree(ledger.folder / "runs" / doomed, ignore_errors=True)

    def unplug(table: Watched, event: Event) -> None:
        began = [told for told in table.told if told.kind == "started"]
        if event.kind == "started" and len(began) == 2:  # one on each machine: they wait for each other
            two_machines.remove_node(two_machines.second, allow_graceful=False)

    table = Watched(3, unplug)
    disturbed = sweep(ledger, data, cluster, table)
    assert policies(disturbed) == expected
    assert {event.name for event in table.told} == set(left)  # what was done is not repeated
    assert len([event for event in table.told if event.kind == "retried"]) == 2
    assert disturbed[doomed].tries >= 2
    assert disturbed[doomed].result["resumed"]  # from the checkpoint of the process that was killed

    def none(*arguments: object) -> Any:
        pytest.fail("a finished sweep needs no cluster")

    again = run_plan(ledger, data, none, RunTable(3), none, retries=0, work=none)
    assert {record.name: record for record in again} == disturbed


EMBEDDED = """
import os
from controlkit.cluster import Item, connect
from tests.sweeps.short import SHORT
from tests.sweeps.sweep_work import misbehave

with connect(cores=1) as cluster:
    import ray
    found = cluster.run([Item("one", {"how": "die"}), Item("two", {"how": "well"})], misbehave, retries=0)
    print([outcome.state for outcome in found], cluster.cores)
    print([node["NodeManagerAddress"] for node in ray.nodes()], os.environ["RAY_AUTH_MODE"])
"""


def test_ray_on_this_machine_is_silent_and_seen_by_nobody_else() -> None:
    done = subprocess.run([sys.executable, "-c", EMBEDDED], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['lost', 'done'] 1", "['127.0.0.1'] token"]
    assert not done.stderr
