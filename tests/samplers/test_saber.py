"""Saber: commit above the mean of the commits so far, take back what has become less sure."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import PolicyError, Prediction, Saber, validate
from samplers.saber import Trust
from tests.toys import MASK, decode, scene, tiny


def step(
    now: list[float], last: list[float], at_commit: list[float], least: int, block_step: int = 1
) -> tuple[list[int], list[int], Trust]:
    """Cells written and revoked; a cell whose ``at_commit`` is 0 or more is committed."""
    view, prediction = scene(
        [[None if was >= 0 else c for c, was in zip(now, at_commit, strict=True)]], block_step=block_step
    )
    everything = torch.ones_like(view.masked)
    prediction = Prediction(torch.full_like(view.tokens, 2), torch.tensor([now]), everything, view.open)
    memory = Trust(torch.tensor([last]), torch.tensor([at_commit]))
    policy = Saber(least)
    decision, memory = policy.decide(view, prediction, memory)
    validate(policy, view, decision)
    gone = decision.write & (decision.values == MASK)
    return (decision.write & ~gone)[0].nonzero()[:, 0].tolist(), gone[0].nonzero()[:, 0].tolist(), memory


def test_the_first_forward_keeps_all_but_the_least_sure() -> None:
    # nothing is committed: mu = 1, so the two best (1 and 3); one goes back at once, the one that rose least from 0
    written, revoked, memory = step([0.1, 0.9, 0.2, 0.6], [0.5] * 4, [-1.0] * 4, least=2, block_step=0)
    assert (written, revoked) == ([1], [])
    assert memory.at_commit[0].tolist() == pytest.approx([-1, 0.9, -1, 0.6])  # its confidence counts all the same


def test_above_the_mean_and_the_fall() -> None:
    # mu = 0.7: cells 2, 3, 4 go above it (w = 3); one of the committed fell: cell 1
    now = [0.8, 0.4, 0.75, 0.8, 0.9, 0.1]
    written, revoked, _ = step(now, [0.7, 0.6, 0.5, 0.5, 0.5, 0.5], [0.8, 0.6, -1, -1, -1, -1], least=2)
    assert (written, revoked) == ([2, 3, 4], [1])


def test_a_share_of_many_commits_goes_back() -> None:
    now = [0.9] * 16 + [0.1]
    written, revoked, _ = step(now, [0.1 + i / 100 for i in range(16)] + [0.1], [-1.0] * 17, least=16)
    assert len(written) == 16 - 8 and written == list(range(8)) and not revoked  # least // 2 of those just chosen
    written, *_ = step(now, [0.1] * 17, [-1.0] * 17, least=1)
    assert len(written) == 1  # one commit, nothing back


def test_a_full_block_is_left_alone() -> None:
    written, revoked, _ = step([0.1, 0.9, 0.9], [0.9, 0.1, 0.1], [0.9, -1, -1], least=2)
    assert (written, revoked) == ([1, 2], [])


def test_given_tokens_are_never_taken_back() -> None:
    for seed in range(5):
        prompt = [3, MASK, 7, MASK, MASK, 9, MASK, MASK, 4, MASK]
        result = decode(tiny("llada", seed), Saber(), [prompt], infill=True, max_new_tokens=4)
        for before, after in zip(prompt, [3, *result.sequences[0]], strict=False):
            assert before in (MASK, after)


@given(st.integers(0, 5), st.integers(1, 5), st.sampled_from([2, 5, 9]))
def test_each_forward_nets_a_commit(seed: int, least: int, block: int) -> None:
    """At most ``block`` forwards a block, however much is taken back."""
    result = decode(tiny("llada", seed), Saber(least), [[1, 2], [3, 4, 5]], max_new_tokens=9, block_length=block)
    for row in range(2):
        assert result.nfe[row] <= 9 and MASK not in result.sequences[row]


def test_refuses() -> None:
    with pytest.raises(PolicyError, match=r"least is 0; give a whole number from 1 up"):
        Saber(0)
