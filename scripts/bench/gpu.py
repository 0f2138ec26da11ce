"""Steps of LLaDA-8B's and Dream-7B's shapes on a GPU: random bf16 weights, next to the textbook and the floor.

The dry run goes through the same code on the CPU with shrunken shapes; its figures mean nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
import typer

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.canvas import Rows
from dllm_decode.engine.cost import Machine, Shape
from dllm_decode.engine.rates import machine_rates
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.engine.score import score
from dllm_decode.errors import CacheError
from dllm_decode.interface.scoring import ScoreRule
from dllm_decode.models import NativeModel
from samplers import Policy, TopK
from samplers.contract.policy import Forecast
from scripts.bench import shapes
from scripts.bench.clock import Clock, walls
from scripts.bench.measure import middle, prompts_of, time_textbook

FAMILIES = ("llada", "dream")
SUFFIX = 256  #: cells after the prompt


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        device, dtype: where and in what. ``dry``: shrunken shapes.
        lengths: slots per row N. ``batches``: rows B. ``shapes``: pairs of both, in place of every combination.
        caches: which. ``block``, ``suffix``: cells per block, cells after the prompt.
        prompt: tokens before the cells in the whole run.
    """

    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    dry: bool = False
    lengths: tuple[int, ...] = (512, 1024, 2048)
    batches: tuple[int, ...] = (1, 8, 32)
    block: int = 32
    suffix: int = SUFFIX
    prompt: int = 1000
    shapes: tuple[tuple[int, int], ...] = ()
    caches: tuple[str, ...] = ("prefix", "dual")

    @property
    def cases(self) -> list[tuple[int, int, str]]:
        """N, B and cache of every line of the table."""
        pairs = self.shapes or tuple(product(self.lengths, self.batches))
        return [(length, batch, cache) for length, batch in pairs for cache in self.caches]

    def shrunken(self) -> Plan:
        """The dry run's sizes."""
        return replace(
            self, dry=True, dtype=torch.float32, lengths=(48,), batches=(1, 2), block=8, suffix=24, prompt=40
        )


@dataclass(frozen=True)
class GpuRow:
    """One line of the table; milliseconds, GiB and per cent; ``None`` = not measured.

    Attributes:
        name: family, cache, kind of forward. ``length``, ``batch``: N and B.
        ms: median over the loop, policy included. ``model_ms``: the same forward alone, upload to download.
        textbook_ms, floor_ms: the textbook loop, and what the formulas allow.
        score_ms: the score kernel alone on one step's logits. ``peak``: memory; ``needed``: weights and cache.
    """

    name: str
    length: int
    batch: int
    ms: float
    model_ms: float
    textbook_ms: float | None
    floor_ms: float
    score_ms: float | None
    peak: float | None
    needed: float

    @property
    def sampler_percent(self) -> float | None:
        """Share of a step that is not the model: what the loop adds to the bare forward, and the score kernel.

        Where the next step begins while the policy decides, the loop adds only what that does not hide.
        """
        return None if self.score_ms is None else 100 * (max(0.0, self.ms - self.model_ms) + self.score_ms) / self.ms


def plan_for(dry_run: bool, docs: Path | None) -> Plan:
    """What to measure, as far as this machine can; a dry run is never published.

    Raises:
        typer.BadParameter: no GPU, or a dry run's figures for a page.
    """
    if not dry_run and not torch.cuda.is_available():
        raise typer.BadParameter("this needs a CUDA device; without one, add --dry-run: it checks that the code runs.")
    if dry_run and docs is not None:
        raise typer.BadParameter("a dry run's figures mean nothing, so --docs would write nonsense; leave it out.")
    return Plan(torch.device("cpu")).shrunken() if dry_run else Plan(torch.device("cuda:0"))


def seconds(call: Callable[[], object], device: torch.device, repeats: int = 20) -> list[float]:
    """Times of a call, by events on a GPU."""
    call()
    if device.type != "cuda":
        return walls(call, 3)
    marks = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
    for before, after in marks:
        before.record()
        call()
        after.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) / 1e3 for before, after in marks]


def rates(plan: Plan) -> Machine:
    """This machine's matrix product (in the plan's dtype) and copy, each the best of several."""
    if plan.device.type != "cuda":
        return machine_rates(plan.block, seconds=0.05 if plan.dry else 0.5, dtype=plan.dtype)
    x, y = (torch.randn(8192, 8192, device=plan.device, dtype=plan.dtype) for _ in range(2))
    flops = 2.0 * 8192**3 / min(seconds(lambda: x @ y, plan.device))
    big = torch.randn(2**29, device=plan.device)
    out = torch.empty_like(big)
    return Machine(flops, 2.0 * big.nbytes / min(seconds(lambda: out.copy_(big), plan.device)))


def kinds_of(plan: Plan, length: int, cache: str) -> tuple[tuple[str, int, int], ...]:
    """The two kinds of forward, each with the tokens and the scored cells of a row on average."""
    # With the prefix cache the second block's window is one block shorter than the first's.
    window = plan.suffix - plan.block // 2 if cache == "prefix" else plan.block
    # Over its steps a block has on average half its masks left.
    return ("opening", length, plan.block), ("step", window, plan.block // 2)


def random_model(family: str, plan: Plan, joined: bool = True) -> NativeModel:
    """Random weights of a published shape, or of the dry run's."""
    return shapes.random_model(family, plan.dtype, plan.device, plan.dry, joined)


def time_steps(
    model: NativeModel,
    plan: Plan,
    length: int,
    batch: int,
    cache: str,
    policy: Policy,
    most: int,
    forecast: Callable[[Rows], Forecast] | None = None,
) -> Clock:
    """Decode two blocks' worth of forwards; the first run of a shape compiles and records, the second counts."""
    prompts = prompts_of(model, length - plan.suffix, batch)
    config = GenerationConfig(max_new_tokens=plan.suffix, block_length=plan.block, early_stop=False)
    sampler = DiffusionSampler(model, policy, cache=cache, config=config)
    for repeats in (0, 5 if batch < 32 else 3):
        clock = Clock(most, repeats)
        clock.run(sampler, prompts, forecast)
    return clock


def textbook_of(
    model: NativeModel, plan: Plan, length: int, batch: int, cache: str, k: int
) -> tuple[list[float], list[float]] | None:
    """Openings and steps of the textbook loop; ``None`` where its float64 softmax does not fit."""
    if plan.device.type == "cuda":
        logits = batch * length * model.vocab_size
        free, _ = torch.cuda.mem_get_info(plan.device)
        if 20 * logits + 3 * model.cache_bytes(batch, length) > 0.9 * free:
            return None
    prompts = prompts_of(model, length - plan.suffix, batch)
    for _ in range(2):  # the first run warms up
        found = time_textbook(model, prompts, plan.suffix, plan.block, k, cache, 0.0, blocks=1)
    return found


def step_rows(model: NativeModel, family: str, plan: Plan, machine: Machine, textbook: bool) -> Iterator[GpuRow]:
    """The table, one shape after the other; shapes that do not fit are left out, and said so."""
    for length, batch, cache in plan.cases:
        try:
            yield from rows_of(model, family, plan, machine, length, batch, cache, textbook)
        except (CacheError, torch.OutOfMemoryError):
            if plan.device.type == "cuda":
                torch.cuda.empty_cache()
            print(f"{family}, {cache}, N={length}, B={batch}: does not fit, left out", file=sys.stderr)


def rows_of(
    model: NativeModel, family: str, plan: Plan, machine: Machine, length: int, batch: int, cache: str, textbook: bool
) -> Iterator[GpuRow]:
    """Opening and step of one shape."""
    k, on_gpu = max(1, plan.block // 8), plan.device.type == "cuda"
    shape = Shape.of(model.module.config, plan.dtype.itemsize)
    weights = sum(p.nbytes for p in model.module.parameters())
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(plan.device)
    clock = time_steps(model, plan, length, batch, cache, TopK(k=k), 2 * plan.block // k)
    peak = torch.cuda.max_memory_allocated(plan.device) / 2**30 if on_gpu else None
    book = textbook_of(model, plan, length, batch, cache, k) if textbook else None
    for at, (kind, tokens, heads) in enumerate(kinds_of(plan, length, cache)):
        logits = torch.randn(batch * heads, model.vocab_size, device=plan.device, dtype=plan.dtype)
        scoring = partial(score, logits, ScoreRule(model.mask_id))
        yield GpuRow(
            name=f"{family}, {cache}, {kind}",
            length=length,
            batch=batch,
            ms=middle(clock.steps(at == 0)),
            model_ms=middle(clock.bare[at == 0]),
            textbook_ms=None if book is None else middle(book[at]),
            floor_ms=1e3 * shape.floor(machine, batch, tokens, length, heads, cached=True),
            score_ms=middle(seconds(scoring, plan.device)),
            peak=peak,
            needed=(weights + model.cache_bytes(batch, length)) / 2**30,
        )
