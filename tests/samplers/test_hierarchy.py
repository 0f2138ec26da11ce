"""Hierarchy (dInfer): one cell of each run of masks; with remask, doubted cells are candidates again."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import Hierarchy, PolicyError, validate
from samplers.hierarchy import best_of_runs
from tests.toys import EOS, MASK, chosen, decode, scene, tiny


@pytest.mark.parametrize(
    ("threshold", "low", "expected"),
    [
        # runs: cells 0-1, 3-5, 7; the best of the row is cell 4
        (0.9, 0.3, [[4, 1]]),
        (0.9, 0.5, [[4]]),  # strict: cell 1 has 0.5
        (0.5, 0.3, [[4, 3, 1]]),  # cell 3 is above the threshold, cell 1 the best of its run
        (None, None, [[4, 1, 7]]),  # every run's best
        (None, 1.0, [[4]]),  # always the best of all
    ],
)
def test_table(threshold: float | None, low: float | None, expected: list[list[int]]) -> None:
    view, prediction = scene([[0.4, 0.5, None, 0.6, 0.8, 0.2, None, 0.1]])
    assert chosen(Hierarchy(threshold, low), view, prediction) == expected


def test_runs_end_at_the_block() -> None:
    view, prediction = scene([[0.4, 0.5, 0.9, 0.9]], block=(0, 2))
    assert chosen(Hierarchy(None, None), view, prediction) == [[1]]


def test_ties_go_to_the_first_cell_of_the_run() -> None:
    view, prediction = scene([[0.5, 0.5, None, 0.5, 0.5]])
    assert chosen(Hierarchy(None, None), view, prediction) == [[0, 3]]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.2, 0.3])), min_size=1, max_size=12))
def test_best_of_runs_by_hand(cells: list[tuple[bool, float]]) -> None:
    where, score = torch.tensor([[c for c, _ in cells]]), torch.tensor([[s for _, s in cells]])
    expected, run = [False] * len(cells), []
    for at in range(len(cells) + 1):
        if at < len(cells) and cells[at][0]:
            run.append(at)
        elif run:
            expected[max(run, key=lambda i: (cells[i][1], -i))] = True
            run = []
    assert best_of_runs(score, where).tolist() == [expected]


def doubting(table: list[list[float]], committed: list[int], policy: Hierarchy) -> tuple[list[int], list[int]]:
    """Cells written and revoked, where the model now gives the committed cells these confidences."""
    view, prediction = scene([[None if at in committed else c for at, c in enumerate(row)] for row in table])
    sure, seen = torch.tensor(table), torch.ones_like(view.masked)
    prediction = prediction.__class__(torch.full_like(view.tokens, 5), sure, seen, view.open)
    decision, _ = policy.decide(view, prediction, None)
    validate(policy, view, decision)
    gone = decision.write & (decision.values == MASK)
    return (decision.write & ~gone).nonzero()[:, 1].tolist(), gone.nonzero()[:, 1].tolist()


@pytest.mark.parametrize(
    ("remask", "written", "revoked"),
    [
        # masks 1 and 4; committed cells 0, 2, 3 that now have 0.2, 0.95, 0.35
        (0.0, [1], []),
        (0.3, [1, 4], [0]),  # run 0-1: its best is 1; one doubted, so two: the next best is 4
        (0.4, [1, 3, 4], [0]),  # runs 0-1 and 3-4: 1 and 3; two doubted, so three: 4 is next
        (0.99, [1, 2, 3, 4], [0]),  # a run of all; 2 is above the threshold; three doubted, so four
    ],
)
def test_doubted_cells(remask: float, written: list[int], revoked: list[int]) -> None:
    table = [[0.2, 0.5, 0.95, 0.35, 0.3]]
    policy = Hierarchy(threshold=0.9, low=0.32, remask=remask)
    assert doubting(table, [0, 2, 3], policy) == (written, revoked)


def test_given_tokens_are_never_doubted() -> None:
    prompt = [3, MASK, 7, MASK, MASK, 9, MASK]
    result = decode(tiny("llada"), Hierarchy(remask=1.1), [prompt], infill=True, max_new_tokens=3)
    for before, after in zip(prompt, [3, *result.sequences[0]], strict=False):
        assert before in (MASK, after)
    changed = {
        cell for step in result.trace[0].steps for cell, old in zip(step.cells, step.old, strict=True) if old != MASK
    }
    assert changed  # it did doubt


def test_a_row_that_stops_revokes_nothing() -> None:
    """With every cell in doubt, SchED ends the row on a forward that would have revoked."""
    for seed in range(6):
        result = decode(
            tiny("llada", seed), "hierarchy:remask=1.1+sched:high=2,low=0.1", [[3, 1], [5]], max_new_tokens=8
        )
        assert all(MASK not in row for row in result.sequences)


def test_eos_stop_over_revocations() -> None:
    for seed in range(6):
        result = decode(
            tiny("llada", seed), "hierarchy:remask=1.1+eosstop", [[3, 1], [5]], max_new_tokens=8, block_length=4
        )
        for row in result.sequences:
            tail = row[row.index(EOS) :] if EOS in row else []
            assert MASK not in row and set(tail) <= {EOS, *row}


def test_refuses() -> None:
    with pytest.raises(PolicyError, match=r"low is -1.*; give a number from 0 up, or None"):
        Hierarchy(low=-1)
    assert not Hierarchy().revises and Hierarchy(remask=0.4).revises
