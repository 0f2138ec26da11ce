"""4x4 grids: Latin squares (many completions) and sudokus (one completion)."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task

Grid = tuple[int, ...]
BLANK = 0

_LATIN = ("latin:\n{grid}", "latin square:\n{grid}", "fill rows and columns:\n{grid}")
_SUDOKU = ("sudoku:\n{grid}", "solve sudoku:\n{grid}", "fill rows, columns and boxes:\n{grid}")


@cache
def latin_squares() -> tuple[Grid, ...]:
    """All 576 Latin squares of order 4, row by row."""
    rows = list(permutations(range(1, 5)))
    squares: list[Grid] = [()]
    for _ in range(4):
        squares = [
            square + row
            for square in squares
            for row in rows
            if all(cell != square[at] for column, cell in enumerate(row) for at in range(column, len(square), 4))
        ]
    return tuple(squares)


@cache
def sudoku_squares() -> tuple[Grid, ...]:
    """The 288 Latin squares whose 2x2 boxes hold each symbol once."""
    corners = (0, 2, 8, 10)
    return tuple(
        square
        for square in latin_squares()
        if all(len({square[c], square[c + 1], square[c + 4], square[c + 5]}) == 4 for c in corners)
    )


@cache
def _squares_with(symbol: int, cell: int) -> int:
    """Bit set of the sudoku squares that hold a symbol at a cell: solutions are counted with ``&``."""
    return sum(1 << i for i, square in enumerate(sudoku_squares()) if square[cell] == symbol)


def _solutions(clues: Grid) -> int:
    left = -1 + (1 << len(sudoku_squares()))
    for cell, symbol in enumerate(clues):
        if symbol != BLANK:
            left &= _squares_with(symbol, cell)
    return left.bit_count()


def _with_clues(rng: Random, square: Grid, count: int) -> Grid:
    kept = set(rng.sample(range(16), count))
    return tuple(symbol if cell in kept else BLANK for cell, symbol in enumerate(square))


def _draw_latin(rng: Random, split: str, short: bool) -> dict[str, Any]:
    square = rng.choice(latin_squares())
    return {"clues": _with_clues(rng, square, rng.randint(5, 9)), "square": square}


def draw_sudoku(rng: Random, count: int) -> dict[str, Any]:
    """A sudoku with ``count`` clues and one completion."""
    square = rng.choice(sudoku_squares())
    while _solutions(clues := _with_clues(rng, square, count)) != 1:
        pass
    return {"clues": clues, "square": square}


def write_grid(grid: Grid) -> str:
    """Four rows of four symbols, `` .`` for a blank."""
    cells = [f" {symbol or '.'}" for symbol in grid]
    return "\n".join("".join(cells[row : row + 4]) for row in range(0, 16, 4))


def accepts_grid(problem: Problem, text: str, squares: tuple[Grid, ...]) -> bool:
    """Whether a text is one of ``squares`` that keeps the clues."""
    lines = text.strip().split("\n")
    if len(lines) != 4:
        return False
    cells = [cell for line in lines for cell in line.strip(" ").split(" ")]
    if len(cells) != 16 or not all(cell in {"1", "2", "3", "4"} for cell in cells):
        return False
    if any(len(line.split()) != 4 for line in lines):
        return False
    grid = tuple(int(cell) for cell in cells)
    return grid in squares and all(clue in (BLANK, cell) for clue, cell in zip(problem["clues"], grid, strict=True))


GRID_TASKS = (
    Task(
        name="latin4",
        description="complete a 4x4 Latin square (any completion)",
        max_new_tokens=32,
        draw=_draw_latin,
        prompt=lambda problem, template: _LATIN[template].format(grid=write_grid(problem["clues"])),
        answer=lambda problem, rng: write_grid(problem["square"]),
        accepts=lambda problem, text: accepts_grid(problem, text, latin_squares()),
    ),
    Task(
        name="sudoku4",
        description="solve a 4x4 sudoku (one completion)",
        max_new_tokens=32,
        draw=lambda rng, split, short: draw_sudoku(rng, rng.randint(6, 9)),
        prompt=lambda problem, template: _SUDOKU[template].format(grid=write_grid(problem["clues"])),
        answer=lambda problem, rng: write_grid(problem["square"]),
        accepts=lambda problem, text: accepts_grid(problem, text, sudoku_squares()),
    ),
)
