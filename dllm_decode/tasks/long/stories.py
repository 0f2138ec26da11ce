"""Word problems of six steps, and some about somebody else, scored on the final answer alone."""

from __future__ import annotations

import re
from random import Random
from typing import Any

from dllm_decode.tasks.arithmetic import GAINS, LIMIT, LOSSES, NAMES, THINGS
from dllm_decode.tasks.base import Problem, Task

_FINAL = re.compile(r"answer: (0|[1-9][0-9]*)")


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    """Steps ``(name, verb, amount)``; up to two are another person's and change nothing."""
    name, other = rng.sample(NAMES, 2)
    start = value = rng.randint(1, LIMIT)
    steps = []
    for _ in range(rng.randint(2, 3) if short else 6):
        move = rng.choice([m for m in range(-9, 10) if m and 0 <= value + m <= LIMIT])
        value += move
        steps.append((name, rng.choice(GAINS if move > 0 else LOSSES), abs(move)))
    for _ in range(0 if short else rng.randint(0, 2)):
        steps.insert(rng.randint(0, len(steps)), (other, rng.choice(GAINS + LOSSES), rng.randint(1, 9)))
    return {"name": name, "thing": rng.choice(THINGS), "start": start, "steps": steps}


def _prompt(problem: Problem, template: int) -> str:
    name, thing, start = problem["name"], problem["thing"], problem["start"]
    steps = [f"{who} {verb} {amount}" for who, verb, amount in problem["steps"]]
    if template == 0:
        story = "".join(f" Next {step}." for step in steps)
        return f"At first {name} has {start} {thing}.{story} How many {thing} has {name} now?"
    if template == 1:
        return f"work it out: at first {name} has {start} {thing}; {'; '.join(steps)}. How many has {name}?"
    return f"How many {thing} has {name} after this? {start} at first; {'; '.join(steps)}."


def _work(problem: Problem) -> tuple[list[str], int]:
    name, value, lines = problem["name"], problem["start"], []
    for who, verb, amount in problem["steps"]:
        if who == name:
            move = amount if verb in GAINS else -amount
            lines.append(f"{name} {verb} {amount}:{value}{move:+d}={value + move}")
            value += move
    return lines, value


def _answer(problem: Problem, rng: Random) -> str:
    lines, value = _work(problem)
    return "\n".join([*lines, f"answer: {value}"])


def _accepts(problem: Problem, text: str) -> bool:
    """The last line is the final answer; what stands before it is not judged."""
    found = _FINAL.fullmatch(text.strip().split("\n")[-1])
    return found is not None and int(found[1]) == _work(problem)[1]


STORY_TASKS = (
    Task(
        name="story",
        description="a word problem of six steps; the final answer alone is judged",
        max_new_tokens=96,
        draw=_draw,
        prompt=_prompt,
        answer=_answer,
        accepts=_accepts,
    ),
)
