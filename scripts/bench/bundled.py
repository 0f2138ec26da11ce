"""The bundled model end to end: the dual cache against none on long prompts, and cheaper refreshes of the dual cache.

All settings decode the same batches in turn, so that noise of the machine falls on all of them alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler, Prompt
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.metrics import paired, wilson
from dllm_decode.models import load_model
from dllm_decode.tasks import TASKS, Sample, few_shot, samples, score
from samplers import TopK
from scripts.docs_page import markdown_table

SEED = 7
ROWS = 16  #: decoded together; on a CPU wider batches are not faster
CELLS, BLOCK, LEAST_PROMPT = 96, 16, 150
TIMED = 32  #: prompts whose whole canvas is decoded against the clock
POLICY = "threshold"  #: of the refreshes


class Tally:
    """What one setting did: records for the statistics, results for the counts, seconds."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.results: list[GenerationResult] = []
        self.seconds = 0.0

    def add(self, batch: Sequence[tuple[int, Sample]], result: GenerationResult) -> None:
        """Count a decoded batch of numbered problems."""
        assert result.texts is not None
        for (number, sample), text in zip(batch, result.texts, strict=True):
            right = int(score(sample, text))
            self.records.append({"task": sample.task, "seed": SEED, "sample": number, "correct": right})
        self.results.append(result)
        self.seconds += result.seconds

    @property
    def right(self) -> int:
        """Right answers."""
        return sum(record["correct"] for record in self.records)

    def total(self, name: str) -> int:
        """A count of the results over all rows."""
        return sum(sum(getattr(result, name)) for result in self.results)


def in_turn(
    samplers: Mapping[Any, DiffusionSampler], chosen: Sequence[Sample], prompts: Sequence[Prompt]
) -> dict[Any, Tally]:
    """Decode every batch with every sampler; prompts of like length together."""
    order = sorted(range(len(chosen)), key=lambda i: len(prompts[i]))
    tallies = {name: Tally() for name in samplers}
    next(iter(samplers.values())).generate([prompts[i] for i in order[:ROWS]])  # warm-up
    for first in range(0, len(order), ROWS):
        rows = order[first : first + ROWS]
        for name, sampler in samplers.items():
            tallies[name].add([(i, chosen[i]) for i in rows], sampler.generate([prompts[i] for i in rows]))
    return tallies


def bundled_rows(count: int, model: DenoisingModel | None = None) -> dict[str, float | None]:
    """Decode ``lines`` samples behind solved examples, one cell per forward, with and without cache.

    Speed: the first ``TIMED`` prompts, the whole canvas of ``CELLS`` cells. Accuracy: all prompts; there a row stops
    behind its text, which changes no answer.

    Args:
        count: prompts.
        model: default the bundled one.

    Returns:
        Canvas tokens per second of each, their ratio (dual over none), accuracies in per cent with Wilson intervals,
        and the difference in points with its paired bootstrap interval and McNemar's p.
    """
    model = load_model("tiny") if model is None else model
    assert model.tokenizer is not None
    chosen = samples("lines", "test", count, SEED)
    prompts = [model.tokenizer.encode_prompt(few_shot(sample, min_tokens=LEAST_PROMPT)) for sample in chosen]

    def run(n: int, early_stop: bool) -> dict[str, Tally]:
        config = GenerationConfig(max_new_tokens=CELLS, block_length=BLOCK, early_stop=early_stop)
        made = {cache: DiffusionSampler(model, TopK(k=1), cache, config) for cache in ("none", "dual")}
        return in_turn(made, chosen[:n], prompts[:n])

    speed = {cache: tally.total("canvas_tokens") / tally.seconds for cache, tally in run(TIMED, False).items()}
    tallies = run(count, True)
    out: dict[str, float | None] = {"prompts": count, "prompt tokens, least": float(min(map(len, prompts)))}
    for cache, tally in tallies.items():
        out[f"{cache} tokens/s"] = speed[cache]
        out[f"{cache} accuracy"] = 100 * tally.right / count
        out[f"{cache} accuracy, low"], out[f"{cache} accuracy, high"] = (100 * x for x in wilson(tally.right, count))
    out["ratio"] = speed["dual"] / speed["none"]
    found = paired(tallies["dual"].records, tallies["none"].records)
    for end in ("", "_low", "_high"):
        value = found["difference" + end]
        out["points" + end.replace("_", ", ")] = None if value is None else 100 * value
    return {**out, "gained": found["gained"], "lost": found["lost"], "mcnemar p": found["mcnemar_p"]}


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
SETTINGS: tuple[tuple[Any, int], ...] = ((1, 0), (2, 0), (4, 0), ("window", 0), ("window", 16), ("window", 32))


def refresh_rows(
    count: int,
    model: DenoisingModel | None = None,
    workloads: Sequence[Workload] | None = None,
    settings: Sequence[tuple[Any, int]] = SETTINGS,
) -> list[dict[str, Any]]:
    """Decode ``count`` held-out problems of every workload in every setting, dual cache.

    Args:
        count: problems per workload.
        model: default the bundled one.
        workloads: what is decoded; default ``WORKLOADS``.
        settings: ``(refresh, refresh_window)``; the first is what the others are compared with.

    Returns:
        A row per workload and setting; see :func:`figures`.
    """
    model = load_model("tiny") if model is None else model
    out = []
    for load in WORKLOADS if workloads is None else workloads:
        canvas = load.canvas or TASKS[load.task].max_new_tokens
        config = GenerationConfig(max_new_tokens=canvas, block_length=load.block, early_stop=load.early_stop)
        made = {
            (refresh, window): DiffusionSampler(
                model, POLICY, "dual", config.replace(refresh=refresh, refresh_window=window)
            )
            for refresh, window in settings
        }
        drawn = samples(load.task, "test", count, SEED)
        tallies = in_turn(made, drawn, [load.prompt(sample) for sample in drawn])
        for (refresh, window), tally in tallies.items():
            row = figures(tally, tallies[settings[0]])
            out.append({"workload": load.name, "refresh": refresh, "window": window, **row})
    return out


def figures(tally: Tally, base: Tally) -> dict[str, Any]:
    """Of one setting, next to those of ``base``.

    Returns:
        ``accuracy``, ``low``, ``high``: share of right answers, Wilson 95 % interval; ``difference...`` to ``base``
        on the same problems, as a share; ``tokens_per_s`` of content, ``speedup`` over ``base``; ``nfe``, ``tokens``
        forwarded per row; of the forwards the shares that opened a block (``openings``) and that went over the whole
        row (``full``); ``opening_tokens``: share of the tokens that opening forwards sent.
    """
    n, nfe, tokens = len(tally.records), tally.total("nfe"), tally.total("tokens_forwarded")
    low, high = wilson(tally.right, n)
    against = paired(tally.records, base.records)
    speed, base_speed = (one.total("content_tokens") / one.seconds for one in (tally, base))
    opening = [step for result in tally.results for trace in result.trace for step in trace.steps if step.opening]
    return {
        **{"n": n, "accuracy": tally.right / n, "low": low, "high": high},
        **{name: against[name] for name in ("difference", "difference_low", "difference_high", "mcnemar_p")},
        "tokens_per_s": speed,
        "speedup": speed / base_speed if base_speed else float("nan"),
        "nfe": nfe / n,
        "openings": len(opening) / nfe,
        "full": tally.total("full_forwards") / nfe,
        "tokens": tokens / n,
        "opening_tokens": sum(step.tokens for step in opening) / tokens,
    }


def refresh_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows as lines of a Markdown table."""
    head = (
        "workload", "refresh", "window", "accuracy % (95 %)", "points to refresh 1 (95 %)", "content tokens/s",
        "times", "forwards", "openings, % of forwards", "whole rows, % of forwards", "tokens forwarded",
        "openings, % of them",
    )  # fmt: skip
    body, before = [], None
    for row in rows:
        again = row["workload"] == before
        before = row["workload"]
        points = f"{100 * row['difference']:+.1f}" if again else "-"
        if again and row["difference_low"] is not None:
            points += f" ({100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f})"
        accuracy, low, high = (100 * row[name] for name in ("accuracy", "low", "high"))
        window = "-" if row["refresh"] == 1 else str(row["window"])
        line = ["" if again else before, str(row["refresh"]), window, f"{accuracy:.1f} ({low:.1f}-{high:.1f})", points]
        line += [f"{row['tokens_per_s']:.0f}", f"{row['speedup']:.2f}", f"{row['nfe']:.1f}"]
        line += [f"{100 * row['openings']:.0f}", f"{100 * row['full']:.0f}", f"{row['tokens']:.0f}"]
        body.append([*line, f"{100 * row['opening_tokens']:.0f}"])
    return markdown_table(head, body)


def refresh_note(rows: Sequence[Mapping[str, Any]]) -> str:
    """One sentence on what was run."""
    return (
        f"Policy `{POLICY}`, dual cache, {rows[0]['n']} held-out problems per workload, {ROWS} rows together; blocks "
        "of " + ", ".join(f"{load.block} ({load.name})" for load in WORKLOADS) + "."
    )
