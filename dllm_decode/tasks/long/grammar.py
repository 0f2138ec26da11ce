"""Free text by a probabilistic grammar: any text it derives is right, and its likelihood is known exactly.

Each name of the prompt begins one line, in order::

    line -> name clauses "."
    clauses -> clause (0.5) | clause " and" clause (0.35) | clause "," clause " and" clause (0.15)
    clause -> verb number thing       the thing by the verb, the number geometric from 1 to 9

A text has one derivation, so its probability is the product of its rules'. Text decoded above temperature 0 is judged
by :func:`log_likelihood`: surprise below the grammar's own entropy is bland, far above it odd, and infinite where the
grammar derives no such text.
"""

from __future__ import annotations

import math
import re
from random import Random
from typing import Any

from dllm_decode.tasks.arithmetic import NAMES
from dllm_decode.tasks.base import Problem, Task

_TEMPLATES = (
    "say one line for each:{names}",
    "write one line for each:{names}",
    "answer with one line for each:{names}",
)
SHAPES = {1: 0.5, 2: 0.35, 3: 0.15}
NUMBERS = {n: 0.7**n / sum(0.7**m for m in range(1, 10)) for n in range(1, 10)}
VERBS = {"has": 0.25, "finds": 0.2, "buys": 0.2, "loses": 0.15, "drops": 0.1, "sells": 0.1}
THINGS = {
    "has": {"pens": 0.4, "keys": 0.3, "caps": 0.2, "toys": 0.1},
    "finds": {"nuts": 0.4, "pins": 0.3, "keys": 0.2, "figs": 0.1},
    "buys": {"eggs": 0.4, "figs": 0.3, "maps": 0.2, "pens": 0.1},
    "loses": {"keys": 0.4, "caps": 0.3, "maps": 0.2, "pins": 0.1},
    "drops": {"cups": 0.4, "eggs": 0.3, "nuts": 0.2, "toys": 0.1},
    "sells": {"toys": 0.4, "cups": 0.3, "maps": 0.2, "figs": 0.1},
}
_CLAUSE = r" ([a-z]+) ([1-9]) ([a-z]+)"
_LINE = re.compile(rf"([A-Z][a-z]+){_CLAUSE}(?:(?:,{_CLAUSE})? and{_CLAUSE})?\.")


def _draw(rng: Random, split: str, short: bool) -> dict[str, Any]:
    return {"names": rng.sample(NAMES, rng.randint(2, 4) if short else rng.randint(9, 10))}


def _pick(rng: Random, table: dict[Any, float]) -> Any:
    return rng.choices(list(table), list(table.values()))[0]


def _clause(rng: Random) -> str:
    verb = _pick(rng, VERBS)
    return f" {verb} {_pick(rng, NUMBERS)} {_pick(rng, THINGS[verb])}"


def _line(rng: Random, name: str) -> str:
    *others, last = [_clause(rng) for _ in range(_pick(rng, SHAPES))]
    return f"{name}{','.join(others)}{' and' if others else ''}{last}."


def log_likelihood(problem: Problem, text: str) -> float:
    """Exact log probability (nats) of a text, given the prompt's names; -inf if the grammar derives no such text.

    >>> from dllm_decode.tasks import samples
    >>> sample = samples("grammar", "test", n=1, seed=0)[0]
    >>> log_likelihood(sample.meta, "Amy has 0 pens.")
    -inf
    """
    lines, total = text.strip().split("\n"), 0.0
    if len(lines) != len(problem["names"]):
        return -math.inf
    for line, name in zip(lines, problem["names"], strict=True):
        found = _LINE.fullmatch(line)
        if found is None or found[1] != name:
            return -math.inf
        clauses = [found.groups()[at : at + 3] for at in (1, 4, 7) if found[at + 1] is not None]
        total += math.log(SHAPES[len(clauses)])
        for verb, number, thing in clauses:
            share = VERBS.get(verb, 0.0) * NUMBERS[int(number)] * THINGS.get(verb, {}).get(thing, 0.0)
            if share == 0:
                return -math.inf
            total += math.log(share)
    return total


def entropy(lines: int) -> float:
    """Expected minus log probability (nats) of a text of so many lines."""

    def of(table: dict[Any, float]) -> float:
        return -sum(share * math.log(share) for share in table.values())

    clause = of(VERBS) + of(NUMBERS) + sum(VERBS[verb] * of(THINGS[verb]) for verb in VERBS)
    return lines * (of(SHAPES) + clause * sum(count * share for count, share in SHAPES.items()))


GRAMMAR_TASKS = (
    Task(
        name="grammar",
        description="free text, one line per name, by a grammar whose likelihood is known",
        max_new_tokens=160,
        draw=_draw,
        prompt=lambda problem, template: _TEMPLATES[template].format(
            names="".join(f" {name}" for name in problem["names"])
        ),
        answer=lambda problem, rng: "\n".join(_line(rng, name) for name in problem["names"]),
        accepts=lambda problem, text: log_likelihood(problem, text) > -math.inf,
    ),
)
