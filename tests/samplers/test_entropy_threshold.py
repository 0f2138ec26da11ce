"""EntropyThreshold (dParallel's sampler): every cell below an entropy."""

from __future__ import annotations

import pytest

from samplers import EntropyThreshold, PolicyError, Setting
from tests.toys import MASK, chosen, scene


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.5, [[2, 0, 3], [1]]),  # equality passes; nothing passes in row 1: its lowest
        (0.25, [[2, 0], [1]]),
        (1.0, [[2, 0, 3, 1], [1]]),
        (0.0, [[2], [1]]),
        (9.0, [[2, 0, 3, 1], [1, 0, 2]]),  # ties: lower position first
    ],
)
def test_table(threshold: float, expected: list[list[int]]) -> None:
    # the confidences say otherwise: entropy decides
    view, prediction = scene(
        [[0.9, 0.8, 0.1, 0.99], [0.9, 0.1, 0.9, None]], entropy=[[0.25, 1.0, 0.125, 0.5], [2.0, 1.5, 2.0, 0.0]]
    )
    assert chosen(EntropyThreshold(threshold), view, prediction) == expected


def test_only_the_block_counts() -> None:
    view, prediction = scene([[0.5, 0.6, 0.99, 0.99]], block=(0, 2), entropy=[[1.0, 0.7, 0.1, 0.1]])
    assert chosen(EntropyThreshold(0.5), view, prediction) == [[1]]


@pytest.mark.parametrize(("family", "released"), [("llada", 0.5), ("dream", 0.45), ("", 0.5)])
def test_the_released_value_of_the_model(family: str, released: float) -> None:
    assert EntropyThreshold().bind(Setting(MASK, family=family)) == EntropyThreshold(released)
    assert EntropyThreshold(0.2).bind(Setting(MASK, family=family)) == EntropyThreshold(0.2)


def test_declares_entropy_and_refuses() -> None:
    assert EntropyThreshold().needs == {"entropy"}
    with pytest.raises(PolicyError, match=r"threshold is -1.*; give a number from 0 up"):
        EntropyThreshold(-1)
