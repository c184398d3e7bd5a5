"""OPC UA node ids of a plant's tags and of the handshake between plant and controller.

Where a plant file names no node, the id follows from the plant's and the tag's name; `serve-sim` uses the same rule, so
that a simulated plant needs no table. The simulated server's namespace has index 2, the first after the standard's two.
"""

from __future__ import annotations

from controlkit.spec import PlantSpec

NAMESPACE = "urn:controlkit:plant"
NAMESPACE_INDEX = 2

# auto: Boolean, the operator's switch. heartbeat_plant, heartbeat_controller: Int64 counters. lease: String.
HANDSHAKE = ("auto", "heartbeat_plant", "heartbeat_controller", "lease")


def tag_node(spec: PlantSpec, tag: str) -> str:
    """Node id of a tag's value (of an action: of the command in force, which is also where a command is written)."""
    return spec.tags[tag].node or f"ns={NAMESPACE_INDEX};s={spec.name}.{tag}"


def handshake_node(spec: PlantSpec, name: str) -> str:
    """Node id of one of `HANDSHAKE`."""
    return f"ns={NAMESPACE_INDEX};s={spec.name}.controlkit.{name}"


def advice_node(spec: PlantSpec, action: str) -> str:
    """Node id of what the controller advises for an action."""
    return f"ns={NAMESPACE_INDEX};s={spec.name}.controlkit.advice.{action}"
