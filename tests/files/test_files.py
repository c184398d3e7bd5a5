"""Files and folders are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from controlkit import files
from controlkit.errors import ArtifactError, ControlkitError, DataError, nearest
from controlkit.files import (
    folder_written_aside,
    read_json,
    sha256_of,
    write_bytes,
    write_json,
    write_text,
    written_aside,
)

ROOT = Path(__file__).parents[2]


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_with_its_folders_and_read_back(tmp_path):
    path = tmp_path / "a" / "b.json"
    write_json(path, {"x": [1, 2.5, "ü"]})
    assert read_json(path) == {"x": [1, 2.5, "ü"]}
    write_text(path, "again")
    assert path.read_text() == "again"
    assert names(path.parent) == ["b.json"]
    assert path.stat().st_mode & 0o777 == 0o644
    write_text(path, "abc")
    # The known answer of FIPS 180-4.
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_json_has_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"x": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_full_disk_leaves_the_earlier_file(step, tmp_path, monkeypatch):
    path = tmp_path / "x.bin"
    write_bytes(path, b"before")
    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "write_bytes", full) if step == "write" else (os, "replace", full)))
        with pytest.raises(ControlkitError, match="No space left on device") as caught:
            write_bytes(path, b"after")
    assert (caught.value.where, path.read_bytes()) == (str(path), b"before")
    assert "Free some space" in caught.value.cure
    assert names(tmp_path) == ["x.bin"]


def test_an_interrupted_writer_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "x.bin"
    write_bytes(path, b"before")

    def write_half():
        with written_aside(path) as aside:
            aside.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (path.read_bytes(), names(tmp_path)) == (b"before", ["x.bin"])


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ControlkitError, match="cannot be written") as caught:
        write_text(tmp_path / "file" / "x", "text")
    assert caught.value.where == str(tmp_path / "file" / "x")


def make(folder, text):
    with folder_written_aside(folder, "mark.json") as aside:
        (aside / "mark.json").write_text(text)


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_the_earlier_one(exchange, tmp_path, monkeypatch):
    if not exchange:
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    folder = tmp_path / "a" / "out"
    make(folder, "one")
    (folder / "stray").write_text("x")
    make(folder, "two")
    assert names(folder) == ["mark.json"]
    assert (folder / "mark.json").read_text() == "two"
    assert names(folder.parent) == ["out"]


def test_this_system_swaps_folders_at_once(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    if files._exchanged(tmp_path / "one", tmp_path / "two"):
        assert (names(tmp_path / "one"), names(tmp_path / "two")) == (["two"], ["one"])
    else:
        assert (names(tmp_path / "one"), names(tmp_path / "two")) == (["one"], ["two"])


def test_an_empty_folder_may_be_filled_and_a_strange_one_may_not(tmp_path):
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty", "one")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for strange in ("mine", "file"):
        with pytest.raises(ArtifactError, match=r"holds no mark\.json"):
            make(tmp_path / strange, "one")
    assert names(tmp_path / "mine") == ["letter"]
    assert names(tmp_path) == ["empty", "file", "mine"]


def test_a_failing_rename_puts_the_earlier_folder_back(tmp_path, monkeypatch):
    folder = tmp_path / "out"
    make(folder, "one")
    renames = []

    def fails_on_the_new_one(source, target):
        renames.append(source)
        if ".part" in str(source):
            full()
        real(source, target)

    real = os.rename
    monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    monkeypatch.setattr(os, "rename", fails_on_the_new_one)
    with pytest.raises(ControlkitError, match="No space left"):
        make(folder, "two")
    monkeypatch.undo()
    assert len(renames) == 3
    assert (folder / "mark.json").read_text() == "one"
    assert names(tmp_path) == ["out"]


def test_a_real_limit_on_the_disk_and_a_kill_leave_the_earlier_folder(tmp_path):
    folder = tmp_path / "out"
    make(folder, "one")
    script = textwrap.dedent(
        """
        import os, resource, signal, sys
        from pathlib import Path
        from controlkit.errors import ControlkitError
        from controlkit.files import folder_written_aside

        with folder_written_aside(Path(sys.argv[1]), "mark.json") as aside:
            (aside / "mark.json").write_text("two")
            if sys.argv[2] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
            (aside / "big").write_bytes(bytes(10_000))
        """
    )
    for how, code in (("limit", 1), ("kill", -signal.SIGKILL)):
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder), how], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert (folder / "mark.json").read_text() == "one"
        assert names(folder) == ["mark.json"]
        if how == "limit":
            assert f"{folder}: cannot be written (File too large)" in done.stderr
            assert names(tmp_path) == ["out"]
    make(folder, "three")
    assert (folder / "mark.json").read_text() == "three"


def test_what_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(ArtifactError, match="no such file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(ArtifactError, match="is damaged") as caught:
        read_json(tmp_path / "x.json")
    assert caught.value.where == str(tmp_path / "x.json")


def test_an_error_is_one_line_and_crosses_processes():
    problem = DataError("is wrong", where="log.csv, line 3", cure="Mend it.")
    assert str(problem) == "log.csv, line 3: is wrong. Mend it."
    again = pickle.loads(pickle.dumps(problem))
    assert (type(again), str(again), again.cure) == (DataError, str(problem), "Mend it.")
    assert str(ControlkitError("is wrong")) == "is wrong"


def test_the_nearest_name():
    assert nearest("temprature", ["door", "temperature"]) == "did you mean 'temperature'?"
    assert nearest("degc", ["deg", "degC"]) == "did you mean 'degC'?"
    assert nearest("zzz", ["b", "a", "b"]) == "valid names: a, b"
    assert nearest("x", []) == ""
