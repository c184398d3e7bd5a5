"""The run folder: weights, scaling, plant, configuration, split, hashes, metrics and provenance together.

config.yaml     complete          split.json     parts, by rows and time
spec.yaml       the plant         dataset.json   hashes of the data
run.json        version, commit, state ("training" or "trained"), seconds in all, of the world and of the policy
metrics.csv     one row per epoch
checkpoint.pt   resumable, with the states of the random generators
policy/models.pt  the trained networks
"""

from __future__ import annotations

import csv
import dataclasses
import io
import pickle
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import controlkit
from controlkit.config import DynamicsConfig, DynamicsRewardConfig, RewardModelConfig, RunConfig
from controlkit.dataset import Split, TransitionDataset
from controlkit.errors import ArtifactError, ConfigError, nearest
from controlkit.files import read_json, write_bytes, write_json, write_text
from controlkit.layout import Layout
from controlkit.models.actor import Actor, BehaviourClone
from controlkit.models.critic import Critics
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.layers import Activation
from controlkit.models.linear_prediction import LinearPrediction, ObserverPrediction, Prediction
from controlkit.models.observer import ObserverEnsemble
from controlkit.models.reward_network import RewardNetwork
from controlkit.objective import CommandLimits
from controlkit.spec import PlantSpec

SCHEMA = 2  # 2: the dynamics reward of observers holds an observer


@dataclass(frozen=True)
class Models:
    """The networks of a run.

    Attributes:
        dynamics: predicts the state tags.
        reward: the dynamics reward.
        behaviour: the cloned operator.
        actor: the policy.
        threshold: dynamics reward below which a model rollout ends; -inf where it is off.
        residuals: (R, S) recorded one-step residuals of the state tags on hold-out rows, engineering units.
        reward_model: the learned reward of a plant whose rewards are recorded without a formula.
        distilled: one network in place of the dynamics reward's many, where one ranks as they do.
        regressor: predicts the state tags with another activation, where the filter chooses by it.
    """

    dynamics: GaussianEnsemble
    reward: DiscriminatorEnsemble
    behaviour: BehaviourClone
    actor: Actor
    threshold: torch.Tensor
    residuals: torch.Tensor
    reward_model: RewardNetwork | None = None
    distilled: DiscriminatorEnsemble | None = None
    regressor: GaussianEnsemble | None = None

    @property
    def judge(self) -> DiscriminatorEnsemble:
        """The dynamics reward as rollouts and the edge use it."""
        return self.distilled or self.reward

    @property
    def networks(self) -> dict[str, torch.nn.Module]:
        """All networks that there are, by name."""
        found = {name: getattr(self, name) for name in _NETWORKS}
        return {name: network for name, network in found.items() if network is not None}

    def state_dict(self) -> dict[str, Any]:
        """Tensors only, so that a file of them is loaded without running anything."""
        networks = {name: network.state_dict() for name, network in self.networks.items()}
        return networks | {"threshold": self.threshold, "residuals": self.residuals}

    def restored(self, content: Mapping[str, Any]) -> Models:
        """These networks with the weights of `state_dict`; a distilled reward that was given up is left out.

        Raises:
            KeyError, RuntimeError: a network is missing, or of another size; the message names it.
        """
        models = self if "distilled" in content else dataclasses.replace(self, distilled=None)
        for name, network in models.networks.items():
            if name not in content:
                raise KeyError(name)
            try:
                network.load_state_dict(content[name])
            except RuntimeError as problem:
                raise RuntimeError(f"{name}: {str(problem).splitlines()[0]}") from None
        device = models.actor.centre.device
        residuals = content["residuals"].to(device)
        return dataclasses.replace(models, threshold=content["threshold"], residuals=residuals)


_NETWORKS = ("dynamics", "reward", "behaviour", "actor", "reward_model", "distilled", "regressor")


def build_models(config: RunConfig, spec: PlantSpec, generator: torch.Generator) -> Models:
    """Freshly initialised networks of the sizes that a configuration asks for."""
    layout, limits = Layout.from_spec(spec), CommandLimits(spec)
    low, high = torch.from_numpy(limits.low), torch.from_numpy(limits.high)
    dynamics = build_dynamics(config.dynamics, spec, generator)
    observer = config.dynamics.architecture == "observer"
    count = config.reward.networks * config.reward.snapshots
    reward = build_reward(config.reward, layout, count, generator, observer=observer)
    behaviour = BehaviourClone(layout.size, low, high, hidden=(64, 64), act="smooth_leaky", generator=generator)
    actor = Actor(
        layout.size,
        _seen(layout, config.policy.inputs),
        low,
        high,
        hidden=config.policy.hidden,
        act=config.policy.activation,
        generator=generator,
        belief=dynamics.elites_only(1) if config.policy.inputs == "belief" else None,
        previous=_last_commands(layout) if config.policy.inputs == "belief" else (),
    )
    residuals = torch.zeros(1, len(layout.state_tags))
    reward_model = build_reward_network(config.reward_model, spec, generator) if spec.reward_is_recorded else None
    distilled = build_reward(config.reward, layout, 1, generator, observer=observer) if config.reward.distil else None
    regressor = None
    if config.filter.choose == "regressor":
        regressor = build_dynamics(regressor_config(config.dynamics), spec, generator)
    threshold = torch.tensor(-torch.inf)
    return Models(dynamics, reward, behaviour, actor, threshold, residuals, reward_model, distilled, regressor)


def build_reward(
    config: DynamicsRewardConfig, layout: Layout, members: int, generator: torch.Generator, *, observer: bool = False
) -> DiscriminatorEnsemble:
    """Freshly initialised discriminators; innovations are an observer's if asked for, a linear prediction's else."""
    sizes = (layout.size, len(layout.action_tags), layout.state_columns.tolist())
    return DiscriminatorEnsemble(
        *sizes,
        _seen(layout, config.inputs),
        _build_prediction(layout, observer, generator) if config.coordinates == "innovation" else None,
        members=members,
        hidden=config.hidden,
        act=config.activation,
        generator=generator,
    )


def _build_prediction(layout: Layout, observer: bool, generator: torch.Generator) -> Prediction:
    command = range(layout.size, layout.size + len(layout.action_tags))
    known, current = _known(layout), [*layout.state_columns.tolist(), *command]
    if not observer:
        return LinearPrediction(layout.size + len(command), known, current, len(layout.state_tags))
    return ObserverPrediction(_build_observers(layout, 1, (), "silu", generator), known, current)


def regressor_config(config: DynamicsConfig) -> DynamicsConfig:
    """The dynamics' settings for the filter's regressor: one perceptron on the window, of another activation."""
    activation = "leaky_relu" if config.activation != "leaky_relu" else "silu"
    hidden = config.hidden or (64, 64)
    changes = {"architecture": "window", "members": 1, "elites": 1, "linear_members": 0, "hidden": hidden}
    return DynamicsConfig.model_validate(config.model_dump() | changes | {"activation": activation})


def _seen(layout: Layout, inputs: str) -> list[int]:
    return [int(i) for i in (range(layout.size) if inputs == "all" else layout.current_slots)]


def _known(layout: Layout) -> list[int]:
    """Slots of the current exogenous and static tags."""
    return [i for i, tag in enumerate(layout.frame_tags) if tag not in layout.state_tags]


def _require_plot_tags(config: RunConfig, layout: Layout) -> None:
    known = (*layout.frame_tags, *layout.action_tags)
    for tag in config.reward.plot_tags or ():
        if tag not in known:
            raise ConfigError(f"unknown tag '{tag}'", where="reward.plot_tags", cure=nearest(tag, known))


def _last_commands(layout: Layout) -> list[int]:
    slots = layout.previous_command()
    for tag, slot in zip(layout.action_tags, slots, strict=True):
        if slot is None:
            raise ConfigError(
                f"a belief starts from the last commands, and '{tag}' has no history",
                where="policy.inputs",
                cure="Give it a history of 1 or more in the plant file, or choose other inputs.",
            )
    return [slot for slot in slots if slot is not None]


def build_dynamics(config: DynamicsConfig, spec: PlantSpec, generator: torch.Generator) -> GaussianEnsemble:
    """A freshly initialised ensemble of the architecture and size that a configuration asks for."""
    layout = Layout.from_spec(spec)
    dynamics: GaussianEnsemble
    if config.architecture == "observer":
        dynamics = _build_observers(layout, config.members, config.hidden, config.activation, generator)
    else:
        dynamics = GaussianEnsemble(
            layout.size,
            len(layout.action_tags),
            layout.state_columns.tolist(),
            members=config.members,
            hidden=config.hidden,
            act=config.activation,
            generator=generator,
        )
    dynamics.elites = torch.arange(config.elites)
    return dynamics


def _build_observers(
    layout: Layout, members: int, hidden: Sequence[int], act: Activation, generator: torch.Generator
) -> ObserverEnsemble:
    states, known, commands = (torch.from_numpy(at) for at in layout.observer_window())
    window = (states, known, commands)
    return ObserverEnsemble(layout.size, window, members=members, hidden=hidden, act=act, generator=generator)


def build_reward_network(config: RewardModelConfig, spec: PlantSpec, generator: torch.Generator) -> RewardNetwork:
    """A freshly initialised network for a plant's recorded rewards."""
    layout = Layout.from_spec(spec)
    return RewardNetwork(
        layout.size,
        len(layout.action_tags),
        [spec.tags[tag].unit for tag in layout.frame_tags],
        distances=config.distances,
        members=config.members,
        hidden=config.hidden,
        act=config.activation,
        generator=generator,
    )


def build_critics(config: RunConfig, spec: PlantSpec, generator: torch.Generator) -> Critics:
    """The two critics of the policy stage."""
    layout = Layout.from_spec(spec)
    return Critics(
        layout.size,
        len(layout.action_tags),
        members=2,
        hidden=config.policy.hidden,
        act=config.policy.activation,
        generator=generator,
        norm=config.policy.critic_norm,
    )


@dataclass(frozen=True)
class RunFolder:
    """A run on disk. `create` starts one, `open` finds one."""

    path: Path
    config: RunConfig
    spec: PlantSpec
    split: Split
    data: Mapping[str, Any]

    @classmethod
    def create(
        cls, path: Path, config: RunConfig, data: TransitionDataset, record: Mapping[str, Any], *, replace: bool = False
    ) -> RunFolder:
        """Starts a run: everything but weights is written at once.

        Args:
            path: the folder; must not hold a run already unless `replace`.
            config: complete configuration.
            data: the data set.
            record: its `dataset.json`.
            replace: start anew over an earlier run.

        Raises:
            ArtifactError: the folder holds a run, or something else.
            ConfigError: the configuration names a tag that the plant does not have.
        """
        _require_plot_tags(config, Layout.from_spec(data.spec))
        if path.exists() and any(path.iterdir()):
            if not (path / "run.json").is_file():
                raise ArtifactError("exists and is no run folder", where=str(path), cure="Choose another --out.")
            if not replace:
                raise ArtifactError(
                    "holds a run already",
                    where=str(path),
                    cure="Go on with --resume, start over with --overwrite, or choose another --out.",
                )
            for name in ("checkpoint.pt", "metrics.csv", "report.html", "report.json", "policy/models.pt"):
                (path / name).unlink(missing_ok=True)
        share = config.split
        split = Split.by_time(data, (share.training, share.calibration, share.evaluation))
        folder = cls(path, config, data.spec, split, dict(record))
        write_text(path / "config.yaml", yaml.safe_dump(config.to_dict(), sort_keys=False))
        write_text(path / "spec.yaml", yaml.safe_dump(data.spec.to_dict(), sort_keys=False))
        write_json(path / "split.json", split.to_dict())
        write_json(path / "dataset.json", dict(record))
        folder.write_state("training")
        return folder

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Finds a run.

        Raises:
            ArtifactError: there is none, or it was made by another version.
        """
        path = Path(path)
        if not (path / "run.json").is_file():
            raise ArtifactError("is no run folder", where=str(path), cure="Make one with 'controlkit train'.")
        state = read_json(path / "run.json")
        if state.get("schema") != SCHEMA:
            raise ArtifactError(
                f"has schema {state.get('schema')}, this version reads {SCHEMA}", where=str(path), cure="Train again."
            )
        return cls(
            path,
            RunConfig.load(path / "config.yaml"),
            PlantSpec.load(path / "spec.yaml"),
            Split.from_dict(read_json(path / "split.json")),
            read_json(path / "dataset.json"),
        )

    def write_state(self, state: str, **more: Any) -> None:
        """Writes `run.json`."""
        record = {"schema": SCHEMA, "version": controlkit.__version__, "commit": commit(), "state": state}
        write_json(self.path / "run.json", record | more)

    @property
    def state(self) -> dict[str, Any]:
        """What `run.json` says now."""
        content: dict[str, Any] = read_json(self.path / "run.json")
        return content

    @property
    def trained(self) -> bool:
        """Whether training has come to its end."""
        return bool(self.state["state"] == "trained")

    def require_data(self, record: Mapping[str, Any], where: str) -> None:
        """Checks that a data set is the one that the run was made with.

        Raises:
            ArtifactError: it is another one.
        """
        if record["data_sha256"] != self.data["data_sha256"] or record["spec_sha256"] != self.data["spec_sha256"]:
            raise ArtifactError(
                f"is not the data set that {self.path} was trained on", where=where, cure="Give that one to --data."
            )

    def require_config(self, config: RunConfig) -> None:
        """Checks that a run goes on with the settings it was begun with.

        Raises:
            ArtifactError: a setting differs; names the first.
        """
        difference = first_difference(self.config.to_dict(), config.to_dict())
        if difference is not None:
            name, mine, theirs = difference
            raise ArtifactError(
                f"was begun with {name}={mine}, not {theirs}",
                where=str(self.path),
                cure="Resume with the same settings, or start over with --overwrite.",
            )

    def save_checkpoint(self, content: Mapping[str, Any]) -> None:
        """Writes `checkpoint.pt` whole or not at all; tensors and plain values only."""
        write_bytes(self.path / "checkpoint.pt", _torch_bytes(dict(content)))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The last checkpoint, or `None`."""
        path = self.path / "checkpoint.pt"
        return _torch_load(path) if path.is_file() else None

    def save_models(self, models: Models) -> None:
        """Writes `policy/models.pt`."""
        write_bytes(self.path / "policy" / "models.pt", _torch_bytes(models.state_dict()))

    def load_models(self) -> Models:
        """The trained networks, in evaluation mode on the CPU.

        Raises:
            ArtifactError: training has not come to its end, or the weights are damaged.
        """
        path = self.path / "policy" / "models.pt"
        if not self.trained or not path.is_file():
            raise ArtifactError("is not trained to its end", where=str(self.path), cure="Go on with --resume.")
        content = _torch_load(path)
        models = build_models(self.config, self.spec, torch.Generator())
        try:
            models = models.restored(content)
        except (KeyError, RuntimeError) as problem:
            raise ArtifactError(
                f"does not hold the {str(problem.args[0])[:120]}", where=str(path), cure="Train again."
            ) from None
        for network in models.networks.values():
            network.eval().requires_grad_(False)
        return models

    def write_metrics(self, rows: list[dict[str, float]]) -> None:
        """Writes `metrics.csv`: one row per epoch, the union of all columns."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.path / "metrics.csv", text.getvalue())


def first_difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[str, Any, Any] | None:
    """The dotted name and both values of the first setting that differs between two contents of equal fields."""
    first, second = _flat(mine), _flat(theirs)
    return next(((name, first[name], second[name]) for name in first if first[name] != second[name]), None)


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in content.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def commit() -> str:
    """The commit of the checkout that this code runs from, with a mark where it was changed; empty elsewhere."""
    here = Path(controlkit.__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _torch_bytes(content: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _torch_load(path: Path) -> dict[str, Any]:
    try:
        # weights_only: nothing in the file is run.
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as problem:
        first = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise ArtifactError(f"is damaged ({first[:80]})", where=str(path), cure="Train again.") from None
    return content
