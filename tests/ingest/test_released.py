"""Published files by name and md5: the list, the warning where a file is another one, and NeoRL's own array layout."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from controlkit.errors import ControlkitError, DataError
from controlkit.files import md5_of
from controlkit.ingest import ingest
from controlkit.ingest.flat_file import read_flat
from controlkit.ingest.released import release_remark
from controlkit.spec import PlantSpec
from envs.neorl.data_files import LEVELS, RELEASED, get_released, released_as
from envs.tasks import get_task
from tests.data_files import data_file
from tests.ingest.test_flat import flat_log, written


def test_the_list_is_whole_and_has_no_name_or_sum_twice() -> None:
    files = {file.name: file for file in RELEASED.values()}
    assert len(files) == 9 * 6 + 3 * 6 + 7 * 2
    assert len({file.md5 for file in files.values()}) == len(files)
    assert all(len(file.md5) == 32 and int(file.md5, 16) for file in files.values())
    assert all(file.url.endswith(f"/{file.name}") for file in files.values())
    for level in LEVELS:
        assert get_released(f"neorl/hopper-{level}").name == f"Hopper-v3-{level}-1000-train-noise.npz"
        assert get_released(f"neorl/hopper-{level}-val").name == f"Hopper-v3-{level}-100-val-noise.npz"
        assert get_released(f"neorl/industrial-{level}-100").name == f"ib-{level}-100-train.npz"
    assert get_released("neorl2/rocket-recovery-val").url.endswith("/neorl2/RocketRecovery/RocketRecovery-val.npz")


def test_a_wrong_name_names_the_nearest() -> None:
    with pytest.raises(ControlkitError, match=r"no data set 'neorl/halfchetah-medium' .*'neorl/halfcheetah-medium'"):
        get_released("neorl/halfchetah-medium")
    assert released_as("log.npz") is None


@pytest.mark.parametrize("name", ["DMSD-train", "DMSD-val", "SafetyHalfCheetah-train", "SafetyHalfCheetah-val"])
def test_released_files_have_the_md5_of_the_list(name: str) -> None:
    path = data_file(f"neorl2/{name}.npz")
    assert md5_of(path) == released_as(path.name).md5  # type: ignore[union-attr]
    assert release_remark(path) is None


@pytest.mark.parametrize("part", ["train", "val"])
def test_the_earlier_cut_of_pipeline_is_named(part: str) -> None:
    remark = release_remark(data_file(f"neorl2/Pipeline-{part}.npz"))
    assert remark is not None
    assert "is an earlier cut of this data set and not the released file" in remark
    assert "not comparable" in remark


def test_another_file_of_a_published_name_is_a_warning_in_the_report(tmp_path: Path) -> None:
    plant, arrays = flat_log(0)
    path = written(tmp_path / "DMSD-train.npz", arrays)
    result = ingest(plant, [path], tmp_path / "data")
    (warning,) = [one.text for one in result.quality.advice if "md5" in one.text]
    assert warning.startswith(f"DMSD-train.npz: its md5 is {md5_of(path)}, and that of the released file of this name")
    assert "88dfa39aa18904e809056b51c2e6319b" in warning
    assert "not the released file" in (tmp_path / "data" / "quality.json").read_text()


def test_tampered_numbers_in_a_released_file_are_warned_of(tmp_path: Path) -> None:
    """One exchanged number keeps the file readable; only the md5 shows it."""
    path = shutil.copy(data_file("neorl2/DMSD-val.npz"), tmp_path)
    arrays = dict(np.load(path))
    arrays["action"][123, 0] *= -1.0
    np.savez_compressed(path, **arrays)
    quality = ingest(get_task("dmsd").spec(), [Path(path)], None).quality
    (warning,) = [one.text for one in quality.advice if "md5" in one.text]
    assert "it is not the released file" in warning


def refusal(plant: PlantSpec, path: Path) -> str | None:
    """Why a file is refused; None where it is read (a flipped time stamp of the archive harms nobody)."""
    try:
        ingest(plant, [path], None)
    except DataError as problem:
        return str(problem)
    return None


def test_a_flipped_byte_is_found_by_the_archives_checksum(tmp_path: Path) -> None:
    """Bytes in the numbers of each array are named with it; no byte anywhere gives anything but one clear line."""
    plant, arrays = flat_log(0)
    for save in (np.savez, np.savez_compressed):
        path = tmp_path / "log.npz"
        save(path, **arrays)
        whole = path.read_bytes()
        named = set()
        for at in range(0, len(whole), 37):
            (tmp_path / "bad.npz").write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
            problem = refusal(plant, tmp_path / "bad.npz")
            assert problem is None or problem.startswith(str(tmp_path / "bad.npz"))
            named |= {name for name in arrays if f"in the array '{name}'" in (problem or "")}
        assert named == set(arrays)


@pytest.mark.parametrize("layout", ["begins", "ends"])
def test_neorls_index_of_ends_and_an_index_of_beginnings_are_the_same_borders(tmp_path: Path, layout: str) -> None:
    """NeoRL's files list the rows after each episode; its reader puts 0 before them and drops the last."""
    plant, arrays = flat_log(0)
    index = {"begins": [0, 30, 60, 90], "ends": [30, 60, 90, 120]}[layout]
    path = written(
        tmp_path / "log.npz",
        arrays,
        index=np.array(index),
        truncated=None,
        reward=arrays["reward"][:, None],
        done=arrays["done"][:, None],
    )
    file = read_flat(path)
    assert np.flatnonzero(file.last).tolist() == [29, 59, 89, 119]
    assert not file.cuts_are_marked
    assert len(ingest(plant, [path], None).dataset.transitions) == 120


def test_done_at_the_time_limit_is_a_cut_where_no_truncated_says_otherwise(tmp_path: Path) -> None:
    plant, arrays = flat_log(0)
    done = np.zeros(120)
    done[[29, 59, 89, 119]] = 1
    index = np.array([30, 60, 90, 120])
    result = ingest(plant, [written(tmp_path / "log.npz", arrays, done=done, index=index, truncated=None)], None)
    assert not result.dataset.terminated.any()
    assert [one for one in result.quality.advice if "4 of 4 ends in the file (the first is row 29)" in one.text]
    # With `truncated` in the file, `done` is a true end, and that contradicts the rules.
    with pytest.raises(DataError, match="row 29 the file says that the episode ends there"):
        ingest(plant, [written(tmp_path / "both.npz", arrays, done=done)], None)
