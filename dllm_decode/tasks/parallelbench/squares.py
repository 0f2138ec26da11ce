"""Latin squares of four symbols: many right answers, and every cell depends on seven others."""

from __future__ import annotations

import string
from functools import partial
from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task
from dllm_decode.tasks.grids import latin_squares
from dllm_decode.tasks.parallelbench import checks
from dllm_decode.tasks.parallelbench.parsing import write_rows

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
    square = rng.choice(latin_squares())
    cells = [symbols[number - 1] for number in square]
    return {"symbols": symbols, "square": [cells[at : at + SIZE] for at in range(0, SIZE * SIZE, SIZE)]}


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    return {**_draw_square(rng), "example": _draw_square(rng)}


def ask(problem: Problem, template: int) -> str:
    """The prompt: what to do, one solved example, and the symbols."""
    asked = SAYINGS[template].format(size=len(problem["symbols"]), symbols=", ".join(problem["symbols"]))
    example = problem.get("example")
    if example is None:
        return asked
    shown = f"Example for the symbols {', '.join(example['symbols'])}:\n{write_rows(example['square'])}"
    return f"{asked}\n\n{shown}\n\nYour square for the symbols {', '.join(problem['symbols'])}:"


def square_tasks(prefix: str, strict: bool) -> list[Task]:
    """The Latin square task; see :func:`~dllm_decode.tasks.parallelbench.waiting_line.line_tasks`."""
    return [
        Task(
            name=prefix + "latin_square",
            description="write a Latin square of four symbols",
            max_new_tokens=64,
            draw=_draw,
            prompt=ask,
            answer=lambda problem, rng: write_rows(problem["square"]),
            accepts=partial(checks.check_square, strict=strict),
        )
    ]
