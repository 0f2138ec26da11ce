"""FreeDave's number of drafts: fixed, or the one with the least expected cost per step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import FreeDave, FreeDavePlus, PolicyError, Setting, parse_policy, spell
from samplers.freedave.budget import MEMORY, PRIOR, WEIGHT, Budget, linear
from tests.toys import FAMILIES, MASK, commits, decode, scene, tiny

CACHES = ("none", "prefix", "dual")


def seen(tried: list[float], held: list[float]) -> torch.Tensor:
    return torch.tensor([[tried, held]])


def by_hand(tried: list[float], held: list[float], costs: tuple[float, ...]) -> int:
    """The number with the least cost per step, counted out."""
    rates, steps, alive = [], 1.0, 1.0
    for n, cost in enumerate(costs, 1):
        rates.append(cost / steps)
        alive *= (held[n - 1] + WEIGHT * PRIOR) / (tried[n - 1] + WEIGHT)
        steps += alive
    return rates.index(min(rates)) + 1


@given(
    st.lists(st.tuples(st.integers(0, 20), st.floats(0, 1)), min_size=8, max_size=8),
    st.floats(0, 1.5),
    st.integers(1, 8),
)
def test_the_least_cost_per_step(places: list[tuple[int, float]], slope: float, most: int) -> None:
    tried = [float(n) for n, _ in places[:most]]
    held = [float(round(n * share)) for n, share in places[:most]]
    costs = linear(slope)(most)
    chosen = int(Budget(most, linear(slope)).choose(seen(tried, held)))
    best, got = by_hand(tried, held, costs), chosen
    if best != got:  # equally good, but for rounding
        alive = steps = 1.0
        rate = [costs[0]]
        for n in range(1, most):
            alive *= (held[n - 1] + WEIGHT * PRIOR) / (tried[n - 1] + WEIGHT)
            steps += alive
            rate.append(costs[n] / steps)
        assert rate[got - 1] == pytest.approx(rate[best - 1], rel=1e-5)


def test_free_rows_are_all_taken_and_dear_ones_not() -> None:
    nothing = torch.zeros(1, 2, 8)
    assert int(Budget(8, linear(0.0)).choose(nothing)) == 8
    assert int(Budget(8, linear(1.0)).choose(nothing)) == 1
    assert 1 < int(Budget(8, linear(0.3)).choose(nothing)) < 8
    assert int(Budget(5).choose(torch.zeros(1, 2, 5))) == 5  # a fixed number asks nobody


def test_what_is_learnt() -> None:
    _, prediction = scene([[0.5] * 3] * 4)  # one row, four canvases, the last was not forwarded
    said = replace(prediction, branches=4, predicted=prediction.predicted & (torch.arange(4) < 3)[:, None])
    budget = Budget(4, linear(0.1))
    none, one, two = [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0]
    for last, tried, held in ((0, one, none), (1, two, one), (2, two, two)):
        after = budget.learn(torch.ones(1, 2, 4), said, torch.tensor([last]))
        assert torch.allclose(after, MEMORY + torch.tensor([[tried, held]]).float())


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("step", ["topk:k=1", "threshold:threshold=0.5", "ccd"])
def test_lossless_and_alone_as_in_a_batch(family: str, cache: str, step: str) -> None:
    prompts, settings = [[1, 2, 3], [4, 5], [6]], {"max_new_tokens": 13, "block_length": 5}
    policy = f"freedave:step=({step}),drafts=auto,row_cost=0.15"
    static = decode(tiny(family, 3), step, prompts, cache, **settings)
    auto = decode(tiny(family, 3), policy, prompts, cache, **settings)
    assert auto.sequences == static.sequences and sum(auto.nfe) < sum(static.nfe)
    for row, prompt in enumerate(prompts):
        assert auto.trace[row].order() == static.trace[row].order()
        alone = decode(tiny(family, 3), policy, [prompt], cache, **settings)
        assert commits(alone) == commits(auto, row)
        assert alone.tokens_forwarded[0] == auto.tokens_forwarded[row]


@pytest.mark.parametrize("cache", CACHES)
def test_the_number_follows_the_cost(cache: str) -> None:
    """The dearer a row, the fewer tokens are forwarded, and the more forwards it takes."""
    runs = [
        decode(tiny("llada", 1), f"freedave:drafts=auto,row_cost={cost}", [[1, 2, 3]], cache, max_new_tokens=24)
        for cost in (0.0, 0.3, 5.0)
    ]
    assert [run.nfe[0] for run in runs] == sorted(run.nfe[0] for run in runs)
    assert runs[2].nfe[0] == 24 and runs[0].nfe[0] < 24
    tokens = [run.tokens_forwarded[0] for run in runs]
    assert tokens == sorted(tokens, reverse=True)


def test_at_a_temperature() -> None:
    prompts, settings = [[1, 2, 3], [4, 5]], {"max_new_tokens": 10, "temperature": 1.0, "seed": 3}
    policy = "freedave:drafts=auto,row_cost=0.1"
    together = decode(tiny("llada", 2), policy, prompts, **settings)
    assert MASK not in together.sequences[0] + together.sequences[1]
    alone = decode(tiny("llada", 2), policy, prompts[:1], **settings)
    assert alone.sequences[0] == together.sequences[0] and alone.nfe[0] == together.nfe[0]


def test_costs_are_measured_when_nothing_is_said() -> None:
    static = decode(tiny("llada", 2), "topk", [[1, 2, 3]], max_new_tokens=12)
    auto = decode(tiny("llada", 2), "freedave:drafts=auto", [[1, 2, 3]], max_new_tokens=12)
    assert auto.sequences == static.sequences
    assert auto.nfe[0] <= static.nfe[0]
    with pytest.raises(PolicyError, match="nothing that measures what rows cost here; give row_cost"):
        FreeDave(drafts="auto").bind(Setting(MASK))


def test_spelling_and_refusals() -> None:
    policy = parse_policy("freedave:drafts=auto,drafts_at_most=4")
    assert policy == FreeDave(drafts="auto", drafts_at_most=4)
    assert spell(policy) == "freedave:drafts=auto,drafts_at_most=4"
    with pytest.raises(PolicyError, match="drafts is 0; give a whole number from 1 up"):
        FreeDave(drafts=0)
    with pytest.raises(PolicyError, match="drafts_at_most is 0"):
        FreeDave(drafts="auto", drafts_at_most=0)
    with pytest.raises(PolicyError, match="row_cost is -1"):
        FreeDave(drafts="auto", row_cost=-1)
    with pytest.raises(PolicyError, match="what FreeDavePlus decodes depends on the number of drafts"):
        FreeDavePlus(drafts="auto")
