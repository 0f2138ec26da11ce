"""Extraction: a prompt of 300 to 500 tokens, a few records of it as JSON."""

from __future__ import annotations

import json
from random import Random
from string import ascii_lowercase
from typing import Any

from dllm_decode.tasks.arithmetic import GAINS, LOSSES, NAMES, THINGS
from dllm_decode.tasks.base import Problem, Task

# Every line quotes as it stands: letter, count, thing; a letter and a count stand in one line alone.
_TEMPLATES = (
    ("json for each place: {keys}\n{text}", "At place {key} {count} {thing}: {name} {gain} and {loss}."),
    ("record these as json: {keys}\n{text}", "{name} has at {key} {count} {thing}; {gain} and {loss} by {name}."),
    ("write json of these: {keys}\n{text}", "At {key} {count} {thing}, {name} {gain}; {loss}."),
)


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    """Records ``(letter, count, thing, name, gain, gained, loss, lost)``, and the letters asked for."""
    letters = rng.sample(ascii_lowercase, rng.randint(3, 8) if short else rng.randint(23, 26))
    records = [
        (
            letter,
            count,
            rng.choice(THINGS),
            rng.choice(NAMES),
            rng.choice(GAINS),
            rng.randint(1, 9),
            rng.choice(LOSSES),
            rng.randint(1, 9),
        )
        for letter, count in zip(letters, rng.sample(range(10, 100), len(letters)), strict=True)
    ]
    return {"records": records, "keys": rng.sample(letters, rng.randint(1, 3) if short else rng.randint(8, 10))}


def _prompt(problem: Problem, template: int) -> str:
    head, line = _TEMPLATES[template]
    text = [
        line.format(key=key, count=count, thing=thing, name=name, gain=f"{gain} {gained}", loss=f"{loss} {lost}")
        for key, count, thing, name, gain, gained, loss, lost in problem["records"]
    ]
    return head.format(keys=" ".join(problem["keys"]), text="\n".join(text))


def _pairs(problem: Problem) -> list[tuple[str, str]]:
    found = {key: f"{key} {count} {thing}" for key, count, thing, *_ in problem["records"]}
    return [(key, found[key]) for key in problem["keys"]]


def _answer(problem: Problem, rng: Random) -> str:
    """Each letter with what the text says of it, in the text's words: ``{"c":"c 26 cups"}``."""
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
        description="find eight to ten records in a long text and quote them as JSON",
        max_new_tokens=128,
        draw=_draw,
        prompt=_prompt,
        answer=_answer,
        accepts=_accepts,
    ),
)
