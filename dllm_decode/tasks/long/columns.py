"""Column addition and multiplication with working, from the last column to the first, then the result."""

from __future__ import annotations

from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task

_TEMPLATES = ("work out by columns:{sum}", "solve by columns:{sum}", "write out the columns:{sum}")


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    """Two numbers of equal length to add, or one to multiply by one digit."""
    width = rng.randint(2, 3) if short else rng.randint(5, 6)
    low, high = 10 ** (width - 1), 10**width - 1
    if rng.random() < 0.5:
        return {"a": rng.randint(low, high), "sign": "+", "b": rng.randint(low, high)}
    return {"a": rng.randint(low, high), "sign": "*", "b": rng.randint(2, 9)}


def _total(problem: Problem) -> int:
    return problem["a"] + problem["b"] if problem["sign"] == "+" else problem["a"] * problem["b"]


def _answer(problem: Problem, rng: Random) -> str:
    """``7+5=12+0=12`` or ``7*6=42+0=42`` per column, the carry that came in as its last term."""
    carry, lines = 0, []
    for place, digit in enumerate(reversed(str(problem["a"]))):
        if problem["sign"] == "+":
            other = str(problem["b"])[-1 - place]
            pair = int(digit) + int(other)
        else:
            other = str(problem["b"])
            pair = int(digit) * int(other)
        lines.append(f"{digit}{problem['sign']}{other}={pair}+{carry}={pair + carry}")
        carry = (pair + carry) // 10
    return "\n".join([*lines, f"answer:{_total(problem)}"])


COLUMN_TASKS = (
    Task(
        name="columns",
        description="add two numbers or multiply by a digit, column by column",
        max_new_tokens=96,
        draw=_draw,
        prompt=lambda problem, template: _TEMPLATES[template].format(
            sum=f"{problem['a']}{problem['sign']}{problem['b']}"
        ),
        answer=_answer,
        accepts=lambda problem, text: text.strip() == _answer(problem, Random(0)),
    ),
)
