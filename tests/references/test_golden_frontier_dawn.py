"""DAWN against recorded runs of the released code: tokens, forwards and commits of each, and its attention."""

from __future__ import annotations

from typing import Any

import pytest

from samplers import Dawn, Prediction, View
from tests.references.frontier_data import Case, assert_same, decode, recorded

pytestmark = pytest.mark.golden


def policy(case: Case, kind: type[Dawn] = Dawn) -> Dawn:
    """The case's rule."""
    given = case["settings"]
    sizes = {name: given[f"tau_{name}"] for name in ("sink", "edge", "induce", "low")}
    return kind(**sizes, strong=given["strong_threshold"], layers=given["attention_layers"])


@pytest.mark.parametrize("case", recorded("dawn"))
def test_dawn(case: Case) -> None:
    heard: list[list[float]] = []

    class Look(Dawn):
        def decide(self, view: View, prediction: Prediction, memory: Any) -> Any:
            assert prediction.attention is not None
            heard.append(prediction.attention.weights[0, 0].tolist())
            return super().decide(view, prediction, memory)

    assert_same(case, decode(case, policy(case, Look)))
    assert heard[0] == pytest.approx(case["first_attention_row"], abs=1e-4)
