"""DoubtExit: the sum it takes, the text it is about, what it fills, caches; its bound on a calibrated oracle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import Decision, DoubtExit, PolicyError, Scope, Setting, Threshold
from tests.toys import EOS, MASK, VOCAB, decode, scene, tiny

SETTING = Setting(mask_id=MASK, eos_ids=(EOS,), vocab_size=VOCAB, block_length=4, max_new_tokens=8)


def finish(
    policy: DoubtExit, confidence: list[float | None], tokens: list[int], memory: Any = None, seen: Any = None
) -> tuple[Decision, Any]:
    """One forward's end, after a decider that wrote nothing; ``seen``: the cells it covered."""
    view, prediction = scene([confidence], tokens=[tokens])
    if seen is not None:
        prediction = replace(prediction, predicted=torch.tensor([[i in seen for i in range(len(tokens))]]))
    nothing = Decision(torch.zeros_like(view.masked), view.tokens)
    return policy.finish(view, prediction, nothing, policy.begin(view) if memory is None else memory)


def test_the_doubts_of_the_text_count_and_those_behind_its_end_do_not() -> None:
    confidence, tokens = [0.95, None, 0.95, 0.97, 0.1, 0.2], [5, 6, 7, EOS, 8, 9]
    decision, _ = finish(DoubtExit(eps=0.1301), confidence, tokens)  # 0.05 + 0.05 + 0.03
    assert decision.stop is not None and bool(decision.stop)
    assert decision.write.tolist() == [[True, False, True, True, True, True]]
    assert decision.values[0].tolist()[2:] == [7, EOS, EOS, EOS]  # not the proposals behind the end
    decision, _ = finish(DoubtExit(eps=0.1299), confidence, tokens)
    assert decision.stop is not None and not bool(decision.stop) and not decision.write.any()


def test_an_end_that_is_decided_ends_the_text_and_without_one_all_masks_count() -> None:
    decision, _ = finish(DoubtExit(eps=0.1), [0.95, None, 0.1, 0.1], [5, EOS, 7, 8])
    assert bool(decision.stop) and decision.values[0].tolist() == [5, EOS, EOS, EOS]  # type: ignore[arg-type]
    decision, _ = finish(DoubtExit(eps=0.1), [0.95, None, 0.99, 0.1], [5, 6, 7, 8])
    assert not bool(decision.stop)  # type: ignore[arg-type]


def test_cells_that_the_forward_did_not_cover_are_not_judged_but_for_stale_ones() -> None:
    confidence, tokens = [0.99, 0.99, 0.99, 0.99], [5, 6, EOS, 7]
    assert not bool(finish(DoubtExit(), confidence, tokens, seen={0, 1})[0].stop)  # type: ignore[arg-type]
    assert bool(finish(DoubtExit(), confidence, tokens, seen={0, 1, 2})[0].stop)  # type: ignore[arg-type]
    stale = DoubtExit(stale=True)
    decision, memory = finish(stale, confidence, tokens, seen={2, 3})
    assert not bool(decision.stop)  # type: ignore[arg-type]
    decision, memory = finish(stale, [0.9, 0.99, 0.0, 0.0], [5, 6, 1, 1], memory, seen={0, 1})
    assert bool(decision.stop) and decision.values[0].tolist() == [5, 6, EOS, EOS]  # type: ignore[arg-type]


def test_where_it_cannot_work_it_says_so() -> None:
    policy = DoubtExit()
    assert Scope.REST in policy.scope
    with pytest.raises(PolicyError, match="under cache='dual' a forward covers its block alone"):
        policy.bind(replace(SETTING, cache="dual"))
    with pytest.raises(PolicyError, match="block-causal"):
        policy.bind(replace(SETTING, cache="block", horizon=4))
    assert replace(policy, stale=True).bind(replace(SETTING, cache="dual")) == replace(policy, stale=True)
    with pytest.raises(PolicyError, match="eps is -1"):
        DoubtExit(eps=-1)


@given(st.integers(0, 5), st.sampled_from(["none", "prefix", "dual"]), st.floats(0, 6))
def test_more_doubt_allowed_never_takes_longer(seed: int, cache: str, eps: float) -> None:
    model, prompts = tiny("llada", seed), [[1, 2, 3], [4, 5]]
    sizes: Any = {"max_new_tokens": 12, "block_length": 4}
    base = decode(model, Threshold(0.6), prompts, cache, **sizes)
    exits = decode(model, Threshold(0.6) | DoubtExit(eps, stale=cache == "dual"), prompts, cache, **sizes)
    assert all(a <= b for a, b in zip(exits.nfe, base.nfe, strict=True))
    assert all(MASK not in row for row in exits.sequences)
    if eps == 0:  # it stops only where the text has ended
        text = [[row[: row.index(EOS)] if EOS in row else row for row in r.sequences] for r in (base, exits)]
        assert text[0] == text[1]
