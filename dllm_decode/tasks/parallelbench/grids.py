"""Squares of symbols: Latin squares, of which many are right and every cell depends on others; sudokus in files."""

from __future__ import annotations

import string
from functools import partial
from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task
from dllm_decode.tasks.grids import latin_squares

SIZE = 4
SAYINGS = (
    "Write a Latin square of size {size} with the symbols {symbols}: every symbol once in every row and once in every "
    "column. One row per line, symbols separated by commas, and nothing else.",
    "Fill a {size} by {size} square with the symbols {symbols} so that no row and no column holds a symbol twice. "
    "Write it as {size} lines of comma-separated symbols, without any other text.",
    "Arrange the symbols {symbols} in {size} rows of {size} so that each row and each column has each of them once. "
    "Give the rows alone, one per line, with commas between the symbols.",
)


def _draw_square(rng: Random) -> dict[str, Any]:
    symbols = rng.sample(string.ascii_uppercase + string.digits, SIZE)
    cells = [symbols[number - 1] for number in rng.choice(latin_squares())]
    return {"symbols": symbols, "square": [cells[at : at + SIZE] for at in range(0, SIZE * SIZE, SIZE)]}


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    return {**_draw_square(rng), "example": _draw_square(rng)}


def ask_square(problem: Problem, template: int) -> str:
    """The prompt: what to do, one solved example, and the symbols."""
    symbols, example = ", ".join(problem["symbols"]), problem["example"]
    asked = SAYINGS[template].format(size=SIZE, symbols=symbols)
    shown = f"Example for the symbols {', '.join(example['symbols'])}:\n{write_rows(example['square'])}"
    return f"{asked}\n\n{shown}\n\nYour square for the symbols {symbols}:"


def write_rows(rows: list[list[str]]) -> str:
    """The square form of the prompts: one row per line, cells separated by commas."""
    return "\n".join(",".join(row) for row in rows)


def check_square(problem: Problem, text: str, strict: bool) -> bool:
    """Whether every row and every column of the square in a text holds every one of ``problem["symbols"]`` once.

    Strictly the text is the square, cells separated by bare commas; else the first lines that hold the symbols count.
    """
    symbols = set(problem["symbols"])
    rows = [line.split(",") for line in text.strip("\n").split("\n")]
    if not strict:
        rows = [row for row in ([cell.strip() for cell in row] for row in rows) if set(row) == symbols][: len(symbols)]
    if len(rows) != len(symbols) or any(len(row) != len(symbols) for row in rows):
        return False
    return all(set(line) == symbols for line in (*rows, *zip(*rows, strict=True)))


def check_sudoku(problem: Problem, text: str, strict: bool) -> bool:
    """Whether a text holds ``problem["solution"]``, rows of digits: alone, or among other lines and separators."""
    solution = list(problem["solution"])
    if strict:
        return [line.strip() for line in text.strip().split("\n") if line.strip()] == solution
    digits = ("".join(c for c in line if c.isdecimal()) for line in text.split("\n"))
    return [row for row in digits if len(row) == len(solution)] == solution


def square_task(prefix: str, strict: bool) -> Task:
    """The Latin square task; see :func:`~dllm_decode.tasks.parallelbench.waiting_line.line_tasks`."""
    return Task(
        name=prefix + "latin_square",
        description="write a Latin square of four symbols",
        max_new_tokens=64,
        draw=_draw,
        prompt=ask_square,
        answer=lambda problem, rng: write_rows(problem["square"]),
        accepts=partial(check_square, strict=strict),
    )
