"""A row draws from (seed, index of its prompt in the job, sample) alone, however the job is cut."""

from __future__ import annotations

import subprocess
import sys
from itertools import product

import pytest

from dllm_decode import DiffusionSampler, GenerationConfig
from dllm_decode.engine.randomness import places_of, row_generator
from dllm_decode.errors import DllmError

POLICIES = ["topk:k=2", "threshold:threshold=0.4", "factor", "entropybound", "localleap", "adablock+localleap"]
CACHES = ["none", "prefix", "dual"]
LOOSE = "write a random list"  # no question: it has many answers
PROMPTS = [LOOSE, "a b", LOOSE, "copy: x y z", "sort: 4 1 3", LOOSE]
CONFIG = GenerationConfig(max_new_tokens=12, block_length=4, temperature=0.7, seed=3)


def pieces(size: int) -> list[range]:
    return [range(at, min(at + size, len(PROMPTS))) for at in range(0, len(PROMPTS), size)]


def decoded(policy: str, cache: str, parts: list[range], num_samples: int = 1) -> list[list[int]]:
    """Sequences of all prompts, decoded part by part."""
    sampler = DiffusionSampler("tiny", policy, cache, CONFIG)
    out = []
    for part in parts:
        prompts = [PROMPTS[i] for i in part]
        out += sampler.generate(prompts, places=part, num_samples=num_samples).sequences
    return out


@pytest.mark.parametrize(("policy", "cache"), list(product(POLICIES, CACHES)))
def test_answers_do_not_depend_on_the_batch(policy: str, cache: str) -> None:
    whole = decoded(policy, cache, pieces(8))
    assert decoded(policy, cache, pieces(1)) == whole == decoded(policy, cache, pieces(3))
    assert len({tuple(whole[i]) for i in (0, 2, 5)}) > 1, "equal prompts are drawn independently"


@pytest.mark.slow
def test_answers_do_not_depend_on_the_process() -> None:
    script = (
        "from tests.dllm_decode.engine.test_randomness import CACHES, POLICIES, decoded, product\n"
        "print([decoded(p, c, [{part}]) for p, c in product(POLICIES, CACHES)])"
    )
    halves = [
        subprocess.Popen([sys.executable, "-c", script.format(part=part)], stdout=subprocess.PIPE, text=True)
        for part in (range(3), range(3, 6))
    ]
    want = [decoded(p, c, pieces(8)) for p, c in product(POLICIES, CACHES)]
    first, second = (eval(half.communicate()[0]) for half in halves)  # lists of numbers that this test had printed
    assert [half.returncode for half in halves] == [0, 0]
    assert [a + b for a, b in zip(first, second, strict=True)] == want


def test_samples_are_independent_and_can_be_drawn_apart() -> None:
    sampler = DiffusionSampler("tiny", "threshold", config=CONFIG)
    result = sampler.generate(PROMPTS[:2], num_samples=3)
    assert len(result.sequences) == 6 and len({tuple(s) for s in result.sequences[:3]}) > 1
    assert [(t.meta["row"], t.meta["sample"]) for t in result.trace] == [(i, s) for i in (0, 1) for s in (0, 1, 2)]
    apart = [sampler.generate(PROMPTS[i], places=[(i, s)]).sequences[0] for i in (0, 1) for s in (0, 1, 2)]
    assert apart == result.sequences
    assert sampler.generate(PROMPTS[:2]).sequences == result.sequences[::3], "sample 0 is the answer without samples"


def test_places_are_checked() -> None:
    assert places_of(2, 2, None) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert places_of(1, 2, [(7, 3)]) == [(7, 3), (7, 4)]
    with pytest.raises(DllmError, match=r"2 prompts were given with 1 places; give one place per prompt\."):
        places_of(2, 1, [4])
    for wrong in (-1, 1.5, True, (1,), (1, -1), "ab"):
        with pytest.raises(DllmError, match=r"a place is .*; give the prompt's index"):
            places_of(1, 1, [wrong])  # type: ignore[list-item]
    for count in (0, -1, True, 1.0):
        with pytest.raises(DllmError, match="num_samples is"):
            places_of(1, count, None)  # type: ignore[arg-type]


def test_streams_differ() -> None:
    streams = {row_generator(seed, (row, sample)).initial_seed() for seed, row, sample in product(range(9), repeat=3)}
    assert len(streams) == 9**3
