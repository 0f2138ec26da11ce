"""Extraction: a prompt of 300 to 500 tokens, a few records of it as JSON."""

from __future__ import annotations

import json
from random import Random
from string import ascii_lowercase
from typing import Any

from dllm_decode.tasks.arithmetic import GAINS, LOSSES, NAMES, THINGS
from dllm_decode.tasks.base import Problem, Task

_TEMPLATES = (
    ("json for each place: {keys}\n{text}", "At place {key} {name} has {count} {thing}, {gain} and {loss}."),
    ("record these as json: {keys}\n{text}", "At {key} {name} has {count} {thing}; {name} {gain} and {loss}."),
    ("write json of these: {keys}\n{text}", "At {key}: {name}, {count} {thing}; {gain}, {loss}."),
)


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    """Records ``(letter, name, count, thing, gain, gained, loss, lost)``, and the letters asked for."""
    letters = rng.sample(ascii_lowercase, rng.randint(3, 8) if short else rng.randint(22, 26))
    records = [
        (
            letter,
            rng.choice(NAMES),
            rng.randint(10, 99),
            rng.choice(THINGS),
            rng.choice(GAINS),
            rng.randint(1, 9),
            rng.choice(LOSSES),
            rng.randint(1, 9),
        )
        for letter in letters
    ]
    return {"records": records, "keys": rng.sample(letters, rng.randint(1, 3) if short else rng.randint(6, 8))}


def _prompt(problem: Problem, template: int) -> str:
    head, line = _TEMPLATES[template]
    text = [
        line.format(key=key, name=name, count=count, thing=thing, gain=f"{gain} {gained}", loss=f"{loss} {lost}")
        for key, name, count, thing, gain, gained, loss, lost in problem["records"]
    ]
    return head.format(keys=" ".join(problem["keys"]), text="\n".join(text))


def _pairs(problem: Problem) -> list[tuple[str, str]]:
    found = {key: f"{name} has {count} {thing}" for key, name, count, thing, *_ in problem["records"]}
    return [(key, found[key]) for key in problem["keys"]]


def _answer(problem: Problem, rng: Random) -> str:
    return json.dumps(dict(_pairs(problem)), separators=(",", ":"))


def _accepts(problem: Problem, text: str) -> bool:
    try:
        found = json.loads(text, object_pairs_hook=lambda pairs: pairs)
    except (ValueError, RecursionError):
        return False
    return bool(found == _pairs(problem))  # pairs are tuples, which no array of JSON is


EXTRACT_TASKS = (
    Task(
        name="extract",
        description="find six to eight records in a long text and write them as JSON",
        max_new_tokens=128,
        draw=_draw,
        prompt=_prompt,
        answer=_answer,
        accepts=_accepts,
    ),
)
