import pytest
import torch

from mmlearnconv.analysis import search_path


def off_the_line(path):
    """Largest distance of a step's direction from that of the line to the origin."""
    steps = path.diff(dim=0)
    directions = steps / steps.norm(dim=1, keepdim=True).clamp_min(1e-300)
    line = -path[0] / path[0].norm()
    moving = steps.norm(dim=1) > 1e-12
    return (directions[moving] - line).norm(dim=1).max().item()


def test_the_gaussian_path_is_straight_and_arrives():
    path = search_path("gauss", steps=400)
    assert off_the_line(path) < 1e-3
    assert path[-1].norm() < 0.05 * path[0].norm()


def test_the_bilinear_path_is_neither():
    path = search_path("bilinear")
    assert off_the_line(path) > 0.1
    # Eq. 17 at [1, 0.7]: (0.7 - 1, 1 - 1).
    torch.testing.assert_close(path[1] - path[0], 0.02 * torch.tensor([-0.3, 0.0]).double())
    # It jumps back and forth across the optimum.
    assert (path[-20:].sign().diff(dim=0) != 0).any()


def test_an_unknown_interpolation_is_named():
    with pytest.raises(ValueError, match="'cubic'"):
        search_path("cubic")
