"""WINO against recorded runs of the released code: tokens, forwards, commits and revocations of each."""

from __future__ import annotations

import pytest

from samplers import Wino
from tests.references.frontier_data import Case, assert_same, cases_of, decode, recorded

pytestmark = pytest.mark.golden


def policy(case: Case) -> Wino:
    """The case's rule; derived cases say which twins they have."""
    given = case["settings"]
    lone = case.get("twins") == "lone"
    return Wino(given["threshold"], given["threshold_back"], twins="lone" if lone else "block")


@pytest.mark.parametrize("case", recorded("wino"))
def test_wino(case: Case) -> None:
    result = decode(case, policy(case))
    assert_same(case, result)
    offset, asked = len(case["prompt_ids"][0]), False
    for i, step in enumerate(result.trace[0].steps):  # a forward with twins has the recorded size
        known = (
            any(t != case["mask_id"] for t in result.trace[0].replay(i)[step.start : step.end]) and not step.opening
        )
        if "row_length" in case:
            plain = offset + len(result.sequences[0])
            assert step.tokens == (case["row_length"] if known else plain)
            asked |= known
    assert asked or "row_length" not in case


def test_the_runs_revoke() -> None:
    assert all(any(step["revoked"] for step in case["steps"]) for case in cases_of("wino") if "row_length" in case)
