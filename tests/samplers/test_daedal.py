"""Daedal: grow while the end is not in sight, then expand what the model doubts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from dllm_decode import DiffusionSampler, GenerationConfig, StepEvent
from dllm_decode.viewing.glyphs import Glyphs
from dllm_decode.viewing.playback import CanvasState, events_of
from dllm_decode.viewing.viewer import pack_record, pack_trace
from samplers import CCD, Daedal, Decision, Insertion, LocalLeap, PolicyError, Threshold, parse_policy, settle
from samplers.contract.memory import move_cells
from tests.toys import EOS, MASK, Ending, commits, decode, scene, tiny

PROMPTS = [[3, 1, 4], [5], [9, 2]]
POLICY = "threshold:threshold=0.4+daedal:initial_length=3,factor=3,window=4,enough=0.3,expand_below=0.5,low=0.5"
SETTINGS: dict[str, Any] = {"max_new_tokens": 14, "block_length": 4}


def stage(confidence: list[float], tokens: list[int], policy: Daedal, growing: bool, budget: int, **more: Any) -> Any:
    """What the part makes of a forward beside a threshold of 0.5, and what it remembers."""
    view, prediction = scene([confidence], tokens=[tokens], **more)
    view = replace(view, budget=view.budget * 0 + budget)
    memory = replace(policy.begin(view), growing=torch.tensor([growing]))
    decided, _ = Threshold(0.5).decide(view, prediction, None)
    decision, memory = policy.finish(view, prediction, decided, memory)
    return settle(view, decision), memory


def test_the_first_stage_adds_masks_until_the_end_is_in_sight() -> None:
    policy = Daedal(initial_length=4, factor=3, window=2, enough=0.5)
    # one end token of two that are looked for: (0.8 + 0) / 2
    decision, memory = stage([0.9, 0.9, 0.9, 0.8], [5, 6, 7, EOS], policy, True, 9)
    assert not decision.write.any() and decision.hold.all() and decision.reopen.all() and memory.growing.all()
    assert [x.tolist() for x in (decision.insert.at, decision.insert.count, decision.insert.token)] == [
        [4],
        [3],
        [MASK],
    ]
    # the last two count: (0.4 + 0.8) / 2; half a window of end tokens is put in
    decision, memory = stage([0.1, 0.9, 0.4, 0.8], [EOS, 6, EOS, EOS], policy, True, 9)
    assert not decision.write.any() and not memory.growing.any()
    assert [x.tolist() for x in (decision.insert.at, decision.insert.count, decision.insert.token)] == [
        [4],
        [1],
        [EOS],
    ]
    # as long as it may be: nothing is added, and decoding begins
    decision, memory = stage([0.9, 0.9, 0.9, 0.8], [5, 6, 7, EOS], policy, True, 4)
    assert decision.insert.count.tolist() == [0] and not memory.growing.any() and decision.hold.all()


def test_the_second_stage_expands_the_least_confident_mask() -> None:
    policy = Daedal(initial_length=5, factor=4, window=2, expand_below=0.5, low=0.3)
    doubts = [0.9, 0.2, 0.1, 0.1, 0.05]
    decision, _ = stage(doubts, [5, 6, 7, 8, 9], policy, False, 20, block=(0, 4))
    assert decision.write[0].tolist() == [True, False, False, False, False] and not decision.hold.any()
    assert (decision.insert.at.tolist(), decision.insert.count.tolist()) == ([2], [3])
    decision, _ = stage(doubts, [5, 6, 7, 8, 9], policy, False, 7, block=(0, 4))
    assert decision.insert.count.tolist() == [3]  # the last of the row is lost
    for other in (replace(policy, low=0.1), replace(policy, expand_below=0.0)):
        assert stage(doubts, [5, 6, 7, 8, 9], other, False, 20, block=(0, 4))[0].insert.count.tolist() == [0]


def test_a_row_that_ends_is_not_grown() -> None:
    view, prediction = scene([[0.5, 0.5]] * 3)
    view = replace(view, budget=view.budget * 4)
    yes, no = torch.tensor([True]), torch.tensor([False])
    put = Insertion(torch.tensor([2] * 3), torch.tensor([9] * 3), torch.tensor([MASK] * 3))
    decision = Decision(view.masked, prediction.token, torch.cat([no, yes, no]), torch.tensor([2, 2, 1]), insert=put)
    settled = settle(view, decision)
    assert settled.insert is not None and settled.insert.count.tolist() == [6, 0, 0]


def test_cells_move_in_a_memory() -> None:
    source = Insertion(torch.tensor([1]), torch.tensor([2]), torch.tensor([MASK])).source(5)
    assert source.tolist() == [[0, -1, -1, 1, 2]]
    before, fresh = {"row": torch.tensor([7]), "cell": torch.arange(10.0).view(1, 5, 2)}, torch.full((1, 5, 2), -1.0)
    after = move_cells(before, source, {"row": torch.tensor([0]), "cell": fresh})
    assert after["row"].tolist() == [7]
    assert after["cell"][0].tolist() == [[0, 1], [-1, -1], [-1, -1], [2, 3], [4, 5]]


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_rows_grow_on_their_own_within_their_budget(cache: str) -> None:
    grown = set()
    for seed in range(3):
        batch = decode(Ending(tiny("llada", seed), 4.0), POLICY, PROMPTS, cache, **SETTINGS)
        for row, prompt in enumerate(PROMPTS):
            alone = decode(Ending(tiny("llada", seed), 4.0), POLICY, [prompt], cache, **SETTINGS)
            assert alone.sequences[0] == batch.sequences[row] and commits(alone) == commits(batch, row)
            assert MASK not in batch.sequences[row] and len(batch.sequences[row]) <= 14
            grown.add(len(batch.sequences[row]))
    assert len(grown) > 1


def test_what_is_heard_recorded_and_shown_is_the_canvas_that_grows() -> None:
    events: list[StepEvent] = []
    result = decode(Ending(tiny("llada", 2), 4.0), POLICY, [[5, 9]], on_step=events.append, **SETTINGS)
    (trace,), glyphs = result.trace, Glyphs(None, MASK, (EOS,))
    assert len(trace.canvas) == 3 and trace.replay() == result.sequences[0]
    within = [step for step in trace.steps if step.inserted and step.inserted[0] < step.length - step.inserted[1]]
    assert within and any(step.inserted and step not in within for step in trace.steps)
    state, settled = CanvasState.before(events[0], glyphs), 0
    assert state.tokens == trace.canvas
    for number, event in enumerate(events, 1):
        state.apply(event)
        assert list(event.tokens) == trace.replay(number) and len(state.committed) == len(event.tokens)
        assert [step == 0 for step in state.committed] == [token == MASK for token in event.tokens]
        assert event.settled >= settled and events[-1].tokens[:settled] == event.tokens[:settled]
        settled = event.settled
    assert [replace(e, settled=0) for e in events_of(trace)] == [replace(e, settled=0) for e in events]
    assert sorted(trace.order()) == [c for c, _ in enumerate(result.sequences[0]) if c in trace.commits()]
    packed = pack_trace(trace)
    assert [put[1:] for put in packed["i"]] == [step.inserted for step in trace.steps if step.inserted]
    from dllm_decode.lab.records import facts

    record = facts(result, 0, (EOS,))
    again = pack_record(record, MASK)
    assert {**again, "p": 0} == {**packed, "p": 0}


def test_refusals() -> None:
    model = tiny("llada")
    with pytest.raises(PolicyError, match="Daedal puts cells into a row, which moves those that CCD remembers"):
        decode(model, CCD() | Daedal(), [[1]], max_new_tokens=4)
    with pytest.raises(PolicyError, match="infilling has it given"):
        decode(model, Threshold(0.5) | Daedal(), [[1, MASK]], infill=True)
    with pytest.raises(PolicyError, match="factor is 0; give a whole number from 1 up"):
        parse_policy("daedal:factor=0")
    with pytest.raises(PolicyError, match="no part of Daedal decides"):
        DiffusionSampler(model, "daedal", config=GenerationConfig(early_stop=False))
    assert decode(model, LocalLeap(0.5, 0.3) | Daedal(2, 2, 2), [[1, 2]], max_new_tokens=6).sequences
