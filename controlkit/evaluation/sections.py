"""The words and tables of the page, section by section, in the order in which an engineer asks."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

from controlkit.evaluation.markup import (
    bullets,
    interval,
    labelled,
    mark,
    number,
    plot,
    share,
    signed,
    span,
    table,
    text,
)

Content = Mapping[str, Any]
Section = tuple[str, str, list[str]]

TONES = {"GO TO SHADOW": "go", "INCONCLUSIVE": "wait", "NO-GO": "stop", "NO VERDICT": "none"}
MEANINGS = {
    "GO TO SHADOW": "The policy may run beside the operator, without being obeyed. It is no leave to act on the plant.",
    "INCONCLUSIVE": "The data can answer, but not clearly: neither a gain nor a loss is shown beyond doubt.",
    "NO-GO": "The policy is worse than the operator, or breaks limits.",
    "NO VERDICT": "This log cannot answer what the policy would do. The figures below are shown, not to be relied on.",
}


def all_sections(content: Content) -> list[Section]:
    """Every section: id, heading, its parts as HTML."""
    return [
        ("verdict", "Verdict", _verdict(content)),
        ("estimates", "Do the estimators agree?", _estimates(content)),
        ("back-test", "Back-test: can withheld operation be predicted?", _back_test(content)),
        ("support", "Support: does the log know what the policy does?", _support(content)),
        ("limits", "Limits", _limits(content)),
        ("trajectories", "Rollouts beside the record", _trajectories(content)),
        ("actuators", "Actuators", _actuators(content)),
        ("next", "What to do next", _next(content)),
        ("reproducibility", "How to get these figures again", _reproducibility(content)),
    ]


def short_names(content: Content) -> list[tuple[str, str]]:
    """Sections for the navigation."""
    words = ("Verdict", "Estimates", "Back-test", "Support", "Limits", "Rollouts", "Actuators", "Next", "Reproduce")
    return [(name, word) for (name, _, _), word in zip(all_sections(content), words, strict=True)]


def _verdict(content: Content) -> list[str]:
    unit = content["plant"]["reward_unit"]
    best = next(c for c in content["candidates"] if c["name"] == content["best"])
    gain, operator = best["gain"], content["operator"]["logged"]["value"]
    parts = [
        f'<div class="verdict {TONES[content["verdict"]]}"><p class="word">{text(content["verdict"])}</p>'
        f'<p class="means">{text(MEANINGS[content["verdict"]])}</p>'
        f'<p class="gain">Gain of <strong>{text(best["name"])}</strong> over the operator: '
        f"<strong>{signed(gain['value'])} {text(unit)}</strong> per period "
        f"({gain['level']:.0%} interval {signed(gain['low'])} to {signed(gain['high'])}); the operator realised "
        f"{number(operator)} {text(unit)} per period from the same states.</p></div>",
        *[f'<p class="warning">{text(warning)}</p>' for warning in content["warnings"]],
        "<h3>Reasons</h3>",
        bullets(content["reasons"]),
    ]
    if content["missing"]:
        parts += ["<h3>What is missing</h3>", bullets(content["missing"])]
    if len(content["candidates"]) > 1:
        rows = [
            [
                text(c["name"]),
                text(c["verdict"]),
                signed(c["gain"]["value"]),
                interval(c["gain"]),
                share(c["support"]["share"]),
            ]
            for c in content["candidates"]
        ]
        parts += ["<h3>Candidates</h3>", table(["policy", "verdict", "#gain", "#interval", "#support"], rows)]
    for candidate in content["candidates"]:
        checks = [
            [text(check["name"]), mark(check["passed"]), text(check["statement"])] for check in candidate["checks"]
        ]
        rules = table(["rule", "outcome", "figure and cut"], checks)
        parts.append(f"<details><summary>Every rule{_of(content, candidate)}</summary>{rules}</details>")
    return parts


def _estimates(content: Content) -> list[str]:
    estimand, unit = content["estimand"], content["plant"]["reward_unit"]
    hours = f"{estimand['horizon']} periods of {content['plant']['period_s']:g} s"
    parts = [
        f"<p>The value is the mean reward per period in {text(unit)} (higher is better), near periods counting more "
        f"(discount {estimand['gamma']:g}), over {hours} from {estimand['starts']} recorded states. Model rollouts "
        "(primary) and fitted Q evaluation (FQE) are fitted on the calibration and evaluation parts of the log, which "
        "no policy was trained on, and share nothing with training. The gain compares the policy with a clone of the "
        "operator from the same states under the same noise; its interval joins those of both estimators. The doubly "
        "robust estimate corrects FQE by its errors where the policy goes; it shares the rollouts and the Q functions, "
        "so that it is shown and does not decide.</p>",
        plot("plot-gain", "Gain over the operator, by estimator, with intervals"),
        plot("plot-values", "Values of operator and policies, by estimator, with intervals"),
        '<p class="note">Differences are judged in units of the spread of logged returns, '
        f"{number(estimand['spread'])} {text(unit)}. The operator's realised value tests both estimators: "
        "they have to find it again.</p>",
    ]
    for candidate in content["candidates"]:
        rows = [[text(name), signed(gain["value"]), interval(gain)] for name, gain in candidate["terms"].items()]
        parts += [
            f"<h3>Gain by term of the objective{_of(content, candidate)}</h3>",
            table(["term", "#gain (model rollouts)", "#interval"], rows),
        ]
        ahead = ", ".join(f"{number(each['size'])} after {each['steps']}" for each in candidate["effective_samples"])
        parts.append(
            '<p class="note">By importance sampling, without any model, the record speaks of this policy with an '
            f"effective {ahead} steps ahead, of {estimand['starts']} recorded stretches: a diagnostic, no estimate.</p>"
        )
    return parts


def _back_test(content: Content) -> list[str]:
    test, unit = content["back_test"], content["plant"]["reward_unit"]
    rows = [
        [
            text(labelled(tag["tag"], tag["unit"])),
            number(tag["one_step_rmse"]),
            number(tag["rmse"][-1]),
            number(tag["persistence_rmse"][-1]),
            share(_mean(tag["coverage"])),
            signed(tag["residual_autocorrelation"]),
        ]
        for tag in test["tags"]
    ]
    return [
        f"<p>Models and clones of the operator that have not seen a stretch of the log predict it. From "
        f"{test['windows']} withheld states the operator's value over {test['steps']} steps was missed by "
        f"{signed(test['bias'])} {text(unit)} per period on average. Under the recorded commands the 90 % fan of "
        f"predictions held {share(test['fan_coverage'])} of the recorded values (of the worst tag).</p>",
        '<div class="pair">',
        plot("plot-fan", "Error of predictions against steps ahead"),
        plot("plot-realised", "The operator's value from withheld states, predicted against realised"),
        "</div>",
        table(
            [
                "tag",
                "#one-step error",
                "#error at the end",
                "#if nothing changed",
                "#inside 90 % fan",
                "#residual autocorrelation",
            ],
            rows,
        ),
    ]


def _support(content: Content) -> list[str]:
    parts = []
    for index, candidate in enumerate(content["candidates"]):
        support = candidate["support"]
        judged = (
            ""
            if support["by_dynamics_reward"] is None
            else f" {share(support['by_dynamics_reward'])} pass the dynamics reward alone,"
        )
        parts += [
            _heading(content, candidate),
            f"<p><strong>{share(support['share'])}</strong> of the policy's own steps are supported by the log (at "
            f"least {support['needed']:.0%} is needed, {support['comfortable']:.0%} is comfortable), "
            f"{share(support['late'])} in the last quarter of the horizon:{judged} "
            f"{share(support['by_distance'])} lie near recorded steps. Of the log's own withheld steps "
            f"{share(support['held_out_share'])} do. {_separation(support)}</p>",
            '<div class="pair">',
            plot(f"plot-map-{index}", "Recorded steps and the policy's steps, inside and outside the support"),
            plot(f"plot-support-{index}", "Supported share along a rollout"),
            "</div>",
        ]
        if not support["outside"]:
            parts.append("<p>Nowhere does the policy lie farther from the log than the log's own withheld steps.</p>")
            continue
        units = content["plant"]["units"]
        rows = [
            [
                text(labelled(tag["tag"], units[tag["tag"]])),
                share(tag["share"]),
                span(tag["low"], tag["high"]),
                span(tag["nearest_low"], tag["nearest_high"]),
                span(tag["log_low"], tag["log_high"]),
            ]
            for tag in support["outside"]
        ]
        headings = ["tag", "#share of steps", "#policy there", "#nearest recorded steps", "#log as a whole"]
        parts += ["<h3>Where it extrapolates</h3>", table(headings, rows)]
    return parts


def _separation(support: Content) -> str:
    """How well the judges of support work, in a sentence."""
    distance, reward = support["auroc"]["distance"], support["auroc"]["dynamics_reward"]
    also = (
        "" if reward is None else f", the dynamics reward steps whose outcome was displaced by as much {share(reward)}"
    )
    return (
        "Told apart from recorded steps (50 % is chance, 100 % always): by distance, steps displaced by one spread of "
        f"every tag {share(distance)}{also}."
    )


def _limits(content: Content) -> list[str]:
    parts = []
    for candidate in content["candidates"]:
        rows = [
            [
                text(limit["name"]),
                mark(limit["holds"], "holds", "broken" if limit["broken"] else "in doubt"),
                share(limit["policy"]),
                f"{share(limit['low'])} .. {share(limit['high'])}",
                share(limit["allowed"]),
                share(limit["operator"]),
                "no sample" if limit["fqe"] is None else share(limit["fqe"]["value"]),
            ]
            for limit in candidate["limits"]
        ]
        headings = ["limit", "outcome", "#policy outside", "#interval", "#tolerated", "#operator outside", "#by FQE"]
        parts += [
            _heading(content, candidate),
            table(headings, rows)
            if rows
            else "<p>The plant file states no limit of a state tag and no constraint.</p>",
        ]
    parts.append(
        '<p class="note">Shares of simulated samples over the horizon; by FQE, without any model, near samples count '
        "more. Absolute and rate limits of the commands hold "
        "by construction, as in the exported controller.</p>"
    )
    return parts


def _trajectories(content: Content) -> list[str]:
    parts = []
    for index, candidate in enumerate(content["candidates"]):
        chosen = candidate["trajectories"]["chosen"]
        options = "".join(
            f'<option value="{text(c["label"])}">{text(c["label"])}: {text(c["time"])}, policy {number(c["policy"])}, '
            f"operator {number(c['operator'])}, recorded {number(c['recorded'])}</option>"
            for c in chosen
        )
        parts += [
            _heading(content, candidate),
            "<p>Median and middle 90 % over all start states: the policy and the cloned operator in the evaluation "
            "model, and the record.</p>",
            plot(f"plot-bands-{index}", "Bands of policy, operator and record over time"),
            f'<p><label for="choose-{index}">A typical rollout and the ten worst: </label>'
            f'<select id="choose-{index}" data-plot="plot-rollouts-{index}">{options}</select></p>',
            plot(f"plot-rollouts-{index}", "A single rollout beside the record"),
        ]
    return parts


def _actuators(content: Content) -> list[str]:
    rows = []
    sources = [("record", content["operator"]["actuators"])]
    sources += [(c["name"], c["actuators"]) for c in content["candidates"]]
    for i, use in enumerate(content["operator"]["actuators"]):
        for name, uses in sources:
            u = uses[i]
            rows.append(
                [
                    text(labelled(use["tag"], use["unit"])),
                    text(name),
                    span(u["low"], u["high"]),
                    number(u["travel"]),
                    number(u["fastest"]),
                    share(u["reversals"]),
                    share(u["saturated"]),
                ]
            )
    headings = ["actuator", "who", "#middle 90 %", "#travel per period", "#largest step", "#reversals", "#at a limit"]
    return [table(headings, rows)]


def _next(content: Content) -> list[str]:
    parts = []
    for candidate in content["candidates"]:
        steps = "".join(f"<li>{text(step)}</li>" for step in candidate["next_steps"])
        parts += [_heading(content, candidate), f"<ol>{steps}</ol>"]
    return parts


def _reproducibility(content: Content) -> list[str]:
    about = content["provenance"]
    rows = [
        ["version", text(f"{about['version']} {about['commit']}".strip())],
        ["seed", text(str(about["seed"])) + (", quick" if about["quick"] else "")],
        ["evaluation log", text(" to ".join(about["evaluation_log"])) + f", {about['rows']['usable']} usable steps"],
        ["plant file (SHA-256)", _hash(about["spec_sha256"])],
        *[
            [f"{text(each['name'])}: {text(each['kind'])} {text(each['source'])} (SHA-256)", _hash(each["sha256"])]
            for each in about["policies"]
        ],
        *[[f"data of {text(run['path'])} (SHA-256)", _hash(run["data_sha256"])] for run in about["runs"]],
        ["computed in", f"{about['seconds']:.0f} s, torch {text(about['torch'])}, Python {text(about['python'])}"],
    ]
    settings = html.escape(json.dumps(about, indent=1))
    return [table(["what", "value"], rows), f"<details><summary>All settings</summary><pre>{settings}</pre></details>"]


def _hash(value: str) -> str:
    return f'<span class="hash">{text(value)}</span>'


def _heading(content: Content, candidate: Content) -> str:
    return f"<h3>{text(candidate['name'])}</h3>" if len(content["candidates"]) > 1 else ""


def _of(content: Content, candidate: Content) -> str:
    return f" for {text(candidate['name'])}" if len(content["candidates"]) > 1 else ""


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
