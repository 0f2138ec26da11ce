"""Arithmetic with worked steps: the order in which cells are decided matters here."""

from __future__ import annotations

from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task

LIMIT = 20
NAMES = ("Amy", "Ben", "Dan", "Eve", "Ida", "Kim", "Leo", "Max", "Mia", "Sam", "Tom", "Zoe")
THINGS = ("caps", "cups", "eggs", "figs", "keys", "maps", "nuts", "pens", "pins", "toys")
GAINS = ("buys", "finds", "gets", "wins")
LOSSES = ("breaks", "drops", "loses", "sells")

_ADD = ("add:{a}+{b}", "sum:{a}+{b}", "what is:{a}+{b}")
_CHAIN = ("chain:{steps}", "work out:{steps}", "step by step:{steps}")


def _draw_add(rng: Random, split: str, short: bool) -> dict[str, Any]:
    width = 3 if short else rng.randint(4, 5)
    low, high = 10 ** (width - 1), 10**width - 1
    return {"a": rng.randint(low, high), "b": rng.randint(low, high)}


def _answer_add(problem: Problem, rng: Random) -> str:
    """Column sums with the carry that came in, least significant column first, then the sum.

    The carry into a column is visible one cell to the left (a column sum of 10 or more), which makes
    addition learnable by a small model.
    """
    a, b, carry, columns = problem["a"], problem["b"], 0, []
    while a or b:
        column = a % 10 + b % 10 + carry
        columns.append(f" {column}")
        a, b, carry = a // 10, b // 10, column // 10
    return f"{''.join(columns)}={problem['a'] + problem['b']}"


def _walk(rng: Random, value: int, steps: int) -> list[int]:
    """Signed operands of 1 to 9 that keep every running value within 0..LIMIT."""
    moves = []
    for _ in range(steps):
        move = rng.choice([m for m in range(-9, 10) if m and 0 <= value + m <= LIMIT])
        moves.append(move)
        value += move
    return moves


def _draw_chain(rng: Random, split: str, short: bool) -> dict[str, Any]:
    start = rng.randint(1, 9)
    return {"start": start, "moves": _walk(rng, start, rng.randint(2, 3) if short else rng.randint(3, 5))}


def _work(problem: Problem) -> tuple[str, int]:
    value, steps = problem["start"], []
    for move in problem["moves"]:
        steps.append(f"{value}{move:+d}={value + move}")
        value += move
    return ";".join(steps), value


def _prompt_chain(problem: Problem, template: int) -> str:
    return _CHAIN[template].format(steps=f"{problem['start']}" + "".join(f"{m:+d}" for m in problem["moves"]))


def _draw_word(rng: Random, split: str, short: bool) -> dict[str, Any]:
    start = rng.randint(1, LIMIT)
    moves = _walk(rng, start, 2 if short else rng.randint(2, 3))
    verbs = [rng.choice(GAINS if move > 0 else LOSSES) for move in moves]
    return {
        "name": rng.choice(NAMES),
        "thing": rng.choice(THINGS),
        "start": start,
        "moves": moves,
        "verbs": verbs,
    }


def _prompt_word(problem: Problem, template: int) -> str:
    name, thing, start = problem["name"], problem["thing"], problem["start"]
    steps = [f"{verb} {abs(move)}" for verb, move in zip(problem["verbs"], problem["moves"], strict=True)]
    if template == 0:
        return f"{name} has {start} {thing}, {', '.join(steps)}. How many {thing} now?"
    if template == 1:
        story = "".join(f" Next {name} {step}." for step in steps)
        return f"At first {name} has {start} {thing}.{story} Count the {thing}."
    return f"How many {thing} has {name} after this? {start} at first; {'; '.join(steps)}."


def _answer_word(problem: Problem, rng: Random) -> str:
    work, value = _work(problem)
    return f"{work}\n{problem['name']} has {value} {problem['thing']}"


ARITHMETIC_TASKS = (
    Task(
        name="add",
        description="add two numbers: column sums from the right, then the sum",
        max_new_tokens=32,
        draw=_draw_add,
        prompt=lambda problem, template: _ADD[template].format(a=problem["a"], b=problem["b"]),
        answer=_answer_add,
        accepts=lambda problem, text: text.strip() == _answer_add(problem, Random(0)).strip(),
    ),
    Task(
        name="chain",
        description="a chain of additions and subtractions with every step worked",
        max_new_tokens=48,
        draw=_draw_chain,
        prompt=_prompt_chain,
        answer=lambda problem, rng: _work(problem)[0],
        accepts=lambda problem, text: text.strip() == _work(problem)[0],
    ),
    Task(
        name="word",
        description="a word problem: worked steps, then a sentence with the result",
        max_new_tokens=48,
        draw=_draw_word,
        prompt=_prompt_word,
        answer=_answer_word,
        accepts=lambda problem, text: text.strip() == _answer_word(problem, Random(0)),
    ),
)
