"""AllButOne: many small doubts that sum to one are one wrong cell."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from samplers import AllButOne, ContentFirst, EosStop, FreeDave, PolicyError, Threshold
from tests.toys import EOS, commits, decode, scene, tiny


def written(confidence: list[float | None], tokens: list[int] | None = None, **fields: Any) -> list[int]:
    """Cells written by one forward."""
    view, prediction = scene([confidence], tokens=None if tokens is None else [tokens])
    done, _ = AllButOne(**fields).decide(view, prediction, None)
    return [int(i) for i in done.write[0].nonzero()[:, 0]]


def test_all_but_the_least_sure_of_cells_one_of_which_is_wrong() -> None:
    assert written([0.8, 0.8, 0.75, 0.8, 0.8]) == [0, 1, 3, 4]
    assert written([0.8, 0.8, 0.75, 0.8, 0.8, 0.95]) == [0, 1, 3, 4, 5]  # what the decider takes does not count
    assert written([0.75, 0.75, 0.75, 0.75, 0.8], [5, 6, 7, 8, EOS]) == [
        1,
        2,
        3,
        4,
    ]  # nor the tail


def test_other_sums_are_the_decider_s() -> None:
    assert written([0.75, 0.7, 0.75, None]) == [0]  # too few
    assert written([0.8, 0.6, 0.8, 0.8]) == [0]  # one in too much doubt
    assert written([0.8, 0.8, 0.75, 0.8, 0.8, 0.7, 0.7]) == [0]  # 1.45: more than one is wrong
    assert written([0.88, 0.89, 0.88, 0.88]) == [1]  # 0.47: perhaps none is
    assert written([0.75, 0.7, 0.75, None], cells=3) == [0, 2]


def test_a_step_that_is_no_plain_decider_is_refused() -> None:
    with pytest.raises(PolicyError, match="step is EosStop, which plays finish too"):
        AllButOne(EosStop())
    with pytest.raises(PolicyError, match="cells is 1"):
        AllButOne(cells=1)


@pytest.mark.parametrize("cross", [False, True])
def test_drafts_change_nothing_of_it(cross: bool) -> None:
    rule = ContentFirst(AllButOne(Threshold(0.7), cells=2, slack=1.0, doubt=1.0))
    for seed in range(4):
        model, prompts = tiny("llada", seed), [[1, 2, 3], [4]]
        sizes: Any = {"max_new_tokens": 12, "block_length": 6}
        plain = decode(model, rule, prompts, **sizes)
        drafted = decode(model, FreeDave(rule, drafts=3, cross_block=cross), prompts, **sizes)
        assert drafted.sequences == plain.sequences


@given(st.integers(0, 7), st.sampled_from(["none", "dual"]))
def test_every_cell_is_decided_once(seed: int, cache: str) -> None:
    rule = AllButOne(Threshold(0.7), cells=2, slack=2.0, doubt=1.0)
    result = decode(tiny("dream", seed), rule, [[1, 2, 3]], cache, max_new_tokens=12, block_length=6)
    assert sorted(cell for step in commits(result) for cell in step) == list(range(12))
