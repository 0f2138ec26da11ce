"""Plans under constraints, in the shape of Natural Plan's trips: days in each city, and the flights that exist."""

from __future__ import annotations

import re
from random import Random
from string import ascii_lowercase
from typing import Any

from dllm_decode.tasks.arithmetic import LIMIT
from dllm_decode.tasks.base import Problem, Task

_TEMPLATES = (
    "work out the order:\n{days}\n{flights}\nfrom {first}",
    "say the order of each:\n{days}\n{flights}\nfrom {first}",
    "pick the order:\n{days}\n{flights}\nfrom {first}",
)
_LINE = re.compile(r"([a-z])=(\d):(0|[1-9]\d?)\+(\d)=(0|[1-9]\d?)(?:; ([a-z])>([a-z]))?")


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    """A hidden route, its flights, and one flight back to a city that it has seen."""
    route = rng.sample(ascii_lowercase, 3 if short else rng.randint(5, 7))
    days = {city: rng.randint(1, 4) for city in route}
    while sum(days.values()) > LIMIT:
        days[rng.choice(route)] = 1
    flights = list(zip(route, route[1:], strict=False))
    others = [(route[a], route[b]) for a in range(1, len(route) - 1) for b in range(a)]
    flights.append(rng.choice(others))
    rng.shuffle(flights)
    cities = rng.sample(route, len(route))
    return {"days": [(city, days[city]) for city in cities], "flights": flights, "route": route}


def _prompt(problem: Problem, template: int) -> str:
    return _TEMPLATES[template].format(
        days=";".join(f"{city}={count}" for city, count in problem["days"]),
        flights="".join(f" {a}>{b}" for a, b in problem["flights"]),
        first=problem["route"][0],
    )


def _answer(problem: Problem, rng: Random) -> str:
    """Per city its days, the day it begins and the day it ends, and the flight on: ``b=2:3+2=5; b>k``."""
    route, days, day, lines = problem["route"], dict(problem["days"]), 0, []
    for city, following in zip(route, [*route[1:], ""], strict=True):
        flight = f"; {city}>{following}" if following else ""
        lines.append(f"{city}={days[city]}:{day}+{days[city]}={day + days[city]}{flight}")
        day += days[city]
    return "\n".join(lines)


def _accepts(problem: Problem, text: str) -> bool:
    """Any route from the first city over existing flights that visits every city once, with right days."""
    days, flights = dict(problem["days"]), set(problem["flights"])
    lines = [_LINE.fullmatch(line) for line in text.strip().split("\n")]
    if len(lines) != len(days):
        return False
    expected, day, left = problem["route"][0], 0, set(days)
    for place, line in enumerate(lines):
        if line is None or line[1] != expected or expected not in left:
            return False
        left.remove(expected)
        if [int(x) for x in line.group(2, 3, 4, 5)] != [days[expected], day, days[expected], day + days[expected]]:
            return False
        day += days[expected]
        if place == len(lines) - 1:
            return line[6] is None
        if line[6] is None or (line[6], line[7]) not in flights or line[6] != expected:
            return False
        expected = line[7]
    return True


TRIP_TASKS = (
    Task(
        name="trip",
        description="plan a trip: every city once, its days, only by flights that exist",
        max_new_tokens=96,
        draw=_draw,
        prompt=_prompt,
        answer=_answer,
        accepts=_accepts,
    ),
)
