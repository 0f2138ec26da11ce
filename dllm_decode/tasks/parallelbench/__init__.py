"""ParallelBench-style tasks as text for chat models (arXiv 2510.04767), with generators and wordings of our own.

=====================================  ==============================================================================
``parallelbench/copy`` ...             lines of 3 to 6 people: copy, reverse, sort, shuffle, insert, remove, replace
``parallelbench/latin_square``         a Latin square of four symbols
``parallelbench/words_easy`` ...       a sentence with four given words (easy, medium, hard)
``parallelbench-n15/copy`` ...         the same list tasks with 15 people
``parallelbench:FILE.jsonl``           a file of the original benchmark
=====================================  ==============================================================================

With ``parallelbench-strict`` for ``parallelbench`` (``parallelbench-n15-strict``, ``parallelbench-strict:FILE``)
only the exact form asked for is right; otherwise answers are read leniently, as for the benchmark's headline scores.

They are found by name wherever a task is named, and are not part of ``all``: the bundled model was not trained on
them.
"""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache

from dllm_decode.errors import DllmError
from dllm_decode.tasks.base import Task
from dllm_decode.tasks.parallelbench.files import read_task
from dllm_decode.tasks.parallelbench.grids import square_task
from dllm_decode.tasks.parallelbench.sentences import sentence_tasks
from dllm_decode.tasks.parallelbench.waiting_line import line_tasks

__all__ = ["PARALLELBENCH", "find_task", "is_ours", "read_task"]

#: All tasks with generators, by name.
PARALLELBENCH: dict[str, Task] = {
    task.name: task
    for strict in (False, True)
    for end in ["-strict/" if strict else "/"]
    for task in (
        *line_tasks("parallelbench" + end, strict),
        square_task("parallelbench" + end, strict),
        *sentence_tasks("parallelbench" + end, strict),
        *line_tasks("parallelbench-n15" + end, strict, lengths=(15, 15), max_new_tokens=128),
    )
}


def is_ours(name: str) -> bool:
    """Whether a name is meant to be one of these tasks."""
    return name.startswith("parallelbench")


@cache
def find_task(name: str) -> Task:
    """The task of a name of the table above.

    Raises:
        DllmError: there is none, or the name is that of a file, which cannot be used.
    """
    family, colon, path = name.partition(":")
    if colon and family in ("parallelbench", "parallelbench-strict"):
        return read_task(path, name, strict=family.endswith("strict"))
    if name not in PARALLELBENCH:
        near = get_close_matches(name, PARALLELBENCH, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        ours = [known for known in PARALLELBENCH if known.startswith("parallelbench/")]
        raise DllmError(f"unknown task {name!r}: {hint}Tasks are {', '.join(ours)}, and parallelbench:FILE.")
    return PARALLELBENCH[name]
