"""What a task is: problems drawn from a seeded generator, three wordings of each, and an exact scorer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

SPLITS = ("train", "valid", "test")
_SPLIT_PERIOD = 40

Problem = Mapping[str, Any]


@dataclass(frozen=True)
class Sample:
    """One prompt with one right answer.

    Attributes:
        task: name of the task in ``TASKS``.
        template: index of the wording (0, 1 or 2).
        prompt: what the user says.
        answer: one right answer; tasks with several right answers accept the others too.
        meta: the problem behind the text; the scorer reads it, nothing else does.
    """

    task: str
    template: int
    prompt: str
    answer: str
    meta: Problem = field(repr=False)


@dataclass(frozen=True)
class Task:
    """A family of problems that one scorer judges.

    Attributes:
        name: the key in ``TASKS``.
        description: one line for tables and help texts.
        max_new_tokens: canvas that holds every answer of the family and its end token.
        draw: ``(rng, split, short)`` to a new problem; ``short`` asks for a smaller one.
        prompt: ``(problem, template)`` to the text the user says.
        answer: ``(problem, rng)`` to a right answer (``rng`` chooses where several are right).
        accepts: ``(problem, text)`` to whether ``text`` is a right answer.
        templates: number of wordings.
        inherits_split: every part that ``draw`` uses is of the split asked for, so the whole needs no check.
    """

    name: str
    description: str
    max_new_tokens: int
    draw: Callable[[Random, str, bool], dict[str, Any]]
    prompt: Callable[[Problem, int], str]
    answer: Callable[[Problem, Random], str]
    accepts: Callable[[Problem, str], bool]
    templates: int = 3
    inherits_split: bool = False

    def draw_split(self, rng: Random, split: str, short: bool = False) -> dict[str, Any]:
        """Draw problems until one falls in ``split``."""
        while True:
            problem = self.draw(rng, split, short)
            if self.inherits_split or split_of(self.prompt(problem, 0)) == split:
                return problem

    def sample(self, rng: Random, split: str, template: int | None = None, short: bool = False) -> Sample:
        """Draw one sample of ``split``; the problem does not depend on ``template``."""
        problem = self.draw_split(rng, split, short)
        drawn = rng.randrange(self.templates)
        chosen = drawn if template is None else template
        return Sample(self.name, chosen, self.prompt(problem, chosen), self.answer(problem, rng), problem)

    def samples(self, rng: Random, split: str, n: int, template: int | None = None) -> list[Sample]:
        """Draw ``n`` samples of ``split`` with different problems; a longer draw begins with the shorter one."""
        found: dict[str, Sample] = {}
        while len(found) < n:
            sample = self.sample(rng, split, template)
            found.setdefault(self.prompt(sample.meta, 0), sample)
        return list(found.values())


def split_of(canonical: str) -> str:
    """Split of a problem, from a checksum of its canonical text (template 0).

    All wordings of a problem share its canonical text, so no wording of a test problem is ever trained on.
    """
    bucket = zlib.crc32(canonical.encode()) % _SPLIT_PERIOD
    return "test" if bucket == 0 else "valid" if bucket == 1 else "train"


def spaced(items: list[str] | tuple[str, ...]) -> str:
    """Write items as the list tasks do: each one after a space, the first one too."""
    return "".join(f" {item}" for item in items)


def parse_spaced(text: str) -> list[str] | None:
    """Items of a list written with single spaces, or None when the spacing is another."""
    items = text.strip().split(" ")
    return None if "" in items or any(len(item.split()) != 1 for item in items) else items
