"""Credit: the released rule over whole vocabularies, written out by hand, against the one that keeps few tokens."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dllm_decode.engine.score import score
from dllm_decode.interface.scoring import ScoreRule
from samplers import Credit, Decision, Prediction, Setting, View
from samplers.contract.data import PolicyError
from tests.toys import MASK, VOCAB, scene


def predict(view: View, logits: Tensor) -> Prediction:
    """What an engine says of the open cells whose logits these are, ``[B, G, V]``."""
    said = score(logits[view.open].clone(), ScoreRule(MASK, needs=frozenset({"logits"})))
    empty = Prediction(view.tokens.clone(), torch.zeros(view.tokens.shape), view.open, view.open)
    empty.token[view.open], empty.confidence[view.open] = said.token, said.confidence
    return Prediction(
        empty.token,
        empty.confidence,
        view.open,
        view.open,
        logits=said.logits,
        logsumexp=said.logsumexp,
        cells=view.open.flatten().nonzero()[:, 0],
    )


def by_hand(policy: Credit, credit: Tensor, logits: Tensor, masked: Tensor) -> tuple[Tensor, Tensor]:
    """Written cells and their tokens of one row; ``credit`` ``[G, V]`` is updated."""
    credit *= policy.beta
    p = logits.softmax(-1)
    proposed = p.index_fill(-1, torch.tensor([MASK]), -1).argmax(-1)
    for cell in masked.nonzero()[:, 0].tolist():
        credit[cell, proposed[cell]] += p[cell, proposed[cell]] ** policy.gamma
    fused = (logits + policy.alpha * credit.log1p()).softmax(-1)
    sure, token = fused.index_fill(-1, torch.tensor([MASK]), -1).max(-1)
    bar = min(policy.threshold, float(sure[masked].max()) - 1e-5)
    return masked & (sure >= bar), token


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.7, 3.0]), st.sampled_from([0.0, 0.5, 0.8, 1.0]))
def test_few_tokens_are_enough(seed: int, alpha: float, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    policy = Credit(threshold=0.9, alpha=alpha, beta=beta, gamma=0.5).bind(Setting(MASK, block_length=6))
    cells: list[float | None] = [0.5] * 6
    memory, credit = None, torch.zeros(6, VOCAB)
    for step in range(6):
        view, _ = scene([cells], block_step=step)
        logits = torch.randn(1, 6, VOCAB, generator=generator) * 2
        prediction = predict(view, logits)
        memory = policy.begin(view) if memory is None else memory
        decision, memory = policy.decide(view, prediction, memory)
        write, tokens = by_hand(policy, credit, logits[0].double(), view.masked[0])
        assert decision.write[0].tolist() == write.tolist()
        assert decision.values[0][write].tolist() == tokens[write].tolist()
        cells = [None if done else c for c, done in zip(cells, write.tolist(), strict=True)]
        if all(c is None for c in cells):
            break


def one_step(policy: Credit, logits: Tensor, step: int, memory: object) -> tuple[Decision, object]:
    """A forward of one row of open cells."""
    view, _ = scene([[0.5] * logits.shape[1]], block_step=step)
    return policy.decide(view, predict(view, logits), policy.begin(view) if memory is None else memory)


def test_credit_ends_with_the_block() -> None:
    policy, logits = Credit(threshold=1.0), torch.randn(1, 3, VOCAB, generator=torch.Generator().manual_seed(1))
    fresh, _ = one_step(policy, logits, 0, None)
    _, memory = one_step(policy, -logits, 0, None)
    again, _ = one_step(policy, logits, 0, memory)
    later, _ = one_step(policy, logits, 1, memory)
    assert torch.equal(fresh.order, again.order) and not torch.equal(fresh.order, later.order)  # type: ignore[arg-type]


def test_a_token_comes_back_on_credit() -> None:
    """Proposed twice, a token still wins when another is slightly ahead; the trace says how likely it is."""
    first, other = torch.full((1, 1, VOCAB), -5.0), torch.full((1, 1, VOCAB), -5.0)
    first[..., 4], other[..., 4], other[..., 7] = 4.0, 3.0, 3.2
    policy, memory = Credit(alpha=2.0, slots=3), None
    for step, logits in enumerate((first, first, other)):
        decision, memory = one_step(policy, logits, step, memory)
    assert decision.values.tolist() == [[4]] and decision.confidence is not None
    assert float(decision.confidence) == pytest.approx(float(other.softmax(-1)[0, 0, 4]), abs=1e-6)


def test_slots_that_are_full_drop_the_least_credit() -> None:
    logits = torch.full((3, 1, 1, VOCAB), -5.0)
    for step, token in enumerate((4, 7, 9)):
        logits[step, ..., token] = 5.0 - step
    policy, memory = Credit(beta=1.0, slots=2), None
    for step in range(3):
        _, memory = one_step(policy, logits[step], step, memory)
    assert sorted(memory.tokens[0, 0].tolist()) == [4, 9]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("fields", "said"),
    [({"threshold": 0}, "threshold is 0"), ({"alpha": -1}, "alpha is -1"), ({"beta": 2}, "beta is 2"),
     ({"slots": 0}, "slots is 0")],
)  # fmt: skip
def test_refuses(fields: dict[str, float], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        Credit(**fields)  # type: ignore[arg-type]
