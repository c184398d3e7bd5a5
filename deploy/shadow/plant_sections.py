"""The parts of the page about policy, operator and plant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from controlkit.evaluation.markup import bullets, labelled, number, plot, share, signed, table, text
from deploy.shadow.comparison import NEAR
from deploy.shadow.words import duration, fine, moment, signed_share

Content = Mapping[str, Any]


def commands(content: Content) -> list[str]:
    """Differences, agreement, limits, travel and the largest disagreements."""
    found, units = content["commands"], content["plant"]["units"]
    parts = [
        "<p>At each step the policy says what it would command next, from the plant as the operator has brought it "
        "there, inside the rate limits about the operator's command. It is compared with the command that was then in "
        f"force: {found['pairs']:,} steps in SHADOW. Differences are policy minus done, as a share of the command's "
        "span; up to 2 % counts as agreement.</p>",
        plot("plot-agreement", "Share of steps in which policy and operator agree in every command, over time"),
    ]
    rows = [
        [
            text(labelled(t["tag"], units[t["tag"]])),
            f"{t['steps']:,}",
            signed_share(t["mean"]),
            share(t["spread"]),
            share(t["near"]),
            share(t["above"]),
            share(t["below"]),
            share(t["same_direction"]),
        ]
        for t in found["tags"]
    ]
    headings = ["command", "#steps", "#mean", "#spread", "#agree", "#policy higher", "#policy lower", "#same way"]
    parts += [
        table(headings, rows),
        '<p class="note">Spread: standard deviation. Same way: of the steps in which both move the command, those in '
        "which they move it in the same direction.</p>",
        "<h3>At limits, travel, reversals</h3>",
    ]
    rows = [
        [
            text(labelled(t["tag"], units[t["tag"]])),
            name,
            share(t[who]["at_low"]),
            share(t[who]["at_high"]),
            share(t[who]["travel"]),
            share(t[who]["reversals"]),
        ]
        for t in found["tags"]
        for who, name in (("done", "operator"), ("policy", "policy"))
    ]
    headings = ["command", "who", "#at low limit", "#at high limit", "#travel per period", "#reversals"]
    parts += [
        table(headings, rows),
        '<p class="note">Travel is a share of the span; reversals are the share of moves against the one before. The '
        "policy's are those of its wishes one after another, each from the operator's plant.</p>",
    ]
    if len(found["over_time"]) < len(found["tags"]):
        parts.append(f'<p class="note">Drawn are the {len(found["over_time"])} commands that differ most.</p>')
    for i, tag in enumerate(found["over_time"]):
        parts += [f"<h3>{text(tag)} over time</h3>", plot(f"plot-command-{i}", f"{tag}: done, policy and difference")]
    parts.append("<h3>The largest disagreements</h3>")
    parts.append(
        f"<p>At least {duration(found['apart_s'])} apart. Look at each with somebody who was there: what did the "
        "operator know that the policy does not see?</p>"
    )
    for t in found["tags"]:
        rows = [
            [moment(each["time_ns"]), number(each["policy"]), number(each["done"]), signed_share(each["difference"])]
            for each in t["largest"]
            if abs(each["difference"]) > NEAR
        ]
        headings = ["time (UTC)", "#policy", "#done", "#difference"]
        listed = table(headings, rows) if rows else "<p>None beyond 2 %.</p>"
        parts.append(f"<details open><summary>{text(labelled(t['tag'], units[t['tag']]))}</summary>{listed}</details>")
    return parts


def baseline(content: Content) -> list[str]:
    """The objective and the limits under the operator."""
    found, unit = content["baseline"], content["plant"]["reward_unit"]
    parts = [
        "<p>The objective of the plant file, computed from the measured plant under the operator's commands in SHADOW. "
        "It is what ADVISORY has to beat. It says nothing about what the policy would have achieved: the plant went "
        "where the operator took it, and no log of that shows where the policy would have.</p>"
    ]
    if found["missing"]:
        listed = bullets(f"{each['term']}: {each['why']}." for each in found["missing"])
        what = (
            "The following terms are left out of every figure here" if found["terms"] else "It cannot be computed here"
        )
        parts.append(f'<div class="warning"><p>{what}:</p>{listed}</div>')
    if found["steps"]:
        estimate = found["estimate"]
        parts += [
            f"<p><strong>{signed(estimate['value'])} {text(unit)}</strong> per period ({estimate['level']:.0%} "
            f"interval {signed(estimate['low'])} to {signed(estimate['high'])}, by moving blocks of "
            f"{duration(found['block_s'])}) over {found['steps']:,} steps; higher is better.</p>",
            plot("plot-baseline", "Objective achieved over time, with its mean and interval"),
            table(
                ["term", "#mean per period", "#steps"],
                [[text(t["term"]), signed(t["mean"]), f"{t['steps']:,}"] for t in found["terms"]],
            ),
        ]
    elif not found["missing"]:
        parts.append("<p>In no step were all tags of the objective usable.</p>")
    if found["limits"]:
        rows = [
            [text(each["name"]), fine(each["outside"]), fine(each["allowed"]), f"{each['samples']:,}"]
            for each in found["limits"]
        ]
        parts += ["<h3>Limits under the operator</h3>", table(["limit", "#outside", "#tolerated", "#samples"], rows)]
    return parts


def prediction(content: Content) -> list[str]:
    """One-step errors of the model."""
    tags, units = content["prediction"]["tags"], content["plant"]["units"]
    parts = [
        "<p>The controller predicts the next sample under the policy's command. Where the operator commanded something "
        "else, a difference is no error of the model, so that only steps count in which every command in force was "
        f"within 2 % of its span of the policy's: {content['prediction']['near_pairs']:,} steps. The error is set "
        "against that of saying that nothing changes: below 1 the model knows something, beyond the dotted line the "
        "verdict is NO.</p>"
    ]
    if any(tag["ratio"] is not None for tag in tags):
        parts.append(plot("plot-prediction", "One-step error of each state tag against no change"))
    else:
        parts.append(
            "<p>No such step: the operator never did what the policy would have. The observed transitions are judged "
            "by the dynamics reward instead, see the next section.</p>"
        )
    rows = [
        [
            text(labelled(t["tag"], units[t["tag"]])),
            f"{t['steps']:,}",
            signed(t["bias"]),
            number(t["rms"]),
            number(t["persistence_rms"]),
            number(t["ratio"]),
            share(t["share_of_range"]),
            number(t["largest"]),
        ]
        for t in tags
    ]
    headings = ["state tag", "#steps", "#bias", "#RMS error", "#no change", "#ratio", "#of range", "#largest"]
    return [*parts, table(headings, rows)]


def drift(content: Content) -> list[str]:
    """The dynamics reward over time."""
    found = content["drift"]
    trend, calibration = found["trend"], found["calibration"]
    parts = [
        "<p>The dynamics reward judges each observed transition. Its shortfall says by how much less plausible the "
        "step was than what the model expected, in standard deviations of the healthy log; EWMA and CUSUM add it up. "
        "Dotted: the limits beyond which trust is cut.</p>",
        plot("plot-drift", "Dynamics reward, shortfall, EWMA and CUSUM over time, with limits"),
        table(
            ["what", "#figure"],
            [
                ["mean shortfall", signed(found["mean_shortfall"])],
                ["EWMA beyond its limit", share(found["beyond"]["ewma"])],
                ["CUSUM beyond its limit", share(found["beyond"]["cusum"])],
                ["trend over the whole time (Theil-Sen)", signed(trend["change"])],
                ["p of the trend (Mann-Kendall, corrected)", number(trend["p"])],
                ["correction for autocorrelation", number(trend["correction"])],
                [f"blocks of {duration(trend['block_s'])}", str(trend["blocks"])],
                ["limit of one step, as recalibrated", number(found["limits"]["shortfall"])],
            ],
        ),
    ]
    if calibration["time_ns"] is not None:
        parts.append(
            f'<p class="note">Recalibrated on this plant at {moment(calibration["time_ns"])} UTC: shift '
            f"{signed(calibration['shift'])}, stretch {number(calibration['stretch'])}; shares beyond a limit count "
            "from then on.</p>"
        )
    if found["changes"]:
        rows = [[moment(c["time_ns"]), signed(c["before"]), signed(c["after"])] for c in found["changes"]]
        parts += ["<h3>Changes of level</h3>", table(["from (UTC)", "#shortfall before", "#after"], rows)]
    else:
        parts.append("<p>No change of level was found.</p>")
    parts.append(
        '<p class="note">A trend is found at p of 1 % or less. The variance of the test is that of autocorrelated '
        "blocks "
        "(Hamed and Rao 1998, or a first-order autoregression, whichever is larger). A steady trend shows as a stair "
        "of changes; for the verdict the last level counts against the first.</p>"
    )
    return parts
