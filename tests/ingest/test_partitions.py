"""An ingest that workers share makes what one process makes, to the last bit, or stops with the same words."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.align import NS
from controlkit.cluster import Cluster, connect
from controlkit.errors import ControlkitError, DataError
from controlkit.ingest import blocks, grid, ingest, on_ray, part_work
from controlkit.ingest.blocks import batches
from controlkit.ingest.partitions import Hands, spans_of
from controlkit.ingest.quarantine import RECORDED, Quarantine, Recorded
from controlkit.ingest.sources import csv_file, table_file
from controlkit.ingest.sources.find import open_file
from controlkit.ingest.sources.opened import Parted
from controlkit.progress import Silent
from controlkit.spec import PlantSpec
from tests.ingest.partition_logs import outcome, pickling_hands, plant, stages, write_logs


@pytest.fixture
def small(monkeypatch):
    """Blocks so small that cuts come everywhere: of text, of tables, of the grid, of samples."""

    def make(rng: np.random.Generator) -> None:
        monkeypatch.setattr(csv_file, "SMALLEST", int(rng.integers(300, 6000)))
        monkeypatch.setattr(csv_file, "BLOCK", 1)
        monkeypatch.setattr(table_file, "BATCH", int(rng.integers(20, 200)))
        monkeypatch.setattr(grid, "BLOCK", int(rng.integers(20, 120)))
        monkeypatch.setattr(blocks, "SAMPLES", int(rng.choice([60, 1 << 21])))

    return make


@pytest.mark.parametrize("seed", range(14))
def test_the_stages_are_the_same_wherever_the_cuts_lie(seed, tmp_path, small):
    rng = np.random.default_rng(seed)
    small(rng)
    spec = plant(rng)
    files = write_logs(rng, spec, tmp_path)
    hands = pickling_hands(int(rng.integers(1, 7)), rng)
    alone = outcome(lambda: stages(spec, files, tmp_path / "alone", None))
    shared = outcome(lambda: stages(spec, files, tmp_path / "shared", hands))
    assert type(alone) is type(shared)
    if isinstance(alone, dict):
        for name, made in alone.items():
            assert shared[name] == made, name
    assert shared == alone


def test_most_of_those_logs_become_data_sets_and_hold_what_is_hard(tmp_path):
    """Else the test above would compare little but messages."""
    kept, reasons, cuts = 0, set(), set()
    for seed in range(100, 106):
        rng = np.random.default_rng(seed)
        spec, folder = plant(rng), tmp_path / str(seed)
        folder.mkdir()
        files = write_logs(rng, spec, folder)
        made = outcome(lambda: stages(spec, files, folder / "work", None))  # noqa: B023 (called at once)
        if isinstance(made, dict):
            kept += 1
            reasons |= set(made["quarantine"][1])
            cuts |= {name for name, count in made["episodes"][1].cuts.items() if count}
            assert "frozen" in made["found"]
    assert kept >= 3
    assert {"time stamp goes back", "another value at the same time stamp"} <= reasons
    assert {"gap", "mode not accepted", "command unknown", "static tag changes", "trip"} <= cuts


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_folder_is_the_same_file_by_file(tmp_path, small, monkeypatch, make_spec, rows, write_long):
    rng = np.random.default_rng(0)
    small(rng)
    monkeypatch.setattr(csv_file, "SMALLEST", 300)
    rows[10] = (rows[10][0], rows[10][1], "nonsense", "good")
    spec = make_spec(log={"max_quarantined": 0.1})
    path = write_long(rows)
    assert len(open_file(path, spec).split()) > 1
    ingest(spec, [path], tmp_path / "alone")
    ingest(spec, [path], tmp_path / "shared", hands=pickling_hands(2, rng))
    alone = folder_bytes(tmp_path / "alone")
    assert "quarantine.parquet" in alone
    assert folder_bytes(tmp_path / "shared") == alone


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: rows.__setitem__(40, ("2024-01-01 00:00:13", "door", "1", "good")), "with one"),  # without a zone
        (lambda rows: rows.__setitem__(40, (rows[40][0], "dor", "1", "good")), "dor"),
        (lambda rows: rows.__setitem__(slice(0, None), [(t, g, "3", q) for t, g, _, q in rows]), "never changes"),
    ],
)  # fmt: skip
def test_what_stops_one_process_stops_the_workers_with_the_same_words(
    spoil, message, tmp_path, small, spec, rows, write_long
):
    rng = np.random.default_rng(1)
    small(rng)
    spoil(rows)
    path = write_long(rows)
    alone = outcome(lambda: ingest(spec, [path], tmp_path / "out"))
    shared = outcome(lambda: ingest(spec, [path], tmp_path / "out", hands=pickling_hands(3, rng)))
    assert message in alone[1]
    assert shared == alone
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("after", ["0", "192"])
def test_a_code_that_tells_what_a_zero_means_is_seen_by_one_process(
    after, tmp_path, small, monkeypatch, spec, rows, write_long
):
    """In OPC DA 0 is bad; a code of OPC UA late in the log makes those after it doubtful, wherever a part begins."""
    small(np.random.default_rng(2))
    monkeypatch.setattr(csv_file, "SMALLEST", 300)  # the first of its blocks is all that is looked at before
    coded = [(t, g, v, "192") for t, g, v, _ in rows]
    coded[30] = (*coded[30][:3], "0")
    coded[45] = (*coded[45][:3], "1073741824")
    coded[55] = (*coded[55][:3], after)
    path, bar = write_long(coded), Silent()
    hands = pickling_hands(3, np.random.default_rng(2))
    alone = outcome(lambda: ingest(spec, [path], tmp_path / "alone").quality.to_dict())
    shared = outcome(lambda: ingest(spec, [path], tmp_path / "shared", hands=hands, progress=bar).quality.to_dict())
    assert shared == alone
    assert ("quality code 0" in str(alone)) == (after == "0")
    assert any("read by one process" in message for message in bar.messages) == (after == "192")


@given(
    st.lists(st.integers(-50, 700), max_size=12, unique=True),
    st.integers(1, 40),
    st.integers(1, 9),
)
def test_spans_hold_the_blocks_of_one_process(edges, block, parts):
    spec = plant(np.random.default_rng(0))
    tenth = NS // 10
    pairs = zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)
    stretches = [(a * tenth, b * tenth) for a, b in pairs]
    alone = [(n.tolist(), t.tolist()) for n, t in batches(spec, stretches, block) if len(t)]
    spans = spans_of(spec, stretches, block, parts)
    assert len(spans) <= parts
    shared = []
    for span in spans:
        before = shared[-1] if shared else None
        assert span.before == (None if before is None else (before[0][-1], before[1][-1]))
        mine = [(n + span.number, t) for n, t in batches(spec, span.stretches, block) if len(t)]
        assert span.rows == sum(len(t) for _, t in mine)
        shared += [(n.tolist(), t.tolist()) for n, t in mine]
    assert shared == alone


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_the_parts_of_a_source_are_its_batches(form, tmp_path, small):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        small(rng)
        spec = plant(rng)
        folder = tmp_path / f"{seed}"
        folder.mkdir()
        for path in write_logs(rng, spec, folder):
            source = open_file(path, spec)
            assert isinstance(source, Parted)
            parts = source.split()
            if path.suffix[1:] != form or len(parts) < 2:
                continue
            size = table_file.BATCH if form == "parquet" else csv_file.BATCH
            whole = [(b.records.to_pydict(), b.row.tolist(), b.rejected) for b in source.batches(size)]
            pieces = [b for part in parts for b in source.batches_of(part)]
            assert [(b.records.to_pydict(), b.row.tolist(), b.rejected) for b in pieces] == whole


def test_a_line_without_an_end_lies_in_one_part(tmp_path, monkeypatch, spec):
    monkeypatch.setattr(csv_file, "BLOCK", 1)
    monkeypatch.setattr(csv_file, "SMALLEST", 64)
    path = tmp_path / "log.csv"
    lines = ["timestamp,tag,value", "2024-01-01T00:00:00Z,door,1", f"2024-01-01T00:00:01Z,door,{'9' * 500}"]
    path.write_text("\n".join([*lines, *(f"2024-01-01T00:00:{s:02}Z,door,0" for s in range(2, 20))]))
    source = open_file(path, spec)
    parts = source.split()
    assert max(part.stop - part.start for part in parts) > 500 // 64
    taken = [b.row.tolist() for part in parts for b in source.batches_of(part)]
    assert taken == [b.row.tolist() for b in source.batches()]


@pytest.mark.parametrize("name", ["log.csv.gz", "log.csv"])
def test_what_cannot_be_taken_apart_is_one_part(name, tmp_path, monkeypatch, spec, rows):
    import gzip

    monkeypatch.setattr(csv_file, "BLOCK", 1)
    monkeypatch.setattr(csv_file, "SMALLEST", 64)
    text = "\n".join(["timestamp,tag,value,quality", *(",".join(row) for row in rows)]) + "\n"
    packed = gzip.compress(text.encode()) if name.endswith("gz") else text.encode("utf-16")
    (tmp_path / name).write_bytes(packed)
    assert len(open_file(tmp_path / name, spec).split()) == 1


def test_the_quarantine_is_given_on_as_it_was_taken():
    calls = [(0, "a", [3, 4], ["x", "y"], ["t", "u"]), (1, "b", [0], ["z"], [""]), (0, "a", [5], ["w"], ["t"])]
    straight, recorded, given = Quarantine(), Recorded(), Quarantine()
    for call in calls:
        straight.add(*call)
        recorded.add(*call)
    recorded.give(given)
    assert (given.listed, given.counts(), given.counts("t"), given.rows) == (
        straight.listed, straight.counts(), straight.counts("t"), straight.rows,
    )  # fmt: skip
    with pytest.raises(DataError, match="cannot be used"):
        recorded.add(0, "a", np.zeros(RECORDED, dtype=np.int64), ["x"], ["t"] * RECORDED)


# On Ray --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray")
    with connect(cores=2) as connected:
        yield connected


def hands_of(cluster: Cluster) -> Hands:
    return Hands(2, lambda work, payloads, done: on_ray.run(cluster, work, payloads, done))


def dies_once(payload: Mapping[str, Any]) -> Any:
    """Aligns a span; the first worker that is asked to dies when half of it is on disk."""
    marker: Path = payload["scratch"].parent.parent / "died"
    if payload["span"].before is not None and not marker.exists():
        part_work.Rows.append = dying(marker)  # in the worker's process, which ends
    return part_work.align_span(payload)


def dying(marker: Path) -> Any:
    append = part_work.Rows.append

    def work(self: Any, block: Any) -> None:
        append(self, block)
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)

    return work


def full_disk(payload: Mapping[str, Any]) -> Any:
    """Assesses a tag on a machine whose disk is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(payload["scratch"]))


@pytest.mark.xdist_group("ray")
class TestOnRay:
    def test_a_worker_that_dies_is_replaced_and_the_numbers_stay(
        self, cluster, tmp_path, monkeypatch, spec, rows, write_long
    ):
        monkeypatch.setattr(grid, "BLOCK", 3)
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        path = write_long(rows)
        ingest(spec, [path], tmp_path / "alone")
        monkeypatch.setattr("controlkit.ingest.partitions.align_span", by_value(dies_once))
        ingest(spec, [path], tmp_path / "shared", hands=hands_of(cluster))
        assert (tmp_path / "died").exists()
        assert folder_bytes(tmp_path / "shared") == folder_bytes(tmp_path / "alone")
        assert not list(tmp_path.glob("controlkit-*"))

    def test_a_full_disk_stops_it_with_one_line_and_nothing_is_left(
        self, cluster, tmp_path, monkeypatch, spec, rows, write_long
    ):
        monkeypatch.setenv("TMPDIR", str(tmp_path))
        monkeypatch.setattr("tempfile.tempdir", None)
        monkeypatch.setattr("controlkit.ingest.partitions.assess_tag", by_value(full_disk))
        with pytest.raises(ControlkitError, match=r"full_disk \d of 3.*No space left") as raised:
            ingest(spec, [write_long(rows)], tmp_path / "data", hands=hands_of(cluster))
        assert "Nothing was written" in raised.value.cure
        assert not (tmp_path / "data").exists()
        assert not list(tmp_path.glob("controlkit-*"))


def by_value(work: Any) -> Any:
    """Lets Ray send this module's code along, which its workers cannot import."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return work


def test_a_worker_that_does_not_see_the_working_folder_says_what_to_set(tmp_path, spec):
    payload = {"portions": [], "tags": list(PlantSpec.from_dict(spec.to_dict()).tags), "scratch": tmp_path / "gone"}
    with pytest.raises(DataError, match="TMPDIR"):
        part_work.read_part(payload)
