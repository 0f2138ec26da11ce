"""What parts are told of earlier forwards, memories that are none, and policies that wait for ever."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from samplers import Decision, EosStop, FreeDave, Policy, PolicyError, Prediction, TopK, View, commit, divergence
from samplers.contract.memory import Memory
from tests.toys import FAMILIES, decode, tiny

PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8], [9, 10]]


@dataclass(frozen=True)
class Calm(Policy):
    """Commit cells that have hardly moved over the last forwards."""

    drift: float = 0.3
    recalls: int = 2
    needs = frozenset({"logits"})

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        calm = prediction.open
        if len(prediction.before) < self.recalls:
            return commit(torch.zeros_like(calm), prediction), memory
        chain = (prediction, *prediction.before)
        for now, earlier in zip(chain, chain[1:], strict=False):
            calm = calm & (divergence(now, earlier, calm, self.drift) <= self.drift)
        return commit(calm, prediction), memory


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_recalls_in_a_batch_what_it_recalls_alone(family: str, cache: str) -> None:
    settings = {"max_new_tokens": 13, "block_length": 5}
    together = decode(tiny(family), Calm(), PROMPTS, cache, **settings)
    for row, prompt in enumerate(PROMPTS):
        alone = decode(tiny(family), Calm(), [prompt], cache, **settings)
        assert alone.sequences[0] == together.sequences[row]
        assert [s.cells for s in alone.trace[0].steps] == [s.cells for s in together.trace[row].steps]
    assert min(together.nfe) < 13, "nothing was ever calm"


def test_the_past_is_the_row_s_latest_first() -> None:
    seen: list[tuple[int, list[Tensor], Tensor]] = []

    @dataclass(frozen=True)
    class Look(TopK):
        recalls = 2

        def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
            past = [p.confidence for p in prediction.before]
            seen.append((int(view.step[0]) - 1, past, prediction.confidence))
            assert all(not p.before for p in prediction.before)
            return super().decide(view, prediction, memory)

    decode(tiny("llada"), Look(), [[1, 2]], max_new_tokens=8, block_length=4)
    for i, (step, past, _) in enumerate(seen):
        assert len(past) == min(step, 2)
        for back, confidence in enumerate(past, 1):
            assert confidence is seen[i - back][2], "it is the prediction itself, no copy"


def test_divergence_is_the_textbook_s() -> None:
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(0))
    logits[0, 0, 2] = logits[1, 0, 2] = -torch.inf

    def said(numbers: Tensor, cells: list[int]) -> Prediction:
        blank = torch.zeros(1, 6)
        token = blank.long().index_put((torch.tensor(0), torch.tensor(cells)), numbers.argmax(-1))
        return Prediction(
            token, blank, blank > 0, blank > 0, logits=numbers, logsumexp=numbers.logsumexp(-1),
            cells=torch.tensor(cells),
        )  # fmt: skip

    now, earlier = said(logits[0], [0, 2, 5]), said(logits[1], [0, 1, 2])
    found = divergence(now, earlier, torch.tensor([[True, True, True, True, True, True]]))
    for cell, a, b in ((0, 0, 0), (2, 1, 2)):
        p, q = logits[0, a].softmax(-1), logits[1, b].softmax(-1)
        assert float(found[0, cell]) == pytest.approx(float((p * (p / q).log()).nansum()), abs=1e-5)
    assert found[0, [1, 3, 4, 5]].isinf().all()
    for limit in (0.0, 0.1, 0.5, 1.0, 2.0):
        limited = divergence(now, earlier, torch.ones(1, 6, dtype=torch.bool), limit)
        assert torch.equal(limited <= limit, found <= limit)


def test_drafts_cannot_skip_what_is_recalled() -> None:
    with pytest.raises(PolicyError, match="Calm recalls earlier forwards, which drafts skip"):
        FreeDave(Calm())


class Held(NamedTuple):
    """A memory with names."""

    steps: Tensor


@dataclass(frozen=True)
class Counting(TopK):
    """Keeps a count of its forwards, in some form."""

    form: Any = Held

    def begin(self, view: View) -> Memory:
        return self.form(torch.zeros_like(view.start))

    def decide(self, view: View, prediction: Prediction, memory: Any) -> tuple[Decision, Memory]:
        decision, _ = super().decide(view, prediction, None)
        count = memory.steps if isinstance(memory, Held) else torch.as_tensor(memory)
        return decision, self.form(count + 1)


def test_a_named_memory_works_and_counts_on_when_rows_leave() -> None:
    counts: list[list[int]] = []

    @dataclass(frozen=True)
    class Seen(Counting):
        def decide(self, view: View, prediction: Prediction, memory: Any) -> tuple[Decision, Memory]:
            counts.append((memory.steps - view.step + 1).tolist())
            return super().decide(view, prediction, memory)

    decode(tiny("llada"), Seen() | EosStop(), PROMPTS, "dual", max_new_tokens=9, block_length=3)
    assert {number for row in counts for number in row} == {0}


@pytest.mark.parametrize("form", [lambda x: 0, lambda x: {"n": 1.5}, lambda x: x.sum()])
def test_a_memory_that_is_none_is_refused_on_the_first_step(form: Any) -> None:
    with pytest.raises(PolicyError, match=r"Counting\(.*memory\[0\].* is .*(whose first axis|must be the row)"):
        decode(tiny("llada"), Counting(form=form), PROMPTS, max_new_tokens=4)


@dataclass(frozen=True)
class Waits(Policy):
    """Waits for ever."""

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        nothing = torch.zeros_like(prediction.open)
        return Decision(nothing, prediction.token, hold=~nothing.any(-1)), memory


@dataclass(frozen=True)
class Turns(TopK):
    """Takes back in every other forward what it committed in the one before."""

    revises = True

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        if int(view.step[0]) % 2 == 0:
            return super().decide(view, prediction, memory)
        back = view.in_block & ~view.masked
        values = torch.full_like(view.tokens, view.mask_id)
        return Decision(back, values, hold=torch.ones_like(view.start, dtype=torch.bool)), memory


@pytest.mark.parametrize("policy", [Waits(), Turns()])
@pytest.mark.parametrize(("limit", "forwards"), [(None, 4 + 32 + 1), (3, 4)])
def test_a_policy_that_gets_nowhere_is_stopped(policy: Policy, limit: int | None, forwards: int) -> None:
    name = f"{__name__}:{type(policy).__name__}"
    with pytest.raises(PolicyError) as error:
        decode(tiny("llada"), policy, [[1, 2]], max_new_tokens=8, block_length=4, max_wait=limit)
    assert str(error.value) == (
        f"{name} has had {forwards} forwards on row 0 without getting nearer to the end of its block of 4 cells; "
        "give it other parameters, or max_wait= if it is to wait that long."
    )
