"""Accuracy and cost of a policy on the bundled tasks, sample by sample.

>>> from dllm_decode.lab.evaluate import evaluate
>>> report = evaluate("tiny", "threshold", ["copy", "sort"], samples=20)  # doctest: +SKIP
>>> report.tasks["copy"].accuracy  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scipy.stats import binomtest

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.tasks import TASKS, Sample, get_task, score
from dllm_decode.tasks import samples as draw
from samplers import Policy, spell


@dataclass(frozen=True)
class SampleRecord:
    """One decoded sample.

    Attributes:
        task: its name. ``index``: place among the task's samples. ``template``: wording.
        prompt, answer: the question and one right answer. ``text``: what was generated, cut at the first end token.
        correct: whether the task's scorer accepts ``text``.
        sequence: all generated ids.
        nfe, full_forwards, rows_forwarded, tokens_forwarded: cost, as in :class:`GenerationResult`.
        prompt_tokens, content_tokens, until_eos_tokens, canvas_tokens: sizes, as there.
    """

    task: str
    index: int
    template: int
    prompt: str
    answer: str
    text: str
    correct: bool
    sequence: tuple[int, ...] = field(repr=False)
    nfe: int
    full_forwards: int
    rows_forwarded: int
    tokens_forwarded: int
    prompt_tokens: int
    content_tokens: int
    until_eos_tokens: int
    canvas_tokens: int


@dataclass(frozen=True)
class TaskScore:
    """The samples of one task together.

    Attributes:
        records: in the order drawn, at least one.
    """

    records: tuple[SampleRecord, ...] = field(repr=False)

    @property
    def samples(self) -> int:
        """Number of samples."""
        return len(self.records)

    @property
    def correct(self) -> int:
        """Number of right answers."""
        return sum(record.correct for record in self.records)

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return self.correct / self.samples

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the accuracy."""
        return wilson(self.correct, self.samples)

    @property
    def nfe(self) -> float:
        """Mean forwards per sample."""
        return sum(record.nfe for record in self.records) / self.samples

    @property
    def tpf_content(self) -> float:
        """Content tokens per forward: all content tokens over all forwards (a ratio of sums, not a mean of ratios)."""
        forwards = sum(record.nfe for record in self.records)
        return sum(record.content_tokens for record in self.records) / max(1, forwards)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain JSON values."""
        return {
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "samples": self.samples,
            "nfe": self.nfe,
            "tpf_content": self.tpf_content,
        }


@dataclass(frozen=True)
class EvaluationReport:
    """The outcome of :func:`evaluate`.

    Attributes:
        policy: its string. ``tasks``: scores by task name.
    """

    policy: str
    tasks: dict[str, TaskScore]

    @classmethod
    def of(cls, policy: str, records: Iterable[SampleRecord]) -> EvaluationReport:
        """Group records by task, in the order of their first appearance."""
        groups: dict[str, list[SampleRecord]] = {}
        for record in records:
            groups.setdefault(record.task, []).append(record)
        return cls(policy, {name: TaskScore(tuple(sorted(g, key=lambda r: r.index))) for name, g in groups.items()})

    @property
    def mean_accuracy(self) -> float:
        """Unweighted mean over the tasks."""
        return sum(task.accuracy for task in self.tasks.values()) / len(self.tasks)

    @property
    def records(self) -> list[SampleRecord]:
        """All samples, task by task."""
        return [record for task in self.tasks.values() for record in task.records]

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values, without the samples."""
        return {
            "policy": self.policy,
            "mean_accuracy": self.mean_accuracy,
            "tasks": {name: task.to_dict() for name, task in self.tasks.items()},
        }


def wilson(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share, without continuity correction."""
    found = binomtest(successes, trials).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def evaluate(
    model: DenoisingModel | str,
    policy: Policy | str,
    tasks: str | Sequence[str],
    samples: int,
    *,
    split: str = "test",
    seed: int = 0,
    block_length: int | None = 16,
    cache: str = "none",
    batch_size: int = 32,
    template: int | None = None,
    progress: Callable[[list[SampleRecord]], None] | None = None,
    **settings: Any,
) -> EvaluationReport:
    """Decode fresh samples of some tasks and score the answers, each cut at its first end token.

    Args:
        model: what :class:`DiffusionSampler` takes.
        policy: likewise.
        tasks: names, or ``"all"``. Each is decoded on the canvas its task suggests.
        samples: per task.
        split: of the problems.
        seed: of the problems and, when sampling, of the tokens.
        block_length: cells per block.
        cache: ``"none"``, ``"prefix"`` or ``"dual"``.
        batch_size: rows decoded together; greedy results do not depend on it.
        template: wording of all prompts; None mixes them.
        progress: called with the records of every finished batch.
        **settings: further fields of :class:`GenerationConfig`.

    Raises:
        DllmError: unknown task, split, template or setting, or a count below 1; before the model is loaded.
        PolicyError: a policy that does not parse or does not fit.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise DllmError(f"batch_size is {batch_size!r}; give a whole number from 1 up.")
    problems = draw_problems(tasks, samples, split=split, seed=seed, template=template)
    config = GenerationConfig.from_dict({"block_length": block_length, "seed": seed, **settings})
    sampler = DiffusionSampler(model, policy, cache, config)
    records: list[SampleRecord] = []
    for batch in decode_problems(sampler, problems, batch_size):
        records += batch
        if progress is not None:
            progress(batch)
    return EvaluationReport.of(policy if isinstance(policy, str) else spell(policy), records)


def task_names(tasks: str | Sequence[str]) -> list[str]:
    """Names of tasks, each once: ``"all"``, ``"copy,sort"`` or a list.

    Raises:
        DllmError: an unknown task, or none.
    """
    asked = tasks.split(",") if isinstance(tasks, str) else list(tasks)
    names = [name.strip() for name in asked if name.strip()]
    if names == ["all"]:
        return list(TASKS)
    if not names:
        raise DllmError(f"no task was given; give 'all' or some of {', '.join(TASKS)}.")
    return [get_task(name).name for name in dict.fromkeys(names)]


def draw_problems(
    tasks: str | Sequence[str], samples: int, *, split: str = "test", seed: int = 0, template: int | None = None
) -> dict[str, list[Sample]]:
    """Draw the samples of an evaluation, by task.

    Raises:
        DllmError: unknown task, split or template, or less than one sample.
    """
    names = task_names(tasks)
    if not isinstance(samples, int) or samples < 1:
        raise DllmError(f"samples is {samples!r}; give a whole number from 1 up.")
    return {name: draw(name, split, samples, seed, template) for name in names}


def decode_problems(
    sampler: DiffusionSampler, problems: Mapping[str, Sequence[Sample]], batch_size: int
) -> Iterator[list[SampleRecord]]:
    """Decode and score, batch by batch; a batch holds prompts of one task and of similar lengths."""
    for name, drawn in problems.items():
        canvas = TASKS[name].max_new_tokens
        by_length = sorted(range(len(drawn)), key=lambda i: len(drawn[i].prompt))
        for at in range(0, len(drawn), batch_size):
            yield _decode_batch(sampler, drawn, by_length[at : at + batch_size], canvas)


def _decode_batch(
    sampler: DiffusionSampler, drawn: Sequence[Sample], chosen: list[int], canvas: int
) -> list[SampleRecord]:
    # Row i draws from (seed, i): a seed per batch keeps the batches' random numbers apart.
    seed = sampler.config.seed + 1_000_003 * chosen[0] if sampler.config.temperature else sampler.config.seed
    result = sampler.generate([drawn[i].prompt for i in chosen], max_new_tokens=canvas, seed=seed)
    if result.texts is None:
        raise DllmError(f"model {sampler.model.name!r} has no tokenizer, so its answers cannot be scored.")
    return [
        SampleRecord(
            task=drawn[i].task,
            index=i,
            template=drawn[i].template,
            prompt=drawn[i].prompt,
            answer=drawn[i].answer,
            text=result.texts[row],
            correct=score(drawn[i], result.texts[row]),
            sequence=tuple(result.sequences[row]),
            nfe=result.nfe[row],
            full_forwards=result.full_forwards[row],
            rows_forwarded=result.rows_forwarded[row],
            tokens_forwarded=result.tokens_forwarded[row],
            prompt_tokens=len(result.trace[row].prompt),
            content_tokens=result.content_tokens[row],
            until_eos_tokens=result.until_eos_tokens[row],
            canvas_tokens=result.canvas_tokens[row],
        )
        for row, i in enumerate(chosen)
    ]
