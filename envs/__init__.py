"""Gymnasium environments, their vectorised simulators, reference controllers and behaviour logs.

Gymnasium 1.0 gave up loading the entry points of the group `gymnasium.envs`, and imports the module named before a
colon instead: `gymnasium.make("envs:controlkit/Refrigerator-v0")` works at once, the id alone after `envs.register()`.
The entry point stays for tools that read the group. Importing this package loads nothing heavy: it registers (names
only) if gymnasium is already loaded, and leaves gymnasium alone otherwise.
"""

from __future__ import annotations

import sys

_ENVIRONMENTS = {
    "Refrigerator-v0": "envs.refrigerator_env:RefrigeratorEnv",
    "DMSD-v0": "envs.neorl.environment:DmsdEnv",
    "Pipeline-v0": "envs.neorl.environment:PipelineEnv",
    "RocketRecovery-v0": "envs.neorl.environment:RocketRecoveryEnv",
    "Simglucose-v0": "envs.neorl.environment:SimglucoseEnv",
    "Fusion-v0": "envs.neorl.environment:FusionEnv",
    "Industrial-v0": "envs.neorl.industrial_environment:IndustrialEnv",
    "HalfCheetah-v0": "envs.neorl.mujoco_environments:HalfCheetahEnv",
    "Hopper-v0": "envs.neorl.mujoco_environments:HopperEnv",
    "Walker2d-v0": "envs.neorl.mujoco_environments:Walker2dEnv",
    "SafetyHalfCheetah-v0": "envs.neorl.mujoco_environments:SafetyHalfCheetahEnv",
    "RandomFrictionHopper-v0": "envs.neorl.mujoco_environments:RandomFrictionHopperEnv",
}
NAMESPACE = "controlkit"


def register() -> None:
    """Makes `controlkit/Refrigerator-v0` and the others known to gymnasium; a second call changes nothing."""
    from gymnasium.envs.registration import register as register_environment
    from gymnasium.envs.registration import registry

    for name, entry_point in _ENVIRONMENTS.items():
        if (identifier := f"{NAMESPACE}/{name}") not in registry:
            register_environment(id=identifier, entry_point=entry_point)


if "gymnasium" in sys.modules:
    register()
