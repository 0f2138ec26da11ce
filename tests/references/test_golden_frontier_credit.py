"""Credit: dInfer's decoder in its uncached loop, and inside a cached one."""

from __future__ import annotations

import pytest

from samplers import Credit
from tests.references.frontier_data import Case, assert_same, decode, recorded

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("case", recorded("credit"))
def test_released(case: Case) -> None:
    given = case["settings"]
    policy = Credit(given["threshold"], given["credit_alpha"], given["decay_beta"], given["boost_gamma"])
    assert_same(case, decode(case, policy))
