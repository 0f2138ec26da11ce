"""The helpers that selection rules are made of: ties, empty sets, infinities."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from samplers import best, commit, dilate, prefix_sum_by_rank, rank, top
from tests.toys import in_order, scene

INF = float("inf")


@st.composite
def scored(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Scores with many ties (and infinities), and where they count."""
    rows, width = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    values = st.sampled_from([-INF, -1.0, 0.0, 0.25, 0.25, 0.5, 1.0, INF])
    row = st.lists(values, min_size=width, max_size=width)
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    score = draw(st.lists(row, min_size=rows, max_size=rows))
    where = draw(st.lists(flags, min_size=rows, max_size=rows))
    return torch.tensor(score), torch.tensor(where)


def by_hand(score: list[float], where: list[bool]) -> list[int]:
    """Cells that count, best first: higher score, then lower position."""
    return sorted((i for i, w in enumerate(where) if w), key=lambda i: (-score[i], i))


@given(scored())
def test_rank_best_top_are_a_stable_sort(data: tuple[Tensor, Tensor]) -> None:
    score, where = data
    width = score.shape[1]
    places, single = rank(score, where), best(score, where)
    for row in range(len(score)):
        order = by_hand(score[row].tolist(), where[row].tolist())
        expected = [order.index(i) if i in order else width for i in range(width)]
        assert places[row].tolist() == expected
        assert single[row].nonzero()[:, 0].tolist() == order[:1]
        for k in range(width + 1):
            assert sorted(top(score, where, k)[row].nonzero()[:, 0].tolist()) == sorted(order[:k])
    per_row = torch.arange(len(score))
    assert top(score, where, per_row).sum(-1).tolist() == torch.minimum(per_row, where.sum(-1)).tolist()


@given(scored())
def test_prefix_sums_follow_the_ranking(data: tuple[Tensor, Tensor]) -> None:
    score, where = data
    values = torch.arange(1.0, score.shape[1] + 1).expand_as(score)
    sums = prefix_sum_by_rank(values, rank(score, where))
    for row in range(len(score)):
        total = 0.0
        for cell in by_hand(score[row].tolist(), where[row].tolist()):
            total += cell + 1.0
            assert sums[row, cell] == total
        assert all(sums[row, i] == total for i in range(score.shape[1]) if not where[row, i])


def test_dilate() -> None:
    mask = torch.tensor([[0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 1]], dtype=torch.bool)
    assert dilate(mask, 1).int().tolist() == [[0, 1, 1, 1, 0, 0], [1, 1, 0, 0, 1, 1]]
    assert dilate(mask, 0) is mask
    assert dilate(mask, 9).all()


def test_commit_always_adds_the_best_open_cell() -> None:
    view, prediction = scene([[0.2, None, 0.4, 0.4], [0.1, 0.9, 0.8, None], [None, None, None, None]])
    decision = commit(torch.zeros_like(view.masked), prediction)
    assert in_order(decision) == [[2], [1], []]
    decision = commit(torch.ones_like(view.masked), prediction)
    assert in_order(decision) == [[2, 3, 0], [1, 2, 0], []]
    assert torch.equal(decision.values, prediction.token)
    other = torch.tensor([[3.0, 9.0, 2.0, 1.0], [-INF, -INF, -INF, 5.0], [0.0, 0.0, 0.0, 0.0]])
    assert in_order(commit(torch.zeros_like(view.masked), prediction, score=other)) == [[0], [0], []]
