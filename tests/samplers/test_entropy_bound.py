"""EntropyBound (EB-Sampler): the sum of entropies before the last one stays within gamma."""

from __future__ import annotations

import pytest

from samplers import EntropyBound, PolicyError
from tests.toys import chosen, scene


@pytest.mark.parametrize(
    ("gamma", "expected"),
    [
        # rising entropy: 0.125 (cell 2), 0.25 (0), 0.5 (3), 1.0 (1); sums before: 0, 0.125, 0.375, 0.875
        (0.0, [2]),
        (0.1, [2]),
        (0.125, [2, 0]),  # equality passes
        (0.375, [2, 0, 3]),
        (0.874, [2, 0, 3]),
        (0.875, [2, 0, 3, 1]),
    ],
)
def test_table(gamma: float, expected: list[int]) -> None:
    # the confidences say otherwise: entropy decides
    view, prediction = scene([[0.9, 0.8, 0.1, 0.99]], entropy=[[0.25, 1.0, 0.125, 0.5]])
    assert chosen(EntropyBound(gamma), view, prediction) == [expected]


def test_certainties_are_free() -> None:
    view, prediction = scene([[1.0, 0.5, 1.0, 0.6]], entropy=[[0.0, 0.7, 0.0, 0.6]])
    assert chosen(EntropyBound(0.0), view, prediction) == [[0, 2, 3]]


def test_an_uncertain_cell_does_not_ride_on_a_big_sum() -> None:
    """The sum before a cell is exact even where adding the cell's own entropy would swallow it."""
    view, prediction = scene([[0.9, 0.3]], entropy=[[1e-8, 3.0]])
    assert chosen(EntropyBound(0.0), view, prediction) == [[0]]


def test_declares_entropy_and_refuses() -> None:
    assert EntropyBound().needs == {"entropy"}
    with pytest.raises(PolicyError, match=r"gamma is -1.*; give a number from 0 up"):
        EntropyBound(-1)
