"""What is decoded in a comparison: samples of the bundled tasks, and the exact oracles as tasks of their own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from dllm_decode import tasks
from dllm_decode.errors import DllmError
from dllm_decode.lab import oracles
from dllm_decode.lab.oracles import Oracle

ORACLES: dict[str, tuple[Callable[..., Oracle], int]] = {
    "indep": (oracles.indep, 2),
    "shuffle": (oracles.shuffle, 1),
    "replace": (oracles.replace, 1),
    "choose": (oracles.choose, 2),
    "latin4": (oracles.latin4, 0),
    "sudoku4": (oracles.sudoku4, 0),
}
ORACLE_PREFIX = "oracle-"

_SEALED: ContextVar[frozenset[str]] = ContextVar("sealed splits", default=frozenset())


class SealedSplitError(RuntimeError):
    """Somebody looked at a split that must not be seen yet: a mistake in this program, not of its user."""


@contextmanager
def sealed(split: str) -> Iterator[None]:
    """Within this context no sample of ``split`` can be drawn for a comparison."""
    token = _SEALED.set(_SEALED.get() | {split})
    try:
        yield
    finally:
        _SEALED.reset(token)


@dataclass(frozen=True)
class Problem:
    """One question.

    Attributes:
        task, template, seed, sample: which one; ``sample`` counts from 0 within (task, seed).
        prompt: text; empty for an oracle, which has none.
        expected: one right answer.
        canvas: cells to decode.
        accepts: ``(answer text, tokens)`` to whether they are right.
    """

    task: str
    template: int
    seed: int
    sample: int
    prompt: str
    expected: str
    canvas: int
    accepts: Callable[[str, Sequence[int]], bool]


def is_oracle(task: str) -> bool:
    """Whether the task is an exact oracle, which brings its own model."""
    return task.startswith(ORACLE_PREFIX)


def make_oracle(task: str, seed: int = 0) -> Oracle:
    """The oracle of a name such as ``oracle-shuffle-7`` or ``oracle-choose-4-6``; ties are broken at random.

    Raises:
        DllmError: an unknown oracle, or sizes it does not take.
    """
    name, *sizes = task.removeprefix(ORACLE_PREFIX).split("-")
    if name not in ORACLES:
        raise DllmError(f"unknown oracle {task!r}; use {', '.join(ORACLE_PREFIX + known for known in ORACLES)}.")
    make, arguments = ORACLES[name]
    if len(sizes) != arguments or not all(re.fullmatch(r"\d+", size) for size in sizes):
        shape = "".join(["-N", "-N-N"][arguments - 1 : arguments]) if arguments else ""
        raise DllmError(f"oracle {task!r} has the wrong sizes; write {ORACLE_PREFIX}{name}{shape}, N a number.")
    return make(*map(int, sizes), random_ties=True, seed=seed)


def task_names(asked: str | Sequence[str]) -> list[str]:
    """Names of tasks, each once: ``"all"``, a comma-separated string or a list; oracles by ``oracle-...``.

    Raises:
        DllmError: an unknown task, or none.
    """
    names = [name.strip() for name in (asked.split(",") if isinstance(asked, str) else asked) if name.strip()]
    if not names:
        raise DllmError(f"no task was given; give 'all' or some of {', '.join(tasks.TASKS)}, oracle-shuffle-7.")
    out: list[str] = []
    for name in names:
        if is_oracle(name):
            make_oracle(name)
            out.append(name)
        else:
            out += tasks.group(name)
    return list(dict.fromkeys(out))


def draw(
    task: str,
    split: str,
    seed: int,
    first: int,
    count: int,
    templates: tuple[int, ...] | None = None,
    length: Callable[[str], int] | None = None,
) -> list[Problem]:
    """Problems ``first`` to ``first + count`` of one task and seed.

    Args:
        task: a bundled task or an oracle.
        split: ``"train"``, ``"valid"`` or ``"test"``; an oracle has none.
        seed: of the problems.
        first: index of the first; a longer draw begins with the shorter one.
        count: how many.
        templates: each problem in each of these wordings; ``None``: each in one, drawn wording.
        length: tokens of a text. If given, the canvas is that of the expected answer and its end token, up to a
            multiple of 4, instead of the task's own.
    """
    if is_oracle(task):
        return _draw_oracle(task, seed, first, count)
    if split in _SEALED.get():
        raise SealedSplitError(f"the {split} split is sealed until the policy is chosen, but task {task} was drawn.")
    out = []
    for template in templates if templates is not None else (None,):
        drawn = tasks.samples(task, split, first + count, seed, template)[first:]
        for at, sample in enumerate(drawn, first):
            canvas = tasks.TASKS[task].max_new_tokens
            if length is not None:
                canvas = min(canvas, 4 * (length(sample.answer) // 4 + 1))
            out.append(
                Problem(
                    task=task,
                    template=sample.template,
                    seed=seed,
                    sample=at,
                    prompt=sample.prompt,
                    expected=sample.answer,
                    canvas=canvas,
                    accepts=lambda text, _, sample=sample: tasks.score(sample, text),  # type: ignore[misc]
                )
            )
    return out


def _draw_oracle(task: str, seed: int, first: int, count: int) -> list[Problem]:
    oracle = make_oracle(task)
    expected = f"one of {len(oracle.sequences)} sequences, such as {' '.join(map(str, oracle.sequences[0].tolist()))}"
    return [
        Problem(
            task=task,
            template=0,
            seed=seed,
            sample=at,
            prompt="",
            expected=expected,
            canvas=oracle.length,
            accepts=lambda _, tokens: oracle.is_valid(torch.tensor(tokens)),
        )
        for at in range(first, first + count)
    ]


def shares(problems: Sequence[Problem], size: int) -> list[list[Problem]]:
    """Problems of similar canvas and prompt lengths side by side, so many at a time; the same for every policy."""
    ordered = sorted(problems, key=lambda p: (p.canvas, len(p.prompt), p.seed, p.sample, p.template))
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]
