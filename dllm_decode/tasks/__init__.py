"""The bundled tasks: seeded generators, disjoint splits and exact scorers.

>>> from dllm_decode.tasks import samples, score
>>> sample = samples("sort", "test", n=1, seed=0)[0]
>>> score(sample, sample.answer)
True
"""

from __future__ import annotations

from difflib import get_close_matches
from random import Random

from dllm_decode.errors import DllmError
from dllm_decode.tasks.arithmetic import ARITHMETIC_TASKS
from dllm_decode.tasks.base import SPLITS, Sample, Task, split_of
from dllm_decode.tasks.grids import GRID_TASKS
from dllm_decode.tasks.lines import LINE_TASKS
from dllm_decode.tasks.lists import LIST_TASKS
from dllm_decode.tasks.long import LONG_TASKS
from dllm_decode.tasks.records import RECORD_TASKS
from dllm_decode.tasks.tokenizer import count_tokens

__all__ = [
    "SPLITS",
    "TASKS",
    "Sample",
    "Task",
    "few_shot",
    "get_task",
    "group",
    "long_tasks",
    "samples",
    "score",
    "split_of",
]


_LONG = {task.name: task for task in LONG_TASKS}


class TaskTable(dict[str, Task]):
    """The bundled tasks by name.

    Those of :mod:`dllm_decode.tasks.long` and :mod:`dllm_decode.tasks.parallelbench` are found by their names too, but
    not listed, so that "all" stays what the bundled model was trained on.
    """

    def __missing__(self, name: str) -> Task:
        from dllm_decode.tasks import parallelbench

        if name in _LONG:
            return _LONG[name]
        if not parallelbench.is_ours(name):
            raise KeyError(name)
        return parallelbench.find_task(name)

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        try:
            return isinstance(name, str) and self[name] is not None
        except (KeyError, DllmError):
            return False


TASKS = TaskTable(
    (task.name, task) for task in (*LIST_TASKS, *RECORD_TASKS, *ARITHMETIC_TASKS, *GRID_TASKS, *LINE_TASKS)
)


def long_tasks() -> list[str]:
    """Names of the long tasks."""
    return list(_LONG)


class TaskError(DllmError):
    """A task, split or template that does not exist."""


def get_task(name: str) -> Task:
    """Look a task up by name; an unknown name is answered with the nearest known one."""
    try:
        return TASKS[name]  # an unknown name of a family not listed raises what the family says
    except KeyError:
        pass
    near = get_close_matches(name, [*TASKS, *_LONG], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise TaskError(
        f"unknown task {name!r}: {hint}Tasks are {', '.join([*TASKS, *_LONG])}, and parallelbench/copy and so on."
    )


def group(name: str) -> list[str]:
    """Names that one word stands for: ``"all"`` the bundled model's tasks, ``"long"`` the long ones, else one task."""
    if name in ("all", "long"):
        return list(TASKS) if name == "all" else long_tasks()
    return [get_task(name).name]


def samples(task: str, split: str, n: int, seed: int, template: int | None = None) -> list[Sample]:
    """Draw ``n`` distinct problems of one task.

    Args:
        task: a name in ``TASKS``.
        split: ``"train"``, ``"valid"`` or ``"test"``; no problem is in two of them, whatever its wording.
        n: number of samples.
        seed: the same seed gives the same samples.
        template: the wording (0, 1 or 2) of all of them; None mixes. The problems do not depend on it.

    Returns:
        The samples, in the order drawn.

    Raises:
        DllmError: unknown task, split or template, or a negative ``n``.
    """
    spec = get_task(task)
    if split not in SPLITS:
        raise TaskError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}.")
    if template is not None and not 0 <= template < spec.templates:
        raise TaskError(
            f"template {template} given, task {task!r} has 0 to {spec.templates - 1}: choose one of these."
        )
    if n < 0:
        raise TaskError(f"{n} samples asked for: ask for 0 or more.")
    return spec.samples(Random(f"{task}/{split}/{seed}"), split, n, template)


def score(sample: Sample, text: str) -> bool:
    """Whether ``text`` (the answer, cut at the first end token) is right; blanks around it do not count."""
    return TASKS[sample.task].accepts(sample.meta, text)


def few_shot(
    sample: Sample, k: int | None = None, min_tokens: int | None = None, seed: int = 0
) -> list[dict[str, str]]:
    """Put solved training problems of the same task before a sample, as chat messages.

    Args:
        sample: the sample to ask last.
        k: number of solved problems, or None to add them until the prompt has ``min_tokens`` tokens.
        min_tokens: prompt length to reach, in tokens of the bundled tokenizer; used when ``k`` is None.
        seed: the same seed gives the same solved problems.

    Returns:
        Messages ``{"role", "content"}``, the last one being the sample's prompt.

    Raises:
        DllmError: neither or both of ``k`` and ``min_tokens`` given.
    """
    if (k is None) == (min_tokens is None):
        raise TaskError("few_shot needs either k or min_tokens: give exactly one of them.")
    spec = get_task(sample.task)
    rng = Random(f"few-shot/{sample.prompt}/{seed}")
    messages: list[dict[str, str]] = []
    length = 2 + count_tokens(sample.prompt)
    while (len(messages) < 2 * k) if k is not None else (length < (min_tokens or 0)):
        shot = spec.sample(rng, "train", sample.template)
        messages += [
            {"role": "user", "content": shot.prompt},
            {"role": "assistant", "content": shot.answer},
        ]
        length += 2 + count_tokens(shot.prompt) + count_tokens(shot.answer)
    return [*messages, {"role": "user", "content": sample.prompt}]
