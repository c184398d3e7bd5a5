"""The run configuration: presets, overrides, and every mistake named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from controlkit.config import RunConfig
from controlkit.configs import config_path, list_configs
from controlkit.errors import ConfigError


def load(tmp_path: Path, text: str, *overrides: str) -> RunConfig:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return RunConfig.load(path, overrides)


@pytest.mark.parametrize("name", list_configs("runs"))
def test_every_shipped_preset_loads_and_holds_differences_only(name: str) -> None:
    path = config_path("runs", name)
    config, default = RunConfig.load(path).to_dict(), RunConfig().to_dict()
    for section, fields in yaml.safe_load(path.read_text()).items():
        if isinstance(fields, dict):
            for field in fields:
                assert config[section][field] != default[section][field], f"{section}.{field}"
        else:
            assert config[section] != default[section], section


def test_overrides_win_and_the_rest_stays(tmp_path: Path) -> None:
    config = load(tmp_path, "policy: {gamma: 0.5, tau: 0.1}", "policy.gamma=0.9", "seed=7", "dynamics.hidden=[8, 8]")
    assert (config.policy.gamma, config.policy.tau, config.seed, config.dynamics.hidden) == (0.9, 0.1, 7, (8, 8))


def test_a_round_trip_keeps_everything(tmp_path: Path) -> None:
    config = load(tmp_path, "filter: {threshold: 'off'}\nreward: {method: noise}")
    assert RunConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("polcy: {}", "polcy: unknown key. Did you mean 'policy'?"),
        ("policy: {gama: 0.9}", "policy.gama: unknown key. Did you mean 'gamma'?"),
        ("seed: 1\npolicy:\n  gamma: 1.0", "line 3: policy.gamma: input should be less than 1"),
        ("policy: {gamma: .nan}", "policy.gamma"),
        ("reward: {method: gan}", "reward.method: 'gan' is not a valid value"),
        ("dynamics: {members: 2}", "5 elites of 2 members"),
        ("dynamics: {linear_members: 8}", "8 linear members of 7"),
        ("dynamics: {linear_members: some}", "dynamics.linear_members"),
        ("filter: {samples: 0, member_means: false, ensemble_mean: false}", "no candidates"),
        ("rollout: {residual_noise: true}", "needs filter.samples 0"),
        ("split: {training: 0.9}", "the shares add up to 1.2"),
        ("reward: {noise_low: 1, noise_high: 0}", "noise_low 1.0 must be below"),
        ("seed: 1\nseed: 2", "line 2: not valid YAML: the key 'seed' appears twice"),
        ("[1, 2]", "must hold a mapping"),
        ("a: [1", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as problem:
        load(tmp_path, text)
    assert said in str(problem.value)
    assert "run.yaml" in str(problem.value)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("policy", "'policy' is not an override"),
        ("policy.gama=1", "Did you mean 'gamma'?"),
        ("seed.x=1", "'seed' has no fields"),
        ("seed=[", "'[' is not a value"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(ConfigError) as problem:
        load(tmp_path, "seed: 1", override)
    assert said in str(problem.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file"):
        RunConfig.load(tmp_path / "nowhere.yaml")
