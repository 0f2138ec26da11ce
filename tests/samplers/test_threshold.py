"""Threshold (Fast-dLLM)."""

from __future__ import annotations

import pytest

from samplers import PolicyError, Threshold
from tests.toys import chosen, scene


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.9, [[2, 0], [1]]),  # equality passes; nothing passes in row 1: its best cell
        (0.5, [[2, 0, 3], [1]]),
        (0.3, [[2, 0, 3, 1], [1, 0, 2]]),  # ties: lower position first
        (1.01, [[2], [1]]),
    ],
)
def test_table(threshold: float, expected: list[list[int]]) -> None:
    view, prediction = scene([[0.9, 0.3, 1.0, 0.5], [0.3, 0.4, 0.3, None]])
    assert chosen(Threshold(threshold), view, prediction) == expected


def test_only_the_block_counts() -> None:
    view, prediction = scene([[0.5, 0.6, 0.99, 0.99]], block=(0, 2))
    assert chosen(Threshold(0.9), view, prediction) == [[1]]


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_refuses(threshold: float) -> None:
    with pytest.raises(PolicyError, match=r"threshold is .*; give a (number above 0|finite number)"):
        Threshold(threshold)
