"""List tasks over letters, from fully parallel (copy) to strongly coupled (shuffle).

Accept rules follow ParallelBench (arXiv 2510.04767): where several answers are right, each of them is.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from string import ascii_lowercase
from typing import Any

from dllm_decode.tasks.base import Problem, Task, parse_spaced, spaced

_LETTERS = tuple(ascii_lowercase)
REPEATS = 8


def _draw_items(rng: Random, split: str, short: bool) -> dict[str, Any]:
    return {"items": rng.sample(_LETTERS, rng.randint(4, 7) if short else rng.randint(8, 10))}


def _draw_replacement(rng: Random, split: str, short: bool) -> dict[str, Any]:
    drawn = rng.sample(_LETTERS, (rng.randint(4, 7) if short else rng.randint(8, 10)) + 1)
    items = drawn[1:]
    return {"items": items, "new": drawn[0], "index": rng.randrange(len(items))}


def _draw_free_replacement(rng: Random, split: str, short: bool) -> dict[str, Any]:
    """Eight items: an untouched item has probability 7/8, below the usual confidence threshold of 0.9."""
    drawn = rng.sample(_LETTERS, (rng.randint(4, 7) if short else 8) + 1)
    return {"items": drawn[1:], "new": drawn[0], "index": rng.randrange(len(drawn) - 1)}


def _draw_four(rng: Random, split: str, short: bool) -> dict[str, Any]:
    return {"items": rng.sample(_LETTERS, 4)}


def _prompt(*templates: str) -> Callable[[Problem, int], str]:
    def prompt(problem: Problem, template: int) -> str:
        return templates[template].format(
            new=problem.get("new"), place=problem.get("index", 0) + 1, items=spaced(problem["items"])
        )

    return prompt


def _replaced(problem: Problem) -> list[str]:
    items = list(problem["items"])
    items[problem["index"]] = problem["new"]
    return items


def _permuted(problem: Problem, rng: Random) -> list[str]:
    items = list(problem["items"])
    while items == problem["items"]:
        rng.shuffle(items)
    return items


def _is_one_replaced(problem: Problem, text: str) -> bool:
    found, items = parse_spaced(text), problem["items"]
    if found is None or len(found) != len(items):
        return False
    changed = [new for new, old in zip(found, items, strict=True) if new != old]
    return changed == [problem["new"]]


def _is_permuted(problem: Problem, text: str) -> bool:
    found, items = parse_spaced(text), problem["items"]
    return found is not None and sorted(found) == sorted(items) and found != items


def _is_repeated(problem: Problem, text: str) -> bool:
    found = parse_spaced(text)
    return found is not None and found in [[item] * REPEATS for item in problem["items"]]


def _fixed(
    name: str,
    description: str,
    expected: Callable[[Problem], list[str]],
    draw: Callable[[Random, str, bool], dict[str, Any]],
    *templates: str,
) -> Task:
    """A list task with exactly one right answer."""
    return Task(
        name=name,
        description=description,
        max_new_tokens=32,
        draw=draw,
        prompt=_prompt(*templates),
        answer=lambda problem, rng: spaced(expected(problem)),
        accepts=lambda problem, text: parse_spaced(text) == expected(problem),
    )


LIST_TASKS = (
    _fixed(
        "copy",
        "repeat a list",
        lambda problem: list(problem["items"]),
        _draw_items,
        "copy:{items}",
        "repeat:{items}",
        "say again:{items}",
    ),
    _fixed(
        "reverse",
        "write a list backwards",
        lambda problem: problem["items"][::-1],
        _draw_items,
        "reverse:{items}",
        "backwards:{items}",
        "from last to first:{items}",
    ),
    _fixed(
        "sort",
        "write a list in alphabetical order",
        lambda problem: sorted(problem["items"]),
        _draw_items,
        "sort:{items}",
        "order:{items}",
        "in alphabetical order:{items}",
    ),
    _fixed(
        "replace_index",
        "replace the item at a given place (counted from 1)",
        _replaced,
        _draw_replacement,
        "put {new} at {place}:{items}",
        "replace item {place} with {new}:{items}",
        "set place {place} to {new}:{items}",
    ),
    Task(
        name="replace_random",
        description="replace any one item by a given letter",
        max_new_tokens=32,
        draw=_draw_free_replacement,
        # The drawn index is the label's choice, not part of the problem: it stays out of every wording.
        prompt=_prompt(
            "replace one with {new}:{items}", "put {new} for any one:{items}", "swap some item for {new}:{items}"
        ),
        answer=lambda problem, rng: spaced(_replaced(problem)),
        accepts=_is_one_replaced,
    ),
    Task(
        name="shuffle",
        description="write a list in any other order",
        max_new_tokens=32,
        draw=_draw_items,
        prompt=_prompt("shuffle:{items}", "mix up:{items}", "in any other order:{items}"),
        answer=lambda problem, rng: spaced(_permuted(problem, rng)),
        accepts=_is_permuted,
    ),
    Task(
        name="choose",
        description=f"choose one of four letters and write it {REPEATS} times",
        max_new_tokens=32,
        draw=_draw_four,
        prompt=_prompt(
            "choose one:{items}", "pick one and say it 8 times:{items}", "write one of these 8 times:{items}"
        ),
        answer=lambda problem, rng: spaced([rng.choice(problem["items"])] * REPEATS),
        accepts=_is_repeated,
    ),
)
