"""Methods by name, as differences from a run's MOREC configuration, so that every comparison changes one thing.

A method is a mapping from a field's dotted name to its value; all the rest stays as the run has it. See
docs/methods.md for what each is, and where it deviates from its source.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from controlkit.config import RunConfig
from controlkit.errors import ConfigError, nearest

Overrides = Mapping[str, Any]

# Plain model rollouts: the filter's candidates without its choice. A sample of the elites' Gaussians brings its own
# noise; their mean has none, so that recorded residuals may stand in.
_SAMPLED: Overrides = {
    "filter.enabled": False,
    "filter.samples": 1,
    "filter.member_means": False,
    "filter.ensemble_mean": False,
    "rollout.residual_noise": False,
}
_MEAN: Overrides = {
    "filter.enabled": False,
    "filter.samples": 0,
    "filter.member_means": False,
    "filter.ensemble_mean": True,
}
# What acts on model transitions has nothing to act on.
_LOG_ALONE: Overrides = {"policy.real_ratio": 1.0, "policy.behaviour_anchor": 0.0, "rollout.constraints": "penalty"}

METHODS: Mapping[str, Overrides] = MappingProxyType(
    {
        "morec": {},
        # stage 1 of MOREC
        "irl": {"reward.method": "irl"},
        "irl-gail": {"reward.method": "irl", "reward.form": "gail"},
        "noise": {"reward.method": "noise"},
        "mixed": {"reward.method": "mixed"},
        # stage 2 of MOREC with the penalties of its paper
        "morec-mopo": {"rollout.penalty": "max_std"},
        "morec-mobile": {"rollout.penalty": "mobile"},
        # filters without a dynamics reward, which leaves nothing for a threshold to judge by
        "medoid": {"filter.choose": "medoid", "filter.threshold": "off"},
        "regressor": {"filter.choose": "regressor", "filter.threshold": "off"},
        # no filter
        "mean": _MEAN,
        "mopo": {**_SAMPLED, "rollout.penalty": "max_std"},
        "mobile": {**_SAMPLED, "rollout.penalty": "mobile"},
        # no model
        "bc": {"policy.algorithm": "bc", **_LOG_ALONE},
        "td3_bc": {"policy.algorithm": "td3_bc", **_LOG_ALONE},
    }
)


def overrides_of(method: str) -> Overrides:
    """What a method changes: dotted field -> value.

    Raises:
        ConfigError: there is no such method; names the nearest.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method '{method}'", where="method", cure=f"{nearest(method, METHODS)}".capitalize())
    return METHODS[method]


def as_overrides(method: str) -> list[str]:
    """The same as `RunConfig.load` takes it: `section.field=value`.

    Raises:
        ConfigError: there is no such method; names the nearest.
    """
    return [f"{name}={json.dumps(value)}" for name, value in overrides_of(method).items()]


def with_method(config: RunConfig, method: str) -> RunConfig:
    """A configuration with what a method changes, and nothing else changed.

    Raises:
        ConfigError: there is no such method, or it does not fit the rest of the configuration.
    """
    content = config.to_dict()
    for name, value in overrides_of(method).items():
        *sections, field = name.split(".")
        target = content
        for section in sections:
            target = target[section]
        target[field] = value
    try:
        return RunConfig.from_dict(content)
    except ConfigError as problem:
        raise ConfigError(problem.what, where=f"method {method}", cure=problem.cure) from None
