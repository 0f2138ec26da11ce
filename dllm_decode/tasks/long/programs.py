"""Straight-line programs traced line by line: every line needs values that earlier lines of the answer worked out."""

from __future__ import annotations

from random import Random
from string import ascii_lowercase
from typing import Any

from dllm_decode.tasks.arithmetic import LIMIT
from dllm_decode.tasks.base import Problem, Task

_TEMPLATES = ("work out line by line:\n{lines}", "set and say each:\n{lines}", "solve step by step:\n{lines}")


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    """Two numbers, then sums and differences of what is known, each within 0..LIMIT."""
    names = rng.sample(ascii_lowercase, 3 if short else rng.randint(5, 6))
    values: dict[str, int] = {}
    lines: list[tuple[str, str, str, str]] = []  # name, left, sign, right; a plain number is left with no sign
    for index, name in enumerate(names):
        if index < 2:
            values[name] = rng.randint(1, 9)
            lines.append((name, str(values[name]), "", ""))
            continue
        while True:
            left, sign = rng.choice(list(values)), rng.choice("+-")
            right = rng.choice(list(values)) if rng.random() < 0.5 else str(rng.randint(1, 9))
            value = _result(values, left, sign, right)
            if 0 <= value <= LIMIT:
                break
        values[name] = value
        lines.append((name, left, sign, right))
    return {"lines": lines}


def _value(values: dict[str, int], operand: str) -> int:
    return values[operand] if operand in values else int(operand)


def _result(values: dict[str, int], left: str, sign: str, right: str) -> int:
    if not sign:
        return int(left)
    a, b = _value(values, left), _value(values, right)
    return a + b if sign == "+" else a - b


def _prompt(problem: Problem, template: int) -> str:
    lines = "\n".join(f"{name}:={left}{sign}{right}" for name, left, sign, right in problem["lines"])
    return _TEMPLATES[template].format(lines=lines)


def _answer(problem: Problem, rng: Random) -> str:
    """Each line, the variables it reads, worked out, and what it sets: ``b:=k+5;k=7;7+5=12;b=12``."""
    values: dict[str, int] = {}
    out = []
    for name, left, sign, right in problem["lines"]:
        value = _result(values, left, sign, right)
        steps = [f"{name}={value}"]
        if sign:
            read = [f"{operand}={values[operand]}" for operand in dict.fromkeys((left, right)) if operand in values]
            work = f"{_value(values, left)}{sign}{_value(values, right)}={value}"
            steps = [f"{name}:={left}{sign}{right}", *read, work, *steps]
        out.append(";".join(steps))
        values[name] = value
    return "\n".join(out)


PROGRAM_TASKS = (
    Task(
        name="program",
        description="run a program of sums and differences, every line traced",
        max_new_tokens=128,
        draw=_draw,
        prompt=_prompt,
        answer=_answer,
        accepts=lambda problem, text: text.strip() == _answer(problem, Random(0)),
    ),
)
