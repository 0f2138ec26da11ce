"""KLASS: the released loops of LLaDA and Dream."""

from __future__ import annotations

import pytest

from samplers import Klass
from tests.references.frontier_data import Case, assert_completes, assert_same, decode, recorded

pytestmark = pytest.mark.golden


def policy(case: Case) -> Klass:
    """The rule of a case; Dream's falls back to one cell."""
    given = case["settings"]
    steps = given["steps"] // (given["gen_length"] // given["block_length"]) if "block_length" in given else None
    return Klass(given["conf_threshold"], given["kl_threshold"], given["kl_history_length"], steps=steps)


@pytest.mark.parametrize("case", recorded("klass"))
def test_released(case: Case) -> None:
    assert_same(case, decode(case, policy(case)))


@pytest.mark.parametrize("case", recorded("klass", defects=True))
def test_blocks_are_finished(case: Case) -> None:
    """Where the reference runs out of steps and leaves masks: the same until then, and no masks."""
    blocks = case["settings"]["gen_length"] // case["settings"]["block_length"]
    result = decode(case, policy(case))
    assert assert_completes(case, result) >= case["settings"]["steps"] // blocks
    assert case["output_ids"][0].count(case["mask_id"]) == case["masks_left"]
