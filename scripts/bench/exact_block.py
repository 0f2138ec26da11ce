"""The exact block cache of tiny-block next to the dual cache of tiny: accuracy, speed, tokens forwarded.

    python -m scripts.bench.exact_block                          # exit 1 below the bar, or if it changes a token
    python -m scripts.bench.exact_block --docs docs/models.md    # and into the page

Both models have the same size and tasks.  All ways decode the same batches of every task in turn.  The bar holds at
equal block lengths: a dual cache over wider blocks opens fewer of them, which a policy that commits many cells uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.lab.metrics import wilson
from dllm_decode.models import load_model
from dllm_decode.tasks import TASKS, samples
from scripts.bench.bundled import SEED, Tally, in_turn
from scripts.docs_page import markdown_table, put

BAR = 1.3  #: tokens per second of the exact cache over the dual one
EXACT, PLAIN, DUAL = ("tiny-block", "block", 8), ("tiny-block", "none", 8), ("tiny", "dual", 8)
WAYS = (EXACT, PLAIN, DUAL, ("tiny", "dual", 32), ("tiny", "none", 32))
POLICIES = ("topk:k=1", "threshold")

Way = tuple[str, str, int]


@dataclass(frozen=True)
class Figures:
    """Of one policy and way over all tasks; speed is content tokens per second, tokens are per answer."""

    policy: str
    way: Way
    right: int
    count: int
    speed: float
    forwards: float
    tokens: float


def measure(policy: str, count: int, models: dict[str, DenoisingModel]) -> tuple[list[Figures], int]:
    """All tasks in every way; also rows in which the exact cache decodes another token than no cache."""
    totals: dict[Way, list[Tally]] = {way: [] for way in WAYS}
    for task, spec in tqdm(TASKS.items(), desc=policy, disable=None):
        config = GenerationConfig(max_new_tokens=spec.max_new_tokens)
        made = {
            (name, cache, block): DiffusionSampler(models[name], policy, cache, config.replace(block_length=block))
            for name, cache, block in WAYS
        }
        drawn = samples(task, "test", count, SEED)
        for way, tally in in_turn(made, drawn, [sample.prompt for sample in drawn]).items():
            totals[way].append(tally)
    rows = []
    for way, tallies in totals.items():
        n, seconds = count * len(tallies), sum(tally.seconds for tally in tallies)
        content, nfe, tokens = (
            sum(tally.total(name) for tally in tallies) for name in ("content_tokens", "nfe", "tokens_forwarded")
        )
        right = sum(tally.right for tally in tallies)
        rows.append(Figures(policy, way, right, n, content / seconds, nfe / n, tokens / n))
    pairs = zip(totals[EXACT], totals[PLAIN], strict=True)
    different = sum(
        mine != other
        for exact, plain in pairs
        for a, b in zip(exact.results, plain.results, strict=True)
        for mine, other in zip(a.sequences, b.sequences, strict=True)
    )
    return rows, different


def ratio(rows: list[Figures]) -> float:
    """Speed of the exact cache over the dual one."""
    speeds = {row.way: row.speed for row in rows}
    return speeds[EXACT] / speeds[DUAL]


def lines(rows: list[Figures]) -> list[str]:
    """A Markdown table."""
    body = []
    for row in rows:
        low, high = wilson(row.right, row.count)
        name, cache, block = row.way
        accuracy = f"{100 * row.right / row.count:.1f} ({100 * low:.1f}-{100 * high:.1f})"
        figures = f"{row.speed:.0f}", f"{row.forwards:.1f}", f"{row.tokens:.0f}"
        body.append([f"`{row.policy}`", name, cache, str(block), accuracy, *figures])
    head = "policy", "model", "cache", "block", "accuracy % (95 %)", "content tokens/s", "forwards", "tokens forwarded"
    return markdown_table(head, body)


def main(
    count: Annotated[int, typer.Option(min=1, help="Problems per task.")] = 48,
    docs: Annotated[Path | None, typer.Option(help="Page to write the table into, between its markers.")] = None,
) -> None:
    """Measure; see the module's own text."""
    models: dict[str, DenoisingModel] = {name: load_model(name) for name in ("tiny-block", "tiny")}
    found = {policy: measure(policy, count, models) for policy in POLICIES}
    table = lines([row for rows, _ in found.values() for row in rows])
    said = [
        f"`{policy}`: block cache {ratio(rows):.2f} times the tokens per second of the dual cache in "
        f"blocks of one length (bar: {BAR}); {different} of {count * len(TASKS)} rows differ from no cache."
        for policy, (rows, different) in found.items()
    ]
    print(*table, *said, sep="\n")
    if docs is not None:
        note = f"{count} problems of each of {len(TASKS)} tasks, CPU, {date.today().isoformat()}."
        put(docs, "exact block", [note, "", *table, "", *said])
    if any(different or ratio(rows) < BAR for rows, different in found.values()):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
