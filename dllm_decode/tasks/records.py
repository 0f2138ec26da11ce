"""Key-value pairs to compact JSON: content to copy inside a rigid format."""

from __future__ import annotations

import json
from random import Random
from string import ascii_lowercase
from typing import Any

from dllm_decode.tasks.base import Problem, Task

_TEMPLATES = ("json:{pairs}", "record:{pairs}", "write as json:{pairs}")


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    keys = rng.sample(ascii_lowercase, rng.randint(2, 3) if short else rng.randint(3, 5))
    return {"pairs": [(key, rng.randint(0, 99)) for key in keys]}


def _prompt(problem: Problem, template: int) -> str:
    return _TEMPLATES[template].format(pairs=";".join(f"{key}={value}" for key, value in problem["pairs"]))


def _answer(problem: Problem, rng: Random) -> str:
    return json.dumps(dict(problem["pairs"]), separators=(",", ":"))


def _accepts(problem: Problem, text: str) -> bool:
    try:
        found = json.loads(text, object_pairs_hook=list)
    except ValueError:
        return False
    # The type check refuses what Python calls equal but JSON does not: true == 1, 6.0 == 6.
    return (
        isinstance(found, list)
        and all(isinstance(pair, tuple) and type(pair[1]) is int for pair in found)
        and found == list(problem["pairs"])
    )


RECORD_TASKS = (
    Task(
        name="kv_json",
        description="write key-value pairs as a JSON object, in order",
        max_new_tokens=32,
        draw=_draw,
        prompt=_prompt,
        answer=_answer,
        accepts=_accepts,
    ),
)
