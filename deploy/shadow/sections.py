"""The words and tables of the page, section by section, in the order in which an engineer asks."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from controlkit.evaluation.markup import bullets, mark, number, plot, share, table, text
from deploy.shadow.advice import MEANINGS, next_steps
from deploy.shadow.plant_sections import baseline, commands, drift, prediction
from deploy.shadow.words import duration, fine, hash_of, milliseconds, moment

Content = Mapping[str, Any]

TONES = {"READY TO ADVISE": "go", "NOT YET": "wait", "NO": "stop"}


class Section(NamedTuple):
    """A part of the page: its parts are HTML, the rest is not escaped yet."""

    id: str
    heading: str
    short: str
    parts: list[str]


def all_sections(content: Content) -> list[Section]:
    """Every section, in order."""
    return [
        Section("verdict", "Verdict", "Verdict", _verdict(content)),
        Section("coverage", "Time in SHADOW, and trust", "Time and trust", _coverage(content)),
        Section("commands", "Policy beside operator", "Commands", commands(content)),
        Section("baseline", "What the operator achieved", "Baseline", baseline(content)),
        Section("prediction", "Does the model foresee the next step?", "Prediction", prediction(content)),
        Section("drift", "Has the plant drifted?", "Drift", drift(content)),
        Section("sensors", "Sensors", "Sensors", _sensors(content)),
        Section("runtime", "The runtime", "Runtime", _runtime(content)),
        Section("next", "What to do next", "Next", _next(content)),
        Section("reproducibility", "How to get these figures again", "Reproduce", _reproducibility(content)),
    ]


def _verdict(content: Content) -> list[str]:
    found = content["coverage"]
    parts = [
        f'<div class="verdict {TONES[content["verdict"]]}"><p class="word">{text(content["verdict"])}</p>'
        f'<p class="means">{text(MEANINGS[content["verdict"]])}</p>'
        f'<p class="gain">{found["by_mode"]["SHADOW"]:,} cycles in SHADOW, '
        f"{moment(found['first_ns'])} to {moment(found['last_ns'])}; the policy was trusted in "
        f"<strong>{share(found['trusted'])}</strong> of them.</p></div>",
        *[f'<p class="warning">{text(warning)}</p>' for warning in content["warnings"]],
        "<h3>Reasons</h3>",
        bullets(content["reasons"]),
    ]
    if content["missing"]:
        parts += ["<h3>What is missing</h3>", bullets(content["missing"])]
    checks = [[text(c["name"]), text(c["kind"]), mark(c["passed"]), text(c["statement"])] for c in content["checks"]]
    rules = table(["rule", "kind", "outcome", "figure and cut"], checks)
    parts.append(f"<details><summary>Every rule</summary>{rules}</details>")
    return parts


def _coverage(content: Content) -> list[str]:
    found = content["coverage"]
    period = content["plant"]["period_s"]
    modes = [
        [text(mode), f"{count:,}", duration(count * period), share(count / max(found["cycles"], 1))]
        for mode, count in found["by_mode"].items()
    ]
    parts = [
        f"<p>{found['cycles']:,} cycles of {period:g} s between {moment(found['first_ns'])} and "
        f"{moment(found['last_ns'])} UTC: {share(found['coverage'])} of the time. Breaks of more than three periods: "
        f"{found['gap_count']:,}, together {duration(found['gap_ns'] / 1e9)}.</p>",
        plot("plot-coverage", "Share of the cycles present, by mode, over time"),
        table(["mode", "#cycles", "#time", "#share"], modes),
    ]
    if found["gaps"]:
        gaps = [[moment(gap["after_ns"]), duration(gap["length_ns"] / 1e9)] for gap in found["gaps"]]
        longest = table(["last cycle before it (UTC)", "#until the next"], gaps)
        parts.append(f"<details><summary>The longest breaks</summary>{longest}</details>")
    parts += [
        "<h3>Trust in SHADOW</h3>",
        "<p>Trust is the share that the policy would have had in the controller's action; 0.5 and more counts as "
        f"trusted: {share(found['trusted'])} of the cycles in SHADOW.</p>",
        plot("plot-trust", "Trust over time, mean, smallest and largest"),
    ]
    if found["doubts"]:
        by_name = {flag["name"]: flag["share"] for flag in found["flags"]}
        rows = [[text(f["name"]), share(f["share"]), share(by_name.get(f["name"]))] for f in found["doubts"][:20]]
        parts += [
            "<h3>Why it was not trusted</h3>",
            table(["flag", "#of the cycles without trust", "#of all in SHADOW"], rows),
        ]
    elif found["flags"]:
        rows = [[text(flag["name"]), share(flag["share"])] for flag in found["flags"][:20]]
        parts += ["<h3>Flags</h3>", table(["flag", "#of the cycles in SHADOW"], rows)]
    return parts


def _sensors(content: Content) -> list[str]:
    rows = [
        [
            text(t["tag"]),
            fine(t["usable"]),
            fine(t["missing"]),
            fine(t["out_of_range"]),
            "no rule" if t["frozen"] is None else fine(t["frozen"]),
            f"{t['longest_repeat']:,}",
            number(t["mean_age_s"]),
            number(t["largest_age_s"]),
        ]
        for t in content["sensors"]["tags"]
    ]
    headings = [
        "tag",
        "#usable",
        "#no value",
        "#out of range",
        "#frozen",
        "#longest repeat",
        "#mean age, s",
        "#oldest, s",
    ]
    return [
        plot("plot-sensors", "Usable share of every tag over time"),
        table(headings, rows),
        '<p class="note">Shares of all cycles. Frozen: after more exact repeats in a row than the bundle allows for '
        "the "
        "tag; longest repeat in cycles.</p>",
    ]


def _runtime(content: Content) -> list[str]:
    found = content["runtime"]
    rows = [[name, milliseconds(value)] for name, value in found["latency_ms"].items()]
    rows += [
        ["deadline (half the period)", milliseconds(found["deadline_ms"])],
        ["beyond it", f"{found['late']:,} cycles"],
    ]
    parts = [plot("plot-latency", "Time of a step over time, with the deadline"), table(["step", "#time"], rows)]
    parts.append(f"<h3>Faults that the runtime found: {found['faulty']:,} cycles</h3>")
    if found["faults"]:
        listed = [
            [text(f["name"]), f"{f['cycles']:,}", moment(f["first_ns"]), moment(f["last_ns"]), text(f["text"])]
            for f in found["faults"]
        ]
        parts.append(table(["fault", "#cycles", "first (UTC)", "last", "first told as"], listed))
    if found["alarms"]:
        listed = [
            [
                text(a["name"]),
                text(a["severity"]),
                "yes" if a["active"] else "no",
                f"{a['raised']:,}",
                moment(a["last_ns"]),
                text(a["text"]),
            ]
            for a in found["alarms"]
        ]
        headings = ["alarm", "severity", "at the end", "#raised", "last (UTC)", "last told as"]
        parts += ["<h3>Alarms and events</h3>", table(headings, listed)]
    listed = [[moment(e["time_ns"]), text(e["kind"]), text(e["text"])] for e in found["events"]]
    told = table(["time (UTC)", "what", "details"], listed)
    parts += [
        "<h3>Modes and operators' actions</h3>",
        f"<details><summary>The newest {len(listed)}</summary>{told}</details>",
    ]
    return parts


def _next(content: Content) -> list[str]:
    return ["<ol>" + "".join(f"<li>{text(step)}</li>" for step in next_steps(content)) + "</ol>"]


def _reproducibility(content: Content) -> list[str]:
    about = content["provenance"]
    log, bundle = about["log"], about["bundle"]
    chain = mark(not log["problem"], "unbroken", "broken")
    verdict = bundle["evaluation"] + (f"; override: {bundle['override']}" if bundle["override"] else "")
    rows = [
        ["chain of hashes", f"{chain} {text(log['problem'])}"],
        ["rows", f"{log['rows']:,}, number {log['first_seq']:,} to {log['last_seq']:,} in {log['segments']} files"],
        ["hash of the last row", hash_of(log["last_hash"])],
        ["cycles of this controller", f"{log['cycles']:,}; unusable rows: {log['malformed']:,}"],
        ["controller (SHA-256)", hash_of(bundle["controller"])],
        ["plant file (SHA-256)", hash_of(bundle["spec_sha256"])],
        ["training data (SHA-256)", hash_of(bundle["data_sha256"])],
        ["signed by", hash_of(bundle["signer"] or "nobody")],
        ["offline verdict", text(verdict)],
        ["plant's address", text(", ".join(log["addresses"]) or "unknown")],
        ["log written by controlkit", text(", ".join(log["controlkit"]) or "unknown")],
        ["report written by controlkit", text(f"{about['controlkit']}, Python {about['python']}, {about['written']}")],
        ["read in", f"{number(about['seconds'])} s"],
    ]
    settings = html.escape(json.dumps({"rules": content["rules"], **about}, indent=1))
    return [table(["what", "value"], rows), f"<details><summary>All settings</summary><pre>{settings}</pre></details>"]
