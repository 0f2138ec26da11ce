"""ContentFirst: a forward that writes only the tail takes one cell of the text too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from samplers import ContentFirst, Decision, EosStop, FreeDave, Policy, PolicyError, Prediction, Threshold, View
from samplers.contract.memory import Memory
from tests.toys import EOS, commits, decode, scene, tiny


@dataclass(frozen=True)
class Fixed(Policy):
    """Writes the cells it is told."""

    cells: tuple[int, ...] = ()
    holds: bool = False

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:
        write = torch.isin(view.index, torch.tensor(self.cells)).expand(view.tokens.shape)
        return Decision(write, prediction.token, hold=torch.tensor([self.holds])), memory


def written(
    confidence: list[float | None], tokens: list[int], step: Fixed, block: tuple[int, int] | None = None
) -> list[int]:
    """Cells written by one forward."""
    view, prediction = scene([confidence], tokens=[tokens], block=block)
    done, _ = ContentFirst(step).decide(view, prediction, None)
    assert torch.equal(done.values[done.write], prediction.token[done.write])
    return [int(i) for i in done.write[0].nonzero()[:, 0]]


def test_the_best_cell_of_the_text_joins_a_forward_that_wrote_only_its_tail() -> None:
    sure, tokens = [0.2, 0.4, 0.3, 0.95, 0.99], [5, 6, 7, EOS, EOS]
    assert written(sure, tokens, Fixed((3, 4))) == [1, 3, 4]
    assert written(sure, tokens, Fixed((0, 4))) == [0, 4]  # something of the text is there already
    assert written([0.2, None, 0.3, None, 0.9], [5, 6, 7, 8, EOS], Fixed((4,)), block=(2, 5)) == [2, 4]
    assert written([None, None, 0.9, 0.9], [5, EOS, 6, 7], Fixed((2,))) == [2]  # the text has ended
    assert written(sure, tokens, Fixed(holds=True)) == []


def test_a_step_that_is_no_plain_decider_is_refused() -> None:
    with pytest.raises(PolicyError, match="step is EosStop, which plays finish too"):
        ContentFirst(EosStop())
    with pytest.raises(PolicyError, match="decides nothing"):
        ContentFirst(Policy())


@pytest.mark.parametrize("cross", [False, True])
def test_drafts_change_nothing_of_it(cross: bool) -> None:
    for seed in range(6):
        model, prompts = tiny("llada", seed), [[1, 2, 3], [4]]
        sizes: Any = {"max_new_tokens": 12, "block_length": 6}
        plain = decode(model, ContentFirst(Threshold(0.7)), prompts, **sizes)
        drafted = decode(model, FreeDave(ContentFirst(Threshold(0.7)), drafts=3, cross_block=cross), prompts, **sizes)
        assert drafted.sequences == plain.sequences


@given(st.integers(0, 7), st.sampled_from(["none", "dual"]))
def test_every_cell_is_decided_once(seed: int, cache: str) -> None:
    model, prompts = tiny("dream", seed), [[1, 2, 3]]
    result = decode(model, ContentFirst(Threshold(0.7)), prompts, cache, max_new_tokens=12, block_length=6)
    assert sorted(cell for step in commits(result) for cell in step) == list(range(12))
    assert result.nfe[0] <= 12
