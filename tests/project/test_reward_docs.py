"""docs/dynamics-reward.md names every figure, file and warning of the health check, and settings that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from controlkit.config import RunConfig
from controlkit.morec.distil import LEAST_RANK, DistilFit
from controlkit.morec.reward_health import (
    LEAST_AGREEMENT,
    LEAST_CONTRAST,
    MOST_RUNAWAY,
    RewardHealth,
    _warnings,
)
from controlkit.morec.reward_health import LEAST_RANK as LEAST_HEALTHY_RANK

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "dynamics-reward.md").read_text()


def test_every_figure_and_limit_is_explained() -> None:
    for name in RewardHealth.__dataclass_fields__:
        if name not in ("warnings", "displacement", "reward", "recorded", "agreements"):
            assert f"`{name}`" in PAGE, name
    for name in DistilFit.__dataclass_fields__:
        assert f"`distilled.{name}`" in PAGE
    for limit in (LEAST_CONTRAST, LEAST_HEALTHY_RANK, LEAST_AGREEMENT, MOST_RUNAWAY, LEAST_RANK):
        assert f" {limit:g}" in PAGE


def test_every_warning_is_quoted() -> None:
    said = _warnings(rank=0.0, real=0.5, false=0.5, contrast=0.0, runaway=1.0, agreement=0.0, collapsed=1, members=2)
    said += _warnings(rank=1.0, real=0.9, false=0.1, contrast=9.0, runaway=0.0, agreement=0.0, collapsed=0, members=2)
    assert len(said) == 5
    quotes = re.findall(r'"([^"]+)"', PAGE)
    for text in said:
        plain = re.sub(r" \([^)]*\)", "", text)
        assert any(quote in plain for quote in quotes), plain


@pytest.mark.parametrize("page", ["dynamics-reward.md", "training.md"])
def test_settings_and_pictures_exist(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    content = RunConfig().to_dict()
    named = re.findall(r"`(reward|filter|policy|dynamics|rollout|scaling)\.(\w+)", text)
    assert named
    for section, field in named:
        assert field in content[section] or field in ("py",), f"{section}.{field}"
    for path in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (ROOT / "docs" / path).is_file(), path
