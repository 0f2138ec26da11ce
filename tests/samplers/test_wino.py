"""WINO: wide in, narrow out, and twins that leave no trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_decode import CallableModel, DiffusionSampler
from samplers import PolicyError, View, Wino
from samplers.contract.memory import Memory
from samplers.wino import FIRST, Standing
from tests.toys import MASK, VOCAB, decode, scene, tiny

CACHES = ("none", "prefix", "dual")

Twins = Literal["block", "lone"]


def judge(policy: Wino, confidence: list[float | None], held: list[float], last: int) -> tuple[set[int], set[int]]:
    """Cells written and revoked; every committed cell is known."""
    view, prediction = scene([confidence], block_step=1)
    twins = replace(prediction, held=torch.tensor([held]))
    memory = Standing(torch.tensor([last]), ~view.masked)
    decision, after = policy.decide(view, replace(prediction, shadow=twins), memory)
    masked = decision.values == MASK
    write, revoked = decision.write & ~masked, decision.write & masked
    assert after.last.tolist() == [int(write.sum())]
    assert torch.equal(after.known, (~view.masked | write) & ~revoked)
    return set(write[0].nonzero()[:, 0].tolist()), set(revoked[0].nonzero()[:, 0].tolist())


@pytest.mark.parametrize(
    ("confidence", "held", "last", "written", "revoked"),
    [
        # both thresholds are strict
        ([0.7, 0.6, 0.8, None, None], [0, 0, 0, 0.9, 0.89], 30, {0, 2}, {4}),
        # one commit buys no revocation
        ([0.7, 0.1, None, None], [0, 0, 0.0, 0.0], 30, {0}, set()),
        # fewer revocations than the forward before had commits: the most disputed ones
        ([0.7, 0.7, None, None, None], [0, 0, 0.3, 0.1, 0.2], 3, {0, 1}, {3, 4}),
        ([0.7, 0.7, None, None, None], [0, 0, 0.3, 0.1, 0.2], 1, {0, 1}, set()),
        # nothing is sure: the best cell
        ([0.1, 0.2, None], [0, 0, 0.0], 30, {1}, set()),
    ],
)
def test_table(
    confidence: list[float | None], held: list[float], last: int, written: set[int], revoked: set[int]
) -> None:
    assert judge(Wino(), confidence, held, last) == (written, revoked)


@pytest.mark.parametrize(("masks", "most"), [(4, 4), (6, 5), (10, 7), (20, 14), (28, 19), (40, 20)])
def test_a_forward_commits_at_most_a_share(masks: int, most: int) -> None:
    view, prediction = scene([[0.99 - 0.001 * i for i in range(masks)]])
    decision, _ = Wino().decide(view, prediction, Wino().begin(view))
    assert decision.write[0].nonzero()[:, 0].tolist() == list(range(most))


@dataclass(frozen=True)
class Alone(Wino):
    """The same, but nobody is asked."""

    def query(self, view: View, memory: Memory) -> None:
        return None


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("twins", ["block", "lone"])
def test_twins_leave_no_trace(cache: str, twins: Twins) -> None:
    """Nothing is revoked below 0: with twins beside it each forward says the same, also over a cache."""
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6]]
    for seed in range(3):
        runs = [
            decode(tiny("llada", seed), rule(0.3, 0.0, twins), prompts, cache, max_new_tokens=13, block_length=8)
            for rule in (Alone, Wino)
        ]
        for alone, beside in zip(*(run.trace for run in runs), strict=True):
            assert [s.cells for s in alone.steps] == [s.cells for s in beside.steps]
            for one, other in zip(alone.steps, beside.steps, strict=True):
                assert one.confidence == pytest.approx(other.confidence, abs=2e-6)
        assert sum(runs[1].tokens_forwarded) > sum(runs[0].tokens_forwarded)


@given(st.integers(0, 10_000), st.sampled_from([0.0, 0.2, 0.5]), st.sampled_from([None, 4, 24]), st.booleans())
def test_ends_within_thirty_forwards_of_one_per_cell(
    seed: int, threshold: float, block: int | None, lone: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    policy = Wino(threshold + 1e-3, 1.0, "lone" if lone else "block")
    width, mask = 24, MASK
    view, _ = scene([[0.5] * width])
    end = torch.tensor([block or width])
    view, memory, forwards = replace(view, end=end), policy.begin(view), 0
    while bool(view.open.any()):
        sure, held = torch.rand(2, 1, width, generator=generator)
        _, said = scene([sure[0].tolist()])
        said = replace(said, predicted=view.masked, open=view.open, shadow=replace(said, held=held))
        decision, memory = policy.decide(view, said, memory)
        view = view.after(decision.write, torch.where(decision.values == mask, mask, 1))
        forwards += 1
        assert forwards <= int(end) + FIRST


def test_refuses_what_cannot_work() -> None:
    with pytest.raises(PolicyError, match="scores a cell one slot earlier, where no twin can stand"):
        DiffusionSampler(tiny("dream"), Wino())
    with pytest.raises(PolicyError, match="needs twins that hide their originals"):
        DiffusionSampler(CallableModel(lambda ids: ids, mask_id=MASK, vocab_size=VOCAB), "wino")
    for wrong in ({"threshold": 0.0}, {"threshold_back": -1.0}, {"twins": "two"}):
        with pytest.raises(PolicyError, match=f"{next(iter(wrong))} is"):
            Wino(**wrong)
