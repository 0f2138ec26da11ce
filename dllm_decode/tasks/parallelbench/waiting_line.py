"""Operations on a waiting line of people: ParallelBench's list tasks, with names and wordings of our own.

Copy, reverse, sort and the operations at a given position have one right answer, so that all cells can be decided at
once; shuffling, and inserting, removing and replacing at a place of the model's choice, have several, and cells that
are decided at once must agree on one (arXiv 2510.04767, sec. 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task
from dllm_decode.tasks.parallelbench import checks
from dllm_decode.tasks.parallelbench.checks import ListRule
from dllm_decode.tasks.parallelbench.parsing import write_list

_FIRST = (
    "Ada Amir Astrid Bela Bruno Carla Chen Clara Dario Diego Edith Elena Emil Farah Felix Greta Hana Hugo Ines Ivan "
    "Jana Jonas Karin Kofi Lara Leon Lucia Malik Marta Milo Nadia Nils Olga Omar Paula Pedro Rosa Samir Tara Viktor"
)
_LAST = (
    "Abbott Acosta Bauer Becker Castle Chan Dalton Duarte Ekberg Falk Fischer Garner Haas Hayward Ito Jansen Kaplan "
    "Keller Lang Lindgren Marino Mercer Nakamura Novak Okafor Olsen Park Pereira Quist Reuter Rossi Sandberg Silva "
    "Tanaka Thorne Ueda Vargas Wagner Yilmaz Zimmer"
)
FIRST_NAMES, LAST_NAMES = _FIRST.split(), _LAST.split()
SHORTEST, LONGEST = 3, 6

PLACES = ("at a ticket counter", "outside a bakery", "in front of a clinic")
ANSWER_ONLY = (
    "Answer with the resulting list alone, in the form of the example.",
    "Write only the final list, in the same form as in the example.",
    "Give the new list and nothing else, written like the one in the example.",
)
COUNTED = (
    "Positions are counted from 0: the front of the line is position 0.",
    "The first person stands at position 0, the next one at position 1.",
    "Count from 0, so that the person at the front has position 0.",
)


@dataclass(frozen=True)
class Operation:
    """One way of changing a line.

    Attributes:
        name: of the task. ``description``: one line.
        apply: ``(items, new, index, rng)`` to a right answer.
        rule: which answers are right; :func:`checks.is_expected` = that one alone.
        sayings: the instruction in three wordings.
        new: there is a new person. ``index``: how many positions there are for a line of n, or None if the prompt
            names none.
    """

    name: str
    description: str
    apply: Callable[[list[str], str, int, Random], list[str]]
    rule: ListRule
    sayings: tuple[str, str, str]
    new: bool = False
    index: Callable[[int], int] | None = None

    def draw(self, rng: Random, lengths: tuple[int, int], short: bool = False) -> dict[str, Any]:
        """A line, what is done to it, and a right answer."""
        size = lengths[0] if short else rng.randint(*lengths)
        drawn = rng.sample(range(len(FIRST_NAMES) * len(LAST_NAMES)), size + 1)
        names = [f"{FIRST_NAMES[at % len(FIRST_NAMES)]} {LAST_NAMES[at // len(FIRST_NAMES)]}" for at in drawn]
        new, items = names[0], names[1:]
        index = rng.randrange(self.index(size)) if self.index else 0
        problem: dict[str, Any] = {"items": items, "expected": self.apply(items, new, index, rng)}
        if self.new:
            problem["new"] = new
        if self.index:
            problem["index"] = index
        return problem


def _shuffled(items: list[str], new: str, index: int, rng: Random) -> list[str]:
    found = list(items)
    while found == items:
        rng.shuffle(found)
    return found


def _insert(items: list[str], new: str, index: int) -> list[str]:
    return [*items[:index], new, *items[index:]]


def _remove(items: list[str], index: int) -> list[str]:
    return [*items[:index], *items[index + 1 :]]


def _replace(items: list[str], new: str, index: int) -> list[str]:
    return [*items[:index], new, *items[index + 1 :]]


OPERATIONS = (
    Operation(
        "copy",
        "repeat a line of people",
        lambda items, new, index, rng: list(items),
        checks.is_expected,
        (
            "Write the line down exactly as it is.",
            "Repeat the list without any change.",
            "Copy all names in the order given.",
        ),
    ),
    Operation(
        "reverse",
        "turn a line of people around",
        lambda items, new, index, rng: items[::-1],
        checks.is_expected,
        (
            "Write the line down from its end to its front.",
            "Repeat the list backwards, from the last person to the first.",
            "Copy all names in the opposite order.",
        ),
    ),
    Operation(
        "sort",
        "sort a line of people by the full string",
        lambda items, new, index, rng: sorted(items),
        checks.is_expected,
        (
            "Sort the line alphabetically by the full string: first names decide, last names only if they are equal.",
            "Put the list in alphabetical order by the full string, compared from the first letter of the first name.",
            "Order all names from A to Z by the full string, so by first name and then by last name.",
        ),
    ),
    Operation(
        "shuffle",
        "put a line of people in any other order",
        _shuffled,
        checks.is_shuffled,
        (
            "Put the line in any other order: the same people, each exactly once.",
            "Mix the list: keep every name once, but do not keep the order.",
            "Write all names once, in an order of your choice that is not the one given.",
        ),
    ),
    Operation(
        "insert_index",
        "let a new person in at a given position",
        lambda items, new, index, rng: _insert(items, new, index),
        checks.is_expected,
        (
            "Let the new person in at the position given; whoever stands there and everybody behind moves back.",
            "Insert the new person so that they end up at the position given.",
            "Add the new person to the list, at exactly the position given.",
        ),
        new=True,
        index=lambda size: size + 1,
    ),
    Operation(
        "insert_random",
        "let a new person in anywhere",
        lambda items, new, index, rng: _insert(items, new, rng.randrange(len(items) + 1)),
        checks.is_inserted,
        (
            "Let the new person in at any place; the others keep their order.",
            "Insert the new person wherever you like, without changing the order of the others.",
            "Add the new person to the list, at a random place.",
        ),
        new=True,
    ),
    Operation(
        "remove_index",
        "take the person at a given position out",
        lambda items, new, index, rng: _remove(items, index),
        checks.is_expected,
        (
            "Take the person at the position given out of the line.",
            "Remove the person who stands at the position given.",
            "Leave the person at the position given out of the list.",
        ),
        index=lambda size: size,
    ),
    Operation(
        "remove_random",
        "take any one person out",
        lambda items, new, index, rng: _remove(items, rng.randrange(len(items))),
        checks.is_removed,
        (
            "Take any one person out of the line; the others keep their order.",
            "Remove one person, whoever you like, and nobody else.",
            "Leave one random person out of the list.",
        ),
    ),
    Operation(
        "replace_index",
        "put a new person in the place of the one at a given position",
        lambda items, new, index, rng: _replace(items, new, index),
        checks.is_expected,
        (
            "Put the new person in the place of the one at the position given.",
            "Replace the person who stands at the position given with the new person.",
            "In the list, exchange the person at the position given for the new person.",
        ),
        new=True,
        index=lambda size: size,
    ),
    Operation(
        "replace_random",
        "put a new person in anybody's place",
        lambda items, new, index, rng: _replace(items, new, rng.randrange(len(items))),
        checks.is_replaced,
        (
            "Put the new person in the place of any one person; the others stay where they are.",
            "Replace one person, whoever you like, with the new person.",
            "In the list, exchange one random person for the new person.",
        ),
        new=True,
    ),
)


def ask(operation: Operation, problem: Problem, template: int) -> str:
    """The prompt: what to do, one solved example, and the line."""
    counted = f" {COUNTED[template]}" if operation.index else ""
    what = f"People are standing in line {PLACES[template]}. {operation.sayings[template]}{counted}"
    example = problem.get("example")
    shown = "" if example is None else f"Example\n{_fields(example)}{write_list(example['expected'])}\n\nYour turn\n"
    return f"{what} {ANSWER_ONLY[template]}\n\n{shown}{_fields(problem)}".rstrip()


def _fields(problem: Problem) -> str:
    lines = [f"Line: {write_list(problem['items'])}"]
    if "new" in problem:
        lines.append(f"New person: {problem['new']}")
    if "index" in problem:
        lines.append(f"Position: {problem['index']}")
    return "\n".join(lines) + "\nResult: "


def _draw(operation: Operation, lengths: tuple[int, int], rng: Random, split: str, short: bool) -> dict[str, Any]:
    problem = operation.draw(rng, lengths, short)
    return {**problem, "example": operation.draw(rng, lengths, short)}


def line_tasks(
    prefix: str, strict: bool, lengths: tuple[int, int] = (SHORTEST, LONGEST), max_new_tokens: int = 48
) -> list[Task]:
    """The ten list tasks.

    Args:
        prefix: of their names.
        strict: accept only the list form asked for.
        lengths: shortest and longest line.
        max_new_tokens: canvas; ParallelBench's 32 is just short of a line of 7 names in some tokenizers.
    """
    return [
        Task(
            name=prefix + operation.name,
            description=operation.description,
            max_new_tokens=max_new_tokens,
            draw=partial(_draw, operation, lengths),
            prompt=partial(ask, operation),
            answer=lambda problem, rng: write_list(problem["expected"]),
            accepts=partial(checks.check_list, operation.rule, strict=strict),
        )
        for operation in OPERATIONS
    ]
