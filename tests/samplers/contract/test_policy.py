"""Composition with ``|``: who plays what, in which order; the validator of decisions."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from samplers import (
    Composition,
    Decision,
    DeferEos,
    EntropyBound,
    EosStop,
    FreeDave,
    Policy,
    PolicyError,
    Prediction,
    Query,
    Scope,
    Setting,
    Threshold,
    TopK,
    View,
    settle,
    validate,
)
from samplers.contract.memory import Memory
from tests.toys import EOS, MASK, scene

SETTING = Setting(mask_id=MASK, eos_ids=(EOS,), vocab_size=24)


@dataclass(frozen=True)
class Blocks(Policy):
    """Sets block lengths."""

    cells: int = 3

    def block_length(self, view: View, prediction: Prediction, memory: Memory) -> Tensor:
        return torch.full_like(view.start, self.cells)


@dataclass(frozen=True)
class Asks(Policy):
    """Sends queries."""

    def query(self, view: View, memory: Memory) -> Query:
        return Query()


@dataclass(frozen=True)
class Adds(Policy):
    """Counts its calls in its memory; adds to the confidences, and notes its name when finishing."""

    amount: float = 0.25
    scope = Scope.BLOCK

    def begin(self, view: View) -> Tensor:
        return torch.zeros_like(view.start)

    def rescore(self, view: View, prediction: Prediction, memory: Tensor) -> tuple[Prediction, Memory]:
        return replace(prediction, confidence=prediction.confidence * 2 + self.amount), memory + 1

    def finish(
        self, view: View, prediction: Prediction, decision: Decision, memory: Tensor
    ) -> tuple[Decision, Memory]:
        return replace(decision, values=decision.values * 2 + int(self.amount * 4)), memory + 10


@dataclass(frozen=True)
class AddsMore(Adds):
    """The same under another name."""


def test_parts_flatten_and_roles_add_up() -> None:
    policy = Adds() | (Threshold() | EosStop())
    assert isinstance(policy, Composition)
    assert [type(part).__name__ for part in policy.parts] == ["Adds", "Threshold", "EosStop"]
    assert policy.roles == ("begin", "rescore", "finish", "decide")
    assert policy.scope == policy.opening_scope == Scope.BLOCK
    assert (Blocks() | Threshold()).scope == Scope.OPEN
    assert (Blocks() | Threshold()).opening_scope == Scope.REST
    assert (EntropyBound() | DeferEos()).needs == {"entropy", "logits"}
    assert not policy.revises
    assert policy.beside(EosStop("block")) is policy and policy.beside(DeferEos()).parts[-1] == DeferEos()
    assert (Threshold() | EosStop()).bind(SETTING).parts == (Threshold(), EosStop())
    with pytest.raises(TypeError):
        Threshold() | 3  # type: ignore[operator]


def test_scopes_add_up() -> None:
    @dataclass(frozen=True)
    class Rest(Policy):
        scope = Scope.REST

    assert (Adds() | Rest()).scope == Scope.BLOCK | Scope.REST != Scope.ALL
    assert (Rest() | TopK()).scope == Scope.REST
    assert Scope.BLOCK in Scope.ALL and Scope.REST in Scope.ALL and Scope.BLOCK not in Scope.REST
    assert all(Scope.OPEN in scope for scope in Scope.__members__.values())


def test_rescore_and_finish_run_left_to_right_each_with_its_memory() -> None:
    policy = Composition.of(Adds(0.25), TopK(steps=1), AddsMore(0.5))
    view, prediction = scene([[0.125, 0.0, None]], tokens=[[1, 1, 1]])
    memory = policy.begin(view)
    assert len(memory) == 3
    changed, memory = policy.rescore(view, prediction, memory)
    assert changed.confidence[0].tolist() == [(0.125 * 2 + 0.25) * 2 + 0.5, 0.25 * 2 + 0.5, 1.0]
    decision, memory = policy.decide(view, changed, memory)
    decision, memory = policy.finish(view, changed, decision, memory)
    assert decision.values[0, 0] == (1 * 2 + 1) * 2 + 2
    assert memory[0].tolist() == [11] == memory[2].tolist()
    assert memory[1].tolist() == [2]  # TopK's own: the masks its block opened with


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (Composition.of(Threshold(), TopK()), "Threshold and TopK both decide what to commit; keep one of them."),
        (
            Composition.of(EosStop()),
            "no part of EosStop decides what to commit; add a decider such as Threshold() or TopK().",
        ),
        (Composition.of(), "no part of the empty policy decides what to commit; add a decider such as"),
        (Composition.of(Blocks(), Blocks(4), TopK()), "Blocks and Blocks both set the block length; keep one of"),
        (Composition.of(Asks(), TopK(), Asks()), "Asks and Asks both send queries; keep one of them."),
        (Composition.of(EosStop(), TopK(), EosStop("block")), "EosStop appears twice in EosStop|TopK|EosStop; keep"),
        (
            Composition.of(FreeDave(cross_block=True), Blocks()),
            "Blocks measures blocks on a plain opening forward, but FreeDave drafts across blocks;",
        ),
    ],
)
def test_clashes_are_named_when_bound(policy: Composition, sentence: str) -> None:
    with pytest.raises(PolicyError) as error:
        policy.bind(SETTING)
    assert str(error.value).startswith(sentence)


def decision(write: list[list[int]], values: int | list[list[int]] = 5, **fields: object) -> Decision:
    """A decision from 0/1 flags and one value or a table of them."""
    mask = torch.tensor(write, dtype=torch.bool)
    table = torch.full(mask.shape, values) if isinstance(values, int) else torch.tensor(values)
    made = {name: None if value is None else torch.tensor(value) for name, value in fields.items()}
    return Decision(mask, table, **made)


def reviser(**declared: bool) -> Policy:
    """A part with declarations."""
    return type("Part", (Policy,), declared)()


def test_settle_cuts_the_write() -> None:
    view, _ = scene([[0.5] * 4, [0.5] * 4])
    cut = settle(view, decision([[1, 1, 1, 1]] * 2, length=[2, 9]))
    assert cut.write.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert cut.length is not None and cut.length.tolist() == [2, 4]
    whole = decision([[1, 1, 1, 1]] * 2)
    assert settle(view, whole) is whole


FINE: list[tuple[dict[str, bool], Decision]] = [
    ({}, decision([[1, 0, 0, 0]])),
    ({}, decision([[0, 0, 0, 0]], length=[2])),  # a cut is progress
    ({}, decision([[0, 0, 0, 0]], hold=[True])),
    ({}, decision([[1, 0, 1, 1]], stop=[True])),
    ({}, decision([[1, 0, 0, 0]], stop=[True], length=[2])),
    ({"revises": True}, decision([[1, 1, 1, 0]], [[5, MASK, 5, 5]])),  # two won, one taken back
    ({"revises": True}, decision([[1, 1, 0, 0]], 6)),
]


@pytest.mark.parametrize(("declared", "decided"), FINE)
def test_what_the_contract_allows(declared: dict[str, bool], decided: Decision) -> None:
    view, _ = scene([[0.5, None, 0.5, 0.5]])
    validate(reviser(**declared), view, settle(view, decided))


WRONG: list[tuple[dict[str, bool], Decision, int, str]] = [
    ({}, decision([[0, 0, 0, 0]]), 0, "commits nothing and does not hold (row 0, cell 0, step 0)"),
    ({}, decision([[1, 1, 0, 0]]), 0, "changes a committed cell without declaring `revises` (row 0, cell 1, step 0)"),
    ({}, decision([[1, 0, 1, 0]], [[5, 5, MASK, 5]]), 0, "commits the mask token without declaring `revises`"),
    ({"revises": True}, decision([[1, 1, 0, 0]], [[5, MASK, 5, 5]]), 0, "commits nothing"),
    ({"revises": True}, decision([[0, 1, 0, 0]]), 0, "commits nothing"),
    ({}, decision([[1, 0, 0, 0]], length=[0]), 0, "sets a length outside 1..the current length"),
    ({}, decision([[1, 0, 0, 0]], stop=[True]), 0, "stops a row and leaves a mask in it; fill it (row 0, cell 2"),
]


@pytest.mark.parametrize(("declared", "decided", "step", "sentence"), WRONG)
def test_what_breaks_the_contract(declared: dict[str, bool], decided: Decision, step: int, sentence: str) -> None:
    view, _ = scene([[0.5, None, 0.5, 0.5]], block_step=step)
    with pytest.raises(PolicyError) as error:
        validate(reviser(**declared), view, settle(view, decided))
    assert str(error.value).startswith(f"Part {sentence}")


def test_cells_outside_the_row_and_finished_blocks() -> None:
    view, _ = scene([[None, None, 0.5, 0.5]], block=(2, 4))
    short = replace(view, valid=torch.tensor([[True, True, True, False]]))
    with pytest.raises(PolicyError, match=r"Part writes a cell outside the row's length \(row 0, cell 3"):
        validate(reviser(), short, decision([[0, 0, 1, 1]]))
    with pytest.raises(PolicyError, match=r"Part changes a cell of a finished block \(row 0, cell 1"):
        validate(reviser(revises=True), view, decision([[0, 1, 1, 1]], 6))
    with pytest.raises(PolicyError, match="TopK|Adds commits nothing"):
        validate(TopK() | Adds(), view, decision([[0, 0, 0, 0]]))
