"""Drafts that choose their number, on the bundled model: CPU seconds against fixed numbers, and how far drafts hold.

    python -m scripts.bench.drafts --samples 8 --picture docs/drafts.png      # --check exits 1 on a missed bar

Every task is decoded with 1, 2, 4, 8 canvases and ``drafts=auto``, in turn and several times over on one thread; the
least of its CPU seconds counts.  The text is the same each time.  A draft at place i of the chain is tried if those
before it held: the chance that it holds too is counted by task and place, and fitted by a * r^(i-1).  Batches change
no chance, only what a row costs: a forward takes f seconds and w more per token, fitted to runs of several batch
sizes, so that the speed-up of drafts falls from that in forwards (f alone) to that in tokens (w alone) as the batch
grows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.models import load_model
from dllm_decode.tasks import TASKS, get_task, samples
from scripts.docs_page import markdown_table

FIXED, MOST = ("1", "2", "4", "8"), 8
BATCHES = (1, 2, 4, 8, 16)
SLOWER, FASTER = 1.05, 0.90  #: the bars: per task against its best number, overall against the best single one


@dataclass
class Chances:
    """Drafts by place 1, 2, ... of the chain: how many were tried, and how many held."""

    tried: np.ndarray = field(default_factory=lambda: np.zeros(MOST - 1))
    held: np.ndarray = field(default_factory=lambda: np.zeros(MOST - 1))

    def count(self, result: GenerationResult) -> None:
        """Add a run with one cell per step: a forward that committed c cells went c - 1 drafts far."""
        for trace in result.trace:
            for step in trace.steps:
                if not step.opening and not step.filled:
                    cells, drafts = len(step.cells), step.rows - 1
                    self.tried[: min(cells, drafts)] += 1
                    self.held[: min(cells - 1, drafts)] += 1

    @property
    def share(self) -> np.ndarray:
        """Of those tried; NaN where there were none."""
        return np.divide(self.held, self.tried, out=np.full(MOST - 1, np.nan), where=self.tried > 0)

    def law(self) -> tuple[float, float]:
        """The a and r of a * r^(i-1), by least squares of logarithms weighted by what was tried."""
        seen = (self.held > 0) & (self.tried > 0)
        place = np.arange(MOST - 1)[seen]
        if len(place) < 2:
            return float(self.share[0]), 1.0
        slope, start = np.polyfit(place, np.log(self.share[seen]), 1, w=np.sqrt(self.tried[seen]))
        return float(np.exp(start)), float(np.exp(slope))


def decode(
    model: DenoisingModel, drafts: str, task: str, prompts: Sequence[str], batch: int, block: int
) -> tuple[float, list[GenerationResult]]:
    """CPU seconds, and the results."""
    config = GenerationConfig(max_new_tokens=TASKS[task].max_new_tokens, block_length=block)
    sampler = DiffusionSampler(model, f"freedave:drafts={drafts}", "none", config)
    began = time.process_time()
    results = [sampler.generate(list(prompts[i : i + batch])) for i in range(0, len(prompts), batch)]
    return time.process_time() - began, results


def by_batch(model: DenoisingModel, task: str, prompts: Sequence[str], block: int) -> list[tuple[int, float, float]]:
    """Batch size, and the speed-up of four canvases over one: as measured, and by the fitted cost of a forward."""
    seconds, work = [], []
    for size in BATCHES:
        for drafts in ("1", "4"):
            decode(model, drafts, task, prompts[:size], size, block)
            spent, results = min(
                (decode(model, drafts, task, prompts, size, block) for _ in range(2)), key=lambda x: x[0]
            )
            seconds.append(spent)
            work.append([sum(r.calls for r in results), sum(sum(r.tokens_forwarded) for r in results)])
    rows, spent_all = np.array(work, dtype=float), np.array(seconds)
    cost = np.linalg.lstsq(rows / spent_all[:, None], np.ones(len(rows)), rcond=None)[0].clip(min=0)
    law = rows @ cost
    return [(size, seconds[2 * i] / seconds[2 * i + 1], law[2 * i] / law[2 * i + 1]) for i, size in enumerate(BATCHES)]


def draw(path: Path, chances: dict[str, Chances], batches: list[tuple[int, float, float]]) -> None:
    """Chance by task and place in the chain; over all tasks with its law; speed-up against batch size."""
    from dllm_decode.filter_training.train import check_plots

    check_plots()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.9), layout="constrained")
    tasks, line, right = figure.subplots(1, 3, width_ratios=(1.25, 1, 1))
    place, names = np.arange(1, MOST), [name for name in chances if name != "all"]
    shares = np.array([chances[name].share for name in names])
    tasks.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), share in np.ndenumerate(shares):
        if not np.isnan(share):
            tasks.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7, color="kw"[int(share > 0.6)])
    tasks.set_xticks(place - 1, [str(n) for n in place])
    tasks.set_yticks(range(len(names)), names, fontsize=8)
    tasks.set(xlabel="place i in the chain", title="drafts that hold, of those tried")
    a, r = chances["all"].law()
    line.plot(place, chances["all"].share, "o", color="#191c21", label="all tasks")
    line.plot(place, a * r ** (place - 1), "--", color="#b3261e", label=f"{a:.2f} · {r:.2f}^(i-1)")
    line.set(xlabel="place i in the chain", ylim=(0, 1.02), title="the same, and its law")
    size, measured, law = zip(*batches, strict=True)
    right.plot(size, measured, "o", color="#191c21", label="measured")
    right.plot(size, law, "--", color="#b3261e", label="f + w · tokens")
    right.axhline(1, color="#9aa3b0", lw=0.8)
    right.set(xlabel="rows decoded together", xscale="log", ylim=(0, None), title="speed-up of 4 canvases (CPU)")
    right.set_xticks(size, [str(n) for n in size], minor=False)
    for axes in (line, right):
        axes.legend(frameon=False)
    figure.savefig(path, dpi=130)


def main(
    samples_: Annotated[int, typer.Option("--samples", min=1, help="Validation problems of each task.")] = 8,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is decoded.")] = 2,
    batch: Annotated[int, typer.Option(min=1, help="Rows decoded together.")] = 1,
    block: Annotated[int, typer.Option(min=1, help="Block length.")] = 16,
    only: Annotated[list[str] | None, typer.Option(help="Tasks; default all of the bundled model's.")] = None,
    picture: Annotated[Path | None, typer.Option(help="PNG of both laws.")] = None,
    check: Annotated[bool, typer.Option(help="Exit 1 if a bar is missed.")] = False,
) -> None:
    """Measure; see the module's own text."""
    torch.set_num_threads(1)
    model, names = load_model("tiny"), [get_task(name).name for name in only or TASKS]
    prompts = {task: [s.prompt for s in samples(task, "valid", samples_, 5)] for task in names}
    chances = {name: Chances() for name in (*names, "all")}
    spent: dict[str, dict[str, float]] = {}
    for task in names:
        least = dict.fromkeys((*FIXED, "auto"), np.inf)
        for drafts in least:
            decode(model, drafts, task, prompts[task][:1], batch, block)  # warms up; auto measures what rows cost
        texts: set[str] = set()
        for number in range(repeats):
            for drafts in least:
                seconds, results = decode(model, drafts, task, prompts[task], batch, block)
                least[drafts] = min(least[drafts], seconds)
                texts.add(repr([row for result in results for row in result.sequences]))
                if drafts == "8" and not number:
                    for result in results:
                        chances[task].count(result)
                        chances["all"].count(result)
        if len(texts) > 1:
            print(f"{task}: a near tie of float32 was decided in two ways; its texts differ")
        spent[task] = least
    total = {drafts: sum(found[drafts] for found in spent.values()) for drafts in (*FIXED, "auto")}
    head = ["task", *(f"d={d}, ms" for d in FIXED), "auto, ms", "auto / best fixed", "1st holds", "4th", "a", "r"]
    body = []
    for name, found in [*spent.items(), ("all", total)]:
        best, seen = min(found[d] for d in FIXED), chances[name]
        problems = samples_ * (len(names) if name == "all" else 1)
        times = [f"{1000 * found[d] / problems:.0f}" for d in (*FIXED, "auto")]
        shares = [f"{x:.2f}" for x in (seen.share[0], seen.share[3], *seen.law())]
        body.append([name, *times, f"{found['auto'] / best:.2f}", *shares])
    print("\n".join(markdown_table(head, body)))
    batches = by_batch(model, names[0], prompts[names[0]] * (max(BATCHES) // samples_ + 1), block)
    shown = [[str(n), f"{measured:.2f}", f"{law:.2f}"] for n, measured, law in batches]
    print(
        "\n".join(
            ["", *markdown_table(["rows together", f"speed-up of 4 canvases on {names[0]}", "by the law"], shown)]
        )
    )
    if picture is not None:
        draw(picture, chances, batches)
    worst = max(spent, key=lambda task: spent[task]["auto"] / min(spent[task][d] for d in FIXED))
    ratio = spent[worst]["auto"] / min(spent[worst][d] for d in FIXED)
    overall = total["auto"] / min(total[d] for d in FIXED)
    print(f"\nauto against the best number of a task: at worst {ratio:.2f} ({worst}; bar {SLOWER})")
    print(f"auto against the best single number overall: {overall:.2f} (bar {FASTER})")
    if check and (ratio > SLOWER or overall > FASTER):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
