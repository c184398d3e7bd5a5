"""The run's networks as the controller graph asks them: a command, an expected change, log odds of a transition."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from controlkit.models.actor import Actor, BehaviourClone
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.models.ensemble import GaussianEnsemble
from controlkit.models.linear_prediction import LinearPrediction, ObserverPrediction, Prediction
from controlkit.models.observer import ObserverEnsemble
from deploy.export.lean import LeanMLP, Plain, lean
from deploy.export.observers import lean_observers
from deploy.export.stages import take


class LeanActor(nn.Module):
    """The policy's mean command: (B, O) -> (B, m), engineering units."""

    def __init__(self, actor: Actor) -> None:
        super().__init__()
        self.actor = lean(copy.deepcopy(actor))
        self.belief = None if actor.belief is None else LeanDynamics(actor.belief)
        self.net = LeanMLP(actor.net, len(actor.reach))
        del self.actor.net, self.actor.belief

    def forward(self, observation: Tensor) -> Tensor:
        actor = self.actor
        x = take(actor.input_scaler(observation), actor.inputs)
        if self.belief is not None:
            x = torch.cat([x, self._expected(observation, self.belief)], dim=-1)
        command: Tensor = actor.centre + actor.reach * torch.tanh(self.net(x))
        return command

    def _expected(self, observation: Tensor, belief: LeanDynamics) -> Tensor:
        """As `Actor.features` has it: the next state tags if the last commands stay, scaled as the current ones are."""
        scaled = belief(observation, take(observation, self.actor.previous)).mean(dim=1)
        expected = take(observation, belief.state_slots) + belief.change_scaler.invert(scaled)
        centre, spread = self.actor.input_scaler.centre, self.actor.input_scaler.spread
        return (expected - take(centre, belief.state_slots)) / take(spread, belief.state_slots)


class LeanClone(nn.Module):
    """The cloned operator's mean command before it is clamped: (B, O) -> (B, m), engineering units."""

    low: Tensor
    high: Tensor

    def __init__(self, clone: BehaviourClone) -> None:
        super().__init__()
        self.input_scaler, self.action_scaler = copy.deepcopy(clone.input_scaler), copy.deepcopy(clone.action_scaler)
        self.net = LeanMLP(clone.net, len(clone.low))
        self.register_buffer("low", clone.low.clone())
        self.register_buffer("high", clone.high.clone())

    def forward(self, observation: Tensor) -> Tensor:
        command: Tensor = self.action_scaler.invert(self.net(self.input_scaler(observation)))
        return command


class LeanDynamics(nn.Module):
    """The mean scaled change of every member of an ensemble: (B, O), (B, m) -> (B, E, S)."""

    state_slots: Tensor

    def __init__(self, ensemble: GaussianEnsemble) -> None:
        super().__init__()
        self.members = ensemble.members
        self.register_buffer("state_slots", ensemble.state_slots.clone())
        self.change_scaler = copy.deepcopy(ensemble.change_scaler)
        self.bilinear, self.observers = None, None
        if isinstance(ensemble, ObserverEnsemble):
            plain = copy.deepcopy(ensemble)
            plain.drop_idle_perceptrons()
            self.bilinear = lean_observers(plain)
            self.observers = lean(plain) if self.bilinear is None else None
        else:
            self.input_scaler = copy.deepcopy(ensemble.input_scaler)
            self.net = LeanMLP(ensemble.net, len(ensemble.state_slots))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        if self.bilinear is not None:
            change: Tensor = self.bilinear(observation, action)
            return change
        if self.observers is not None:
            return self.observers.scaled_change(observation, action)[0].transpose(0, 1)
        flat: Tensor = self.net(self.input_scaler(torch.cat([observation, action], dim=-1)))
        return flat.reshape(len(flat), self.members, -1)

    def parts(self, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and what of it comes from the perceptrons: (B, O), (B, m) -> (B, E, S) twice. Of networks with a
        linear path around them."""
        x = self.input_scaler(torch.cat([observation, action], dim=-1))
        assert self.net.skip is not None
        body = self.net.body(x)
        both: Tensor = body + self.net.skip(x)
        return both.reshape(len(x), self.members, -1), body.reshape(len(x), self.members, -1)


class LeanDiscriminator(nn.Module):
    """Log odds of a transition by every discriminator: (B, O), (B, m), (B, S) deviations -> (B, K).

    A deviation is what the discriminators see of a scaled change: the change itself, or where they have a prediction
    its innovation.
    """

    inputs: Tensor

    def __init__(self, judge: DiscriminatorEnsemble) -> None:
        super().__init__()
        prediction = judge.prediction
        self.observer = LeanDynamics(prediction.observer) if isinstance(prediction, ObserverPrediction) else None
        self.members = judge.members
        self.register_buffer("inputs", judge.inputs.clone())
        self.input_scaler, self.change_scaler = copy.deepcopy(judge.input_scaler), copy.deepcopy(judge.change_scaler)
        self.prediction = lean(copy.deepcopy(judge.prediction)) if judge.prediction is not None else None
        self.net = LeanMLP(judge.net, 1)

    def forward(self, observation: Tensor, action: Tensor, deviation: Tensor) -> Tensor:
        scaled = self.input_scaler(torch.cat([observation, action], dim=-1))
        seen = [take(scaled, self.inputs)]
        if self.prediction is not None:
            seen.append(self.prediction.current_products(scaled))
        flat: Tensor = self.net(torch.cat([*seen, deviation], dim=-1))
        return flat

    def deviation(self, observation: Tensor, action: Tensor, change: Tensor) -> Tensor:
        """Of a scaled change: (B, O), (B, m), (B, S) -> (B, S)."""
        if self.prediction is None:
            return change
        scaled = self.input_scaler(torch.cat([observation, action], dim=-1))
        return (change - self._predicted(self.prediction, observation, action, scaled)) / self.prediction.spread

    def _predicted(self, prediction: Prediction, observation: Tensor, action: Tensor, scaled: Tensor) -> Tensor:
        """The prediction's scaled change, a linear one's as one product with its offset: (B, S)."""
        if self.observer is not None:
            predicted: Tensor = self.observer(observation, action)
            return predicted.squeeze(1)
        assert isinstance(prediction, LinearPrediction)
        return torch.addmm(prediction.bias, prediction.features(scaled), prediction.weight)


class ExpectedDeviation(nn.Module):
    """The innovation of what an ensemble expects on average, from the difference of its linear path and the prediction.

    On a plant without noise both say nearly the same, and an innovation is a hundredth of the change's spread: taken
    one from the other, what is left is the rounding of single precision, which every runtime does in its own order, and
    it decides how far the policy is trusted. The difference of the weights is taken in double precision instead, once.

    Args:
        dynamics: with a linear path.
        judge: with a linear prediction; its changes are scaled as the dynamics' are.
    """

    def __init__(self, dynamics: GaussianEnsemble, judge: DiscriminatorEnsemble) -> None:
        super().__init__()
        prediction, skip = judge.prediction, dynamics.net.skip
        assert isinstance(prediction, LinearPrediction)
        assert skip is not None
        states, inputs = prediction.weight.shape[1], skip.weight.shape[1]
        theirs, ours = dynamics.input_scaler, judge.input_scaler
        stretch = (ours.spread.double() / theirs.spread.double()).unsqueeze(-1)  # (I, 1)
        shift = (ours.centre.double() - theirs.centre.double()) / theirs.spread.double()  # (I,)
        path = skip.weight[..., :states].double().mean(dim=0)  # (I, S)
        weight, bias = -prediction.weight.double(), -prediction.bias.double()
        weight[:inputs] += stretch * path
        bias += skip.bias[..., :states].double().mean(dim=0).squeeze(0) + shift @ path
        spread = prediction.spread.double()
        self.prediction = copy.deepcopy(prediction)
        self.input_scaler = copy.deepcopy(judge.input_scaler)
        self.line = Plain((weight / spread).float(), (bias / spread).float())

    @staticmethod
    def fits(dynamics: GaussianEnsemble, judge: DiscriminatorEnsemble) -> bool:
        """Whether both have what it takes, if their changes are scaled alike."""
        linear = isinstance(judge.prediction, LinearPrediction) and not isinstance(dynamics, ObserverEnsemble)
        return linear and dynamics.net.skip is not None

    def forward(self, observation: Tensor, action: Tensor, body: Tensor) -> Tensor:
        """Innovation: (B, O), (B, m), and what the perceptrons expect on average beside their linear path (B, S) ->
        (B, S)."""
        scaled = self.input_scaler(torch.cat([observation, action], dim=-1))
        line: Tensor = self.line(self.prediction.features(scaled))
        return line + body / self.prediction.spread
