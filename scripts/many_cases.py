"""Thousands of random cases: dealt out to processes, counted, and gone on with after an interruption."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TextIO

import torch
import typer
from tqdm import tqdm

SHOWN = 20  #: wrong cases that are printed once more at the end
PACKAGES = ("filters", "samplers", "dllm_decode")

Cases = Annotated[int, typer.Option(min=1, help="Random cases to try.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the cases.")]
Processes = Annotated[int, typer.Option(min=1, help="Processes with one thread each.")]
JournalFile = Annotated[Path | None, typer.Option(help="File that keeps what is done; the same command goes on.")]


@dataclass(frozen=True)
class Verdict:
    """What became of one case.

    Attributes:
        kind: ``"same"``; ``"tie"``: float32 rounded two ways, float64 agrees; ``"different"``: a failure.
        case: what repeats it.
        counts: anything to be added up over all cases.
    """

    kind: str
    case: str
    counts: tuple[int, ...] = ()


@dataclass
class Found:
    """All verdicts so far: how many of each kind, their counts added up, and the cases that were not the same."""

    kinds: Counter[str] = field(default_factory=Counter)
    counts: list[int] = field(default_factory=list)
    odd: list[tuple[int, Verdict]] = field(default_factory=list)

    def add(self, number: int, verdict: Verdict) -> None:
        """Count one more."""
        self.kinds[verdict.kind] += 1
        self.counts = [a + b for a, b in zip(self.counts or [0] * len(verdict.counts), verdict.counts, strict=True)]
        if verdict.kind != "same":
            self.odd.append((number, verdict))

    def __str__(self) -> str:
        total = sum(self.kinds.values())
        return f"{total} cases, {self.kinds['different']} wrong, {self.kinds['tie']} near ties of float32"


def try_cases(
    judge: Callable[[int, int], Verdict], name: str, cases: int, seed: int, processes: int, journal: Path | None
) -> Found:
    """Judge cases number 0 to ``cases - 1``, with a progress bar.

    Args:
        judge: ``(seed, number)`` to the verdict; case and verdict depend on these alone. At module level if there
            are several processes.
        name: of the check, for the journal.
        cases: how many.
        seed: of all of them.
        processes: with one thread each.
        journal: file of finished cases, read first and appended to.

    Raises:
        SystemExit: the journal belongs to another check, seed or state of the code.
    """
    torch.set_num_threads(1)
    found = Found()
    with _journal(journal, {"check": name, "seed": seed, "code": code_version()}) as (done, note):
        for number, verdict in done.items():
            if number < cases:
                found.add(number, verdict)
        left = [number for number in range(cases) if number not in done]
        with tqdm(total=cases, initial=cases - len(left), unit="case", smoothing=0, mininterval=1.0) as bar:
            for number, verdict in _judged(judge, seed, left, processes):
                found.add(number, verdict)
                note(number, verdict)
                if verdict.kind != "same":
                    bar.write(f"{verdict.kind}: case {number} of seed {seed}: {verdict.case}", file=sys.stderr)
                    bar.set_postfix(ties=found.kinds["tie"], wrong=found.kinds["different"], refresh=False)
                bar.update()
    return found


def finish(found: Found) -> None:
    """Name the wrong cases, say how many of each kind there were, and leave with 1 if any was wrong."""
    wrong = [(number, verdict) for number, verdict in sorted(found.odd, key=lambda o: o[0]) if verdict.kind != "tie"]
    for number, verdict in wrong[:SHOWN]:
        print(f"WRONG case {number}: {verdict.case}")
    print(found)
    raise typer.Exit(1 if wrong else 0)


def _judged(
    judge: Callable[[int, int], Verdict], seed: int, numbers: list[int], processes: int
) -> Iterator[tuple[int, Verdict]]:
    if processes == 1 or len(numbers) < 2:
        for number in numbers:
            yield number, judge(seed, number)
        return
    with multiprocessing.get_context("spawn").Pool(
        processes, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.imap_unordered(partial(_numbered, judge, seed), numbers, chunksize=8)


def _numbered(judge: Callable[[int, int], Verdict], seed: int, number: int) -> tuple[int, Verdict]:
    return number, judge(seed, number)


def code_version() -> str:
    """A hash of the code that is checked: a verdict holds for this code only."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for package in (*PACKAGES, "scripts"):
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _journal(
    path: Path | None, head: dict[str, Any]
) -> Iterator[tuple[dict[int, Verdict], Callable[[int, Verdict], None]]]:
    """What is done, and how to note more; a last line torn by a kill is cut off."""
    if path is None:
        yield {}, lambda number, verdict: None
        return
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    if lines and json.loads(lines[0]) != head:
        raise SystemExit(f"{path} holds another check, seed or state of the code: {lines[0]}; give another file.")
    done = {number: Verdict(kind, case, tuple(counts)) for number, kind, case, counts in map(json.loads, lines[1:])}
    with path.open("w", encoding="utf-8") as file:
        file.write("\n".join([json.dumps(head), *lines[1:], ""]))
        yield done, partial(_note, file)


def _note(file: TextIO, number: int, verdict: Verdict) -> None:
    case = verdict.case if verdict.kind != "same" else ""
    file.write(json.dumps([number, verdict.kind, case, verdict.counts]) + "\n")
    file.flush()
