"""EntropyThreshold: the sampler of dParallel, LLaDA over every cache and Dream."""

from __future__ import annotations

import pytest

from samplers import EntropyThreshold
from tests.references.frontier_data import Case, assert_same, decode, recorded

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("case", recorded("entropy_threshold"))
def test_released(case: Case) -> None:
    assert_same(case, decode(case, EntropyThreshold(case["settings"]["threshold"])))
