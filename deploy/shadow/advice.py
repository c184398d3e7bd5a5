"""What a verdict means and what to do next, in words that a plant engineer can act on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Content = Mapping[str, Any]

MEANINGS = {
    "READY TO ADVISE": "The policy's commands may be shown to the operator, who decides: no leave to act on the plant.",
    "NOT YET": "Nothing speaks against the next mode, but the log does not show enough yet.",
    "NO": "Something is wrong with the log, the plant or the model. The controller stays in SHADOW, or goes.",
}


def next_steps(content: Content) -> list[str]:
    """Steps in their order."""
    steps = list(content["missing"])
    differing = [tag for tag in content["commands"]["tags"] if tag["near"] is not None and tag["near"] < 0.5]
    if differing:
        names = ", ".join(tag["tag"] for tag in differing[:5])
        steps.append(
            f"Go through the largest disagreements of {names} with the operators: where they knew something that is "
            "not measured, the policy must not be followed, and the tag has to be added."
        )
    pinned = [
        tag["tag"]
        for tag in content["commands"]["tags"]
        if max(tag["policy"]["at_low"] or 0.0, tag["policy"]["at_high"] or 0.0)
        > 2 * max(tag["done"]["at_low"] or 0.0, tag["done"]["at_high"] or 0.0, 0.05)
    ]
    if pinned:
        steps.append(
            f"The policy would hold {', '.join(pinned[:5])} at a limit much more often than the operator: check that "
            "the limits in the plant file are meant to be used."
        )
    busy = [
        tag["tag"]
        for tag in content["commands"]["tags"]
        if (tag["policy"]["travel"] or 0.0) > 3 * (tag["done"]["travel"] or 0.0) > 0.0
    ]
    if busy:
        steps.append(
            f"The policy's wishes for {', '.join(busy[:5])} travel more than three times as far as the operator's "
            "commands: think of wear, and give the objective a cost of change if that is not wanted."
        )
    if content["drift"]["changes"]:
        steps.append("Find out what happened at each change of level in the dynamics reward.")
    if content["verdict"] == "READY TO ADVISE":
        estimate = content["baseline"]["estimate"]
        steps.append(
            "Ask for ADVISORY with a change record. Let operators follow the advice in agreed hours and not in others, "
            "drawn by lot, and compare the objective in both: only commands that were really given show what they do."
            + (
                ""
                if estimate["value"] is None
                else " The figure to beat is in the section on what the operator achieved."
            )
        )
    else:
        steps.append("Stay in SHADOW and make this report again once what is missing is there.")
    return steps
