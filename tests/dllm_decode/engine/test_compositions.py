"""Every pair and triple of registered parts: refused at construction with a reason, or it decodes as it should."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import combinations, combinations_with_replacement
from typing import Any

import pytest
import torch
from torch import Tensor

from dllm_decode import CallableModel, DiffusionSampler, GenerationConfig, GenerationResult
from dllm_decode.interface.model import DenoisingModel
from filters import FilterNetwork, LearnedFilter
from samplers import (
    EGP,
    REGISTRY,
    Composition,
    Learn2PD,
    PcSampler,
    Policy,
    PolicyError,
    Setting,
    TokenTable,
    lookup,
    parse_policy,
)
from samplers.registry import example
from tests.dllm_decode.engine.invariants import check_run, same
from tests.toys import EOS, FAMILIES, MASK, VOCAB, tiny

#: Ragged rows. Behind TIE the model is undecided about everything.
TIE = 21
PROMPTS = ([3, 1, 4], [TIE], [5, 9])
BLOCK, CELLS = 3, 5


def undecided_behind_tie() -> CallableModel:
    """A random model, cheap to call, each of whose cells looks at all tokens of its row."""
    generator = torch.Generator().manual_seed(1)
    tokens, mix = torch.randn(VOCAB, 8, generator=generator), torch.randn(16, 16, 8, generator=generator)
    own, head = torch.randn(16, 8, generator=generator), torch.randn(8, VOCAB, generator=generator)
    likely = torch.zeros(VOCAB).index_fill(0, torch.tensor(EOS), 3.0)

    def logits(ids: Tensor) -> Tensor:
        width = ids.shape[1]
        hidden = (own[:width] + 0.3 * (tokens[ids][:, None] * mix[:width, :width]).sum(2)).sin()
        return (1.5 * hidden @ head + likely) * (ids[:, :1, None] != TIE)

    return CallableModel(logits, mask_id=MASK, eos_ids=(EOS,), vocab_size=VOCAB)


def reference(rows: int) -> tuple[tuple[int, ...], ...]:
    """What EGP aims at: any text, but for the row that is undecided, where it is what the model says."""
    texts = torch.randint(EOS, (rows, CELLS), generator=torch.Generator().manual_seed(2)).tolist()
    return tuple(tuple([0] * CELLS if PROMPTS[row] == [TIE] else text) for row, text in enumerate(texts))


def part(name: str, cache: str = "none") -> Policy:
    """A registered part that can act in these tests."""
    if name == "egp":
        return EGP(reference(len(PROMPTS)))
    if name == "pcsampler":
        return PcSampler(TokenTable(torch.arange(1, VOCAB + 1).double() / 300), k=2)
    if name == "learn2pd":
        torch.manual_seed(3)
        return Learn2PD(LearnedFilter(FilterNetwork(BLOCK).requires_grad_(False), threshold=0.5))
    made: Any = parse_policy(example(name))
    exits_early = cache == "dual" and hasattr(made, "stale")  # on what the cache leaves unpredicted
    return replace(made, stale=True) if exits_early else made


DECIDERS = {name for name in REGISTRY if lookup(name).decide is not Policy.decide}


@lru_cache
def bound(name: str, cache: str, native: bool) -> bool:
    """Whether a part can work with a cache, and with what a native LLaDA offers or with logits alone."""
    setting = Setting(
        MASK, (EOS,), VOCAB, cache, delimiter_ids=(3,), shadows=native, attention=native and cache == "none"
    )
    try:
        part(name).bind(setting)
    except PolicyError:
        return False
    return True


def uncached(names: tuple[str, ...]) -> bool:
    """Whether these parts cannot work with a cache."""
    return not all(bound(name, "prefix", True) for name in names)


def fitting(names: tuple[str, ...], model: DenoisingModel) -> DenoisingModel:
    """The model, or one that all of these parts can work with."""
    return tiny("llada", 1) if not all(bound(name, "none", False) for name in names) else model


def sensible(names: tuple[str, ...]) -> bool:
    """Whether these parts make up a policy."""
    parts = [part(name) for name in names]
    if any(p.starts is not None for p in parts) and any(p.remembers is None for p in parts):
        return False  # cells that are remembered by their place must not move
    return len(set(names)) == len(names) and len(DECIDERS & set(names)) == 1


def composed(names: tuple[str, ...], number: int, cache: str = "none") -> Policy:
    """The parts in an order that varies with the number."""
    parts = [part(name, cache) for name in names]
    return Composition.of(*(parts if number % 2 else reversed(parts)))


def decode(
    model: DenoisingModel, policy: Policy, cache: str, rows: tuple[int, ...]
) -> tuple[GenerationResult, Composition, GenerationConfig]:
    """Decode some of the prompts."""
    parts = getattr(policy, "parts", (policy,))
    if len(rows) < len(PROMPTS):
        texts = reference(len(PROMPTS))
        parts = tuple(EGP([texts[row] for row in rows]) if isinstance(p, EGP) else p for p in parts)  # type: ignore
    config = GenerationConfig(max_new_tokens=CELLS, block_length=BLOCK, early_stop=False)
    sampler = DiffusionSampler(model, Composition.of(*parts), cache, config)
    return sampler.generate([PROMPTS[row] for row in rows]), sampler._bound(config), config


def check(
    model: DenoisingModel, policy: Policy, number: int, cache: str = "none", alone_too: bool = True
) -> GenerationResult:
    """Invariants 1, 2, 4 (unless it is skipped), 6 and 7."""
    everyone = tuple(range(len(PROMPTS)))
    result, bound, config = decode(model, policy, cache, everyone)
    check_run(result, bound, PROMPTS, config, cache, model.shift)
    if not alone_too:
        return result
    row = (0, 2)[number // 2 % 2]  # 4. this row decodes alone as it does among the others
    alone, *_ = decode(model, policy, cache, (row,))
    assert alone.sequences[0] == result.sequences[row] and alone.nfe[0] == result.nfe[row]
    assert alone.tokens_forwarded[0] == result.tokens_forwarded[row]
    assert all(same(*steps) for steps in zip(alone.trace[0].steps, result.trace[row].steps, strict=True))
    return result


def all_of(size: int) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Numbered sets of parts; a pair may hold a part twice."""
    yield from enumerate((combinations_with_replacement if size == 2 else combinations)(REGISTRY, size))


def test_what_cannot_work_is_refused_with_a_reason() -> None:
    model, config = tiny("dream"), GenerationConfig(max_new_tokens=CELLS, block_length=BLOCK)
    parts = {name: part(name) for name in REGISTRY}
    refused = 0
    for size in (2, 3):
        for _, names in all_of(size):
            policy = Composition.of(*(parts[name] for name in names))
            try:
                DiffusionSampler(fitting(names, model), policy, "none" if uncached(names) else "prefix", config)
            except PolicyError as error:
                assert not sensible(names), (names, error)
                classes = [type(p).__name__ for p in policy.parts]
                said = str(error)
                # One sentence that names who clashes, and says what to do.
                culprits = [c for name, c in zip(names, classes, strict=True) if name in DECIDERS] or classes
                assert all(culprit in said for culprit in culprits), (names, said)
                assert said.endswith(".") and any(word in said for word in ("keep one of them", "add a decider"))
                refused += 1
            else:
                assert sensible(names), names
    assert refused > 500


@pytest.mark.parametrize("half", range(2))
@pytest.mark.parametrize("size", [2, 3])
def test_what_can_work_does(size: int, half: int) -> None:
    model, decoded = undecided_behind_tie(), 0
    for number, names in all_of(size):
        if number % 2 != half or not sensible(names):
            continue
        fits = fitting(names, model)
        result = check(fits, composed(names, number // 2), number // 2, alone_too=fits is model or size == 2)
        # 3. Where the model is undecided: token 0 everywhere, in the order of the cells.
        assert fits is not model or result.sequences[1] == [0] * CELLS, names
        assert fits is not model or result.trace[1].order() == list(range(CELLS)), names
        decoded += 1
    assert decoded > 40


@pytest.mark.parametrize("where", [(f, c) for f in FAMILIES for c in ("prefix", "dual")], ids="-".join)
def test_pairs_under_a_cache(where: tuple[str, str]) -> None:
    """Each pair in one of the four combinations."""
    family, cache = where
    turn = [(f, c) for f in FAMILIES for c in ("prefix", "dual")].index(where)
    for number, names in all_of(2):
        if sensible(names) and number % 4 == turn:
            if uncached(names):
                continue
            model = fitting(names, tiny(family, 1))
            check(model, composed(names, number // 4, cache), number // 4, cache)


def test_the_arguments_make_the_parts_act() -> None:
    """No part idles through these tests: each changes what some rule decodes here; `Entry.example` sees to it."""

    def story(*parts: Policy, names: tuple[str, ...] = ()) -> list[Any]:
        model = fitting(names, undecided_behind_tie())
        result, *_ = decode(model, Composition.of(*parts), "none", (0, 2))
        return [(s.start, s.end, s.cells, s.new, s.length) for trace in result.trace for s in trace.steps]

    rules = [part(name) for name in ("topk", "threshold")]
    for name in set(REGISTRY) - DECIDERS:
        assert any(story(rule, part(name)) != story(rule) for rule in rules), name
    for name in DECIDERS - {"topk"}:
        assert story(part(name), names=(name,)) != story(parse_policy("topk"), names=(name,)), name
