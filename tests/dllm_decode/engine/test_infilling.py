"""Infilling: given tokens stay, the whole text is the answer, and only decided cells are counted."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_decode import CallableModel, DiffusionSampler
from dllm_decode.engine.result import Ending
from tests.toys import EOS, FAMILIES, VOCAB, tiny

MASK, END, WORDS = 9, 8, 10


def wants(tokens: dict[int, int], otherwise: int = 1) -> CallableModel:
    """A model that proposes certain tokens at certain positions, surer the earlier they stand."""

    def fn(ids: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(*ids.shape, WORDS)
        for place in range(ids.shape[1]):
            logits[:, place, tokens.get(place, otherwise)] = 9 - place / 10
            logits[:, place, 2] = 5.0  # the second choice
        return logits

    return CallableModel(fn, mask_id=MASK, eos_ids=(END,), vocab_size=WORDS)


def infilled(model: CallableModel, prompt: list[int], **more: Any) -> Any:
    return DiffusionSampler(model, "topk:k=1").generate(prompt, infill=True, max_new_tokens=0, **more)


def test_a_given_end_token_does_not_end_the_row() -> None:
    result = infilled(wants({}), [MASK, MASK, END, 5, 6, MASK, MASK])
    assert result.sequences == [[1, 1, END, 5, 6, 1, 1]]
    assert (result.nfe, result.content_tokens, result.until_eos_tokens, result.canvas_tokens) == ([4], [4], [4], [4])


def test_no_end_token_in_a_hole_with_text_behind_unless_asked() -> None:
    prompt = [7, MASK, MASK, 5, MASK, MASK]
    model = wants({2: END, 4: END, 5: END})
    assert infilled(model, prompt).sequences == [[1, 2, 5, END, END]]
    asked = infilled(model, prompt, infill_ends=True)
    assert asked.sequences == [[1, END, 5, END, END]], "and even then the given suffix is not cut"
    assert (asked.content_tokens, asked.until_eos_tokens, asked.canvas_tokens) == ([2], [3], [4])
    drafted = DiffusionSampler(model, "freedave:step=(topk:k=1),drafts=3").generate(
        prompt, infill=True, max_new_tokens=0
    )
    assert drafted.sequences == [[1, 2, 5, END, END]]


def test_two_holes_two_forwards() -> None:
    result = infilled(wants({}), [7, MASK, 5, 5, 5, 5, 5, 5, MASK])
    assert (result.nfe, result.content_tokens, result.tokens_per_forward) == ([2], [2], [1.0])


def test_the_text_is_the_whole_text() -> None:
    sampler = DiffusionSampler("tiny", "topk:k=1")
    text = "reverse: a b c<|mask|> c b a<|mask|>"
    (found,) = sampler.generate(text, infill=True, max_new_tokens=0, chat=False).texts or []
    assert found.startswith("reverse: a b c") and " c b a" in found[len("reverse: a b c") :]
    (one,) = sampler.generate("copy: a b<|mask|> a b", infill=True, max_new_tokens=4, chat=False).texts or []
    assert one.startswith("copy: a b") and " a b" in one[len("copy: a b") :]


TOKENS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9)


@settings(max_examples=2 * settings().max_examples)
@given(st.sampled_from(FAMILIES), st.data(), TOKENS, st.sampled_from(["none", "prefix", "dual"]), st.integers(0, 3))
def test_given_tokens_are_never_changed_or_cut(
    family: str, data: st.DataObject, prompt: list[int], cache: str, more: int
) -> None:
    model = tiny(family, 0)
    prompt = [*prompt, model.mask_id] if model.mask_id not in prompt else prompt
    policy = data.draw(st.sampled_from(["topk:k=2", "threshold:threshold=0.3", "localleap", "hierarchy", "ccdds"]))
    result = DiffusionSampler(model, policy, cache).generate(prompt, infill=True, max_new_tokens=more, block_length=4)
    first = prompt.index(model.mask_id)
    whole = [*prompt[:first], *result.sequences[0]]
    assert len(whole) == len(prompt) + more and model.mask_id not in whole
    assert all(now == old for now, old in zip(whole, prompt, strict=False) if old != model.mask_id)
    last = max((i for i, t in enumerate(prompt) if t not in (model.mask_id, EOS)), default=-1)
    assert all(t != EOS for t, old in zip(whole[:last], prompt, strict=False) if old == model.mask_id)
    assert result.canvas_tokens == [sum(t == model.mask_id for t in prompt) + more]


def test_endings() -> None:
    assert Ending.of([1, 2, END, END], [False] * 4, (END,)) == Ending(2, 3, 4)
    assert Ending.of([1, 2], [False] * 2, (END,)) == Ending(2, 2, 2)
    assert Ending.of([1, END, 5, END], [False, False, True, False], (END,)) == Ending(2, 3, 3)
    assert Ending.of([1, END], [False, True], (END,)) == Ending(1, 1, 1)
