"""DAWN: strong, induced and independent cells."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_decode import CallableModel, DiffusionSampler
from samplers import Dawn, PolicyError, Setting
from samplers.contract import Attention
from samplers.dawn import _independent
from tests.toys import FAMILIES, MASK, VOCAB, commits, decode, scene, tiny

#: One slot of prompt, four cells.
SLOTS = 5


def judge(
    confidence: list[float | None],
    links: dict[int, dict[int, float]],
    prompt: float = 0.0,
    sinks: tuple[int, ...] = (),
) -> list[int]:
    """Cells written; ``links`` are attention weights from cell to slot, ``prompt`` the sureness of the prompt."""
    view, prediction = scene([confidence])
    weights = torch.zeros(1, len(confidence), SLOTS)
    for cell, pays in links.items():
        for slot, weight in pays.items():
            weights[0, cell, slot] = weight
    received = torch.zeros(1, SLOTS)
    received[0, list(sinks)] = 0.5
    slots = torch.zeros(1, SLOTS)
    slots[0, 0] = prompt
    attention = Attention(weights, received, slots, torch.tensor([1]))
    policy = Dawn(sink=0.1, edge=0.1, induce=0.7, low=0.5)
    decision, _ = policy.decide(view, replace(prediction, attention=attention), None)
    return decision.write[0].nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("confidence", "links", "prompt", "sinks", "expected"),
    [
        # strong cells go, linked or not
        ([0.9, 0.95, 0.1, 0.1], {0: {2: 0.5}}, 0.0, (), [0, 1]),
        # 0 depends on the prompt, which is sure: induced; 1 is sure enough but depends on nobody, low enough for 3.
        ([0.7, 0.6, 0.1, 0.1], {0: {0: 0.2}}, 0.9, (), [0, 1]),
        # nothing links the weak cells 0 and 1: both; linked in either direction: the surer one
        ([0.6, 0.5, 0.1, 0.1], {}, 0.0, (), [0, 1]),
        ([0.6, 0.5, 0.1, 0.1], {1: {1: 0.1}}, 0.0, (), [0]),
        ([0.5, 0.6, 0.1, 0.1], {1: {1: 0.1}}, 0.0, (), [1]),
        # a sink links nobody, nor does a cell's own slot
        ([0.6, 0.5, 0.1, 0.1], {1: {1: 0.9}}, 0.0, (1,), [0, 1]),
        ([0.6, 0.5, 0.1, 0.1], {1: {2: 0.9}}, 0.0, (), [0, 1]),
        # 0 is strong and induced: 1, which depends on it, waits
        ([0.9, 0.6, 0.1, 0.1], {0: {0: 0.2}, 1: {1: 0.3}}, 0.9, (), [0]),
        # nothing at all: the best
        ([0.1, 0.2, 0.3, None], {}, 0.0, (), [2]),
    ],
)
def test_table(
    confidence: list[float | None],
    links: dict[int, dict[int, float]],
    prompt: float,
    sinks: tuple[int, ...],
    expected: list[int],
) -> None:
    assert judge(confidence, links, prompt, sinks) == expected


@given(st.integers(0, 10_000), st.integers(1, 12))
def test_what_is_taken_is_independent_and_as_large_as_it_can_be(seed: int, width: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    score, where = torch.rand(1, width, generator=generator), torch.rand(1, width, generator=generator) < 0.7
    linked = torch.rand(1, width, width, generator=generator) < 0.3
    linked = linked | linked.transpose(1, 2)
    linked[:, range(width), range(width)] = False
    taken = _independent(score, where, linked)[0]
    assert not bool((taken & ~where[0]).any())
    assert not bool((linked[0] & taken[:, None] & taken).any())
    for cell in where[0].nonzero()[:, 0].tolist():  # what was left out is linked to a surer one that was taken
        assert bool(taken[cell]) or bool((linked[0, cell] & taken & (score[0] >= score[0, cell])).any())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_is_its_rows(family: str) -> None:
    policy = Dawn(sink=0.2, edge=0.1, induce=0.4, low=0.3, strong=0.6, layers=2)
    prompts = [[1, 2, 3, 4], [4, 5], [6]]
    together = decode(tiny(family, 2), policy, prompts, max_new_tokens=11, block_length=5)
    for row, prompt in enumerate(prompts):
        alone = decode(tiny(family, 2), policy, [prompt], max_new_tokens=11, block_length=5)
        assert alone.sequences[0] == together.sequences[row] and commits(alone) == commits(together, row)


def test_defaults_of_the_family_and_refusals() -> None:
    llada, dream = (Dawn().bind(Setting(MASK, family=family)) for family in ("llada", "dream"))
    assert (llada.sink, llada.edge, llada.induce, llada.low) == (0.01, 0.07, 0.7, 0.75)
    assert (dream.sink, dream.edge, dream.induce, dream.low) == (0.03, 0.10, 0.75, 0.8)
    assert Dawn(low=0.7).bind(Setting(MASK)).low == 0.7
    with pytest.raises(PolicyError, match="does not show under cache='dual'; use a native model and cache='none'"):
        DiffusionSampler(tiny("llada"), "dawn", cache="dual")
    with pytest.raises(PolicyError, match="reads the attention among all tokens"):
        DiffusionSampler(CallableModel(lambda ids: ids, mask_id=MASK, vocab_size=VOCAB), "dawn")
    with pytest.raises(PolicyError, match=r"which temperature 0\.5 does not propose"):
        Dawn().bind(Setting(MASK, temperature=0.5))
    for wrong in ({"edge": -1.0}, {"layers": 0}):
        with pytest.raises(PolicyError, match=f"{next(iter(wrong))} is"):
            Dawn(**wrong)  # type: ignore[arg-type]
