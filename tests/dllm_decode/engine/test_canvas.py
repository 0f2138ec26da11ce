"""Rows: layout, views, writes, and how blocks advance."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_decode.engine.canvas import Rows

M, PAD = 9, 8


def rows(canvases: list[list[int]], offsets: list[int]) -> Rows:
    """Rows on the CPU."""
    return Rows.begin(canvases, offsets, M, PAD, torch.device("cpu"))


def test_layout_and_view() -> None:
    two = rows([[1, 2, M, M, M], [3, M, 5, M]], [2, 1])
    assert two.slots.tolist() == [[1, 2, M, M, M], [3, M, 5, M, PAD]]
    assert two.given.tolist() == [[True, True, False, False, False], [True, False, True, False, True]]
    view = two.view(3, M, (7,), ())
    assert view.tokens.tolist() == [[M, M, M], [M, 5, M]]
    assert view.masked.tolist() == [[True] * 3, [True, False, True]]
    assert view.valid.all() and view.length.tolist() == [3, 3] == view.budget.tolist()
    wide = two.view(5, M, (7,), ())
    assert wide.valid.tolist() == [[True] * 3 + [False] * 2] * 2
    assert not (wide.masked & ~wide.valid).any()


def test_write_lands_behind_each_rows_prompt() -> None:
    two = rows([[1, 2, M, M], [M, M]], [2, 0])
    two.write((torch.tensor([0, 1]), torch.tensor([1, 0])), torch.tensor([5, 6]))
    assert two.slots.tolist() == [[1, 2, M, 5], [6, M, PAD, PAD]]


def test_select_copies_and_put_writes_back() -> None:
    three = rows([[1, M], [2, M], [3, M]], [1, 1, 1])
    part = three.select(torch.tensor([0, 2]))
    part.slots[:, 1] = 5
    part.step = part.step + 1
    assert three.slots[:, 1].tolist() == [M, M, M]
    three.put(torch.tensor([0, 2]), part)
    assert three.slots[:, 1].tolist() == [5, M, 5] and three.step.tolist() == [1, 0, 1]


def test_advance_opens_retires_and_skips() -> None:
    """Row 0 goes on, row 1 is finished, row 2's next block holds no mask and is skipped, row 3 stays."""
    four = rows([[M] * 8] * 4, [0] * 4)
    masked = torch.ones(4, 8, dtype=torch.bool)
    four.advance(masked, torch.ones(4, dtype=torch.bool), 3)
    assert four.start.tolist() == [0] * 4 and four.end.tolist() == [3] * 4 and four.block_index.tolist() == [0] * 4
    masked[0, :3] = False
    masked[1] = False
    masked[2, :7] = False
    four.block_step += 2
    four.advance(masked, torch.tensor([True, True, True, False]), 3)
    assert four.live.tolist() == [True, False, True, True]
    assert four.start.tolist()[0::2] == [3, 6] and four.end.tolist()[0::2] == [6, 8]
    assert four.block_step.tolist()[0::2] == [0, 0]
    assert (four.start[3], four.end[3], four.block_step[3]) == (0, 3, 2)


def test_no_block_length_is_the_whole_canvas() -> None:
    one = rows([[1, M, M, M, M]], [1])
    one.advance(torch.ones(1, 4, dtype=torch.bool), torch.tensor([True]), None)
    assert (one.start.tolist(), one.end.tolist()) == ([0], [4])


@given(
    st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4),
    st.none() | st.integers(1, 7),
)
def test_advance_visits_every_mask_once_in_order(flags: list[list[bool]], block: int | None) -> None:
    """Closing each block as soon as it opens ends with every row retired and every mask inside one block."""
    masked = torch.tensor(flags)
    many = rows([[M] * 6] * len(flags), [0] * len(flags))
    done = torch.ones(len(flags), dtype=torch.bool)
    seen: list[list[int]] = [[] for _ in flags]
    for _ in range(10):
        many.advance(masked, done, block)
        for row in many.live.nonzero()[:, 0].tolist():
            start, end = int(many.start[row]), int(many.end[row])
            assert start < end <= 6 and masked[row, start:end].any()
            if end < 6:
                assert block is not None and end - start == block
            seen[row] += [i for i in range(start, end) if masked[row, i]]
            masked[row, start:end] = False
    assert not many.live.any()
    assert seen == [[i for i, flag in enumerate(row) if flag] for row in flags]
