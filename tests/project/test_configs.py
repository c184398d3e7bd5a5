"""Shipped presets are found by name, and a wrong name is answered with the nearest right one."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlkit import configs
from controlkit.errors import ConfigError


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with three presets of its own: package/controlkit and package/configs."""
    root = tmp_path / "checkout" / "configs"
    for name in ("plants/boiler.yaml", "plants/suite/hopper.yaml", "runs/quick.yaml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("{}\n")
    monkeypatch.setattr(configs, "__file__", str(tmp_path / "checkout" / "controlkit" / "configs.py"))
    return root


def test_presets_of_a_checkout_are_listed_by_kind(shipped: Path) -> None:
    assert configs.list_configs("plants") == ["boiler", "suite/hopper"]
    assert configs.list_configs("runs") == ["quick"]


def test_presets_inside_the_package_win(shipped: Path) -> None:
    inside = shipped.parent / "controlkit" / "_presets" / "plants"
    inside.mkdir(parents=True)
    (inside / "kiln.yaml").write_text("{}\n")
    assert configs.list_configs("plants") == ["kiln"]


@pytest.mark.parametrize("name", ["boiler", "boiler.yaml"])
def test_a_preset_is_found_by_name(shipped: Path, name: str) -> None:
    assert configs.config_path("plants", name) == shipped / "plants" / "boiler.yaml"


def test_a_misspelled_preset_names_the_nearest(shipped: Path) -> None:
    with pytest.raises(ConfigError, match=r"plants: no preset 'boiller' is shipped.*did you mean 'boiler'"):
        configs.config_path("plants", "boiller")


def test_a_misspelled_kind_names_the_nearest(shipped: Path) -> None:
    with pytest.raises(ConfigError, match=r"no kind of preset is called 'plant'.*did you mean 'plants'"):
        configs.list_configs("plant")


def test_an_installation_without_presets_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configs, "__file__", str(tmp_path / "controlkit" / "configs.py"))
    with pytest.raises(ConfigError, match=r"presets are missing.*Install controlkit again"):
        configs.configs_root()


def test_a_file_of_the_users_wins_over_a_preset(shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert configs.find_config("plants", "boiler") == shipped / "plants" / "boiler.yaml"
    Path("boiler").write_text("mine: true\n")
    assert configs.find_config("plants", "boiler") == Path("boiler")


@pytest.mark.parametrize("name", ["suite/hopper", "suite/hopper.yaml", "plants/suite/hopper.yaml"])
def test_a_path_as_in_the_checkout_means_the_preset_anywhere(
    shipped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert configs.find_config("plants", name) == shipped / "plants" / "suite" / "hopper.yaml"
    assert configs.find_config("plants", f"configs/{name}") == shipped / "plants" / "suite" / "hopper.yaml"


@pytest.mark.parametrize("name", ["elsewhere/boiler.yaml", "boiler.csv", "/absolute/boiler.yaml"])
def test_a_file_that_is_missing_is_not_replaced_by_a_preset(shipped: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"no such file, and no shipped preset.*did you mean 'boiler'"):
        configs.find_config("plants", name)


def test_the_refrigerator_is_shipped() -> None:
    assert "refrigerator" in configs.list_configs("plants")
    assert configs.config_path("plants", "refrigerator").is_file()
