"""Factor (Fast-dLLM): commit the longest prefix with (n + 1)(1 - c_(n)) <= factor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import Factor, PolicyError
from tests.toys import chosen, scene


@pytest.mark.parametrize(
    ("factor", "expected"),
    [
        # sorted 0.95 (cell 1), 0.75 (3), 0.7 (0), 0.5 (2); (n+1)(1-c): -, 3*0.25=0.75, 4*0.3=1.2, 5*0.5=2.5
        (1.0, [1, 3]),
        (0.75, [1, 3]),  # equality passes (0.25 is exact)
        (0.7, [1]),
        (1.3, [1, 3, 0]),
        (2.5, [1, 3, 0, 2]),
        (0.01, [1]),  # the first is free
    ],
)
def test_table(factor: float, expected: list[int]) -> None:
    view, prediction = scene([[0.7, 0.95, 0.5, 0.75]])
    assert chosen(Factor(factor), view, prediction) == [expected]


def test_the_scan_stops_at_the_first_failure() -> None:
    view, prediction = scene([[0.6, 0.6, 0.6, 0.6]])  # (n+1)(1-c): 3*0.4 = 1.2, 4*0.4 = 1.6, 5*0.4 = 2
    assert chosen(Factor(1.19), view, prediction) == [[0]]
    assert chosen(Factor(1.21), view, prediction) == [[0, 1]]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=12), st.floats(0.05, 4))
def test_against_the_formula(confidence: list[int], factor: float) -> None:
    values = torch.tensor([[c / 1000 for c in confidence]])
    view, prediction = scene(values.tolist())
    order = sorted(range(len(confidence)), key=lambda i: (-confidence[i], i))
    expected = order[:1]
    for n, cell in enumerate(order[1:], start=2):
        doubt = 1 - float(values[0, cell])
        if abs((n + 1) * doubt - factor) < 1e-5:
            return  # too close for fp32 to say
        if (n + 1) * doubt > factor:
            break
        expected.append(cell)
    assert chosen(Factor(factor), view, prediction) == [expected]


def test_refuses() -> None:
    with pytest.raises(PolicyError, match=r"factor is 0.*; give a number above 0"):
        Factor(0)
