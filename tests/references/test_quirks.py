"""The parts that reproduce quirks of reference code."""

from __future__ import annotations

import pytest
import torch

from samplers import Decision, Factor, PolicyError, Setting, Threshold
from tests.references.quirks import BlindFirst, ExtraForward, LastRankFactor, ThresholdQuota
from tests.references.released_ccd import ReleasedCCD
from tests.toys import MASK, chosen, in_order, scene


def test_extra_forward_holds_the_opening_only() -> None:
    for step, held in ((0, True), (1, False)):
        view, prediction = scene([[0.5], [0.5]], block_step=step)
        decision = Decision(view.masked, prediction.token)
        done, _ = ExtraForward().finish(view, prediction, decision, None)
        assert done.hold is not None and done.hold.tolist() == [held, held]
    kept = Decision(view.masked, prediction.token, hold=torch.tensor([True, False]))
    done, _ = ExtraForward().finish(view, prediction, kept, None)
    assert done.hold is not None and done.hold.tolist() == [True, False]


def test_blind_first_commits_the_first_cell_on_the_opening() -> None:
    for step, expected in ((0, [[2], []]), (1, [[4, 3], [3]])):
        view, prediction = scene(
            [[None, None, 0.1, 0.9, 0.95], [None, None, None, 0.6, 0.5]], block=(2, 5), block_step=step
        )
        decision, _ = Threshold(0.9).decide(view, prediction, None)
        decision, _ = BlindFirst().finish(view, prediction, decision, None)
        assert in_order(decision) == expected
    # A row that another part has just stopped is full, and stays so.
    view, prediction = scene([[0.1, 0.9, 0.95], [0.1, 0.9, 0.95]])
    stopped = Decision(view.masked, prediction.token, stop=torch.tensor([True, False]))
    decision, _ = BlindFirst().finish(view, prediction, stopped, None)
    assert decision.write.tolist() == [[True, True, True], [True, False, False]]
    setting = Setting(mask_id=MASK, cache="dual", shift=1)
    assert BlindFirst().bind(setting) == BlindFirst()
    for cache, shift in (("none", 1), ("dual", 0)):
        with pytest.raises(PolicyError, match="BlindFirst reproduces a cached loop of a shifted model"):
            BlindFirst().bind(Setting(mask_id=MASK, cache=cache, shift=shift))


def test_threshold_quota_carries_over() -> None:
    """6 masks in 3 steps: 2 a step plus what was left; the last step's remainder adds forwards."""
    policy = ThresholdQuota(steps=3, threshold=0.9)
    view, prediction = scene([[0.95, 0.5, 0.4, 0.3, 0.2, 0.1]])
    decision, memory = policy.decide(view, prediction, policy.begin(view))
    assert in_order(decision) == [[0]] and decision.hold.tolist() == [True]  # type: ignore[union-attr]
    view, prediction = scene([[None, 0.95, 0.94, 0.93, 0.92, 0.1]], block_step=1)
    decision, memory = policy.decide(view, prediction, memory)
    assert in_order(decision) == [[1, 2, 3]]  # 2 + 1 carried over, though four reach the threshold
    view, prediction = scene([[None, None, None, None, 0.5, 0.1]], block_step=2)
    decision, memory = policy.decide(view, prediction, memory)
    assert in_order(decision) == [[4]] and decision.hold.tolist() == [True]  # type: ignore[union-attr]
    view, prediction = scene([[None, None, None, None, None, 0.1]], block_step=3)
    decision, memory = policy.decide(view, prediction, memory)
    assert in_order(decision) == [[5]] and decision.hold.tolist() == [False]  # type: ignore[union-attr]
    with pytest.raises(PolicyError, match="steps is 0; give a whole number from 1 up"):
        ThresholdQuota(steps=0)
    with pytest.raises(PolicyError, match="threshold is 0; give a number above 0"):
        ThresholdQuota(threshold=0)


def test_last_rank_factor() -> None:
    """Only the last rank fails: the released code commits it too."""
    view, prediction = scene([[0.9, 0.1], [0.9, 0.1]])
    view2, three = scene([[0.9, 0.85, 0.1]])
    assert chosen(Factor(1.0), view, prediction) == [[0], [0]]
    assert chosen(LastRankFactor(1.0), view, prediction) == [[0, 1], [0, 1]]
    assert chosen(Factor(1.0), view2, three) == [[0, 1]]
    assert chosen(LastRankFactor(1.0), view2, three) == [[0, 1, 2]]
    view3, middle = scene([[0.9, 0.2, 0.1]])  # fails at rank 2 of 3: no quirk
    assert chosen(LastRankFactor(1.0), view3, middle) == [[0]]


def test_released_ccd_keeps_runners_up() -> None:
    view, _ = scene([[0.9, 0.5, 0.4]])
    policy = ReleasedCCD().bind(Setting(MASK, family="dream"))
    released = policy.begin(view)
    assert released.cells.shape == (1, 5) and policy.needs == {"entropy"}
