"""Rows of several shards share a pool, and each gets what it gets alone."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.engine.pool import Pool
from dllm_decode.engine.request import Request
from dllm_decode.jobs.flow import OPEN, ROUND, Flow
from tests.dllm_decode.tiny import tiny

MODEL = tiny("llada")
CONFIG = GenerationConfig(max_new_tokens=6, block_length=3)
SAMPLERS = [DiffusionSampler(MODEL, "topk:k=1", "dual", CONFIG), DiffusionSampler(MODEL, "threshold", "none", CONFIG)]
#: a line: which sampler, tokens of its prompt, cells, answers; or what it fails with
LINE = st.one_of(
    st.just(None),
    st.tuples(st.integers(0, 1), st.sampled_from((1, 2, ROUND + 3)), st.integers(1, 7), st.integers(1, 2)),
)


def rows(line: tuple[int, int, int, int] | None) -> list[Request] | Exception:
    if line is None:
        return ValueError("no line")
    which, prompt, cells, samples = line
    return SAMPLERS[which].requests([[1 + prompt % 5] * prompt], max_new_tokens=cells, num_samples=samples)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(LINE, max_size=5), max_size=6), st.integers(1, 4))
def test_each_row_gets_what_it_gets_alone(shards: list[list[tuple[int, int, int, int] | None]], places: int) -> None:
    made = [[rows(line) for line in shard] for shard in shards]
    coming, under_way, done = iter(enumerate(made)), set[int](), set[int]()

    def source() -> tuple[int, Sequence[list[Request] | Exception]] | None:
        taken = next(coming, None)
        if taken is not None:
            under_way.add(taken[0])
            assert len(under_way) <= OPEN
        return taken

    for group in Flow(MODEL, places, source).finished():
        under_way.remove(group.number)
        done.add(group.number)
        for asked in made[group.number]:
            for request in asked if isinstance(asked, list) else ():
                alone = SAMPLERS[request.cache == "none"].run([request])
                outcome = group.outcomes[id(request)]
                assert (outcome.tokens, outcome.nfe) == (alone.sequences[0], alone.nfe[0]) and outcome.error is None
    assert done == set(range(len(shards)))


def test_places_that_a_shard_frees_are_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """One long row at the end of each shard: alone it would run its pool empty, once per shard."""
    ticks, tick = 0, Pool.tick

    def counted(self: Pool, *given: int) -> object:
        nonlocal ticks
        ticks += 1
        return tick(self, *given)

    monkeypatch.setattr(Pool, "tick", counted)
    sampler = SAMPLERS[0]
    shards = [[sampler.requests([[2]], max_new_tokens=n) for n in (1, 1, 1, 12)] for _ in range(6)]
    coming = iter(enumerate(shards))
    assert [group.number for group in Flow(MODEL, 4, lambda: next(coming, None)).finished()] == list(range(6))
    assert ticks <= 6 * 12 / 2 + 6, "two long rows at a time"
