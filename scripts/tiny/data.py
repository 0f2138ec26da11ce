"""Training steps of the bundled model: rows of many lengths, drawn and masked, in worker processes if asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from random import Random
from types import MappingProxyType

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from scripts.tiny.masks import Batch, mask_blocks, mask_rows
from scripts.tiny.rows import LONG_SHORT_SHARE, NAMES, SHOTS_SHARE, Row, make_drill, make_row

ROUND = 8  # steps whose rows are drawn together


def batches(
    rng: Random,
    generator: torch.Generator,
    mix: list[float],
    tokens: int,
    full_share: float,
    steps: int = ROUND,
    stale_share: float = 0.0,
    shots_share: float = SHOTS_SHARE,
    block: int | None = None,
    drills: Mapping[str, float] = MappingProxyType({}),
    long_short_share: float = LONG_SHORT_SHARE,
) -> Iterator[list[Batch]]:
    """Yield exactly ``steps`` training steps of about ``tokens`` tokens each.

    Rows of all the steps are drawn together and sorted by length, so that little is spent on filling; each step
    gets one batch of short rows and its counterpart of long ones. `drills`: of some tasks, the share of rows that are
    look-ups alone.
    """
    rows: list[Row] = []
    size = 0
    while size < tokens * steps:
        name = rng.choices(NAMES, mix)[0]
        drilled = rng.random() < drills.get(name, 0.0)
        row = make_drill(rng, name) if drilled else make_row(rng, name, full_share, shots_share, long_short_share)
        rows.append(row)
        size += row.total
    rows.sort(key=lambda row: row.total)
    groups: list[list[Row]] = [[] for _ in range(2 * steps)]
    before = 0
    for row in rows:
        groups[min(2 * steps - 1, before * 2 * steps // size)].append(row)
        before += row.total
    pairs = [[groups[i], groups[2 * steps - 1 - i]] for i in range(steps)]
    rng.shuffle(pairs)
    for pair in pairs:
        if block is None:
            yield [mask_rows(group, generator, stale_share) for group in pair if group]
        else:
            yield [mask_blocks(group, generator, block) for group in pair if group]


@dataclass
class Steps(IterableDataset[list[Batch]]):
    """Training steps without end; what is drawn follows `plan`, which the trainer writes while they are drawn.

    Attributes:
        name: seeds the rounds, with their number.
        first: number of the first round; several workers take turns.
        plan: fp32 `[1 + tasks]` in shared memory: share of the budget spent, and the weight of each task.
        tokens: per step; doubled in the second half of the budget.
        full_shares: shares of rows on a longer canvas, in the first 60 % of the budget and after it.
        stale_share, shots_share, block, drills, long_short_share: see `batches`.
    """

    name: str
    first: int
    plan: Tensor
    tokens: int
    full_shares: tuple[float, float]
    stale_share: float
    shots_share: float
    block: int | None
    drills: dict[str, float] = field(default_factory=dict)
    long_short_share: float = LONG_SHORT_SHARE

    def __iter__(self) -> Iterator[list[Batch]]:
        """Rounds of `ROUND` steps."""
        worker = get_worker_info()
        start, stride = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for number in count(self.first + start, stride):
            rng = Random(f"{self.name}/{number}")
            generator = torch.Generator().manual_seed(rng.getrandbits(60))
            progress, *mix = self.plan.tolist()
            size = self.tokens * 2 if progress >= 0.5 else self.tokens
            share = self.full_shares[progress >= 0.6]
            yield from batches(
                rng,
                generator,
                mix,
                size,
                share,
                stale_share=self.stale_share,
                shots_share=self.shots_share,
                block=self.block,
                drills=self.drills,
                long_short_share=self.long_short_share,
            )

    def draw(self, workers: int, pin: bool) -> Iterator[list[Batch]]:
        """The steps, drawn here or by worker processes."""
        return iter(DataLoader(self, batch_size=None, num_workers=workers, pin_memory=pin))
