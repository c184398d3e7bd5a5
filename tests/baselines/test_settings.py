"""Methods change exactly what they name, and combinations that make no sense are refused."""

from __future__ import annotations

from typing import Any

import pytest

from controlkit.baselines.settings import METHODS, as_overrides, overrides_of, with_method
from controlkit.config import RunConfig
from controlkit.configs import config_path
from controlkit.errors import ConfigError
from tests import small_plant

QUIET = ["rollout.residual_noise=false"]  # samples bring their own
# A run in which every field that a method names has another value.
UNUSUAL: dict[str, Any] = {
    "reward": {"method": "mixed"},
    "filter": {"samples": 0, "threshold": 0.3},
    "rollout": {"penalty": "disagreement", "residual_noise": True, "constraints": "lagrangian"},
    "policy": {"behaviour_anchor": 0.5, "real_ratio": 0.1},
}


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("base", [RunConfig(), small_plant.config(**UNUSUAL)], ids=["defaults", "unusual"])
def test_a_method_changes_what_it_names_and_nothing_else(method: str, base: RunConfig) -> None:
    before, after = flat(base.to_dict()), flat(with_method(base, method).to_dict())
    changed = {name for name in before if before[name] != after[name]}
    assert before.keys() == after.keys()
    assert changed <= set(METHODS[method])
    assert {name: after[name] for name in METHODS[method]} == dict(METHODS[method])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_file_is_loaded_with_a_method_and_settings_still_win(method: str) -> None:
    path = config_path("runs", "refrigerator")
    assert RunConfig.load(path, as_overrides(method)) == with_method(RunConfig.load(path), method)
    chosen = RunConfig.load(path, [*as_overrides(method), "filter.enabled=true", "filter.samples=3", *QUIET])
    assert (chosen.filter.enabled, chosen.filter.samples) == (True, 3)


def test_methods_differ_from_each_other() -> None:
    base = RunConfig()
    found = [with_method(base, method).to_dict() for method in METHODS]
    same = [(a, b) for i, a in enumerate(METHODS) for j, b in enumerate(METHODS) if i < j and found[i] == found[j]]
    assert same == [("morec", base.reward.method)]  # the default of stage 1 has a name of its own


def test_the_filter_off_means_plain_rollouts() -> None:
    for method in ("mean", "mopo", "mobile"):
        chosen = with_method(RunConfig(), method).filter
        assert not chosen.enabled
        assert (chosen.samples, chosen.member_means) == (0 if method == "mean" else 1, False)


def test_an_unknown_method_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown method 'mobo'.*Did you mean 'mopo'"):
        overrides_of("mobo")


@pytest.mark.parametrize(
    ("policy", "rollout", "said"),
    [
        ({"algorithm": "bc"}, {}, "policy.real_ratio: bc learns from logged transitions alone, so it must be 1"),
        ({"algorithm": "td3_bc", "real_ratio": 0.5}, {}, "policy.real_ratio: td3_bc"),
        ({"algorithm": "td3_bc", "real_ratio": 1.0, "behaviour_anchor": 1.0}, {}, "policy.behaviour_anchor: td3_bc"),
        (
            {"algorithm": "bc", "real_ratio": 1.0},
            {"constraints": "lagrangian"},
            "rollout.constraints: lagrangian needs model rollouts",
        ),
        ({"algorithm": "td3"}, {}, "policy.algorithm: 'td3' is not a valid value"),
    ],
)
def test_combinations_that_make_no_sense_are_refused(
    policy: dict[str, Any], rollout: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        small_plant.config(policy=policy, rollout=rollout)
