"""Critics: what they say far beyond the data."""

from __future__ import annotations

import pytest
import torch

from controlkit.models.critic import Critics


@pytest.mark.parametrize(("norm", "bounded"), [(True, True), (False, False)])
def test_normalised_critics_are_bounded_beyond_the_data(norm: bool, bounded: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    critics = Critics(3, 2, members=2, hidden=(32, 32), act="relu", generator=generator, norm=norm)
    assert (critics.net.skip is None) == norm
    observation, action = (torch.randn(50, size, generator=generator) for size in (3, 2))
    with torch.no_grad():
        near, far = (critics(scale * observation, scale * action).abs().max() for scale in (1.0, 1e4))
    assert (float(far) < 10.0 * float(near)) == bounded
    weights = critics.net.body[-1].weight
    assert isinstance(weights, torch.Tensor)
    weights = weights.detach()
    if norm:  # by the norm of the last layer's inputs
        assert float(far) <= float(weights.norm(dim=1).max()) * 32**0.5
