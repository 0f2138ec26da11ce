"""Operations on a waiting line of people: ParallelBench's list tasks, with names and wordings of our own.

Copy, reverse, sort and the operations at a given position have one right answer, so that all cells can be decided at
once; shuffling, and inserting, removing and replacing at a place of the model's choice, have several, and cells that
are decided at once must agree on one (arXiv 2510.04767, sec. 3).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any

from dllm_decode.tasks.base import Problem, Task

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
#: verb -> the line after it; ``new`` is the person who comes, ``at`` the position
CHANGES: dict[str, Callable[[list[str], str, int], list[str]]] = {
    "copy": lambda items, new, at: list(items),
    "reverse": lambda items, new, at: items[::-1],
    "sort": lambda items, new, at: sorted(items),
    "insert": lambda items, new, at: [*items[:at], new, *items[at:]],
    "remove": lambda items, new, at: [*items[:at], *items[at + 1 :]],
    "replace": lambda items, new, at: [*items[:at], new, *items[at + 1 :]],
}


@dataclass(frozen=True)
class Operation:
    """One way of changing a line; ``sayings``: the instruction in three wordings.

    ``name``: a verb of ``CHANGES`` or ``"shuffle"``; with ``_index`` at the position that the prompt names, with
    ``_random`` anywhere.
    """

    name: str
    description: str
    sayings: tuple[str, str, str]

    @property
    def verb(self) -> str:
        """What is done, wherever."""
        return self.name.partition("_")[0]

    def draw(self, rng: Random, lengths: tuple[int, int], short: bool = False) -> dict[str, Any]:
        """A line, what is done to it, and a right answer."""
        size = lengths[0] if short else rng.randint(*lengths)
        drawn = rng.sample(range(len(FIRST_NAMES) * len(LAST_NAMES)), size + 1)
        names = [f"{FIRST_NAMES[at % len(FIRST_NAMES)]} {LAST_NAMES[at // len(FIRST_NAMES)]}" for at in drawn]
        new, items = names[0], names[1:]
        at = rng.randrange(size + (self.verb == "insert")) if "_" in self.name else 0
        expected = list(items) if self.verb == "shuffle" else CHANGES[self.verb](items, new, at)
        while self.verb == "shuffle" and expected == items:
            rng.shuffle(expected)
        problem: dict[str, Any] = {"items": items, "expected": expected}
        if self.verb in ("insert", "replace"):
            problem["new"] = new
        if self.name.endswith("_index"):
            problem["index"] = at
        return problem

    def prompt(self, problem: Problem, template: int) -> str:
        """What to do, one solved example, and the line."""
        counted = f" {COUNTED[template]}" if self.name.endswith("_index") else ""
        what = f"People are standing in line {PLACES[template]}. {self.sayings[template]}{counted}"
        example = problem["example"]
        solved = f"Example\n{_fields(example)}{write_list(example['expected'])}\n\nYour turn\n"
        return f"{what} {ANSWER_ONLY[template]}\n\n{solved}{_fields(problem)}".rstrip()


def _fields(problem: Problem) -> str:
    named = {"Line": write_list(problem["items"]), "New person": problem.get("new"), "Position": problem.get("index")}
    return "".join(f"{name}: {value}\n" for name, value in named.items() if value is not None) + "Result: "


def check_line(name: str, problem: Problem, text: str, strict: bool) -> bool:
    """Whether the list that a text ends with is right for the operation ``name`` (ParallelBench's rules).

    A problem holds ``items`` (the line given) and, where the task has them, ``new`` and ``expected``.
    """
    found, items = read_list_strictly(text) if strict else read_list(text), list(problem["items"])
    verb, _, where = name.partition("_")
    if verb == "shuffle":
        return found is not None and sorted(found) == sorted(items) and found != items
    if where != "random":
        return found == list(problem["expected"])
    places = range(len(items) + (verb == "insert"))
    return any(found == CHANGES[verb](items, problem.get("new", ""), at) for at in places)


def write_list(items: Sequence[str]) -> str:
    """The list form of the prompts: ``["A B", "C D"]``."""
    return "[" + ", ".join(f'"{item}"' for item in items) + "]"


def read_list(text: str) -> list[str]:
    """The list that a text ends with, whatever is around it and however it is quoted.

    That is what follows the last ``[`` up to the next ``]`` (or the whole text), split at commas, without blanks and
    double quotes around the items and without empty items: ParallelBench's lenient reading.
    """
    inside = text.rsplit("[", 1)[-1].split("]", 1)[0]
    return [item.strip('" \n\t') for item in inside.split(",") if item.strip()]


def read_list_strictly(text: str) -> list[str] | None:
    """The list that a text ends with if its items are in double quotes and separated by ``", "``, else None."""
    head, opened, inside = text.rpartition("[")
    inside, closed, _ = inside.partition("]")
    parts = inside.split(", ")
    if not opened or not closed:
        return None
    if any(len(part) < 2 or part[0] != '"' or part[-1] != '"' or '"' in part[1:-1] for part in parts):
        return None
    return [part[1:-1] for part in parts]


#: name and description of every operation, and the instruction in three wordings
_TABLE = """\
copy: repeat a line of people
  Write the line down exactly as it is.
  Repeat the list without any change.
  Copy all names in the order given.
reverse: turn a line of people around
  Write the line down from its end to its front.
  Repeat the list backwards, from the last person to the first.
  Copy all names in the opposite order.
sort: sort a line of people by the full string
  Sort the line alphabetically by the full string: first names decide, last names only if they are equal.
  Put the list in alphabetical order by the full string, compared from the first letter of the first name.
  Order all names from A to Z by the full string, so by first name and then by last name.
shuffle: put a line of people in any other order
  Put the line in any other order: the same people, each exactly once.
  Mix the list: keep every name once, but do not keep the order.
  Write all names once, in an order of your choice that is not the one given.
insert_index: let a new person in at a given position
  Let the new person in at the position given; whoever stands there and everybody behind moves back.
  Insert the new person so that they end up at the position given.
  Add the new person to the list, at exactly the position given.
insert_random: let a new person in anywhere
  Let the new person in at any place; the others keep their order.
  Insert the new person wherever you like, without changing the order of the others.
  Add the new person to the list, at a random place.
remove_index: take the person at a given position out
  Take the person at the position given out of the line.
  Remove the person who stands at the position given.
  Leave the person at the position given out of the list.
remove_random: take any one person out
  Take any one person out of the line; the others keep their order.
  Remove one person, whoever you like, and nobody else.
  Leave one random person out of the list.
replace_index: put a new person in the place of the one at a given position
  Put the new person in the place of the one at the position given.
  Replace the person who stands at the position given with the new person.
  In the list, exchange the person at the position given for the new person.
replace_random: put a new person in anybody's place
  Put the new person in the place of any one person; the others stay where they are.
  Replace one person, whoever you like, with the new person.
  In the list, exchange one random person for the new person.
"""
_LINES = [line.strip() for line in _TABLE.splitlines()]
OPERATIONS = tuple(
    Operation(head.partition(": ")[0], head.partition(": ")[2], (one, two, three))
    for head, one, two, three in zip(*(_LINES[at::4] for at in range(4)), strict=True)
)


def _draw(operation: Operation, lengths: tuple[int, int], rng: Random, split: str, short: bool) -> dict[str, Any]:
    problem = operation.draw(rng, lengths, short)
    return {**problem, "example": operation.draw(rng, lengths, short)}


def line_tasks(prefix: str, strict: bool, lengths: tuple[int, int] = (3, 6), max_new_tokens: int = 48) -> list[Task]:
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
            prompt=operation.prompt,
            answer=lambda problem, rng: write_list(problem["expected"]),
            accepts=partial(check_line, operation.name, strict=strict),
        )
        for operation in OPERATIONS
    ]
