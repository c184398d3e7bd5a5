"""Plots by which a user sees whether the dynamics reward is right on their data. docs/dynamics-reward.md reads them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlkit.config import DynamicsRewardConfig
from controlkit.files import written_aside
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.reward_health import RewardHealth
from controlkit.replay import LoggedTransitions
from controlkit.spec import PlantSpec

GRID = 80
# Outcomes looked at in each cell of the map: the expected one, and draws of up to so many units around it.
OUTCOMES, WIDEST = 48, 3.0
MAX_POINTS = 2000
DPI = 120
BLUE, ORANGE = "#2563a8", "#d9730d"


def plot_health(
    folder: Path,
    health: RewardHealth,
    reward: DiscriminatorEnsemble,
    held_out: LoggedTransitions,
    spec: PlantSpec,
    config: DynamicsRewardConfig,
    threshold: float = -math.inf,
) -> None:
    """Writes `ranking.png`, `map.png` and `snapshots.png` into `folder`.

    Args:
        folder: is made where it is not there.
        health: what was measured.
        reward: what rollouts use: the averaged snapshots, or the network distilled from them.
        held_out: transitions that no stage was trained on.
        spec: the plant.
        config: names the map's axes (`plot_tags`), which the plant must have, and counts the networks.
        threshold: reward below which a rollout ends; drawn where it is finite.
    """
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    unit = "typical changes" if reward.prediction is None else "innovations"
    figures = {
        "ranking.png": _ranking(health, unit, threshold, Figure),
        "map.png": _map(reward, held_out, spec, config.plot_tags, threshold, Figure),
        "snapshots.png": _snapshots(health, config.networks, Figure),
    }
    for name, figure in figures.items():
        with written_aside(folder / name) as aside:
            figure.savefig(aside, dpi=DPI, format="png")


def _ranking(health: RewardHealth, unit: str, threshold: float, new: Any) -> Any:
    """r_D against how far the outcome was displaced: median and the middle 80 % in bins of equal numbers."""
    figure = new(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.add_subplot()
    distance, reward, recorded = (
        x.flatten().cpu().numpy() for x in (health.displacement, health.reward, health.recorded)
    )
    bins = np.array_split(np.argsort(distance), 40)
    centre = [np.median(distance[i]) for i in bins]
    low, middle, high = (np.array([np.quantile(reward[i], q) for i in bins]) for q in (0.1, 0.5, 0.9))
    axes.fill_between(centre, low, high, color=BLUE, alpha=0.2, linewidth=0, label="shifted outcomes, middle 80 %")
    axes.plot(centre, middle, color=BLUE, linewidth=2, label="shifted outcomes, median")
    axes.axhline(np.median(recorded), color="black", linestyle="--", linewidth=1, label="outcomes as recorded, median")
    if math.isfinite(threshold):
        axes.axhline(threshold, color=ORANGE, linewidth=1.2, label="threshold: rollouts end below")
    axes.set(xscale="log", xlabel=f"shift of the recorded outcome ({unit})", ylabel="dynamics reward (0: looks false)")
    axes.set_title(f"Does a larger error get a lower reward? Rank correlation {health.rank:.2f} (1 is perfect)")
    axes.set_xlim(centre[0], centre[-1])
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
    return figure


def _map(
    reward: DiscriminatorEnsemble,
    held_out: LoggedTransitions,
    spec: PlantSpec,
    tags: tuple[str, str] | None,
    threshold: float,
    new: Any,
) -> Any:
    """The highest r_D of any outcome near the expected one, over two tags; the other tags as in the median row."""
    layout = held_out.layout
    first, second = tags or (layout.state_tags[0], layout.action_tags[0])
    rows = held_out.rows[:: max(1, len(held_out.rows) // MAX_POINTS)]
    logged = torch.cat([held_out.observe(rows), held_out.actions[rows]], dim=1)  # (R, O + m)
    points = logged.median(dim=0).values.repeat(GRID * GRID, 1)  # (G * G, O + m)
    values, shown = [], []
    for number, tag in enumerate((first, second)):
        command = tag in layout.action_tags
        column = (layout.action_tags if command else layout.frame_tags).index(tag)
        at = layout.size + column if command else column
        seen = logged[:, at]
        values.append(_stretched(seen, *(spec.limits(tag) if command else spec.tags[tag].range)))
        shown.append(seen.cpu().numpy())
        along = values[-1].repeat(GRID) if number == 0 else values[-1].repeat_interleave(GRID)
        # A measured tag moves with its whole window, so that the window keeps its shape.
        moved = [i for i, s in enumerate(layout.slots) if s.source == "frame" and s.column == column]
        points[:, [at] if command else moved] += (along - points[:, at]).unsqueeze(1)
    best = _highest(reward, points[:, : layout.size], points[:, layout.size :]).reshape(GRID, GRID).cpu().numpy()
    x, y = (v.cpu().numpy() for v in values)
    figure = new(figsize=(7.2, 5.2), layout="constrained")
    axes = figure.add_subplot()
    mesh = axes.pcolormesh(x, y, best, shading="nearest", cmap="viridis", vmin=0)
    axes.scatter(*shown, s=5, c="white", edgecolors="black", linewidths=0.3, alpha=0.7, label="held-out log")
    if math.isfinite(threshold) and best.min() < threshold < best.max():
        axes.contour(x, y, best, levels=[threshold], colors=[ORANGE], linewidths=1.8)
        axes.plot([], [], color=ORANGE, linewidth=1.8, label="threshold: rollouts end where it is darker")
    axes.set(xlabel=_named(first, spec), ylabel=_named(second, spec), xlim=(x[0], x[-1]), ylim=(y[0], y[-1]))
    axes.set_title("Where does some outcome look true to the reward?")
    figure.colorbar(mesh, ax=axes, label="highest dynamics reward of any outcome (0: all look false)")
    legend = axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)
    legend.legend_handles[0].set_alpha(1.0)
    return figure


def _stretched(seen: Tensor, low: float, high: float) -> Tensor:
    """(GRID,) values over what was seen (R,) and as much again on either side, inside the tag's engineering range."""
    least, most = float(seen.min()), float(seen.max())
    margin = (most - least) or (high - low)  # a tag that stood still is shown over its range
    return torch.linspace(max(low, least - margin), min(high, most + margin), GRID, device=seen.device)


@torch.no_grad()
def _highest(reward: DiscriminatorEnsemble, observation: Tensor, action: Tensor) -> Tensor:
    """The highest reward of the expected outcome and of draws around it: (B, O), (B, m) -> (B,)."""
    centre, state = reward.expected_change(observation, action), observation[:, reward.state_slots]
    generator = torch.Generator(centre.device).manual_seed(0)  # the same outcomes in every cell and every plot
    offsets = torch.empty(OUTCOMES, centre.shape[1], device=centre.device).normal_(generator=generator)
    sizes = torch.linspace(0.0, WIDEST, OUTCOMES, device=centre.device)  # the first is the expected outcome itself
    offsets = sizes.unsqueeze(1) * offsets / offsets.norm(dim=1, keepdim=True)
    best = torch.full_like(centre[:, 0], -torch.inf)
    for offset in offsets:
        outcome = state + reward.change_scaler.invert(centre + offset * reward.unit)
        best = torch.maximum(best, reward(observation, action, outcome))
    return best


def _named(tag: str, spec: PlantSpec) -> str:
    unit = spec.tags[tag].unit
    return f"{tag} ({unit})" if unit not in ("", "1") else tag


def _snapshots(health: RewardHealth, networks: int, new: Any) -> Any:
    """Rank correlation of each two snapshots."""
    agreements = health.agreements.cpu().numpy()
    count = len(agreements) // networks
    figure = new(figsize=(6.0, 5.0), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(agreements, vmin=-1, vmax=1, cmap="RdBu")
    for border in range(1, count):
        for draw in (axes.axhline, axes.axvline):
            draw(border * networks - 0.5, color="black", linewidth=0.8)
    every = max(1, count // 10)
    ticks = [(i + 0.5) * networks - 0.5 for i in range(0, count, every)]
    names = [str(i + 1) for i in range(0, count, every)]
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    each = f", {networks} networks each" if networks > 1 else ""
    axes.set(xlabel=f"snapshot, the earliest first{each}", ylabel="snapshot")
    axes.set_title(f"Do the snapshots agree? Mean rank correlation {health.agreement:.2f}")
    figure.colorbar(image, ax=axes, label="rank correlation (blue: agree, red: contradict)")
    return figure
