"""The words and tables of the page, section by section, in the order in which an engineer asks.

Here are the sections on the estimates; `operation_sections` has those on the plant, `plan_sections` those on what to
do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controlkit.evaluation.markup import (
    bullets,
    interval,
    labelled,
    mark,
    number,
    of_candidate,
    plot,
    share,
    signed,
    span,
    subheading,
    table,
    text,
)
from controlkit.evaluation.operation_sections import actuators, limits, regimes, trajectories
from controlkit.evaluation.plan_sections import next_steps, reproducibility, risks

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
        ("limits", "Limits", limits(content)),
        ("regimes", "Operating regimes", regimes(content)),
        ("trajectories", "Rollouts beside the record", trajectories(content)),
        ("actuators", "Actuators", actuators(content)),
        ("risks", "Risks, and the allowed envelope", risks(content)),
        ("next", "What to do next", next_steps(content)),
        ("reproducibility", "How to get these figures again", reproducibility(content)),
    ]


def short_names(content: Content) -> list[tuple[str, str]]:
    """Sections for the navigation."""
    words = ("Verdict", "Estimates", "Back-test", "Support", "Limits", "Regimes", "Rollouts", "Actuators", "Risks")
    found = all_sections(content)
    return [(name, word) for (name, _, _), word in zip(found, (*words, "Next", "Reproduce"), strict=True)]


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
        parts.append(f"<details><summary>Every rule{of_candidate(content, candidate)}</summary>{rules}</details>")
    return parts


def _estimates(content: Content) -> list[str]:
    estimand, unit = content["estimand"], content["plant"]["reward_unit"]
    hours = f"{estimand['horizon']} periods of {content['plant']['period_s']:g} s"
    parts = [
        f"<p>The value is the mean reward per period in {text(unit)} (higher is better), near periods counting more "
        f"(discount {estimand['gamma']:g}), over {hours} from {estimand['starts']} recorded states. Model rollouts "
        "(primary) and fitted Q evaluation (FQE) are fitted on the calibration and evaluation parts of the log, which "
        "no policy was trained on, and share nothing with training. FQE starts from the model's value and adds what "
        "recorded steps say against the model along the policy's way: it tests the model. The gain compares "
        "the policy with a clone of the operator from the same states under the same noise; its interval joins those "
        "of both estimators. The doubly robust estimate corrects FQE by its errors where the policy goes; it shares "
        "the rollouts and the Q functions, so that it is shown and does not decide. Nor does the in-sample estimate, "
        "from recorded commands near the policy's alone.</p>",
        plot("plot-gain", "Gain over the operator, by estimator, with intervals"),
        plot("plot-values", "Values of operator and policies, by estimator, with intervals"),
        '<p class="note">Differences are judged in units of the spread of logged returns, '
        f"{number(estimand['spread'])} {text(unit)}. The operator's realised value tests both estimators: "
        "they have to find it again.</p>",
    ]
    for candidate in content["candidates"]:
        by = ("fqe", "FQE"), ("doubly_robust", "doubly robust"), ("model_filtered", "model, filter on")
        values = [("model rollouts", candidate["gain_model"], candidate["model"])]
        values += [(word, candidate.get(f"gain_{key}"), candidate[key]) for key, word in by if candidate[key]]
        if candidate["in_sample"]["value"] is not None:
            values.append(("in-sample", candidate["in_sample"]["gain"], candidate["in_sample"]["value"]))
        values.append(("model and FQE joined", candidate["gain"], None))
        rows = [
            [
                text(word),
                "" if gain is None else signed(gain["value"]),
                "" if gain is None else interval(gain),
                "" if value is None else number(value["value"]),
                "" if value is None else span(value["low"], value["high"]),
            ]
            for word, gain, value in values
        ]
        figures = table(["estimator", "#gain", "#interval", "#value", "#interval"], rows)
        parts.append(
            f"<details><summary>The same in figures{of_candidate(content, candidate)}</summary>{figures}</details>"
        )
        if candidate["fqe_ridge"]:
            parts.append(
                f'<p class="note">FQE{of_candidate(content, candidate)} was too noisy to hold the model against: what '
                f"it learned of the model's errors is shrunk (ridge {candidate['fqe_ridge']:g}), and small errors "
                "of the model may be shrunk with it.</p>"
            )
        logged = content["operator"]["terms"]
        rows = [
            [
                text(name),
                number(logged[name]["realised"]),
                number(logged[name]["model"]),
                number(candidate["term_values"][name]),
                signed(gain["value"]),
                interval(gain),
            ]
            for name, gain in candidate["terms"].items()
        ]
        headings = ["term", "#operator, realised", "#operator, model", "#policy, model", "#gain", "#interval"]
        parts += [f"<h3>By term of the objective{of_candidate(content, candidate)}</h3>", table(headings, rows)]
        if candidate["in_sample"]["reason"]:
            parts.append(
                f'<p class="note">In-sample values, from recorded commands alone: none '
                f"({text(candidate['in_sample']['reason'])}).</p>"
            )
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
            subheading(content, candidate),
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


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
