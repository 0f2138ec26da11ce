"""When an answer is right: one rule per task, for a problem and the text of an answer.

The rules are those of ParallelBench (arXiv 2510.04767), for lists that may have several right answers.
A problem holds ``items`` (the line given) and, where the task has them, ``new`` and ``expected``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dllm_decode.tasks.base import Problem
from dllm_decode.tasks.parallelbench.parsing import (
    read_digit_grid,
    read_digit_grid_strictly,
    read_list,
    read_list_strictly,
    read_rows,
    read_rows_strictly,
)

ListRule = Callable[[Problem, list[str]], bool]


def is_expected(problem: Problem, found: list[str]) -> bool:
    """The one right list."""
    return found == list(problem["expected"])


def is_shuffled(problem: Problem, found: list[str]) -> bool:
    """The same people in another order."""
    items = list(problem["items"])
    return sorted(found) == sorted(items) and found != items


def is_inserted(problem: Problem, found: list[str]) -> bool:
    """The new person somewhere, the others as they were."""
    if problem["new"] not in found:
        return False
    rest = list(found)
    rest.remove(problem["new"])
    return rest == list(problem["items"])


def is_removed(problem: Problem, found: list[str]) -> bool:
    """One person less, the others as they were."""
    items = list(problem["items"])
    return any(found == items[:at] + items[at + 1 :] for at in range(len(items)))


def is_replaced(problem: Problem, found: list[str]) -> bool:
    """The new person in somebody's place, the others as they were."""
    items = list(problem["items"])
    if len(found) != len(items) or problem["new"] not in found:
        return False
    at = found.index(problem["new"])
    return found == [*items[:at], problem["new"], *items[at + 1 :]]


def check_list(rule: ListRule, problem: Problem, text: str, strict: bool) -> bool:
    """Apply a rule to the list that a text ends with."""
    found = read_list_strictly(text) if strict else read_list(text)
    return found is not None and rule(problem, found)


def check_square(problem: Problem, text: str, strict: bool) -> bool:
    """Whether every row and every column of the square in a text holds every one of ``problem["symbols"]`` once."""
    symbols: Sequence[str] = problem["symbols"]
    rows = read_rows_strictly(text) if strict else read_rows(text, symbols)
    if len(rows) != len(symbols) or any(len(row) != len(symbols) for row in rows):
        return False
    return all(set(line) == set(symbols) for line in (*rows, *zip(*rows, strict=True)))


def check_sudoku(problem: Problem, text: str, strict: bool) -> bool:
    """Whether a text holds the solution, ``problem["solution"]``: a tuple of rows of digits."""
    solution = list(problem["solution"])
    read = read_digit_grid_strictly if strict else read_digit_grid
    return read(text, len(solution)) == solution
