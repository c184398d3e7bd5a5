"""The draft suite: what it counts as right, on a plant drawn at random."""

from __future__ import annotations

import json

import pytest

from controlkit.benchmarks.draft import Truth, judge, random_loop, run_suite
from controlkit.errors import ControlkitError
from controlkit.ingest.draft.proposal import propose
from controlkit.progress import Silent


def test_a_wrong_truth_is_not_confirmed():
    tags, truth = random_loop(7, samples=6_000)
    names = {name: name for name in tags}
    proposal = propose(tags)
    assert judge(truth, proposal, tags, names).delays == 1.0
    assert judge(truth, proposal, tags, names).actions == 1.0
    (action, state, delay), swapped = truth.delays[0], dict(truth.roles)
    swapped["TIC-7.OP"], swapped["TIC-7.PV"] = swapped["TIC-7.PV"], swapped["TIC-7.OP"]
    wrong = judge(Truth(swapped, 20.0, ((action, state, delay + 3),)), proposal, tags, names)
    assert (wrong.roles, wrong.actions, wrong.period, wrong.delays) == (0.5, 0.0, 0.0, 0.0)


def test_the_suite_writes_its_table_and_records(tmp_path):
    table = run_suite(tmp_path, 1, Silent(), tasks=["random-loop"])
    assert table == (tmp_path / "table.md").read_text()
    records = json.loads((tmp_path / "results.json").read_text())
    assert {record["method"] for record in records} == {"names", "hidden names"}
    assert all(0 <= record["value"] <= 1 for record in records)
    named = {record["metric"]: record["value"] for record in records if record["method"] == "names"}
    assert named == {"roles_right": 1.0, "actions_right": 1.0, "period_right": 1.0, "delays_right": 1.0}
    with pytest.raises(ControlkitError, match="random-loop"):
        run_suite(tmp_path, 1, Silent(), tasks=["random-lop"])
