"""Memory values and hypothetical views: rows are selected, merged and repeated generically."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from samplers import PolicyError, Prediction, map_rows, merge_rows
from samplers.contract import check_rows
from tests.toys import MASK, scene


@dataclass(frozen=True)
class State:
    """A nested memory."""

    count: Tensor
    table: dict[str, Tensor]


def memory() -> tuple[object, ...]:
    """One value of every kind the contract names, for three rows."""
    return (
        None,
        torch.arange(3),
        State(torch.arange(6).view(3, 2), {"a": torch.zeros(3)}),
        [torch.ones(3, dtype=torch.bool)],
    )


def test_select_and_merge_are_inverse() -> None:
    rows = torch.tensor([0, 2])
    whole = memory()
    part = map_rows(whole, lambda x: x.index_select(0, rows))
    assert part[0] is None and part[1].tolist() == [0, 2]
    assert part[2].count.tolist() == [[0, 1], [4, 5]]
    changed = map_rows(part, lambda x: x + 5 if x.dtype != torch.bool else ~x)
    merged = merge_rows(whole, rows, changed)
    assert merged[1].tolist() == [5, 1, 7]
    assert merged[2].count.tolist() == [[5, 6], [2, 3], [9, 10]]
    assert merged[2].table["a"].tolist() == [5, 0, 5] and merged[3][0].tolist() == [False, True, False]
    assert whole[1].tolist() == [0, 1, 2]  # type: ignore[attr-defined]  # the old value is as it was


def test_imagined_views_repeat_the_row() -> None:
    view, _ = scene([[0.5, None, 0.5], [0.5, 0.5, 0.5]])
    canvases = torch.tensor([[[MASK, 1, MASK], [3, 1, MASK]], [[MASK, MASK, MASK], [MASK, MASK, 4]]])
    many = view.imagine(canvases)
    assert many.tokens.tolist() == canvases.flatten(0, 1).tolist()
    assert many.masked.sum(-1).tolist() == [2, 1, 3, 2]
    assert many.open.tolist() == many.masked.tolist()
    assert many.end.tolist() == [3] * 4 and len(many.generators) == 4
    assert many.generators[0] is many.generators[1] is view.generators[0]


def test_the_view_one_forward_later() -> None:
    view, _ = scene([[0.5, None, 0.5]], block_step=2)
    after = view.after(torch.tensor([[True, False, False]]), torch.tensor([[7, 7, 7]]))
    assert after.tokens.tolist() == [[7, 1, MASK]] and after.masked.tolist() == [[False, False, True]]
    assert after.block_step.tolist() == [3] and view.block_step.tolist() == [2]


def test_pick_takes_one_branch_per_row() -> None:
    token = torch.arange(12).view(4, 3)
    everywhere = torch.ones(4, 3, dtype=torch.bool)
    cells = torch.tensor([0, 4, 8, 11])
    two = Prediction(
        token,
        token / 12,
        everywhere,
        everywhere,
        entropy=token * 2.0,
        logits=cells[:, None].float(),
        cells=cells,
        branches=2,
    )
    picked = two.pick(torch.tensor([1, 0]))
    assert picked.token.tolist() == [[3, 4, 5], [6, 7, 8]] and picked.branches == 1
    assert picked.entropy is not None and picked.entropy.tolist() == [[6.0, 8.0, 10.0], [12.0, 14.0, 16.0]]
    assert picked.margin is None
    assert picked.cells is not None and picked.cells.tolist() == [1, 5]
    assert picked.logits is not None and picked.logits.tolist() == [[4.0], [8.0]]
    assert picked.scatter(torch.tensor([1.0, 2.0]), fill=-1).tolist() == [[-1, 1, -1], [-1, -1, 2]]
    assert two.pick(0).token.tolist() == [[0, 1, 2], [6, 7, 8]]
    assert picked.pick(0) is picked


def test_open_reaches_back_but_not_beyond_the_block() -> None:
    view, _ = scene([[0.5, None, 0.5, 0.5, 0.5]], block=(2, 4))
    assert view.in_block.int().tolist() == [[0, 0, 1, 1, 0]]
    assert view.open.int().tolist() == [[1, 0, 1, 1, 0]]
    assert view.is_eos(torch.tensor([22, 3])).tolist() == [True, False]
    with pytest.raises(AttributeError):
        view.tokens = view.tokens  # type: ignore[misc]


class Pair(NamedTuple):
    """A memory with names."""

    seen: Tensor
    count: Tensor


def test_named_tuples_keep_their_names() -> None:
    part = map_rows(Pair(torch.zeros(3), torch.arange(3)), lambda x: x[1:])
    assert isinstance(part, Pair) and part.count.tolist() == [1, 2]
    merged = merge_rows(Pair(torch.zeros(3), torch.arange(3)), torch.tensor([0, 2]), Pair(torch.ones(2), part.count))
    assert merged.seen.tolist() == [1, 0, 1] and merged.count.tolist() == [1, 1, 2]


@dataclass(frozen=True)
class Counts:
    """A memory that somebody might write."""

    tokens: Tensor
    count: object


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "mine's memory is 3, but a memory holds tensors whose first axis is the row and nothing else;"),
        (Counts(torch.zeros(2), 0), "mine's memory.count is 0, but a memory holds tensors"),
        (Counts(torch.zeros(2), torch.tensor(0)), "mine's memory.count is a tensor of shape [], but its first axis"),
        (
            (None, {"a": torch.zeros(3, 2)}),
            "mine's memory[1]['a'] is a tensor of shape [3, 2], but its first axis must",
        ),
        (Pair(torch.zeros(2), [1.5]), "mine's memory.count[0] is 1.5, but"),  # type: ignore[arg-type]
    ],
)
def test_anything_but_rows_is_refused_by_name(value: object, said: str) -> None:
    with pytest.raises(PolicyError) as error:
        check_rows(value, 2, "mine")
    assert str(error.value).startswith(said)
    check_rows((None, Counts(torch.zeros(2), torch.zeros(2, 0))), 2, "mine")


def test_a_memory_keeps_its_shape() -> None:
    with pytest.raises(PolicyError, match="a memory was Tensor and became NoneType; return the same kind"):
        merge_rows(Counts(torch.zeros(3), torch.zeros(3)), torch.tensor([0]), Counts(torch.zeros(1), None))
