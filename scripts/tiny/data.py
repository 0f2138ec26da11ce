"""Training steps of the bundled model: rows of many lengths, drawn and masked."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import torch

from scripts.tiny.masks import Batch, mask_blocks, mask_rows
from scripts.tiny.rows import NAMES, SHOTS_SHARE, Row, make_row


def batches(
    rng: Random,
    generator: torch.Generator,
    mix: list[float],
    tokens: int,
    full_share: float,
    steps: int = 8,
    stale_share: float = 0.0,
    shots_share: float = SHOTS_SHARE,
    block: int | None = None,
) -> Iterator[list[Batch]]:
    """Yield exactly ``steps`` training steps of about ``tokens`` tokens each.

    Rows of all the steps are drawn together and sorted by length, so that little is spent on filling; each step
    gets one batch of short rows and its counterpart of long ones.
    """
    rows: list[Row] = []
    size = 0
    while size < tokens * steps:
        rows.append(make_row(rng, rng.choices(NAMES, mix)[0], full_share, shots_share))
        size += rows[-1].total
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
