"""Reading what a model wrote: lists and grids, strictly (exactly the form asked for) or leniently (what was meant)."""

from __future__ import annotations

from collections.abc import Sequence


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
    if "[" not in text or "]" not in text.rsplit("[", 1)[1]:
        return None
    parts = text.rsplit("[", 1)[1].split("]", 1)[0].split(", ")
    if any(len(part) < 2 or part[0] != '"' or part[-1] != '"' or '"' in part[1:-1] for part in parts):
        return None
    return [part[1:-1] for part in parts]


def write_rows(rows: Sequence[Sequence[str]]) -> str:
    """The square form of the prompts: one row per line, cells separated by commas."""
    return "\n".join(",".join(row) for row in rows)


def read_rows(text: str, symbols: Sequence[str]) -> list[list[str]]:
    """The first rows of a square in a text: lines whose cells are just these symbols, at most as many as symbols."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.split("\n")]
    return [row for row in rows if set(row) == set(symbols)][: len(symbols)]


def read_rows_strictly(text: str) -> list[list[str]]:
    """The rows of a text that is a square and nothing else, cells separated by bare commas."""
    return [line.split(",") for line in text.strip("\n").split("\n")]


def read_digit_grid(text: str, size: int) -> list[str] | None:
    """Rows of ``size`` digits in a text, blanks and commas between digits ignored; None unless there are ``size``."""
    lines = ("".join(c for c in line if c.isdecimal()) for line in text.replace(",", "").split("\n"))
    rows = [line for line in lines if len(line) == size]
    return rows if len(rows) == size else None


def read_digit_grid_strictly(text: str, size: int) -> list[str] | None:
    """The rows of a text that is ``size`` lines of ``size`` digits and nothing else, or None."""
    rows = [line.strip() for line in text.strip().split("\n") if line.strip()]
    good = len(rows) == size and all(len(row) == size and row.isdecimal() for row in rows)
    return rows if good else None
