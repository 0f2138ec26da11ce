"""Saber: the released loop, with one block; with several until it first takes back a cell of a finished one."""

from __future__ import annotations

import pytest

from samplers import Saber
from tests.references.frontier_data import Case, assert_completes, assert_same, decode, recorded, told

pytestmark = pytest.mark.golden


@pytest.mark.parametrize("case", recorded("saber"))
def test_released(case: Case) -> None:
    assert_same(case, decode(case, Saber(case["settings"]["n"])))


@pytest.mark.parametrize("case", recorded("saber", defects=True))
def test_until_a_finished_block_changes(case: Case) -> None:
    """Here finished blocks are settled: the runs are the same up to the forward that revokes in one."""
    first, width = len(case["prompt_ids"][0]), case["settings"]["block_length"]
    settled = [any((at - first) // width < step["block"] for at in gone) for (_, gone), step in told(case)]
    assert assert_completes(case, decode(case, Saber(case["settings"]["n"]))) == settled.index(True)
