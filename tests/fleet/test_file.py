"""The fleet file: strict, with defaults filled in, paths from the file's own folder, names that stay in theirs."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlkit.errors import ConfigError
from controlkit.fleet.file import as_overrides, load_fleet
from controlkit.fleet.sources import content_of, placed

GOOD = """
defaults:
  run: pipeline
  set: {seed: 1, policy.updates: 100}
  evaluate: {quick: true, seed: 4}
plants:
  - {name: column-7, plant: c7.yaml, sources: ["logs/*.csv"]}
  - {name: column-8, plant: c8.yaml, sources: [a.csv], run: slow.yaml, set: {seed: 3}, evaluate: {gamma: 0.9}}
"""


def written(folder: Path, text: str) -> Path:
    (folder / "fleet.yaml").write_text(text)
    return folder / "fleet.yaml"


def test_defaults_are_filled_in_field_by_field(tmp_path: Path) -> None:
    first, second = load_fleet(written(tmp_path, GOOD)).plants
    assert (first.run, first.evaluate.quick, first.evaluate.seed, first.evaluate.gamma) == ("pipeline", True, 4, None)
    assert second.run == "slow.yaml"
    assert second.set == {"seed": 3, "policy.updates": 100}
    assert (second.evaluate.quick, second.evaluate.seed, second.evaluate.gamma) == (True, 4, 0.9)
    assert as_overrides({"a.b": [1, 2.5], "c": "x", "d": True}) == ["a.b=[1, 2.5]", 'c="x"', "d=true"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: column-8", "name: Column-7", "there is another 'Column-7'"),
        ("name: column-8", "name: ../column-8", "plants.1.name"),
        ("name: column-8", "name: column-8.", "plants.1.name"),
        ("name: column-8", 'name: "..."', "plants.1.name"),
        ("sources: [a.csv]", "source: [a.csv]", "Did you mean 'sources'?"),
        ("sources: [a.csv]", "sources: []", "plants.1.sources"),
        ("  run: pipeline\n", "", "'column-7' has no 'run'"),
        ("gamma: 0.9", "gamma: 1.5", "plants.1.evaluate.gamma"),
        ("seed: 3", "seed: 2024-01-01", "plants.1.set.seed"),
        ("plants:", "plant:", "unknown key"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError, match=r"fleet\.yaml") as told:
        load_fleet(written(tmp_path, GOOD.replace(old, new, 1)))
    assert said in str(told.value)


def test_a_file_that_is_missing_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_fleet(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="larger than 16 MiB"):
        load_fleet(written(tmp_path, "#" * (17 << 20)))


def test_sources_are_placed_and_told_by_their_content(tmp_path: Path) -> None:
    assert placed("logs/*.csv", tmp_path) == str(tmp_path / "logs/*.csv")
    assert placed("/data/a.csv", tmp_path) == "/data/a.csv"
    assert placed("sqlite:///log.db?table=t", tmp_path) == f"sqlite:///{tmp_path}/log.db?table=t"
    for address in ("sqlite:////data/log.db", "postgresql://host/db?table=t", "minari:tank/log-v0"):
        assert placed(address, tmp_path) == address
    (tmp_path / "logs").mkdir()
    for name in ("a.csv", "b.csv"):
        (tmp_path / "logs" / name).write_text("x")
    by_pattern, by_folder = content_of(str(tmp_path / "logs/*.csv")), content_of(str(tmp_path / "logs"))
    assert by_pattern == by_folder is not None
    (tmp_path / "logs" / "b.csv").write_text("y")
    assert content_of(str(tmp_path / "logs")) != by_folder
    assert content_of("minari:tank/log-v0") is None
    assert content_of(str(tmp_path / "nowhere.csv")) is None
