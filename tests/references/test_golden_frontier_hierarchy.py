"""Hierarchy: dInfer's two implementations, its remasking loop, and its decoder inside a cached loop."""

from __future__ import annotations

import pytest

from samplers import Hierarchy
from tests.references.frontier_data import Case, assert_same, decode, recorded

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("case", recorded("hierarchy"))
def test_released(case: Case) -> None:
    given = case["settings"]
    policy = Hierarchy(given["threshold"], given["low_threshold"], given.get("remask_threshold"))
    assert_same(case, decode(case, policy))
