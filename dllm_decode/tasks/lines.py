"""Several short problems in one prompt, one answer per line: answers that span several blocks."""

from __future__ import annotations

from random import Random
from typing import Any

from dllm_decode.tasks.arithmetic import ARITHMETIC_TASKS
from dllm_decode.tasks.base import Problem, Task
from dllm_decode.tasks.lists import LIST_TASKS
from dllm_decode.tasks.records import RECORD_TASKS
from dllm_decode.tasks.tokenizer import count_tokens

_TEMPLATES = ("lines:\n{lines}", "solve each line:\n{lines}", "answer line by line:\n{lines}")
_PARTS = {
    task.name: task
    for task in (*LIST_TASKS, *RECORD_TASKS, *ARITHMETIC_TASKS)
    if task.name in {"copy", "reverse", "sort", "kv_json", "add", "chain"}
}
_SHORTEST, _LONGEST = 24, 90


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    # Parts come from the same split as the whole, so no line of a test sample was trained on by itself.
    while True:
        names = rng.choices(list(_PARTS), k=3 if short else rng.randint(3, 5))
        parts = [(name, _PARTS[name].draw_split(rng, split, short=True)) for name in names]
        problem = {"parts": parts}
        if _SHORTEST <= count_tokens(_answer(problem, rng)) <= _LONGEST:
            return problem


def _prompt(problem: Problem, template: int) -> str:
    lines = (_PARTS[name].prompt(part, template) for name, part in problem["parts"])
    return _TEMPLATES[template].format(lines="\n".join(lines))


def _answer(problem: Problem, rng: Random) -> str:
    return "\n".join(_PARTS[name].answer(part, rng) for name, part in problem["parts"])


def _accepts(problem: Problem, text: str) -> bool:
    lines, parts = text.strip().split("\n"), problem["parts"]
    return len(lines) == len(parts) and all(
        _PARTS[name].accepts(part, line) for line, (name, part) in zip(lines, parts, strict=True)
    )


LINE_TASKS = (
    Task(
        name="lines",
        description="three to five short problems, one answer per line",
        max_new_tokens=96,
        draw=_draw,
        prompt=_prompt,
        answer=_answer,
        accepts=_accepts,
        inherits_split=True,
    ),
)
