"""LoPA: look-ahead canvases, and the branch that wins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import Lopa, PolicyError, Prediction, Threshold, View
from samplers.lopa import Ahead
from tests.toys import FAMILIES, MASK, commits, decode, scene, tiny

CACHES = ("none", "prefix", "dual")


def test_the_first_round_is_the_anchor_alone() -> None:
    view, prediction = scene([[0.95, 0.3, 0.6, 0.5, None]])
    policy = Lopa(2, score="confidence")
    assert policy.query(view, policy.begin(view)) is None
    decision, ahead = policy.decide(view, prediction, policy.begin(view))
    assert decision.write[0].nonzero()[:, 0].tolist() == [0]
    assert ahead.cell.tolist() == [[2, 3]] and ahead.token.tolist() == [[2, 2]]
    assert ahead.created[0].tolist() == pytest.approx([0.6, 0.5])
    # Nothing above the threshold: the best, and the next two.
    view, prediction = scene([[0.3, None, 0.2, 0.1], [None, None, 0.2, None]])
    decision, ahead = policy.decide(view, prediction, policy.begin(view))
    assert decision.write.int().tolist() == [[1, 0, 0, 0], [0, 0, 1, 0]]
    assert ahead.cell.tolist() == [[2, 3], [-1, -1]]


def judge(policy: Lopa, branches: list[list[float | None]], cells: list[int], created: list[float]) -> list[int]:
    """Cells written when the look-aheads hold ``cells``; the first list is the anchor."""
    view, _ = scene([[0.5] * len(branches[0])], block_step=1)
    memory = Ahead(
        torch.tensor([cells]), torch.full((1, len(cells)), 3), torch.tensor([created]), torch.tensor([created])
    )
    query = policy.query(view, memory)
    assert query is not None and query.canvases is not None and query.used is not None and query.used.all()
    _, said = scene(branches)
    prediction = replace(said, branches=len(branches), canvases=query.canvases)
    decision, _ = policy.decide(view, prediction, memory)
    assert decision.order is not None and decision.turn is not None
    order = decision.order[0]
    return sorted(decision.write[0].nonzero()[:, 0].tolist(), key=lambda cell: (float(order[cell]), cell))


ANCHOR, FIRST, SECOND = [0.4, 0.4, 0.4, 0.95], [None, 0.3, 0.3, 0.8], [0.6, None, 0.5, 0.7]


def test_the_surest_rest_wins() -> None:
    policy = Lopa(2, score="confidence")
    assert judge(policy, [ANCHOR, FIRST, SECOND], [0, 1], [0.4, 0.4]) == [1, 3]  # means 0.54, 0.47, 0.6
    assert judge(replace(policy, threshold=0.55), [ANCHOR, FIRST, SECOND], [0, 1], [0.4, 0.4]) == [1, 3, 0]
    # The least certain third: 0.4, 0.3, 0.5.
    assert judge(replace(policy, share=0.34), [ANCHOR, FIRST, SECOND], [0, 1], [0.4, 0.4]) == [1, 3]
    # Creation alone: the anchor's is 1.
    assert judge(replace(policy, creation=1.0), [ANCHOR, FIRST, SECOND], [0, 1], [0.4, 0.4]) == [3]
    # Equal scores: a look-ahead before the anchor, the one made first before the other.
    even: list[float | None] = [0.5, 0.5, 0.5, 0.5]
    assert judge(policy, [even, [None, 0.5, 0.5, 0.5], [0.5, None, 0.5, 0.5]], [0, 1], [0.5, 0.5]) == [0, 1]
    # A finished branch scores 1.
    assert judge(policy, [[0.9], [None]], [0], [0.9]) == [0]


@given(st.sampled_from(FAMILIES), st.sampled_from(CACHES), st.integers(0, 20), st.sampled_from([None, 4, 7]))
def test_without_look_aheads_it_is_the_threshold(family: str, cache: str, seed: int, block: int | None) -> None:
    prompts = [[1, 2, 3], [4, 5]]
    # The released test is strict; no probability of a random model lies on the threshold.
    runs = [
        decode(tiny(family, seed), policy, prompts, cache, max_new_tokens=12, block_length=block)
        for policy in (Lopa(0, 0.5, "confidence"), Threshold(0.5))
    ]
    assert [commits(runs[0], row) for row in (0, 1)] == [commits(runs[1], row) for row in (0, 1)]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_row_is_charged_for_its_own_branches(family: str, cache: str) -> None:
    prompts = [[1, 2, 3], [4, 5], [6]]
    settings = {"max_new_tokens": 13, "block_length": 5, "branches": "expand"}
    together = decode(tiny(family, 2), Lopa(3, 0.6), prompts, cache, **settings)
    assert sum(together.rows_forwarded) > 2 * sum(together.nfe)
    for row, prompt in enumerate(prompts):
        alone = decode(tiny(family, 2), Lopa(3, 0.6), [prompt], cache, **settings)
        assert alone.sequences[0] == together.sequences[row] and commits(alone) == commits(together, row)
        assert alone.rows_forwarded[0] == together.rows_forwarded[row]
        assert alone.nfe[0] == together.nfe[row]
        assert all(step.rows <= 4 for step in alone.trace[0].steps)


def test_a_cell_decided_elsewhere_is_no_look_ahead() -> None:
    view, prediction = scene([[0.5, 0.5, None]], block_step=2)
    memory = Ahead(torch.tensor([[2, 1]]), torch.tensor([[4, 4]]), torch.ones(1, 2), torch.ones(1, 2))
    query = Lopa().query(view, memory)
    assert query is not None and query.canvases is not None and query.used is not None
    assert query.used.tolist() == [[True, False, True]]
    assert query.canvases[0].tolist() == [view.tokens[0].tolist()] * 2 + [[MASK, 4, 1]]
    assert isinstance(view, View) and isinstance(prediction, Prediction)


def test_needs_and_refusals() -> None:
    assert Lopa().needs == {"entropy"} and Lopa(score="margin").needs == {"margin"}
    assert Lopa(score="confidence").needs == frozenset()
    for wrong in ({"branching_factor": -1}, {"threshold": 0.0}, {"score": "luck"}, {"creation": 1.5}, {"share": -0.1}):
        with pytest.raises(PolicyError, match=f"{next(iter(wrong))} is"):
            Lopa(**wrong)  # type: ignore[arg-type]
