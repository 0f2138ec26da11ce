"""The loop: events, streams, rows that leave, early stop."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from dllm_decode import CallableModel, DiffusionSampler, DllmError, StepEvent
from tests.toys import EOS, FAMILIES, MASK, VOCAB, decode, tiny

PROMPTS = [[1, 2, 3, 4, 5], [6], [7, 8, 9]]


def scripted(answer: list[int], order: list[int] | None = None) -> CallableModel:
    """A model that knows the answer behind a prompt of two tokens; surer of cells that come earlier in ``order``."""
    places = {cell: place for place, cell in enumerate(order or range(len(answer)))}

    def fn(ids: Tensor) -> Tensor:
        logits = torch.zeros(*ids.shape, VOCAB)
        for cell, token in enumerate(answer):
            logits[:, 2 + cell, token] = 12.0 - places[cell] * 0.5
        return logits

    return CallableModel(fn, mask_id=MASK, eos_ids=(EOS,), vocab_size=VOCAB)


@pytest.mark.parametrize("cache", ["none", "dual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_events_tell_the_trace(family: str, cache: str) -> None:
    heard: list[StepEvent] = []
    setting: dict[str, Any] = {"max_new_tokens": 9, "block_length": 4}
    policy = "threshold:threshold=0.5"
    result = decode(tiny(family), policy, PROMPTS, cache, on_step=heard.append, **setting)
    assert decode(tiny(family), policy, PROMPTS, cache, **setting).sequences == result.sequences
    assert len(heard) == sum(result.nfe)
    for row, trace in enumerate(result.trace):
        events = [event for event in heard if event.row == row]
        assert [event.step for event in events] == list(range(1, result.nfe[row] + 1))
        assert [event.finished for event in events] == [False] * (len(events) - 1) + [True]
        for i, (event, step) in enumerate(zip(events, trace.steps, strict=True)):
            canvas = trace.replay(i + 1)
            assert event.tokens == tuple(canvas)
            assert (event.block, event.start, event.end, event.opening) == (
                step.block,
                step.start,
                step.end,
                step.opening,
            )
            assert event.cells == tuple(step.cells) and event.values == tuple(step.new)
            assert event.confidence == tuple(step.confidence)
            assert event.settled == (canvas.index(MASK) if MASK in canvas else len(canvas))
        for earlier, later in itertools.pairwise(events):  # settled cells never change
            assert later.tokens[: earlier.settled] == earlier.tokens[: earlier.settled]


def test_stream_is_lazy_and_equals_generate() -> None:
    sampler = DiffusionSampler(tiny("llada"), "topk:k=1")
    stream = sampler.stream([1, 2], max_new_tokens=5, early_stop=False)
    first = next(stream)
    assert (first.step, len(first.cells), first.finished) == (1, 1, False)
    *_, last = stream
    whole = sampler.generate([1, 2], max_new_tokens=5, early_stop=False)
    assert list(last.tokens) == whole.sequences[0] and last.finished
    with pytest.raises(DllmError, match="holds the mask token"):  # at once, not at the first event
        sampler.stream([1, MASK])


class Streamer:
    """What transformers calls a streamer, with DiffusionGemma's drafts."""

    def __init__(self) -> None:
        self.text: list[int] = []
        self.drafts: list[list[int]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert not self.ended and len(value)
        self.text += value.tolist()

    def put_draft(self, value: Tensor) -> None:
        self.drafts.append(value.tolist())

    def end(self) -> None:
        self.ended += 1


class PlainStreamer:
    """A streamer that knows no drafts."""

    def __init__(self) -> None:
        self.text: list[int] = []

    def put(self, value: Tensor) -> None:
        self.text += value.tolist()

    def end(self) -> None:
        self.text.append(-1)


def test_streamers_get_settled_text_once() -> None:
    model = scripted([3, 4, 5, 6], order=[1, 0, 3, 2])
    streamer = Streamer()
    sampler = DiffusionSampler(model, "topk:k=1")
    result = sampler.generate([1, 2], streamer=streamer, max_new_tokens=4)
    assert streamer.text == [3, 4, 5, 6] == result.sequences[0] and streamer.ended == 1
    assert streamer.drafts == [[MASK, 4, MASK, MASK], [3, 4, MASK, MASK], [3, 4, MASK, 6], [3, 4, 5, 6]]
    plain = PlainStreamer()
    sampler.generate([1, 2], streamer=plain, max_new_tokens=4)
    assert plain.text == [3, 4, 5, 6, -1]
    with pytest.raises(DllmError, match="a streamer follows one prompt, but 2 were given; call generate per prompt"):
        sampler.generate([[1, 2], [3]], streamer=plain)


def test_early_stop_fills_behind_the_end() -> None:
    model = scripted([3, EOS, 5, 6, 7, 8])
    stopped = decode(model, "topk:k=1", [[1, 2]], max_new_tokens=6, early_stop=True)
    assert stopped.sequences == [[3, EOS, EOS, EOS, EOS, EOS]]
    assert stopped.nfe == [2]
    assert (stopped.content_tokens, stopped.until_eos_tokens, stopped.canvas_tokens) == ([1], [2], [6])
    assert stopped.tokens_per_forward == [0.5]
    # what is decided stands before what is filled, whatever the rule ranks by
    for policy in ("topk:k=1", "entropybound:gamma=0", "topk:k=1,score=random"):
        short = decode(model, policy, [[1, 2]], max_new_tokens=6, early_stop=True, block_length=2)
        last = short.trace[0].steps[-1]
        assert last.cells[0] < 2 and last.cells[1:] == last.filled == [2, 3, 4, 5]
    whole = decode(model, "topk:k=1", [[1, 2]], max_new_tokens=6)
    assert whole.sequences == [[3, EOS, 5, 6, 7, 8]] and whole.nfe == [6]
    assert (whole.content_tokens, whole.until_eos_tokens, whole.canvas_tokens) == ([1], [2], [6])


def test_early_stop_waits_for_the_masks_before_the_end() -> None:
    model = scripted([3, 4, EOS, 6], order=[2, 3, 0, 1])
    stopped = decode(model, "topk:k=1", [[1, 2]], max_new_tokens=4, early_stop=True)
    assert stopped.sequences == [[3, 4, EOS, 6]] and stopped.nfe == [4]


def test_finished_rows_leave_the_batch() -> None:
    """Nobody waits for the slowest row, and no forward holds a row that is done."""
    sizes: list[int] = []

    def fn(ids: Tensor) -> Tensor:
        sizes.append(len(ids))
        logits = torch.zeros(*ids.shape, VOCAB)
        logits[..., 3] = 4.0
        return logits

    model = CallableModel(fn, mask_id=MASK, vocab_size=VOCAB)
    rows = [[1, MASK, 1, 1], [1, MASK, MASK, 1], [1, MASK, MASK, MASK]]
    result = decode(model, "topk:k=1", rows, infill=True, max_new_tokens=0)
    assert result.nfe == [1, 2, 3] and sizes == [3, 2, 1] and result.calls == 3
    assert result.sequences == [[3, 1, 1], [3, 3, 1], [3, 3, 3]]


def test_rows_in_different_phases_do_not_share_a_forward() -> None:
    """With a cache, opening and stepping rows are two groups: each row opens once per block."""
    result = decode(tiny("llada"), "threshold:threshold=0.4", PROMPTS, "dual", max_new_tokens=12, block_length=4)
    for row, trace in enumerate(result.trace):
        opened = [step.block for step in trace.steps if step.opening]
        assert opened == sorted(set(step.block for step in trace.steps)) == [0, 1, 2]
        assert result.full_forwards[row] == 3 and result.block_forwards[row] == result.nfe[row] - 3
    assert max(result.nfe) <= result.calls <= sum(result.nfe)


@pytest.mark.parametrize("length", [1, 3, 5, 7, 16])
def test_any_block_length_and_a_shorter_last_block(length: int) -> None:
    result = decode(tiny("llada"), "topk:k=2", [[1]], max_new_tokens=7, block_length=length)
    bounds = sorted({(step.start, step.end) for step in result.trace[0].steps})
    assert bounds == [(i, min(i + length, 7)) for i in range(0, 7, length)]


def test_infilling_keeps_what_was_given() -> None:
    for family, cache in itertools.product(FAMILIES, ("none", "prefix", "dual")):
        prompt = [MASK, 4, MASK, MASK, 6, 7, MASK, 8]
        result = decode(tiny(family), "topk:k=1", [prompt], cache, infill=True, max_new_tokens=2, block_length=3)
        filled = result.sequences[0]
        assert [t for t, p in zip(filled, prompt, strict=False) if p != MASK] == [4, 6, 7, 8]
        assert MASK not in filled and len(filled) == 10
        assert result.trace[0].prompt == [] and result.nfe == [6]
