"""Three 4x4 sudokus with four to six clues each, every one with a single completion."""

from __future__ import annotations

from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task
from dllm_decode.tasks.grids import accepts_grid, draw_sudoku, sudoku_squares, write_grid

_TEMPLATES = ("solve each sudoku:\n{grids}", "fill each sudoku:\n{grids}", "write out each sudoku:\n{grids}")
_COUNT = 3


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    count = rng.randint(1, 2) if short else _COUNT
    return {"grids": [draw_sudoku(rng, rng.randint(4, 6)) for _ in range(count)]}


def _accepts(problem: Problem, text: str) -> bool:
    grids = text.strip().split("\n\n")
    return len(grids) == len(problem["grids"]) and all(
        accepts_grid(grid, found, sudoku_squares()) for grid, found in zip(problem["grids"], grids, strict=True)
    )


SUDOKU_TASKS = (
    Task(
        name="sudokus",
        description="solve three 4x4 sudokus with few clues",
        max_new_tokens=72,
        draw=_draw,
        prompt=lambda problem, template: _TEMPLATES[template].format(
            grids="\n\n".join(write_grid(grid["clues"]) for grid in problem["grids"])
        ),
        answer=lambda problem, rng: "\n\n".join(write_grid(grid["square"]) for grid in problem["grids"]),
        accepts=_accepts,
    ),
)
