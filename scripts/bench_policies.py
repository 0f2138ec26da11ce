"""What the policy part of a decoding step costs, for every registered policy.

    python -m scripts.bench_policies                     # the table: 8 rows of 256 cells, one core
    python -m scripts.bench_policies --check             # exit 1 naming each policy that is too slow
    python -m scripts.bench_policies --only ccd --only freedave --json

Real runs of the real loop on a small random model; a stopwatch stands around the roles of the composition (query,
block_length, rescore, decide, finish) and nothing else.  A part that decides nothing runs beside ``threshold``.  Parts
that read logits or distributions get rows of the full vocabulary; what others do does not depend on it.

Roles are pure, so each is called several times in its place and the least of these times counts: what the work takes
when nothing else runs.  The first call, which finds the processor's caches full of the model's forward, is shown too.
Times are the process's own; a step counts only while all rows take it together.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from filters import FilterNetwork, LearnedFilter
from samplers import (
    EGP,
    REGISTRY,
    Composition,
    Decision,
    Learn2PD,
    PcSampler,
    Policy,
    Prediction,
    TokenTable,
    View,
    commit,
    divergence,
    lookup,
    parse_policy,
    spell,
)
from samplers.registry import shortest, suggest
from scripts.random_models import random_model

BAR_MS, DISTRIBUTIONS_BAR_MS = 1.0, 5.0
#: Of one row, for parts that recall distributions of earlier forwards.
RECALL_BAR_MS = 3.0
#: More than the registry's defaults, by the registered name.
VARIANTS = {
    "topk": ("topk:k=2,score=entropy", "topk:score=random", "topk:steps=8"),
    "hierarchy": ("hierarchy:remask=0.4",),
    "localleap": ("localleap:radius=8",),
    "ccd": ("ccd:history=3",),
    "sched": ("sched:max_change=0,region=all",),
    "freedave": (
        "freedave+eosstop",
        "freedave+sched",
        "freedave:drafts=8",
        "freedave:cross_block=true",
        "freedave:step=(threshold:threshold=0.6)",
    ),
}
NEEDED = {"adablock": "adablock:delimiters=1/2/3"}
#: Timed; ``finish``, the last of a step, has a method of its own.
ROLES = ("query", "block_length", "rescore", "decide")
SMALL_VOCABULARY = 512
#: Prompts that the steps are spread over; each has an opening.
RUNS = 4


@dataclass(frozen=True)
class Recall(Policy):
    """What recalling costs: commit the cells that have hardly moved since the forward before, of all that are open."""

    drift: float = 0.01
    needs = frozenset({"logits"})
    recalls = 1

    def decide(self, view: View, prediction: Prediction, memory: Any) -> tuple[Decision, Any]:
        """See :class:`Recall`."""
        moved = torch.full_like(prediction.confidence, torch.inf)
        for earlier in prediction.before:
            moved = divergence(prediction, earlier, prediction.open, self.drift)
        return commit(moved <= self.drift, prediction), memory


@dataclass(frozen=True)
class Row:
    """One line of the table: milliseconds of the policy's part of a step, medians over steps.

    Attributes:
        name: the registered name. ``policy``: what ran.
        ms, opening: least time of a step inside a block, and of one that opens a block.
        first: the same of all steps, in a run (first calls).
        steps: how many steps were measured.
        bar: what ``ms`` and ``opening`` may be; ``None`` for a composition of more than it takes to run a part.
    """

    name: str
    policy: str
    ms: float
    opening: float
    first: float
    steps: int
    bar: float | None

    @property
    def missed(self) -> bool:
        """Whether either kind of step takes longer than it may."""
        return self.bar is not None and max(self.ms, self.opening) > self.bar


@dataclass(frozen=True)
class Size:
    """What is measured: ``batch`` rows of ``cells`` cells in blocks of ``block``, logits of ``vocabulary``."""

    batch: int = 8
    cells: int = 256
    block: int = 32
    vocabulary: int = 126_464


class Stopwatch:
    """Stands in for a composition and times its roles.

    Attributes:
        repeats: calls of each role. ``steps``: of each step its rows, whether it opened blocks, seconds: least, first.
    """

    def __init__(self, policy: Composition, repeats: int) -> None:
        self._policy, self.repeats = policy, repeats
        self._spent = [0.0, 0.0]
        self.steps: list[tuple[int, bool, float, float]] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._policy, name)
        return partial(self._time, found) if name in ROLES else found

    def _time(self, role: Callable[..., Any], *given: Any) -> Any:
        times, out = [], None
        for _ in range(self.repeats):
            began = time.process_time()
            said = role(*given)
            times.append(time.process_time() - began)
            out = said if out is None else out
        self._spent = [self._spent[0] + min(times), self._spent[1] + times[0]]
        return out

    def finish(self, view: Any, *given: Any) -> Any:
        """Timed; the last role of a step."""
        out = self._time(self._policy.finish, view, *given)
        self.steps.append((len(view.start), bool((view.block_step == 0).all()), *self._spent))
        self._spent = [0.0, 0.0]
        return out


def policies(name: str, size: Size) -> list[Policy]:
    """What is measured of a registered name (or of ``recall``): defaults, variants, a decider where one is needed."""
    if name == "recall":
        return [Recall()]
    if name == "egp":
        rows = torch.randint(
            SMALL_VOCABULARY - 1, (size.batch, size.cells), generator=torch.Generator().manual_seed(0)
        )
        return [EGP(tuple(map(tuple, rows.tolist())))]
    if name == "learn2pd":
        return [Learn2PD(LearnedFilter(FilterNetwork(size.block).requires_grad_(False), threshold=0.9))]
    if name == "pcsampler":
        return [PcSampler(TokenTable(torch.full((SMALL_VOCABULARY,), 1 / SMALL_VOCABULARY, dtype=torch.float64)))]
    found = [parse_policy(text) for text in (NEEDED.get(name, shortest(name)), *VARIANTS.get(name, ()))]
    alone = lookup(name).decide is not Policy.decide
    return found if alone else [Composition.of(parse_policy("threshold"), part) for part in found]


def measure(name: str, policy: Policy, size: Size, steps: int, repeats: int) -> Row:
    """Decode until enough steps of all rows together were seen."""
    settings = GenerationConfig(max_new_tokens=size.cells, block_length=size.block, early_stop=False)
    small = random_model("llada", SMALL_VOCABULARY, 2, 32, inner=32)
    reads = DiffusionSampler(small, policy, "none", settings)._bound(settings)
    large = bool(reads.needs & {"logits", "probs"})
    size = replace(size, batch=1) if reads.recalls else size
    model = random_model("llada", size.vocabulary if large else SMALL_VOCABULARY, size.cells + 16, 32, inner=32)
    sampler = DiffusionSampler(model, policy, "none", settings)
    seen: list[tuple[bool, float, float]] = []
    generator = torch.Generator().manual_seed(0)
    for number in range(5 * RUNS):
        ids = torch.randint(SMALL_VOCABULARY - 1, (size.batch, 8), generator=generator).tolist()
        feed = sampler.feed(sampler.requests([row[: 4 + i % 5] for i, row in enumerate(ids)]))
        watch = Stopwatch(feed.pool.batch.policy, repeats)
        feed.pool.batch.policy = watch  # type: ignore[assignment]
        for _ in feed.ticks():
            if watch.steps and (watch.steps[-1][0] < size.batch or len(watch.steps) > steps // RUNS + 1):
                break
        if number:  # the first run warms up: kernels, memory
            seen += [(opens, 1e3 * a, 1e3 * b) for rows, opens, a, b in watch.steps if rows == size.batch]
        if number >= RUNS and sum(not opens for opens, *_ in seen) >= steps:
            break
    inside = [least for opens, least, _ in seen if not opens]
    opening = [least for opens, least, _ in seen if opens]
    return Row(
        name=name,
        policy=spell(policy),
        ms=statistics.median(inside or opening),
        opening=statistics.median(opening or inside),
        first=statistics.median(first for *_, first in seen),
        steps=len(seen),
        bar=bar(name, policy, large),
    )


def bar(name: str, policy: Policy, large: bool) -> float | None:
    """What a step may take, in ms; ``large``: it reads whole distributions."""
    if isinstance(policy, Composition) and lookup(name).decide is not Policy.decide:
        return None
    if policy.recalls:
        return RECALL_BAR_MS
    return DISTRIBUTIONS_BAR_MS if large and name in ("ccd", "ccdds") else BAR_MS


def show(rows: list[Row], size: Size) -> None:
    """Print the table for people."""
    table = Table(
        title=f"policy part of a step, ms of CPU time on one core; {size.batch} rows of {size.cells} cells, "
        f"blocks of {size.block}, logits of {size.vocabulary}; one row where a part recalls earlier forwards"
    )
    for column in ("policy", "inside", "opening", "in a run", "bar", "steps"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for row in rows:
        numbers = [f"{x:.2f}" for x in (row.ms, row.opening, row.first)]
        style = "red" if row.missed else None
        table.add_row(row.policy, *numbers, "-" if row.bar is None else f"{row.bar:g}", str(row.steps), style=style)
    Console().print(table)


def main(
    only: Annotated[list[str] | None, typer.Option(help="Registered names; default all.")] = None,
    batch: Annotated[int, typer.Option(help="Rows.", min=1)] = Size.batch,
    cells: Annotated[int, typer.Option(help="Cells of a row.", min=1)] = Size.cells,
    block: Annotated[int, typer.Option(help="Cells of a block.", min=1)] = Size.block,
    vocabulary: Annotated[
        int, typer.Option(help="Token ids, for parts that read logits.", min=SMALL_VOCABULARY)
    ] = Size.vocabulary,
    steps: Annotated[int, typer.Option(help="Steps to measure per policy.", min=1)] = 20,
    repeats: Annotated[int, typer.Option(help="Calls of each role in its place.", min=1)] = 7,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the table.")] = False,
    check: Annotated[bool, typer.Option(help="Exit 1 naming each policy over its bar.")] = False,
) -> None:
    """Measure the policy part of a step; see the module's own text."""
    for name in only or ():
        if name not in (*REGISTRY, "recall"):
            raise typer.BadParameter(f"there is no policy {name!r}{suggest(name, REGISTRY)}.")
    torch.set_num_threads(1)
    size = Size(batch, cells, block, vocabulary)
    rows = [
        measure(name, policy, size, steps, repeats)
        for name in only or (*REGISTRY, "recall")
        for policy in policies(name, size)
    ]
    if as_json:
        print(json.dumps({"size": asdict(size), "rows": [{**asdict(row), "missed": row.missed} for row in rows]}))
    else:
        show(rows, size)
    missed = [row for row in rows if row.missed] if check else []
    for row in missed:
        worst = max(row.ms, row.opening)
        print(f"{row.policy}: {worst:.2f} ms of policy per step, the bar is {row.bar:g} ms.", file=sys.stderr)
    if missed:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
