"""PcSampler: the released loop under a made-up table of frequencies."""

from __future__ import annotations

import pytest

from samplers import PcSampler
from tests.references.frontier_data import Case, assert_same, decode, recorded
from tests.references.golden_data import golden_path

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("case", recorded("pc_sampler"))
def test_released(case: Case) -> None:
    given = case["settings"]
    policy = PcSampler(
        table=str(golden_path("frontier/pc_sampler") / given["frequencies"]),
        decay=given["lambd"],
        alpha=given["alpha"],
        steps=given["steps"] // (given["gen_length"] // given["block_length"]),
    )
    assert_same(case, decode(case, policy))
