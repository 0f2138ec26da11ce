"""Frechet (Fast-dLLM++): commit the largest n with sum c - (n - 1) - (1 - c_(n)) > margin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplers import Factor, Frechet, PolicyError
from tests.toys import chosen, scene


@pytest.mark.parametrize(
    ("margin", "expected"),
    [
        # sorted 1.0 (cell 1), 0.875 (3), 0.75 (0), 0.5 (2)
        # G_1 = 1 - 0 - 0 = 1; G_2 = 1.875 - 1 - 0.125 = 0.75; G_3 = 2.625 - 2 - 0.25 = 0.375; G_4 = 3.125-3-0.5 < 0
        (0.25, [1, 3, 0]),
        (0.375, [1, 3]),  # strict
        (0.75, [1]),
        (1.0, [1]),  # the first is free
        (-0.375, [1, 3, 0]),
        (-0.4, [1, 3, 0, 2]),
    ],
)
def test_table(margin: float, expected: list[int]) -> None:
    view, prediction = scene([[0.75, 1.0, 0.5, 0.875]])
    assert chosen(Frechet(margin), view, prediction) == [expected]


@given(st.lists(st.integers(1, 1023), min_size=1, max_size=12), st.integers(1, 31))
def test_factor_lies_inside(confidence: list[int], sixteenths: int) -> None:
    """Sum (1 - c_j) + (1 - c_n) <= (n + 1)(1 - c_n): what factor f takes, Frechet takes at margin 1 - f.

    Frechet's inequality is strict, so its margin is a hair smaller here; the numbers are exact in fp32.
    """
    factor = sixteenths / 16
    view, prediction = scene([[c / 1024 for c in confidence]])
    (few,), (many,) = (
        chosen(policy, view, prediction) for policy in (Factor(factor), Frechet(max(-1.0, 1 - factor - 1 / 4096)))
    )
    assert many[: len(few)] == few


@given(st.integers(1, 1023), st.integers(1, 12), st.integers(1, 15))
def test_equal_confidences_are_the_factor_rule(confidence: int, cells: int, sixteenths: int) -> None:
    """With c = 1 - e everywhere both reduce to (n + 1) e < f = 1 - margin (equality passes in factor alone)."""
    doubt, bar = 1024 - confidence, sixteenths * 64
    view, prediction = scene([[confidence / 1024] * cells])
    n = max([1, *(k for k in range(1, cells + 1) if (k + 1) * doubt < bar)])
    assert chosen(Frechet(1 - sixteenths / 16), view, prediction) == [list(range(n))]


def test_refuses() -> None:
    with pytest.raises(PolicyError, match=r"margin is 2.*; give a number from -1 to 1"):
        Frechet(2)
