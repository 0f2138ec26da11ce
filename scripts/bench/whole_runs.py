"""Whole runs by policy, the look-ahead on and off, next to the textbook loop on the same weights and cache.

    python -m scripts.bench.whole_runs                                # LLaDA-8B's shape on a GPU, random bf16 weights
    python -m scripts.bench.whole_runs --model DIR --batch 1 --batch 8 --batch 32    # a checkpoint of any family
    python -m scripts.bench.whole_runs --docs docs/performance.md     # and into the page
    python -m scripts.bench.whole_runs --cpu --shape sdar-1.7b --policy threshold --prompt 64 --cells 32
    python -m scripts.bench.whole_runs --dry-run                      # the same code on the CPU, shrunken

Random weights are sure of nothing, so most policies commit one cell per forward on them: what is timed is the
loop.  The textbook loop commits as many cells per forward as ours did.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Annotated
from unittest import mock

import torch
import typer

from dllm_decode.config import GenerationConfig
from dllm_decode.engine import forward
from dllm_decode.engine.cost import Machine, Shape
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.models import NativeModel, load_model
from dllm_decode.models.packed import pack_linears
from dllm_decode.models.quantize import check_quantize, quantizer
from scripts.bench.gpu import Plan, plan_for, random_model, rates
from scripts.bench.gpu_page import name_of, versions
from scripts.bench.measure import prompts_of, sync, time_textbook
from scripts.bench.shapes import SHAPES
from scripts.docs_page import markdown_table, put, section

POLICIES = ("threshold", "localleap", "freedave", "credit")


@dataclass(frozen=True)
class WholeRun:
    """Medians over the pairs; tokens are cells decoded, of all rows together, per second.

    Attributes:
        forwards: of a row on average. ``ahead``, ``plain``: with the look-ahead, or not. ``discarded``: steps begun
            ahead for nothing. ``textbook``: None where that loop does not know the model's attention.
        allowed: what the floor of every forward adds up to, openings and steps.
    """

    model: str
    policy: str
    rows: int
    forwards: float
    ahead: float
    plain: float
    discarded: int
    textbook: float | None
    allowed: float


def timed(sampler: DiffusionSampler, prompts: list[list[int]], look_ahead: bool) -> tuple[float, float, int]:
    """Seconds of one run, forwards of a row on average, steps begun ahead and thrown away."""
    with mock.patch.object(forward, "may_look_ahead", lambda *_: look_ahead):
        began = time.perf_counter()
        result = sampler.generate(prompts)
    return time.perf_counter() - began, statistics.mean(result.nfe), result.discarded_forwards


def allowed_seconds(model: NativeModel, machine: Machine, plan: Plan, rows: int, forwards: float, block: int) -> float:
    """The floor: one opening per block, over the whole row or, block by block, over the two blocks it touches."""
    shape = Shape.of(model.module.config, model.dtype.itemsize)
    length, openings = plan.prompt + plan.suffix, -(-plan.suffix // block)
    tokens = 2 * block if model.attention_block else length
    opening = shape.floor(machine, rows, tokens, length, block, cached=True)
    step = shape.floor(machine, rows, block, length, block // 2, cached=True)
    return openings * opening + max(0.0, forwards - openings) * step


def whole_runs(
    model: NativeModel, plan: Plan, machine: Machine, policies: Sequence[str], pairs: int
) -> Iterator[WholeRun]:
    """Every policy at every batch size; the three ways take turns, the textbook's once for every pace."""
    block = min(plan.block, model.attention_block or plan.block)
    cache = "block" if model.attention_block else "dual"
    config = GenerationConfig(max_new_tokens=plan.suffix, block_length=block, early_stop=False)
    for rows in plan.batches:
        prompts = prompts_of(model, plan.prompt, rows)
        books: dict[int, list[float]] = {}  # of the textbook loop, by the cells that it commits per forward
        for policy in policies:
            sampler = DiffusionSampler(model, policy, cache=cache, config=config)
            _, forwards, _ = timed(sampler, prompts, True)  # compiles and records
            k = max(1, round(plan.suffix / forwards))
            textbook = model.attention_block is None and k not in books
            spent: dict[str, list[float]] = {"ahead": [], "plain": [], "textbook": books.setdefault(k, [])}
            discarded = 0
            for _ in range(pairs):
                seconds, forwards, discarded = timed(sampler, prompts, True)
                spent["ahead"].append(seconds)
                spent["plain"].append(timed(sampler, prompts, False)[0])
                if textbook:
                    sync(plan.device)
                    book = time_textbook(model, prompts, plan.suffix, block, k, cache, 0.0)
                    spent["textbook"].append(sum(map(sum, book)))
            cells = rows * plan.suffix
            rate = {way: cells / statistics.median(found) for way, found in spent.items() if found}
            floor = allowed_seconds(model, machine, plan, rows, forwards, block)
            yield WholeRun(
                model.name, policy, rows, forwards, rate["ahead"], rate["plain"], discarded,
                rate.get("textbook"), cells / floor,
            )  # fmt: skip


def lines(runs: Sequence[WholeRun]) -> list[str]:
    """A Markdown table."""
    head = ("model", "policy", "B", "forwards", "tokens/s", "without look-ahead", "thrown away", "textbook tokens/s",
            "times faster", "tokens/s allowed", "share")  # fmt: skip
    body = []
    for run in runs:
        book = ("-", "-") if run.textbook is None else (f"{run.textbook:.1f}", f"{run.ahead / run.textbook:.2f}")
        speeds = f"{run.forwards:.1f}", f"{run.ahead:.1f}", f"{run.plain:.1f}", str(run.discarded)
        limit = f"{run.allowed:.1f}", f"{run.ahead / run.allowed:.2f}"
        body.append([run.model, run.policy, str(run.rows), *speeds, *book, *limit])
    return markdown_table(head, body)


def others(found: Sequence[str], where: str, model: str) -> list[str]:
    """Lines of other models in a table of the same machine, versions and day."""
    same = where in found
    return [line for line in found if same and line.startswith("| ") and not line.startswith(("| model", "| ---"))
            and not line.startswith(f"| {model} |")]  # fmt: skip


def main(
    shape: Annotated[str, typer.Option(help=f"Random weights of this shape: {', '.join(SHAPES)}.")] = "llada",
    model: Annotated[str | None, typer.Option(help="A bundled model or a checkpoint folder instead.")] = None,
    quantize: Annotated[str | None, typer.Option(help="int8, fp8 or int4: the matrices.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Rows together; may be given several times.")] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens before the cells.")] = 1000,
    cells: Annotated[int, typer.Option(min=1, help="Cells to decode.")] = 256,
    pairs: Annotated[int, typer.Option(min=1, help="Turns of each way.")] = 3,
    cpu: Annotated[bool, typer.Option("--cpu", help="On the processor, in bf16; no page is written.")] = False,
    dry_run: Annotated[bool, typer.Option(help="Shrunken shapes on the CPU; the figures mean nothing.")] = False,
    docs: Annotated[Path | None, typer.Option(help="Page to write the table into, between its markers.")] = None,
) -> None:
    """Measure; see the module's own text."""
    if shape not in SHAPES:
        raise typer.BadParameter(f"there is no shape {shape!r}; use {', '.join(SHAPES)}.")
    plan = Plan(torch.device("cpu")) if cpu else plan_for(dry_run, docs)
    if not plan.dry:
        plan = replace(plan, prompt=prompt, suffix=cells)
    plan = replace(plan, batches=tuple(batch or (1,)))
    where = str(plan.device)
    if model is None:
        loaded = random_model(shape, plan, joined=quantize is None)
        if quantize is not None:
            check_quantize(quantize, plan.device)
            quantise, parts = (
                quantizer(quantize, but=loaded.module.model_parts[3]),
                list(loaded.module.named_modules()),
            )
            for name, part in parts:
                quantise(name, part)
            loaded.name += f", {quantize}"
    else:
        loaded = load_model(model, device=where, dtype=plan.dtype, quantize=quantize)
    if not plan.dry and (prompt, cells) != (1000, 256):
        loaded.name += f", prompt {prompt}, {cells} cells"
    if cpu and model is None:
        pack_linears(loaded.module)  # as on load
    where = f"{name_of(plan.device)}, {versions()}, {date.today().isoformat()}."
    print(f"prompt {plan.prompt}, {plan.suffix} cells; {where}" + (" Dry run." if plan.dry else ""))
    print(*lines([]), sep="\n", flush=True)
    runs: list[WholeRun] = []
    earlier = [] if docs is None else others(section(docs, "gpu whole runs"), where, loaded.name)
    for run in whole_runs(loaded, plan, rates(plan), policy or POLICIES, pairs):  # printed and written as it goes
        runs.append(run)
        print(lines([run])[-1], flush=True)
        if docs is not None and not cpu:
            put(docs, "gpu whole runs", [where, "", *lines(runs), *earlier])


if __name__ == "__main__":
    typer.run(main)
