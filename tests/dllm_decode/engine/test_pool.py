"""The pool: whoever joins, whenever, beside whomever, gets what it gets alone; only the row that fails fails."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dllm_decode import DiffusionSampler, DllmError, GenerationConfig
from dllm_decode.engine.pool import Feed, Pool
from dllm_decode.engine.request import Outcome, Request
from tests.dllm_decode.engine.invariants import same
from tests.toys import tiny

POLICIES = [
    "threshold:threshold=0.6", "topk:k=2", "topk:score=random",
    "adablock:delimiters=3/4/5,delimiter_threshold=0.2+localleap",
    "threshold+sched:stale=true",
    "freedave", "ccd", "eotp+threshold",
]  # fmt: skip


def check_same(one: Outcome, other: Outcome) -> None:
    for name in ("tokens", "nfe", "full_forwards", "rows_forwarded", "tokens_forwarded", "settled", "error"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.trace is not None and other.trace is not None
    assert all(same(a, b) for a, b in zip(one.trace.steps, other.trace.steps, strict=True))


def drawn(sampler: DiffusionSampler, random: Random, count: int) -> list[Request]:
    """Requests of many lengths and seeds."""
    out = []
    for _ in range(count):
        prompt = [random.randrange(1, 9) for _ in range(random.randint(1, 9))]
        row, seed = random.randrange(100), random.randrange(5)
        out += sampler.requests([prompt], places=[(row, random.randrange(2))], trace=True, seed=seed)
    return out


def alone(sampler: DiffusionSampler, request: Request) -> Outcome:
    (outcome,) = sampler.feed([request]).outcomes()
    return outcome


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("policy", POLICIES)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 1000), temperature=st.sampled_from([0.0, 0.7]), budget=st.sampled_from([None, 1, 40]))
def test_joining_and_leaving_change_no_answer(
    policy: str, cache: str, seed: int, temperature: float, budget: int | None
) -> None:
    random = Random(seed)
    config = GenerationConfig(max_new_tokens=8, block_length=4, temperature=temperature)
    if "freedave" in policy:
        config = config.replace(temperature=0.0)
    sampler = DiffusionSampler(tiny("llada" if seed % 2 else "dream"), policy, cache, config)
    waiting = drawn(sampler, random, 7)
    requests = list(waiting)
    pool = Pool(sampler.model, requests[0], 3, 20, 12)  # wider than anybody needs
    found: dict[int, Outcome] = {}
    left: set[int] = set()
    while waiting or pool.busy:
        take = random.randint(0, min(len(pool.free), len(waiting)))
        pool.join([waiting.pop() for _ in range(take)])
        for place, request in enumerate(pool.requests):
            if request is not None and random.random() < 0.05:
                left.add(id(pool.leave(place).request))
        for outcome in pool.tick(budget):
            found[id(outcome.request)] = outcome
    assert len(found) + len(left) == len(requests) and pool.free == [0, 1, 2]
    for request in requests:
        if id(request) in found:
            check_same(found[id(request)], alone(sampler, request))


def test_more_prompts_than_places_are_fed_as_places_free_up() -> None:
    sampler = DiffusionSampler(tiny("llada"), "threshold", "dual", GenerationConfig(max_new_tokens=8, block_length=4))
    prompts = [[1 + i % 5] * (1 + i % 4) for i in range(11)]
    whole = sampler.generate(prompts, batch_size=11)
    for size in (1, 3):
        parts = sampler.generate(prompts, batch_size=size)
        assert parts.sequences == whole.sequences and parts.nfe == whole.nfe
        for one, other in zip(parts.trace, whole.trace, strict=True):
            assert all(same(a, b) for a, b in zip(one.steps, other.steps, strict=True))
    feed = sampler.feed(sampler.requests(prompts), batch_size=3)
    assert feed.pool.batch.rows.slots.shape[0] == 3
    assert len(list(feed.outcomes())) == 11 and feed.pool.free == [0, 1, 2]


def test_wrong_company_is_refused() -> None:
    config = GenerationConfig(max_new_tokens=4, block_length=4)
    sampler = DiffusionSampler(tiny("llada"), "threshold", "dual", config)
    one, long = sampler.requests([[1], [1] * 20])
    pool = Pool(sampler.model, one, 2, 8, 4)
    other = DiffusionSampler(tiny("llada"), "topk", "dual", config).requests([[1]])
    for wrong in ([long], other, sampler.requests([[1]], temperature=0.5)):
        with pytest.raises(DllmError, match="does not suit this pool of 8 slots and 4 cells"):
            pool.join(wrong)
    with pytest.raises(DllmError, match="3 requests cannot join: 2 places are free"):
        pool.join([one] * 3)
    assert not pool.busy and pool.join([one, *sampler.requests([[2]], max_new_tokens=3, seed=9)]) == [0, 1]
    for size in (0, True, "4"):
        with pytest.raises(DllmError, match="batch_size is .*; give a whole number from 1 up"):
            sampler.feed([one], batch_size=size)  # type: ignore[arg-type]


class Poisoned:
    """A model that raises for rows that hold a certain token, or whenever it is told to."""

    def __init__(self, family: str, poison: int) -> None:
        self.model, self.poison, self.calls = tiny(family), poison, 0
        self._hidden = self.model.hidden

    def __enter__(self) -> Poisoned:
        self.model.hidden = self.hidden  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        del self.model.hidden  # back to the class's: an attribute left here would go into every copy of this model

    def hidden(self, inp: Any, cells: Tensor) -> Tensor:
        self.calls += 1
        out = self._hidden(inp, cells)  # the cache has been written when it fails
        if bool((inp.tokens == self.poison).any()):
            raise RuntimeError("poison")
        return out


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("cache", ["none", "dual"])
def test_only_the_row_that_fails_fails(cache: str, temperature: float) -> None:
    config = GenerationConfig(max_new_tokens=8, block_length=4, temperature=temperature, suppress_tokens=(10,))
    with Poisoned("llada", poison=10) as poisoned:
        sampler = DiffusionSampler(poisoned.model, "threshold", cache, config)
        prompts = [[1, 2], [3, 10], [4], [5, 6, 7], [10]]
        requests = sampler.requests(prompts, trace=True)
        outcomes = {o.request.row: o for o in sampler.feed(requests, isolate=True).outcomes()}
        assert [row for row in sorted(outcomes) if outcomes[row].error is not None] == [1, 4]
        assert str(outcomes[1].error) == "poison" and outcomes[1].nfe == 0
        for row in (0, 2, 3):
            check_same(outcomes[row], alone(sampler, requests[row]))
        with pytest.raises(RuntimeError, match="poison"):
            sampler.generate(prompts)


def test_nothing_is_half_moved_by_a_step_that_raises() -> None:
    sampler = DiffusionSampler(tiny("llada"), "threshold", "dual", GenerationConfig(max_new_tokens=8, block_length=4))
    pool = Pool(sampler.model, sampler.requests([[1]])[0], 2, 12, 8)
    pool.join(sampler.requests([[1, 2], [3]]))
    pool.tick()
    before = {name: getattr(pool.batch.rows, name).clone() for name in pool.batch.rows.__dataclass_fields__}

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    pool.batch.policy = type("Broken", (), {"__getattr__": lambda _, name: getattr(pool.like.policy, name)})()
    pool.batch.policy.finish = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="broken"):
        pool.tick()
    for name, value in before.items():
        assert torch.equal(getattr(pool.batch.rows, name), value), name


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_openings_keep_to_their_budget_and_nobody_starves(cache: str) -> None:
    """A due row waits at most as many ticks as it takes to forward all that was due before it."""
    config = GenerationConfig(max_new_tokens=12, block_length=4)
    sampler = DiffusionSampler(tiny("llada"), "topk:k=2", cache, config)
    requests = sampler.requests([[1] * (1 + i) for i in range(6)])
    pool = Pool(sampler.model, requests[0], 6, 24, 12)
    pool.join(requests)
    budget, waited = 30, dict.fromkeys(range(6), 0)
    worst = -(-sum(len(r.ids) for r in requests) // budget) + 1
    while pool.busy:
        steps = pool.batch.rows.step.tolist()
        inside = [bool(s) for s in pool.batch.rows.block_step.tolist()]
        pool.tick(budget)
        spent = 0
        for place, request in enumerate(requests):
            moved = pool.batch.rows.step.tolist()[place] > steps[place]
            waited[place] = 0 if moved or pool.requests[place] is None else waited[place] + 1
            spent += len(request.ids) * (moved and (cache == "none" or not inside[place]))
            assert waited[place] <= worst
        assert spent <= budget


def test_a_part_of_a_job_draws_what_it_draws_in_the_whole() -> None:
    sampler = DiffusionSampler(tiny("llada"), "threshold", "dual", GenerationConfig(max_new_tokens=6, temperature=1.0))
    prompts = [[1], [2], [3]]
    whole = sampler.generate(prompts, seed=4)
    later = sampler.run(sampler.requests(prompts[1:], places=[1, 2], seed=4))
    assert later.sequences == whole.sequences[1:]


def test_an_empty_feed_is_refused() -> None:
    sampler = DiffusionSampler(tiny("llada"))
    with pytest.raises(DllmError, match="no request was given"):
        sampler.feed([])
    assert isinstance(sampler.feed(sampler.requests([[1]])), Feed)
