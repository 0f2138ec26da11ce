"""EoTP."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from samplers import EoTP, PolicyError, Scope, Setting, Threshold, TopK
from tests.references.quirks import keeping_cut_cache
from tests.toys import EOS, FAMILIES, MASK, commits, decode, scene, tiny


def bound(cache: str = "none", **fields: Any) -> EoTP:
    return EoTP(**fields).bind(Setting(mask_id=MASK, eos_ids=(EOS,), cache=cache, max_new_tokens=8))


def cut(policy: EoTP, confidence: Any, tokens: Any, threshold: float = 0.9, **view_changes: Any) -> list[int]:
    """The length after one step of threshold decoding."""
    view, prediction = scene(confidence, tokens=tokens, **view_changes)
    decision, _ = Threshold(threshold).decide(view, prediction, None)
    decision, _ = policy.finish(view, prediction, decision, None)
    assert decision.length is not None
    return decision.length.tolist()


def test_rule_1_the_leftmost_accepted() -> None:
    assert cut(bound(), [[0.9, 0.95, 0.99, 0.99]], [[1, EOS, EOS, 1]]) == [2]
    # An accepted one wins over a surer one that lies outside the block.
    view, prediction = scene([[0.2, 0.95, 0.99, 0.99]], tokens=[[1, EOS, EOS, 1]], block=(0, 2))
    prediction = replace(prediction, predicted=view.masked)
    decision, _ = Threshold(0.9).decide(view, prediction, None)
    decision, _ = bound().finish(view, prediction, decision, None)
    assert decision.length is not None and decision.length.tolist() == [2]


def test_rule_2_the_surest_guess() -> None:
    assert cut(bound(), [[0.9, 0.3, 0.2, 0.3]], [[1, EOS, EOS, EOS]]) == [2]  # a tie: the lower cell
    # Nothing reaches the threshold: the best cell is committed but not accepted, so rule 2 chooses.
    assert cut(bound(), [[0.3, 0.4, 0.5, 0.6]], [[EOS, 1, EOS, 1]]) == [3]
    assert cut(bound(), [[0.9, 0.3]], [[1, 1]]) == [2]  # no end in sight
    assert cut(bound(guess=False), [[0.9, 0.3, 0.2]], [[1, EOS, EOS]]) == [3]
    assert cut(bound(guess=False), [[0.1, 0.3, 0.2]], [[1, EOS, EOS]]) == [2]  # committed as the best one


def test_reach() -> None:
    confidence, tokens = [[0.5, 0.3, 0.6, 0.7]], [[1, EOS, EOS, 1]]
    view, prediction = scene(confidence, tokens=tokens, block=(0, 2))
    decision, _ = Threshold(0.9).decide(view, prediction, None)
    for cache, policy, length in (
        ("none", EoTP(), 3),
        ("prefix", EoTP(), 2),
        ("dual", EoTP(), 2),
        ("none", EoTP(reach="block"), 2),
        ("prefix", EoTP(reach="rest"), 3),
    ):
        part = policy.bind(Setting(mask_id=MASK, eos_ids=(EOS,), cache=cache, max_new_tokens=8))
        after, _ = part.finish(view, prediction, decision, None)
        assert after.length is not None and after.length.tolist() == [length], (cache, policy)
        assert part.scope == (Scope.REST if length == 3 else Scope.OPEN)


def test_a_cut_only_shortens() -> None:
    view, prediction = scene([[0.9, 0.9]], tokens=[[1, EOS]])
    decision, _ = Threshold(0.9).decide(view, prediction, None)
    decision = replace(decision, length=torch.tensor([1]))
    after, _ = bound().finish(view, prediction, decision, None)
    assert after.length is not None and after.length.tolist() == [1]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("decider", [TopK(2), Threshold(0.3), Threshold(2.0)])
def test_rows_are_cut_on_their_own(family: str, cache: str, decider: Any) -> None:
    policy = decider | EoTP(ids=(7, 8, 12, 3))
    prompts = [[1], [2, 3, 4, 5], [7, 8], [6, 1]]
    settings = {"max_new_tokens": 20, "block_length": 6}
    together = decode(tiny(family), policy, prompts, cache, **settings)
    for row, prompt in enumerate(prompts):
        alone = decode(tiny(family), policy, [prompt], cache, **settings)
        assert together.sequences[row] == alone.sequences[0]
        assert commits(together, row) == commits(alone)
        assert MASK not in together.sequences[row]
        lengths = [step.length for step in together.trace[row].steps]
        assert lengths == sorted(lengths, reverse=True)
        assert len(together.sequences[row]) == lengths[-1]
        if cache == "none":
            prompt_length = len(prompt)
            assert [s.tokens for s in together.trace[row].steps] == [prompt_length + n for n in [20, *lengths[:-1]]]
    assert min(map(len, together.sequences)) < 20, "nothing was ever cut"


def test_the_kept_cache_is_an_oversight_of_the_reference() -> None:
    # Both end the same way on the first block; what differs is what later forwards of that block see.
    prompts, settings = [[p, p + 1] for p in range(1, 9)], {"max_new_tokens": 20, "block_length": 10}
    ends = tuple(range(3, 14))
    cut_too = decode(tiny("llada"), TopK(1) | EoTP(ids=ends), prompts, "dual", **settings)
    kept = decode(keeping_cut_cache(tiny("llada")), TopK(1) | EoTP(ids=ends), prompts, "dual", **settings)
    assert kept.trace[0].steps[0].cells == cut_too.trace[0].steps[0].cells
    confidence = [[[s.confidence for s in t.steps] for t in r.trace] for r in (cut_too, kept)]
    assert confidence[0] != confidence[1]


@pytest.mark.parametrize(
    ("fields", "setting", "sentence"),
    [
        ({}, {"eos_ids": ()}, "needs an end-of-text id"),
        ({}, {"max_new_tokens": None}, "would cut away given tokens when infilling"),
        ({"reach": "rest"}, {"cache": "dual"}, "cannot read the rest of the row under the dual cache"),
    ],
)
def test_refuses(fields: dict[str, Any], setting: dict[str, Any], sentence: str) -> None:
    facts = {"mask_id": MASK, "eos_ids": (EOS,), "max_new_tokens": 8, **setting}
    with pytest.raises(PolicyError, match=sentence):
        EoTP(**fields).bind(Setting(**facts))


def test_refuses_an_unknown_reach() -> None:
    with pytest.raises(PolicyError, match="reach is 'far'; choose auto, block or rest"):
        EoTP(reach="far")  # type: ignore[arg-type]
