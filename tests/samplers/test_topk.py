"""TopK: k per forward, LLaDA's even split, Dream's time schedule and `origin`, the scores."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from samplers import PolicyError, TopK, View
from tests.toys import chosen, in_order, scene


@pytest.mark.parametrize(("k", "expected"), [(1, [[2], [1]]), (2, [[2, 0], [1, 0]]), (9, [[2, 0, 3, 1], [1, 0, 2]])])
def test_k_best_cells(k: int, expected: list[list[int]]) -> None:
    view, prediction = scene([[0.9, 0.3, 1.0, 0.5], [0.3, 0.4, 0.3, None]])
    assert chosen(TopK(k=k), view, prediction) == expected


def counts(policy: TopK, masks: int, forwards: int) -> list[int]:
    """Cells committed by each of the first forwards of a block."""
    out, memory = [], None
    left = masks
    for step in range(forwards):
        view, prediction = scene([[0.5] * left + [None] * (masks - left)], block_step=step)
        memory = policy.begin(view) if memory is None else memory
        decision, memory = policy.decide(view, prediction, memory)
        out.append(int(decision.write.sum()))
        left -= out[-1]
    return out


@pytest.mark.parametrize(
    ("masks", "steps", "spend", "expected"),
    [
        (8, 4, False, [2, 2, 2, 2]),
        (10, 4, False, [3, 3, 2, 2]),  # the remainder to the first steps
        (3, 8, False, [1, 1, 1, 0, 0]),  # never an idle forward ...
        (3, 8, True, [1, 1, 1, 0, 0, 0, 0, 0]),  # ... unless the official sampler's are to be spent
        (7, 1, False, [7]),
    ],
)
def test_even_schedule(masks: int, steps: int, spend: bool, expected: list[int]) -> None:
    assert counts(TopK(steps=steps, spend=spend), masks, len(expected)) == expected


@pytest.mark.parametrize(
    ("masks", "steps", "expected"),
    [
        (8, 8, [0, 1, 1, 1, 1, 1, 1, 2]),  # steps = masks: the first forward commits nothing, the last two cells
        (16, 8, [1, 2, 2, 2, 2, 2, 2, 3]),
        (4, 1, [4]),
    ],
)
def test_time_schedule(masks: int, steps: int, expected: list[int]) -> None:
    policy = TopK(steps=steps, schedule="time")
    assert counts(policy, masks, steps) == expected


def test_spend_holds_the_block_open() -> None:
    view, prediction = scene([[0.5, None]], block_step=1)
    decision, _ = TopK(steps=3, spend=True).decide(view, prediction, torch.tensor([2]))
    assert decision.hold is not None and decision.hold.tolist() == [True]
    view, prediction = scene([[0.5, None]], block_step=2)
    decision, _ = TopK(steps=3, spend=True).decide(view, prediction, torch.tensor([3]))
    assert decision.hold is not None and decision.hold.tolist() == [False]
    decision, _ = TopK(steps=3).decide(view, prediction, torch.tensor([2]))
    assert decision.hold is not None and decision.hold.tolist() == [False]


def test_schedule_counts_from_the_block_that_opened() -> None:
    """The memory of a finished block does not reach into the next."""
    policy = TopK(steps=2)
    view, prediction = scene([[0.5] * 6])
    _, memory = policy.decide(view, prediction, policy.begin(view))
    view, prediction = scene([[None, None, 0.1, 0.2, 0.3, 0.4]], block_step=0)
    decision, memory = policy.decide(view, prediction, memory)
    assert in_order(decision) == [[5, 4]]


@pytest.mark.parametrize(
    ("score", "expected"),
    [("confidence", [3, 0]), ("margin", [1, 2]), ("entropy", [2, 1]), ("position", [0, 1])],
)
def test_scores(score: str, expected: list[int]) -> None:
    view, prediction = scene([[0.8, 0.3, 0.2, 0.9]], margin=[[0.1, 0.7, 0.5, 0.0]], entropy=[[1.0, 0.5, 0.25, 2.0]])
    policy = TopK(k=2, score=score)  # type: ignore[arg-type]
    assert chosen(policy, view, prediction) == [expected]
    assert policy.needs == ({score} & {"margin", "entropy"})


def test_random_score_draws_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    view, prediction = scene([[0.9, 0.9, 0.9], [0.9, 0.9, 0.9]])
    monkeypatch.setattr(View, "uniform", lambda self: torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.2, 0.8]]))
    assert chosen(TopK(k=2, score="random"), view, prediction) == [[1, 2], [2, 0]]


def test_uniform_depends_on_the_row_alone() -> None:
    view, _ = scene([[0.5] * 4, [0.5] * 4])
    both = view.uniform()
    view, _ = scene([[0.5] * 4, [0.5] * 4])
    alone = replace(view, tokens=view.tokens[1:], budget=torch.tensor([4]), generators=view.generators[1:]).uniform()
    assert torch.equal(both[1:], alone)
    assert not torch.equal(both[0], both[1])


def test_origin_commits_each_cell_with_the_step_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = TopK(steps=4, schedule="time", origin=True)
    # t = 1, 0.75025, 0.5005, 0.25075, 0.001: shares 0.24975, 0.3329, 0.499, then everything
    monkeypatch.setattr(View, "uniform", lambda self: torch.tensor([[0.2497, 0.2499, 0.0, 0.9]]))
    view, prediction = scene([[0.5, 0.6, None, 0.7]])
    assert chosen(policy, view, prediction) == [[0]]
    view, prediction = scene([[0.5, 0.6, None, 0.7]], block_step=3)
    assert chosen(policy, view, prediction) == [[3, 1, 0]]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"k": 0}, "k is 0; give a whole number from 1 up"),
        ({"steps": 0}, "steps is 0; give a whole number from 1 up"),
        ({"score": "best"}, "score is 'best'; choose confidence, margin, entropy, random"),
        ({"steps": 2, "schedule": "cosine"}, "schedule is 'cosine'; choose even or time"),
        ({"schedule": "time"}, "follow a number of forwards per block; give steps"),
        ({"spend": True}, "follow a number of forwards per block; give steps"),
        ({"steps": 2, "origin": True}, "origin follows the time schedule; give schedule=time"),
        ({"eps": 1.0}, "eps is 1.0; give a number above 0 and below 1"),
    ],
)
def test_refuses(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        TopK(**fields)  # type: ignore[arg-type]
