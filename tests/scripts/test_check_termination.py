"""Every policy ends under adversarial predictions, and a run that does not would be noticed."""

from __future__ import annotations

from random import Random

import pytest
from torch import Tensor

from samplers import REGISTRY, Decision, Prediction, Threshold, View
from samplers.contract.memory import Memory
from scripts.check_batches import Case, policies
from scripts.check_termination import KINDS, judge, wrong


@pytest.mark.parametrize("chunk", range(4))
def test_everything_ends(chunk: int) -> None:
    for number in range(chunk, 120, 4):
        verdict = judge(2, number)
        assert verdict.kind == "same", verdict.case


def test_every_registered_policy_is_tried() -> None:
    tried = {name.partition(":")[0] for policy in policies() for name in policy.replace("(", "+").split("+")}
    assert set(REGISTRY) <= tried


@pytest.mark.parametrize("kind", KINDS)
def test_what_does_not_end_is_noticed(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(self: Threshold, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        nothing: Tensor = view.masked & ~view.masked
        return Decision(nothing, prediction.token, hold=~nothing.any(-1)), memory

    monkeypatch.setattr(Threshold, "decide", wait)
    case = Case("llada", 0, "threshold:threshold=0.4", "none", ((1, 2),), {"max_new_tokens": 4, "early_stop": False})
    fault = wrong(case, kind)
    assert fault is not None and "without getting nearer" in fault


def test_cases_repeat() -> None:
    first, again = (Case.draw(Random("2/5")) for _ in range(2))
    assert str(first) == str(again) and judge(2, 5) == judge(2, 5)
