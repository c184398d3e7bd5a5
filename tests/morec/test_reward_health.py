"""The health check: silent for a reward that ranks, and a warning with the reason for each that does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from controlkit.artifacts import RunFolder
from controlkit.errors import ConfigError
from controlkit.models.discriminator import DiscriminatorEnsemble
from controlkit.morec.innovation import fit_linear_prediction
from controlkit.morec.learn_world import HEALTH
from controlkit.morec.reward_health import DISPLACED, ROWS, RewardHealth, examine
from controlkit.morec.reward_plots import plot_health
from controlkit.morec.train import train
from controlkit.objective import CommandLimits
from controlkit.progress import Silent
from tests import noisy_plant, small_plant
from tests.noisy_plant import config, trained, untrained

PNG = b"\x89PNG\r\n\x1a\n"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def health_of(reward: DiscriminatorEnsemble) -> RewardHealth:
    plant = noisy_plant.spec()
    return examine(reward, noisy_plant.log(plant, seed=5), CommandLimits(plant), seeded())


class Planted(DiscriminatorEnsemble):
    """Log odds by a formula of the innovation z (..., S), one for each member."""

    formulas: tuple[Any, ...]

    def logits(self, observation: torch.Tensor, action: torch.Tensor, scaled_change: torch.Tensor) -> torch.Tensor:
        z = ((scaled_change - self.expected_change(observation, action)) / self.unit)[..., 0]
        far = (observation[..., 0].abs() > 4).expand_as(z)
        return torch.stack([formula(z, far) for formula in self.formulas])


def planted(*formulas: Any) -> DiscriminatorEnsemble:
    plant, log = noisy_plant.spec(), noisy_plant.log()
    reward = untrained(log, plant, config(networks=len(formulas)))
    fit_linear_prediction(reward, log)
    reward.__class__ = Planted
    reward.formulas = formulas  # type: ignore[assignment]
    return reward


def density(z: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
    return 1.0 - 0.5 * z.square()


def named(health: RewardHealth, *words: str) -> None:
    """Exactly these warnings, in this order."""
    assert len(health.warnings) == len(words), health.warnings
    for warning, word in zip(health.warnings, words, strict=True):
        assert word in warning


def test_nothing_is_said_of_a_reward_that_ranks() -> None:
    health = health_of(planted(density, density))
    named(health)
    assert health.rank > 0.8  # below 1: the recorded outcome itself is noisy
    assert health.agreement == pytest.approx(1.0)
    assert health.collapsed == 0
    assert health.runaway_share == 0.0
    assert health.probability_real > health.probability_false + 0.2


def test_nothing_is_said_of_a_reward_that_was_trained_well() -> None:
    reward, _ = trained(noisy_plant.log(), noisy_plant.spec(), networks=2, updates=300, learning_rate=5e-3)
    named(health_of(reward))


def test_ranks_and_displacements_are_those_of_the_known_density() -> None:
    health = health_of(planted(density))
    assert health.displacement.shape == health.reward.shape == (ROWS, DISPLACED)
    assert health.recorded.shape == (ROWS,)
    assert bool(torch.isfinite(health.reward).all())
    # r_D = softplus(1 - z^2 / 2), z the recorded innovation and a shift: a standard normal one for the recorded.
    mean = torch.nn.functional.softplus(density(torch.randn(10**6, generator=seeded()), torch.tensor(False))).mean()
    assert float(health.recorded.mean()) == pytest.approx(float(mean), rel=0.1)
    far = health.displacement > 8
    assert float(health.reward[far].max()) < 0.01
    near = health.displacement < 0.05
    assert float(health.reward[near].mean()) == pytest.approx(float(mean), rel=0.15)


def test_a_reward_that_is_sure_of_everything_has_finite_plots() -> None:
    health = health_of(planted(lambda z, far: 0 * z + 40.0))
    assert bool(torch.isfinite(health.reward).all())
    assert "nan" not in str(health.to_dict())


def test_a_constant_reward_is_named_collapsed() -> None:
    health = health_of(planted(lambda z, far: 0 * z + 1.0))
    named(health, "hardly tells recorded outcomes", "does not rank", "1 of 1 networks")
    assert health.rank == 0.0
    one = health_of(planted(density, lambda z, far: 0 * z + 1.0))
    named(one, "1 of 2 networks of the dynamics reward give every outcome the same odds")


def test_one_half_everywhere_is_named() -> None:
    health = health_of(planted(lambda z, far: 0.02 * torch.sin(50 * z), lambda z, far: 0.1 * torch.sin(50 * z)))
    assert health.probability_real == pytest.approx(0.5, abs=0.01)
    assert health.probability_false == pytest.approx(0.5, abs=0.01)
    assert "as where a generator has won" in health.warnings[0]
    assert "(D 0.50)" in health.warnings[0]
    assert "reward.method noise or reward.form airl" in health.warnings[0]


def test_what_tells_outcomes_apart_at_tiny_probabilities_is_not_called_undecided() -> None:
    """The density of a plant without noise is sharp, and D near 0 for real and false outcomes alike."""
    health = health_of(planted(lambda z, far: density(z, far) - 20.0))
    assert health.probability_real - health.probability_false < 1e-6
    assert health.contrast > 1.0
    named(health)


def test_the_contrast_is_the_median_of_differences_in_log_odds() -> None:
    health = health_of(planted(lambda z, far: z))
    # As many displacements raise the outcome as lower it.
    assert health.contrast == pytest.approx(0.0, abs=0.1)
    shifted = health_of(planted(lambda z, far: torch.where(z.abs() > 0.3, 1.0, 4.0)))
    assert shifted.contrast == 0.0
    assert any("hardly tells" in text for text in shifted.warnings)


def test_a_runaway_peak_is_named() -> None:
    def runaway(z: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
        return torch.where(far & (z.abs() > 60), 30.0, density(z, far))

    health = health_of(planted(runaway))
    named(health, "runaway peaks")
    assert 0.1 < health.runaway_share < 0.9  # it is planted where |level| > 4 alone
    assert "reward.weight_decay" in health.warnings[0]


def test_snapshots_that_contradict_each_other_are_named() -> None:
    health = health_of(
        planted(
            lambda z, far: density(z, far),
            lambda z, far: 0.2 * z.clamp(-20, 20),
            lambda z, far: -0.2 * z.clamp(-20, 20),
        )
    )
    assert any("contradict each other" in text for text in health.warnings)
    assert float(health.agreements[1, 2]) == pytest.approx(-1.0, abs=0.01)  # beyond 20 both are flat
    assert float(health.agreements[0, 0]) == pytest.approx(1.0)
    off = health.agreements[~torch.eye(3, dtype=torch.bool)]
    assert health.agreement == pytest.approx(float(off.mean()))


def test_a_reward_that_ranks_the_wrong_way_is_named() -> None:
    health = health_of(planted(lambda z, far: 0.1 * z.abs()))
    assert health.rank < -0.8
    assert any("does not rank held-out outcomes" in text for text in health.warnings)


def test_figures_are_plain_numbers() -> None:
    content = health_of(planted(density)).to_dict()
    assert list(content) == [
        "rank", "probability_real", "probability_false", "contrast", "runaway_share", "agreement", "collapsed",
        "warnings",
    ]  # fmt: skip
    assert content["warnings"] == []


@pytest.mark.parametrize("threshold", [-torch.inf, 0.5])
@pytest.mark.parametrize("tags", [None, ["load", "temperature"], ["valve", "load"]])
def test_plots_are_written_for_any_two_tags(tmp_path: Path, tags: list[str] | None, threshold: float) -> None:
    plant = noisy_plant.spec(2, states=2)
    log = noisy_plant.log(plant)
    settings = config(plot_tags=tags, networks=2, snapshots=2)
    reward = untrained(log, plant, settings)
    fit_linear_prediction(reward, log)
    health = examine(reward, log, CommandLimits(plant), seeded())
    folder = tmp_path / "health"
    plot_health(folder, health, reward, log, plant, settings.reward, float(threshold))
    assert sorted(path.name for path in folder.iterdir()) == ["map.png", "ranking.png", "snapshots.png"]
    for path in folder.iterdir():
        assert path.read_bytes().startswith(PNG)
        assert path.stat().st_size > 5000


def test_plots_of_a_single_network_without_innovations_on_a_tag_that_stands_still(tmp_path: Path) -> None:
    plant = noisy_plant.spec(load=False)
    log = noisy_plant.log(plant, episodes=1, steps=20, noise=0.0)
    log.frames[:] = 1.0
    settings = config(coordinates="change")
    reward = untrained(log, plant, settings)
    plot_health(tmp_path, examine(reward, log, CommandLimits(plant), seeded()), reward, log, plant, settings.reward)
    assert (tmp_path / "map.png").read_bytes().startswith(PNG)


def test_a_run_keeps_figures_and_plots_and_says_its_warnings(tmp_path: Path) -> None:
    data = small_plant.dataset(noise=0.1)
    settings = small_plant.config(reward={"updates": 20}, policy={"updates": 0})
    record = {"data_sha256": "0" * 64, "spec_sha256": data.spec.sha256()}
    folder, progress = RunFolder.create(tmp_path / "run", settings, data, record), Silent()
    train(folder, data, progress)
    names = {path.name for path in (folder.path / HEALTH).iterdir()}
    assert names == {"health.json", "map.png", "ranking.png", "snapshots.png"}
    # Twenty updates teach nothing, and the run says so.
    assert any(text.startswith("Warning: the dynamics reward hardly tells") for text in progress.messages)


def test_a_tag_that_the_plant_has_not_is_found_before_anything_is_written(tmp_path: Path) -> None:
    data = small_plant.dataset()
    settings = small_plant.config(reward={"plot_tags": ["level", "valf"]})
    record = {"data_sha256": "0" * 64, "spec_sha256": data.spec.sha256()}
    with pytest.raises(ConfigError, match=r"reward.plot_tags.*unknown tag 'valf'.*valve"):
        RunFolder.create(tmp_path / "run", settings, data, record)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="a map needs two tags, and both are 'level'"):
        small_plant.config(reward={"plot_tags": ["level", "level"]})
