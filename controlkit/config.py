"""The run configuration: strict, typed, loaded from YAML; a preset holds only its differences from these defaults.

The defaults are the published ones of MOREC (arXiv 2310.05422) where the paper or its authors' code give them; what
differs says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from controlkit.errors import ConfigError
from controlkit.strict_yaml import Strict, read_yaml, validate

Hidden = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(max_length=8)]
Activation = Literal["silu", "relu", "leaky_relu", "smooth_leaky"]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class SplitConfig(Strict):
    """Shares of the data, in this order of time: training, calibration, evaluation."""

    training: Annotated[float, Field(gt=0, lt=1)] = 0.7
    calibration: Annotated[float, Field(gt=0, lt=1)] = 0.15
    evaluation: Annotated[float, Field(gt=0, lt=1)] = 0.15

    @model_validator(mode="after")
    def _whole(self) -> SplitConfig:
        total = self.training + self.calibration + self.evaluation
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"the shares add up to {total:g}, not 1")
        return self


class ScalingConfig(Strict):
    """Networks see (x - mean) / spread, where the spread is the log's standard deviation but never less than
    `min_spread` of half the tag's range: a log that hardly moved must not blow up what lies beyond it.
    1 scales by the ranges alone.

    Tags that are `unseen` are 0 to every network but the one that learns a recorded reward: a distance run or a
    counter, of which only the change means anything. They are predicted like any other."""

    min_spread: Annotated[float, Field(gt=0, le=1)] = 0.05
    unseen: tuple[str, ...] = ()


class DynamicsConfig(Strict):
    """The ensemble of Gaussian networks that predicts the state tags.

    Attributes:
        architecture: `window` is a perceptron (with a linear path) over the whole observation; `observer` steps a small
            bilinear model along the window and corrects it by each measurement, for plants of low order whose
            measurements are noisy. `hidden` sizes the first, or what the second adds to its bilinear part (may be
            empty).
        members, elites: networks trained, and those kept by hold-out error.
        holdout: share of the training part, cut by time in blocks, that stops training and ranks the members.
        patience: epochs without a gain of 1 % after which training stops.
        weight_decay: on the perceptron; the linear path around it is not decayed.
        beta: of the beta-NLL (Seitzer et al., ICLR 2022, arXiv 2203.09168), each tag's likelihood times its predicted
            variance to this power. 0 is the likelihood itself, as published: what is predicted badly then learns least,
            as its own variance divides its gradient. 1 weighs all errors alike, as least squares does.
        linear_members: how many of the members are ridge regressions alone (with `observer`: bilinear alone). They
            extrapolate along straight lines; whether they are right is for the hold-out to say. `auto`: as many as
            there are members beyond the elites, so that networks alone could fill those.
        max_rows: of a longer log as many usable transitions are fitted, in stretches spread evenly over it; the policy
            draws from all.
        holdout_steps: steps of the open-loop rollouts over held-out blocks whose errors rank the members; 1 ranks by
            one-step error.
        exogenous: what follows where the record of the exogenous tags ends under a rollout: `record` ends it, `splice`
            goes on with another row of the log whose exogenous tags looked alike. Rollouts of a plant that has no such
            tags follow no record, and go on either way.
    """

    architecture: Literal["window", "observer"] = "window"
    members: Count = 7
    elites: Count = 5
    hidden: Hidden = (200, 200, 200, 200)
    activation: Activation = "smooth_leaky"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 5e-5
    beta: Share = 0.0
    batch_size: Count = 256
    max_epochs: Count = 200
    patience: Count = 5
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    linear_members: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    max_rows: Count = 1_000_000
    holdout_steps: Count = 20
    exogenous: Literal["record", "splice"] = "record"

    @model_validator(mode="after")
    def _enough(self) -> DynamicsConfig:
        if self.elites > self.members:
            raise ValueError(f"{self.elites} elites of {self.members} members")
        if self.linear_count > self.members:
            raise ValueError(f"{self.linear_count} linear members of {self.members}")
        return self

    @property
    def linear_count(self) -> int:
        """How many members are linear."""
        return self.members - self.elites if self.linear_members == "auto" else self.linear_members


class DynamicsRewardConfig(Strict):
    """The dynamics reward (stage 1 of MOREC).

    Attributes:
        method: `irl` is the paper's inverse RL: a generator model, rolled out with a cloned behaviour policy, is
            trained against the discriminator. `noise` is a deviation: the discriminator is trained against real
            transitions whose outcome is perturbed by noise of many sizes. `mixed` takes half of each.
        coordinates: what of a change is judged: the `change` itself, or its `innovation`, the deviation from a linear
            prediction in units of the deviations that the log shows.
        inputs: what is judged with the command: `all` of the observation or the `current` samples alone. The fewer, the
            farther the reward carries: a whole window of a better controller looks unlike any in the log.
        networks: independent discriminators trained side by side, all averaged.
        updates: discriminator updates.
        behaviour_updates: updates of the cloned operator, before.
        snapshots: how many snapshots of each are kept, from the last `snapshot_share` of training, and averaged.
        noise_low, noise_high: decades of the perturbation's size, in units of the innovation (or of the log's typical
            change, where that is judged).
        form: of the adversarial discriminator. `gail`, the paper's, ends at D = 1/2 where the generator is perfect;
            `airl` knows the generator's density, and learns that of the plant. `mixed` is always `gail`.
        generator: how the generator of `irl` is trained: `ppo`, the paper's, or by the `pathwise` gradient.
        generator_steps, generator_starts: length and number of the rollouts that the generator makes at a time.
        generator_every: discriminator updates between them; the discriminator must keep pace.
        generator_memory: false transitions kept of all earlier generators, from which half of each batch is drawn; 0
            for the present generator alone, as `airl` always is.
        generator_gamma, generator_lambda: discount and lambda of its advantages.
        generator_entropy: weight of its entropy.
        ppo_epochs, ppo_clip: passes over a batch of rollouts, and the bound of the probability ratio.
        distil: one network is trained to reproduce the average; rollouts and the exported graph use it, unless it ranks
            otherwise than the average.
        distil_updates: its updates.
        plot_tags: two tags (of the frame or commands) for the heat map of the health check; the first state tag and the
            first command where none are named.
    """

    method: Literal["irl", "noise", "mixed"] = "noise"
    coordinates: Literal["innovation", "change"] = "innovation"
    inputs: Literal["all", "current"] = "all"
    hidden: Hidden = (64, 64)
    activation: Activation = "smooth_leaky"
    networks: Count = 4
    updates: Count = 2000
    behaviour_updates: Count = 2000
    batch_size: Count = 256
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 0.5
    snapshots: Count = 4
    snapshot_share: Annotated[float, Field(gt=0, le=1)] = 0.3
    noise_low: float = -1.0
    noise_high: float = 1.0
    form: Literal["airl", "gail"] = "airl"
    generator: Literal["ppo", "pathwise"] = "ppo"
    generator_hidden: Hidden = (64, 64)
    generator_learning_rate: Positive = 1e-3
    generator_steps: Count = 5
    generator_starts: Count = 256
    generator_every: Count = 10
    generator_memory: Annotated[int, Field(ge=0)] = 0
    generator_gamma: Annotated[float, Field(ge=0, lt=1)] = 0.9
    generator_lambda: Share = 0.95
    generator_entropy: NotNegative = 1e-3
    ppo_epochs: Count = 4
    ppo_clip: Positive = 0.2
    distil: bool = True
    distil_updates: Count = 1500
    plot_tags: tuple[str, str] | None = None

    @model_validator(mode="after")
    def _rising(self) -> DynamicsRewardConfig:
        if not self.noise_low < self.noise_high:
            raise ValueError(f"noise_low {self.noise_low} must be below noise_high {self.noise_high}")
        return self

    @model_validator(mode="after")
    def _room_for_snapshots(self) -> DynamicsRewardConfig:
        if self.snapshots > self.updates * self.snapshot_share:
            late = int(self.updates * self.snapshot_share)
            raise ValueError(f"snapshots: {self.snapshots} do not fit into the last {late} updates (snapshot_share)")
        return self

    @model_validator(mode="after")
    def _two_axes(self) -> DynamicsRewardConfig:
        if self.plot_tags is not None and self.plot_tags[0] == self.plot_tags[1]:
            raise ValueError(f"plot_tags: a map needs two tags, and both are '{self.plot_tags[0]}'")
        return self


class RewardModelConfig(Strict):
    """The reward's own network, for plants whose objective is `recorded`; unused elsewhere.

    Attributes:
        distances: whether the networks also read how far apart tags of one unit are, on several scales.
        members: networks, whose mean is the reward.
        updates: gradient steps at most; a twentieth of them lies between two looks at the hold-out error.
        patience: looks without a gain of 1 % after which training stops.
        holdout: share of the episodes held out.
    """

    distances: bool = True
    members: Count = 3
    hidden: Hidden = (128, 128)
    activation: Activation = "smooth_leaky"
    learning_rate: Positive = 1e-3
    weight_decay: NotNegative = 1e-4
    batch_size: Count = 256
    updates: Count = 8000
    patience: Count = 4
    holdout: Annotated[float, Field(gt=0, lt=0.5)] = 0.1


class FilterConfig(Strict):
    """The transition filter (stage 2 of MOREC).

    Attributes:
        enabled: off gives plain model rollouts.
        samples: draws from each elite's Gaussian among the candidates.
        member_means, ensemble_mean: whether the elites' means and their mean are candidates too.
        choose: `argmax` takes the candidate with the highest reward, `softmax` draws with temperature `kappa`. Two
            choices know no dynamics reward, to tell what it adds: `medoid` takes the candidate nearest to the others,
            `regressor` the one nearest to the prediction of a network of another activation.
        threshold: a rollout ends where the chosen reward falls below it; `auto` calibrates it on whole held-out
            trajectories, `survival` of which outlast the rollout length.
        support: whether a rollout ends, too, where the state and the command lie farther from the log than nearly all
            held-out steps do. The dynamics reward says little of states that the log never visited.
    """

    enabled: bool = True
    samples: Annotated[int, Field(ge=0)] = 2
    member_means: bool = True
    ensemble_mean: bool = True
    choose: Literal["argmax", "softmax", "medoid", "regressor"] = "argmax"
    kappa: Positive = 0.1
    threshold: float | Literal["auto", "off"] = "auto"
    survival: Annotated[float, Field(gt=0, lt=1)] = 0.95
    support: bool = False

    @model_validator(mode="after")
    def _candidates(self) -> FilterConfig:
        if not (self.samples or self.member_means or self.ensemble_mean):
            raise ValueError("no candidates: ask for samples, member_means or ensemble_mean")
        return self


class RolloutConfig(Strict):
    """Model rollouts that feed the policy.

    Attributes:
        length: steps at most.
        starts: rollouts begun at a time, from rows of the log.
        every: policy updates between two batches of rollouts (an epoch).
        keep: epochs whose rollouts are kept.
        residual_noise: adds a recorded one-step residual to what the policy sees of each chosen transition, for plants
            whose measurements are noisy: a filter that picks the likeliest candidate would otherwise train on a world
            without noise. The reward is judged before it is added.
        member_per_rollout: every rollout stays with one elite, so that the policy meets each as a plant of its own and
            learns to correct for what the log leaves uncertain; else every step may use any.
        early_starts: share of the rollouts begun within the first `length` usable steps of an episode, where a plant
            is started up and uniform draws hardly look.
        event_starts: share of the rollouts begun at most `length` steps before a large change of an exogenous tag,
            which is where a controller earns its keep and, again, uniform draws hardly look.
        penalty: `disagreement` of the elites' means, or `max_std` (MOPO: the largest norm of their spreads), in units
            of the log's typical change, taken from the reward; `mobile` (MOBILE: the standard deviation over the elites
            of the next state's value), taken from the target of model transitions; or `none`.
        penalty_coefficient: what one unit of it costs, in units of the log's reward spread (`mobile`: a plain factor).
        rejected: what follows where the threshold ends a rollout. `bootstrap`: the rejected transition is discarded,
            and the row before it bootstraps as usual. A number: it leads to an end that earns the log's mean reward,
            less so many of its spreads, for ever (the absorbing state of MOReL, arXiv 2005.05951); 0 says that beyond
            the data nothing is better than the operator.
        rejected_unit: of that number: spreads of the log's rewards, for ever; or (`return`) spreads of the discounted
            returns that its steps had, below their mean. Where steps differ in reward far more than in what they lead
            to, one reward spread for ever is many of the latter; where a plant trips, the mean reward for ever is more
            than any step was worth.
        constraints: `penalty` charges every violation at a fixed price; `lagrangian` gives each constraint of the plant
            a multiplier that rises while more of the rollouts' samples violate it than its tolerated share, and falls
            while fewer do.
        constraint_coefficient: what a violation of a constraint by its tag's whole range costs with `penalty`, in the
            same units.
        multiplier_rate: what a multiplier gains per epoch and unit of excess violation share (dual ascent). A violation
            by one spread of the tag in the log costs one multiplier, in units of the log's reward spread.
        multiplier_gain: a proportional part on top, which damps the oscillation of dual ascent (arXiv 2007.03964).
    """

    length: Count = 100
    starts: Count = 2000
    every: Count = 1000
    keep: Count = 5
    residual_noise: bool = False
    member_per_rollout: bool = False
    early_starts: Share = 0.0
    event_starts: Share = 0.0
    penalty: Literal["disagreement", "max_std", "mobile", "none"] = "disagreement"
    penalty_coefficient: NotNegative = 0.5
    rejected: float | Literal["bootstrap"] = "bootstrap"
    rejected_unit: Literal["reward", "return"] = "reward"
    constraints: Literal["penalty", "lagrangian"] = "penalty"
    constraint_coefficient: NotNegative = 10.0
    multiplier_rate: Positive = 1.0
    multiplier_gain: NotNegative = 0.0

    @model_validator(mode="after")
    def _shares(self) -> RolloutConfig:
        if self.early_starts + self.event_starts > 1.0:
            raise ValueError("early_starts and event_starts add up to more than 1")
        return self


class PolicyConfig(Strict):
    """The policy: soft actor-critic on logged and model transitions, or a baseline that needs the log alone.

    Attributes:
        algorithm: `sac`; `td3_bc` (arXiv 2106.06860) or `bc` (regression of the logged command). The latter two learn
            from logged transitions alone: `real_ratio` must be 1, and nothing that acts on model transitions may be on.
        inputs: what the policy sees: `all` of the observation, the `current` samples alone, or the current samples and
            the `belief` that the best elite draws from the whole window: the state tags to come if the last commands
            stay. The critics and the world model always see all of it.
        commands: how far the policy may go: to the plant file's `limits`, or, of each action, no further than the log
            ever went (`logged`).
        updates: gradient steps.
        real_ratio: share of logged transitions in a batch.
        target_entropy: per action, for commands scaled to [-1, 1].
        critic_norm: layer normalisation in the critics instead of their linear path: what they say of commands and
            states beyond the data stays bounded, where a line goes on for ever (arXiv 2302.02948).
        warm_start: updates that first bring the actor to the operator's command (cloned or recorded: `anchor_to`), so
            that the first rollouts do not begin with whatever fresh weights do to a plant.
        critic_returns: updates that first bring the critics to the discounted returns that the log shows (arXiv
            2406.13376). Their outputs are then scaled by these returns' mean and spread, which spares the time in which
            values rise from 0 to where the plant's are: with `gamma` 0.99, to a hundred times a reward. 0 for none.
        critic_warm_start: of `updates`, so many first ones train the critics alone, on what the actor does after its
            warm start: fresh critics would lead it anywhere.
        centre_rewards: subtracts the log's mean reward, which changes no policy where episodes have no true end, and
            spares the critics the way to a value that all policies share. Off on plants that can trip.
        behaviour_anchor: weight of the squared distance to the operator's command (scaled to [-1, 1]).
        anchor_to: the cloned operator's command, on logged and model transitions alike; or the recorded one (`log`), on
            logged transitions alone (as TD3+BC, arXiv 2106.06860, does): no clone's errors are imitated, and what the
            log says of no state is left to the value.
        anchor_unit: of that weight: one spread of the log's rewards; the discounted sum of rewards of the log's mean
            size (`value`); or one spread of the discounted returns that the log shows (`return`), so that one weight
            suits plants and discounts that differ. A value grows with the discount's horizon, what a command changes
            in it hardly does.
        average: share of the last updates whose actors are averaged (weights) into the one that is kept.
        td3_alpha: weight of the value against imitation in TD3+BC; td3_noise, td3_noise_clip: spread and bound of the
            smoothing noise on target commands, scaled to [-1, 1]; td3_delay: critic updates per actor update.
    """

    algorithm: Literal["sac", "td3_bc", "bc"] = "sac"
    inputs: Literal["all", "current", "belief"] = "all"
    commands: Literal["limits", "logged"] = "limits"
    hidden: Hidden = (256, 256)
    activation: Activation = "relu"
    critic_norm: bool = False
    actor_learning_rate: Positive = 1e-4
    critic_learning_rate: Positive = 3e-4
    gamma: Annotated[float, Field(ge=0, lt=1)] = 0.99
    tau: Annotated[float, Field(gt=0, le=1)] = 0.005
    batch_size: Count = 256
    updates: Annotated[int, Field(ge=0)] = 3_000_000
    real_ratio: Share = 0.05
    initial_alpha: Positive = 0.1
    target_entropy: float = -1.0
    warm_start: Annotated[int, Field(ge=0)] = 500
    critic_returns: Annotated[int, Field(ge=0)] = 0
    critic_warm_start: Annotated[int, Field(ge=0)] = 0
    centre_rewards: bool = False
    behaviour_anchor: NotNegative = 0.0
    anchor_to: Literal["clone", "log"] = "clone"
    anchor_unit: Literal["reward", "value", "return"] = "reward"
    average: Share = 0.0
    td3_alpha: Positive = 2.5
    td3_noise: NotNegative = 0.2
    td3_noise_clip: NotNegative = 0.5
    td3_delay: Count = 2


class RunConfig(Strict):
    """Everything that a training run depends on beside its data.

    Attributes:
        seed: every random number of a run follows from it.
        threads: CPU threads of torch.
        tf32: lets a GPU multiply matrices in TensorFloat-32: faster, with 10 bits of mantissa.
        cuda_graphs: policy updates and rollout steps as recorded CUDA graphs; without a GPU it says nothing.
        checkpoint_every: epochs between two checkpoints of the policy stage.
    """

    seed: Annotated[int, Field(ge=0)] = 0
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Count = 2
    tf32: bool = False
    cuda_graphs: bool = True
    checkpoint_every: Count = 5
    split: SplitConfig = SplitConfig()
    scaling: ScalingConfig = ScalingConfig()
    dynamics: DynamicsConfig = DynamicsConfig()
    reward: DynamicsRewardConfig = DynamicsRewardConfig()
    reward_model: RewardModelConfig = RewardModelConfig()
    filter: FilterConfig = FilterConfig()
    rollout: RolloutConfig = RolloutConfig()
    policy: PolicyConfig = PolicyConfig()

    @model_validator(mode="after")
    def _noise_once(self) -> RunConfig:
        if self.rollout.residual_noise and self.filter.samples:
            raise ValueError("rollout.residual_noise: needs filter.samples 0, or the noise would be added twice")
        return self

    @model_validator(mode="after")
    def _anchored(self) -> RunConfig:
        policy = self.policy
        if policy.behaviour_anchor and policy.anchor_to == "log" and not round(policy.real_ratio * policy.batch_size):
            raise ValueError(
                "policy.anchor_to: log needs logged transitions in every batch, so real_ratio must not be 0"
            )
        return self

    @model_validator(mode="after")
    def _log_alone(self) -> RunConfig:
        algorithm = self.policy.algorithm
        if algorithm == "sac":
            return self
        if self.policy.real_ratio != 1.0:
            raise ValueError(f"policy.real_ratio: {algorithm} learns from logged transitions alone, so it must be 1")
        if self.policy.behaviour_anchor:
            raise ValueError(f"policy.behaviour_anchor: {algorithm} imitates the log by itself, so it must be 0")
        if self.rollout.constraints == "lagrangian":
            raise ValueError(f"rollout.constraints: lagrangian needs model rollouts, which {algorithm} has none of")
        return self

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
        """The configuration in a YAML file, with `section.field=value` overrides.

        Raises:
            ConfigError: a mistake in the file or in an override, with its place and the nearest valid name.
        """
        path = Path(path)
        content = read_yaml(path, ConfigError)
        for override in overrides:
            _set(content, override)
        return validate(cls, content, path, ConfigError)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> RunConfig:
        """Reads what `to_dict` wrote."""
        return validate(cls, content, None, ConfigError)

    def to_dict(self) -> dict[str, Any]:
        """Every field, defaults included."""
        return self.model_dump(mode="json")


def _set(content: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise ConfigError(f"'{override}' is not an override", where="--set", cure="Write --set section.field=value.")
    *sections, field = name.split(".")
    target = content
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"'{section}' has no fields", where=f"--set {override}")
    try:
        target[field] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"'{text}' is not a value", where=f"--set {override}") from None
