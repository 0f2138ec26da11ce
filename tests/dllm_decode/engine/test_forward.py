"""What each forward holds: slots, positions, visible keys, scored cells; nothing more than a part asked for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dllm_decode import CallableModel, NativeModel
from dllm_decode.models import ForwardInput
from samplers import Policy, Scope, TopK
from tests.toys import EOS, FAMILIES, MASK, VOCAB, decode, tiny


class Spy(NativeModel):
    """A tiny model that writes down what it was asked."""

    def __init__(self, family: str, seed: int = 0) -> None:
        super().__init__(tiny(family, seed).module, mask_id=MASK, eos_ids=(EOS,))
        self.calls: list[tuple[ForwardInput, list[tuple[int, int]]]] = []
        self.heads: list[int] = []

    def hidden(self, inp: ForwardInput, cells: Tensor) -> Tensor:
        width = inp.tokens.shape[1]
        self.calls.append((inp, [(int(c) // width, int(inp.positions.flatten()[c])) for c in cells]))
        return super().hidden(inp, cells)

    def head(self, hidden: Tensor) -> Tensor:
        self.heads.append(len(hidden))
        return super().head(hidden)

    def slots(self, call: int, row: int = 0) -> list[int]:
        """Slots that a call forwarded for a row."""
        inp, _ = self.calls[call]
        return inp.positions[row, : int(inp.queries[row])].tolist()

    def scored(self, call: int, row: int = 0) -> list[int]:
        """Slots whose output a call scored."""
        return [slot for r, slot in self.calls[call][1] if r == row]


PROMPT = [1, 2, 3]  # slots 0 to 2; cells 0 to 7 are slots 3 to 10


def spied(family: str, cache: str, policy: Policy | str = "topk:k=1", **settings: Any) -> Spy:
    """Decode 8 cells in blocks of 4 and return the model."""
    spy = Spy(family)
    decode(spy, policy, [PROMPT], cache, **{"max_new_tokens": 8, "block_length": 4, **settings})
    return spy


def test_without_a_cache_every_forward_is_the_row() -> None:
    spy = spied("llada", "none")
    assert len(spy.calls) == 8
    for call, (inp, _) in enumerate(spy.calls):
        assert spy.slots(call) == list(range(11)) and inp.cache is None and inp.branch is None
        assert inp.lengths.tolist() == [11]
    # the head sees the masks of the block and nothing else
    assert spy.heads == [4, 3, 2, 1, 4, 3, 2, 1]
    assert spy.scored(0) == [3, 4, 5, 6] and spy.scored(4) == [7, 8, 9, 10]


@pytest.mark.parametrize(
    ("cache", "inside"), [("prefix", [range(3, 11), range(7, 11)]), ("dual", [range(3, 7), range(7, 11)])]
)
def test_cached_forwards_hold_their_window(cache: str, inside: list[range]) -> None:
    spy = spied("llada", cache)
    assert len(spy.calls) == 8
    for call, (inp, _) in enumerate(spy.calls):
        expected = range(11) if call % 4 == 0 else inside[call // 4]
        assert spy.slots(call) == list(expected)
        assert inp.cache is not None and inp.lengths.tolist() == [11]
    assert spy.heads == [4, 3, 2, 1, 4, 3, 2, 1]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_shifted_model_scores_from_the_slot_before(cache: str) -> None:
    """Cell p is read at slot p - 1; the window begins there if the block's first cell was not committed first."""
    early = set()
    for seed in range(4):
        spy = Spy("dream", seed)
        result = decode(spy, "topk:k=1", [PROMPT], cache, max_new_tokens=8, block_length=4)
        for call, step in enumerate(result.trace[0].steps):
            left = [c for c, token in enumerate(result.trace[0].replay(call)) if token == MASK]
            block = [c for c in left if step.start <= c < step.end]
            assert spy.scored(call) == [3 + c - 1 for c in block]
            first = result.trace[0].steps[call - call % 4].cells[0] == step.start
            begin = 0 if step.opening else 3 + step.start - (not first)
            end = 11 if step.opening or cache == "prefix" else 3 + step.end
            assert spy.slots(call) == list(range(begin, end))
            early.add(first)
    assert early == {True, False}


def test_the_first_slot_of_a_row_is_read_where_it_stands() -> None:
    """Nothing stands before slot 0: Dream reads it from itself (its sampler repeats the first logits)."""
    for cache in ("none", "dual"):
        spy = Spy("dream")
        decode(spy, TopK(), [[MASK, 1, 2]], cache, max_new_tokens=2, infill=True, block_length=None)
        assert spy.scored(0) == [0, 2, 3]


def test_scopes_score_more_cells() -> None:
    class Block(TopK):
        scope = Scope.BLOCK

    class Rest(TopK):
        scope = Scope.REST

    assert spied("llada", "none", Rest()).heads == [8, 7, 6, 5, 4, 3, 2, 1]
    assert spied("llada", "dual", Rest()).heads == [8, 3, 2, 1, 4, 3, 2, 1]  # only the window is predicted
    assert spied("llada", "prefix", Rest()).heads == [8, 7, 6, 5, 4, 3, 2, 1]
    assert spied("llada", "none", Block()).heads == [4] * 8


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_ragged_rows_stand_from_slot_zero(cache: str) -> None:
    spy = Spy("llada")
    decode(spy, TopK(), [[1], [2, 3, 4, 5]], cache, max_new_tokens=4, block_length=2)
    inp, _ = spy.calls[0]
    assert inp.queries.tolist() == [5, 8]
    assert spy.slots(0, 0) == list(range(5)) and spy.slots(0, 1) == list(range(8))
    assert spy.scored(0, 0) == [1, 2] and spy.scored(0, 1) == [4, 5]


@pytest.mark.parametrize("family", FAMILIES)
def test_guidance_is_the_formula_on_two_canvases(family: str) -> None:
    """u + (w + 1)(c - u), u with every given token masked, those between the masks too when infilling."""
    model, scale = tiny(family), 0.7
    prompt = [1, 2, MASK, 4, MASK]
    settings = {"max_new_tokens": 1, "infill": True, "infill_ends": True, "block_length": None}
    result = decode(model, TopK(k=9), [prompt], guidance=scale, **settings)
    row = torch.tensor([[*prompt, MASK]])
    with torch.no_grad():
        plain, blind = model.module(row).logits[0], model.module(torch.full_like(row, MASK)).logits[0]
    logits = blind + (scale + 1) * (plain - blind)
    if family == "dream":
        logits = torch.cat([logits[:1], logits[:-1]])
    sure = logits.softmax(-1)
    logits[:, MASK] = -torch.inf
    cells = {0: 2, 2: 4, 3: 5}
    step = result.trace[0].steps[0]
    assert sorted(step.cells) == list(cells)
    for cell, token, confidence in zip(step.cells, step.new, step.confidence, strict=True):
        assert token == int(logits[cells[cell]].argmax())
        assert confidence == pytest.approx(float(sure[cells[cell], token]), abs=1e-5)
    assert result.rows_forwarded == [2] and result.tokens_forwarded == [12] and result.nfe == [1]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_refresh_shortens_the_openings(cache: str) -> None:
    """Behind the first block an opening forward recomputes the finished block and a window, not the prompt."""
    spy = spied("llada", cache, refresh="window", refresh_window=1, max_new_tokens=12)
    last = 15 if cache == "prefix" else 12
    assert spy.slots(0) == list(range(15))
    assert spy.slots(4) == list(range(3, last))  # block [7, 11) from the finished one at 3, one cell beyond
    assert spy.slots(5) == list(range(7, 15 if cache == "prefix" else 11))
    assert spy.slots(8) == list(range(7, 15))
    every_second = spied("llada", cache, refresh=2, max_new_tokens=12)
    assert [len(every_second.slots(call)) for call in (0, 8)] == [15, 15]
    assert len(every_second.slots(4)) < 15


def test_a_callable_never_sees_padding() -> None:
    shapes: list[tuple[int, ...]] = []

    def fn(ids: Tensor) -> Tensor:
        shapes.append(tuple(ids.shape))
        assert not (ids == EOS).any()  # the padding id
        return torch.nn.functional.one_hot((ids + 1) % (EOS - 1), VOCAB).float()

    model = CallableModel(fn, mask_id=MASK, eos_ids=(EOS,), vocab_size=VOCAB)
    decode(model, "threshold:threshold=0.01", [[1], [2, 3], [4, 5], [6, 7, 8]], max_new_tokens=2)
    assert sorted(shapes) == [(1, 3), (1, 5), (2, 4)]
