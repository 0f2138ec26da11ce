"""What a cheaper refresh of the dual cache costs and gains: ``refresh=`` and ``refresh_window=`` on the bundled model.

Every setting decodes the same batches in turn, so that noise of the machine falls on all of them alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler, Prompt
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.metrics import paired, wilson
from dllm_decode.models import load_model
from dllm_decode.tasks import TASKS, Sample, few_shot, samples, score
from scripts.docs_page import markdown_table

POLICY, SEED, ROWS = "threshold", 7, 16


@dataclass(frozen=True)
class Workload:
    """Problems that span several blocks.

    Attributes:
        name: in the table. ``task``: of the problems. ``block``: cells per block.
        canvas: cells, ``None`` = the task's. ``least_prompt``: solved examples up to so many tokens come first.
        early_stop: stop a row behind its text; without, every block of the canvas is opened.
    """

    name: str
    task: str
    block: int
    canvas: int | None = None
    least_prompt: int = 0
    early_stop: bool = True

    def prompt(self, sample: Sample) -> Prompt:
        """What the model is asked."""
        return few_shot(sample, min_tokens=self.least_prompt) if self.least_prompt else sample.prompt


WORKLOADS = (
    Workload("lines", "lines", 16),
    Workload("lines behind solved examples, 150 tokens and more", "lines", 16, least_prompt=150),
    Workload("lines, canvas of 128 decoded to its end", "lines", 16, canvas=128, early_stop=False),
    Workload("kv_json", "kv_json", 8),
    Workload("latin4", "latin4", 8),
)
#: refresh, refresh_window; the papers' rule first, which all others are compared with
SETTINGS: tuple[tuple[Any, int], ...] = (
    (1, 0),
    (2, 0),
    (4, 0),
    ("window", 0),
    ("window", 16),
    ("window", 32),
)


@dataclass(frozen=True)
class RefreshRow:
    """One setting on one workload.

    Attributes:
        workload, refresh, window: which. ``n``: problems.
        accuracy, low, high: share of right answers, Wilson 95 % interval.
        difference, difference_low, difference_high, mcnemar_p: to ``refresh=1`` on the same problems, as a share.
        tokens_per_s: content tokens per second. ``speedup``: over ``refresh=1``.
        nfe: forwards per row. ``openings``: share of them that opened a block; ``full``: share over the whole row.
        tokens: forwarded per row. ``opening_tokens``: share of them that opening forwards sent.
    """

    workload: str
    refresh: int | str
    window: int
    n: int
    accuracy: float
    low: float
    high: float
    difference: float
    difference_low: float | None
    difference_high: float | None
    mcnemar_p: float
    tokens_per_s: float
    speedup: float
    nfe: float
    openings: float
    full: float
    tokens: float
    opening_tokens: float


class Tally:
    """What one setting did on one workload so far."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.content = self.forwards = self.full = self.openings = self.tokens = self.opening_tokens = 0

    def add(self, chosen: Sequence[Sample], first: int, result: GenerationResult) -> None:
        """Count a decoded batch, whose first problem has number ``first``."""
        assert result.texts is not None
        for row, (sample, text) in enumerate(zip(chosen, result.texts, strict=True)):
            right = int(score(sample, text))
            self.records.append({"task": sample.task, "seed": SEED, "sample": first + row, "correct": right})
        self.seconds += result.seconds
        self.content += sum(result.content_tokens)
        self.forwards += sum(result.nfe)
        self.full += sum(result.full_forwards)
        self.tokens += sum(result.tokens_forwarded)
        opening = [step for trace in result.trace for step in trace.steps if step.opening]
        self.openings += len(opening)
        self.opening_tokens += sum(step.tokens for step in opening)

    def row(self, workload: str, refresh: int | str, window: int, base: Tally) -> RefreshRow:
        """The figures, next to those of ``base``."""
        n = len(self.records)
        right = sum(record["correct"] for record in self.records)
        against = paired(self.records, base.records)
        speed, their_speed = self.content / self.seconds, base.content / base.seconds
        return RefreshRow(
            workload,
            refresh,
            window,
            n,
            right / n,
            *wilson(right, n),
            *(against[name] for name in ("difference", "difference_low", "difference_high", "mcnemar_p")),
            speed,
            speed / their_speed if their_speed else float("nan"),
            self.forwards / n,
            self.openings / self.forwards,
            self.full / self.forwards,
            self.tokens / n,
            self.opening_tokens / self.tokens,
        )


def refresh_rows(
    count: int,
    model: DenoisingModel | None = None,
    workloads: Sequence[Workload] | None = None,
    settings: Sequence[tuple[Any, int]] = SETTINGS,
    policy: str = POLICY,
) -> list[RefreshRow]:
    """Decode ``count`` held-out problems of every workload in every setting, dual cache.

    Args:
        count: problems per workload.
        model: default the bundled one.
        workloads: what is decoded; default ``WORKLOADS``.
        settings: ``(refresh, refresh_window)``; the first is what the others are compared with.
        policy: its string.
    """
    model = load_model("tiny") if model is None else model
    out = []
    for load in WORKLOADS if workloads is None else workloads:
        drawn = sorted(samples(load.task, "test", count, SEED), key=lambda s: len(s.prompt))
        samplers = {
            (refresh, window): DiffusionSampler(
                model,
                policy,
                cache="dual",
                config=GenerationConfig(
                    max_new_tokens=load.canvas or TASKS[load.task].max_new_tokens,
                    block_length=load.block,
                    early_stop=load.early_stop,
                    refresh=refresh,
                    refresh_window=window,
                ),
            )
            for refresh, window in settings
        }
        tallies = {setting: Tally() for setting in samplers}
        next(iter(samplers.values())).generate([load.prompt(s) for s in drawn[:ROWS]])  # warm-up
        for first in range(0, count, ROWS):
            batch = drawn[first : first + ROWS]
            for setting, sampler in samplers.items():
                tallies[setting].add(batch, first, sampler.generate([load.prompt(s) for s in batch]))
        base = tallies[settings[0]]
        out += [tally.row(load.name, *setting, base) for setting, tally in tallies.items()]
    return out


def refresh_table(rows: Sequence[RefreshRow]) -> list[str]:
    """The rows as lines of a Markdown table."""
    head = (
        "workload", "refresh", "window", "accuracy % (95 %)", "points to refresh 1 (95 %)", "content tokens/s",
        "times", "forwards", "openings, % of forwards", "whole rows, % of forwards", "tokens forwarded",
        "openings, % of them",
    )  # fmt: skip
    body = []
    for at, row in enumerate(rows):
        again = at > 0 and rows[at - 1].workload == row.workload
        points = "" if not again else f"{100 * row.difference:+.1f}"
        if again and row.difference_low is not None and row.difference_high is not None:
            points += f" ({100 * row.difference_low:+.1f} to {100 * row.difference_high:+.1f})"
        body.append(
            [
                "" if again else row.workload,
                str(row.refresh),
                str(row.window) if row.refresh != 1 else "-",
                f"{100 * row.accuracy:.1f} ({100 * row.low:.1f}-{100 * row.high:.1f})",
                points or "-",
                f"{row.tokens_per_s:.0f}",
                f"{row.speedup:.2f}",
                f"{row.nfe:.1f}",
                f"{100 * row.openings:.0f}",
                f"{100 * row.full:.0f}",
                f"{row.tokens:.0f}",
                f"{100 * row.opening_tokens:.0f}",
            ]
        )
    return markdown_table(head, body)


def refresh_note(rows: Sequence[RefreshRow]) -> str:
    """One sentence on what was run."""
    return (
        f"Policy `{POLICY}`, dual cache, {rows[0].n} held-out problems per workload, {ROWS} rows together; blocks of "
        + ", ".join(f"{load.block} ({load.name})" for load in WORKLOADS)
        + "."
    )
