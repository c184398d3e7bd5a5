"""Plots by which a user sees whether the dynamics reward is right on their data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlkit.errors import ConfigError, nearest
from controlkit.files import written_aside
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.reward_health import RewardHealth
from controlkit.replay import LoggedTransitions

GRID = 80


def plot_health(
    folder: Path,
    health: RewardHealth,
    reward: DiscriminatorEnsemble,
    held_out: LoggedTransitions,
    tags: tuple[str, str] | None,
) -> None:
    """Writes `ranking.png`, `map.png` and `snapshots.png` into `folder`.

    Args:
        folder: is made where it is not there.
        health: what was measured.
        reward: the averaged snapshots.
        held_out: transitions that no stage was trained on.
        tags: axes of the map: frame tags or commands; the first state tag and the first command where none are given.

    Raises:
        ConfigError: a tag that the plant does not have.
    """
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "ranking.png": _ranking(health, Figure),
        "map.png": _map(reward, held_out, tags, Figure),
        "snapshots.png": _snapshots(health, Figure),
    }
    for name, figure in figures.items():
        with written_aside(folder / name) as aside:
            figure.savefig(aside, dpi=110, format="png")


def _ranking(health: RewardHealth, new: Any) -> Any:
    """r_D against how far the outcome was displaced: median and the middle 80 % in bins of equal numbers."""
    figure = new(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    distance, reward = (x.flatten().cpu().numpy() for x in (health.displacement, health.reward))
    bins = np.array_split(np.argsort(distance), 40)
    centre = [np.median(distance[i]) for i in bins]
    low, middle, high = (np.array([np.quantile(reward[i], q) for i in bins]) for q in (0.1, 0.5, 0.9))
    axes.fill_between(centre, low, high, alpha=0.25, label="middle 80 %")
    axes.plot(centre, middle, label="median")
    axes.set(
        xscale="log",
        xlabel="displacement of the held-out outcome (innovations)",
        ylabel="dynamics reward r_D",
        title=f"Does the reward fall with the error? Rank correlation {health.rank:.2f}",
    )
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    return figure


def _map(reward: DiscriminatorEnsemble, held_out: LoggedTransitions, tags: tuple[str, str] | None, new: Any) -> Any:
    """r_D of the outcome that a linear prediction expects, over two tags; the other tags as in the median row."""
    layout = held_out.layout
    known = (*layout.frame_tags, *layout.action_tags)
    first, second = tags or (layout.state_tags[0], layout.action_tags[0])
    for tag in (first, second):
        if tag not in known:
            raise ConfigError(f"unknown tag '{tag}'", where="reward.plot_tags", cure=nearest(tag, known))
    rows = held_out.rows[:: max(1, len(held_out.rows) // 2000)]
    observations, actions = held_out.observe(rows), held_out.actions[rows]
    typical = torch.cat([observations, actions], dim=1).median(dim=0).values
    points = typical.repeat(GRID * GRID, 1)  # (G * G, O + m)
    axes_of = []
    for at, tag in enumerate((first, second)):
        frame = tag in layout.frame_tags
        column = layout.frame_tags.index(tag) if frame else layout.action_tags.index(tag)
        shown = observations[:, column] if frame else actions[:, column]
        margin = 0.5 * float(shown.max() - shown.min()) + 1e-6
        values = torch.linspace(float(shown.min()) - margin, float(shown.max()) + margin, GRID)
        grid = values.repeat_interleave(GRID) if at else values.repeat(GRID)
        if frame:  # the whole window moves, so that its shape stays
            slots = [i for i, s in enumerate(layout.slots) if s.source == "frame" and s.column == column]
            points[:, slots] += (grid - points[:, column]).unsqueeze(1)
        else:
            points[:, layout.size + column] = grid
        axes_of.append((values.numpy(), shown.numpy()))
    observation, action = points[:, : layout.size], points[:, layout.size :]
    with torch.no_grad():
        # The highest reward among outcomes around the expected one: what the filter would find there.
        best = torch.full((GRID * GRID,), -torch.inf)
        scaled = reward.input_scaler(points)
        centre = reward.prediction(scaled) if reward.prediction is not None else torch.zeros_like(action[:, :1])
        for offset in torch.linspace(-3.0, 3.0, 25):
            change = centre + offset * reward.unit
            state = observation[:, reward.state_slots] + reward.change_scaler.invert(change)
            best = torch.maximum(best, reward(observation, action, state))
    figure = new(figsize=(6.4, 4.8), layout="constrained")
    axes = figure.add_subplot()
    (x, seen_x), (y, seen_y) = axes_of
    mesh = axes.pcolormesh(x, y, best.reshape(GRID, GRID).numpy(), shading="nearest", cmap="viridis")
    axes.scatter(seen_x, seen_y, s=2, c="white", alpha=0.35, linewidths=0, label="held-out log")
    units = {s.tag: s.unit for s in layout.slots}
    axes.set(
        xlabel=f"{first} ({units.get(first, '')})" if units.get(first) else first,
        ylabel=f"{second} ({units.get(second, '')})" if units.get(second) else second,
        title="Highest dynamics reward of any plausible outcome",
    )
    figure.colorbar(mesh, ax=axes, label="r_D")
    legend = axes.legend(loc="upper right", frameon=True)
    legend.get_frame().set_facecolor("grey")
    return figure


def _snapshots(health: RewardHealth, new: Any) -> Any:
    """Rank correlation of each two snapshots."""
    figure = new(figsize=(5.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(health.agreements.cpu().numpy(), vmin=-1, vmax=1, cmap="RdBu")
    axes.set(
        xlabel="network and snapshot",
        ylabel="network and snapshot",
        title=f"Do the snapshots agree? Mean rank correlation {health.agreement:.2f}",
    )
    figure.colorbar(image, ax=axes, label="rank correlation")
    return figure
