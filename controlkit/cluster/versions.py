"""Whether all machines of a cluster run what this one runs: code is sent to them by name, not by what it says."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import controlkit
from controlkit.errors import ControlkitError


@dataclass(frozen=True)
class Versions:
    """Versions on one machine; `controlkit` is empty where it is not installed."""

    python: str
    ray: str
    controlkit: str


def own_versions(ray: Any) -> Versions:
    """Those of this process."""
    return Versions(platform.python_version(), str(ray.__version__), controlkit.__version__)


def read_versions(ray: Any, wait_s: float) -> Mapping[str, Versions]:
    """Those of every machine of the cluster, by its address.

    Raises:
        ControlkitError: a machine does not answer within `wait_s` seconds.
    """

    # Within a function, so that its code is sent and not its name: the package may be missing over there.
    def look() -> tuple[str, str, str]:
        import platform

        import ray

        try:
            import controlkit
        except ImportError:
            return platform.python_version(), ray.__version__, ""
        return platform.python_version(), ray.__version__, controlkit.__version__

    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {
        f"{node['NodeManagerAddress']} (node {node['NodeID'][:6]})": ray.remote(look)
        .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
        .remote()
        for node in ray.nodes()
        if node["Alive"]
    }
    found = {}
    ray.wait(list(asked.values()), num_returns=len(asked), timeout=wait_s)
    for machine, answer in asked.items():
        try:
            found[machine] = Versions(*ray.get(answer, timeout=0.1))
        except ray.exceptions.RayError:
            raise ControlkitError(
                f"does not answer within {wait_s:g} s",
                where=f"machine {machine}",
                cure="Look at it with 'ray status', or take it out of the cluster.",
            ) from None
    return found


def require_same(mine: Versions, found: Mapping[str, Versions]) -> None:
    """Checks that every machine runs the same.

    Raises:
        ControlkitError: names the machine, the package and both versions.
    """
    for machine, theirs in found.items():
        for package in ("python", "ray", "controlkit"):
            here, there = getattr(mine, package), getattr(theirs, package)
            if here != there:
                raise ControlkitError(
                    f"runs {package} {there}, this machine {here}" if there else f"has no {package}",
                    where=f"machine {machine}",
                    cure="Install the same versions on all machines.",
                )
