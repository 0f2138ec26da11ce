"""What a listener hears: one frozen event per row and forward."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepEvent:
    """One forward of one row, after its commits.

    Attributes:
        row: index of the prompt.
        step: forwards this row has had, this one included (its NFE so far).
        block: index of the block, ``start`` to ``end`` in cells.
        opening: the block's first forward.
        tokens: the row's canvas after this step, mask id at masks; as long as the row is now.
        cells: cells written, in the order they were decided; ``values`` their tokens, ``confidence`` theirs.
        inserted: ``(cell, count, token)`` of cells put in after that, before ``cell``; empty = none. What moved beyond
            the row's budget is lost.
        settled: number of leading cells that are committed.
        finished: the row is done.
    """

    row: int
    step: int
    block: int
    start: int
    end: int
    opening: bool
    tokens: tuple[int, ...]
    cells: tuple[int, ...]
    values: tuple[int, ...]
    confidence: tuple[float, ...]
    settled: int
    finished: bool
    inserted: tuple[int, ...] = ()
