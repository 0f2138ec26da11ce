"""Masks over training rows of the bundled model: with which cells open they are learned.

- "t": answer cells masked independently with probability t, t uniform (the diffusion loss);
- "low": one to four answer cells open, the last moves of one-cell-at-a-time decoding, where coupled tasks are decided;
- "prefix": everything from a random cut on is masked (left to right through worked steps);
- "block": cells before a block are decided, the block is partly masked, everything after it is masked.

For a block-causal model every block of the answer is trained at once: the row stands there once as it is, and behind
it each block a second time with some of its cells masked, seeing the true blocks before it and itself (`mask_blocks`).

Some batches are *stale*: as under a KV cache, everything outside the current window (the block, else the whole canvas)
was computed when the window was still all masks, and the window alone knows what it holds now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_decode.tasks.tokenizer import EOS_ID, MASK_ID
from scripts.tiny.rows import NAMES, Row

#: How often rows of a task are masked in each of the first three ways.
SHARES = {
    "copy": (0.0, 0.0, 0.2),
    "reverse": (0.0, 0.0, 0.2),
    "sort": (0.15, 0.1, 0.2),
    "replace_index": (0.4, 0.0, 0.15),
    "replace_random": (0.6, 0.0, 0.15),
    "shuffle": (0.7, 0.0, 0.15),
    "choose": (0.1, 0.0, 0.2),
    "kv_json": (0.1, 0.1, 0.3),
    "add": (0.15, 0.45, 0.15),
    "chain": (0.1, 0.45, 0.2),
    "word": (0.1, 0.4, 0.2),
    "latin4": (0.3, 0.0, 0.2),
    "sudoku4": (0.2, 0.0, 0.2),
    "lines": (0.05, 0.3, 0.4),
    "program": (0.05, 0.3, 0.45),
    "columns": (0.05, 0.3, 0.45),
    "story": (0.05, 0.3, 0.45),
    "trip": (0.05, 0.3, 0.45),
    "extract": (0.05, 0.15, 0.45),
    "sudokus": (0.15, 0.0, 0.35),
    "grammar": (0.05, 0.25, 0.45),
}
LOW_COUNTS = (0.6, 0.25, 0.1, 0.05)
BLOCKS = (8, 16, 32)
NEAR = 12  # cells after the cut of a prefix row that count fully; a worked step is about as long
TAIL_WEIGHT = FAR_WEIGHT = 0.1


@dataclass(frozen=True)
class Batch:
    """Rows of one length: long ``tokens``, ``target`` [R, L], ``task`` [R]; ``weight`` [R, L], 0 where not masked.

    Stale and block-causal batches also hold what `ForwardInput` needs to hide columns from others: long ``positions``
    and ``branch`` [R, L], real columns ``queries`` [R]; ``block``: cells of an attention block.
    """

    tokens: Tensor
    target: Tensor
    weight: Tensor
    task: Tensor
    positions: Tensor | None = None
    branch: Tensor | None = None
    queries: Tensor | None = None
    block: int | None = None

    def to(self, device: str) -> Batch:
        """The same on a device."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same in memory that a GPU reads at full speed."""
        return self._each(Tensor.pin_memory)

    def _each(self, move: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(**{name: move(x) if isinstance(x, Tensor) else x for name, x in vars(self).items()})


def _rank(keys: Tensor) -> Tensor:
    return keys.argsort(1).argsort(1)


def make_stale(batch: Batch, first: Tensor, last: Tensor) -> Batch:
    """Bring the window, slots ``[first, last)`` (long [R, 1]), a second time: masks for the others, itself for itself.

    The shared columns hold the row with its window all masked, as at the block's opening forward; behind them the
    window's real tokens form a branch that sees the shared columns, except the slots it brings itself.
    """
    rows, length = batch.tokens.shape
    slots = torch.arange(length)[None]
    column = torch.arange(int((last - first).max()))[None]
    inside = column < last - first
    place = (first + column).clamp(max=length - 1)
    context = torch.where((slots >= first) & (slots < last), MASK_ID, batch.tokens)
    window = torch.where(inside, batch.weight.gather(1, place), 0.0)
    return Batch(
        torch.cat([context, batch.tokens.gather(1, place)], 1),
        torch.cat([batch.target, batch.target.gather(1, place)], 1),
        torch.cat([torch.zeros_like(batch.weight), window], 1),
        batch.task,
        torch.cat([slots.expand(rows, -1), place * inside], 1),
        torch.cat([torch.full_like(batch.tokens, -1), torch.zeros_like(place)], 1),
        length + inside.sum(1),
    )


def mask_rows(rows: list[Row], generator: torch.Generator, stale_share: float = 0.0) -> Batch:
    """Pad rows to one length with end tokens (legitimate canvas) and mask them."""
    count, length = len(rows), max(row.total for row in rows)
    target = torch.full((count, length), EOS_ID)
    for index, row in enumerate(rows):
        target[index, : len(row.ids)] = torch.tensor(row.ids)
    start = torch.tensor([row.start for row in rows])[:, None]
    content = torch.tensor([len(row.ids) - row.start for row in rows])[:, None]
    task = torch.tensor([row.task for row in rows])
    special = torch.tensor([row.cell for row in rows])[:, None]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    cell = torch.arange(length)[None] - start
    answer, tail = (cell >= 0) & (cell < content), cell >= content
    noise = uniform(count, length)
    # Low discrepancy: the rates of one batch cover [0.03, 1] evenly.
    rate = 0.03 + 0.97 * ((torch.randperm(count, generator=generator) + uniform(count)) / count)[:, None]

    shares = torch.tensor([SHARES[name] for name in NAMES])[task].cumsum(1)
    kind = (uniform(count, 1) >= shares).sum(1, keepdim=True)  # 0 low, 1 prefix, 2 block, 3 t

    size = torch.tensor(BLOCKS)[torch.randint(len(BLOCKS), (count, 1), generator=generator)]
    blocks = (content + size - 1) // size
    # The last block holds the end of the text, which is decided nowhere else: a fifth of the rows on top.
    block = (uniform(count, 1) * blocks * 1.25).long().minimum(blocks - 1)
    low, high = block * size, (block + 1) * size
    cut = (uniform(count, 1) * content).long()

    open_count = 1 + (uniform(count, 1) >= torch.tensor(LOW_COUNTS).cumsum(0)[:-1]).sum(1, keepdim=True)
    forced = (cell == special) & (uniform(count, 1) < 0.5)
    keys = torch.where(answer, torch.where(forced & (open_count == 1), -1.0, noise), 2.0)
    few = answer & (_rank(keys) < open_count)

    by_kind = torch.stack(
        [
            few,
            answer & (cell >= cut),
            answer & ((cell >= high) | ((cell >= low) & (noise < rate))),
            answer & (noise < rate),
        ]
    )
    masked = by_kind.gather(0, kind.expand(count, length)[None])[0]

    # Cells past the answer: as likely as the answer, decided already, all open, or decided up to a block boundary.
    other = uniform(count, 1)
    boundary = (content // size + 1) * size
    mode = (uniform(count, 1) >= torch.tensor([0.25, 0.55, 0.75])).sum(1, keepdim=True)
    tails = torch.stack(
        [noise < rate, torch.zeros_like(answer), torch.ones_like(answer), (cell >= boundary) | (noise < other - 0.3)]
    )
    masked |= tail & tails.gather(0, mode.expand(count, length)[None])[0] & ((kind == 0) | (kind == 3))
    masked |= tail & (kind == 1)
    masked |= tail & (kind == 2) & ((cell >= high) | (noise < rate))

    # At least one answer cell is open: in block rows the one of the block that was nearest to it.
    inside = answer & ((kind != 2) | ((cell >= low) & (cell < high)))
    empty = ~(masked & inside).any(1, keepdim=True)
    masked |= empty & inside & (_rank(torch.where(inside, noise, 2.0)) == 0)

    far = ((kind == 1) & (cell >= cut + NEAR)) | ((kind == 2) & (cell >= high))
    weight = torch.where(tail, TAIL_WEIGHT, torch.where(far, FAR_WEIGHT, 1.0)) * masked
    batch = Batch(torch.where(masked, MASK_ID, target), target, weight, task)
    if float(uniform(1)) >= stale_share:
        return batch
    blockwise = kind == 2
    first = start + torch.where(blockwise, low, 0)
    return make_stale(batch, first, torch.where(blockwise, start + high, length).clamp(max=length))


def mask_blocks(rows: list[Row], generator: torch.Generator, block: int) -> Batch:
    """Pad rows to whole blocks with end tokens, and bring every block of the canvas a second time, partly masked.

    A block has all its cells masked as when it is opened (a quarter), one to four left (a quarter), is decided up to
    a cut (a quarter), or each of its cells is masked with the same probability.
    """
    count, length = len(rows), -(-max(row.total for row in rows) // block) * block
    target = torch.full((count, length), EOS_ID)
    for index, row in enumerate(rows):
        target[index, : len(row.ids)] = torch.tensor(row.ids)
    start = torch.tensor([row.start for row in rows])[:, None]
    content = torch.tensor([len(row.ids) - row.start for row in rows])[:, None]
    total = torch.tensor([-(-row.total // block) * block for row in rows])[:, None]
    slots = torch.arange(length)[None]
    answer = (slots >= start) & (slots < total)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    def by_cell(values: Tensor) -> Tensor:
        return values.repeat_interleave(block, dim=1)

    blocks = length // block
    noise, kind = uniform(count, length), uniform(count, blocks)
    # A free replacement stays open last: the last block must learn that nothing was replaced in those before it.
    special = slots - start == torch.tensor([row.cell if row.cell >= 0 else length for row in rows])[:, None]
    keys = torch.where(special & by_cell(uniform(count, blocks) < 0.5), -1.0, torch.where(answer, noise, 2.0))
    keys = keys.unflatten(1, (blocks, block))
    place = keys.argsort(2).argsort(2).flatten(1)
    few = 1 + (uniform(count, blocks)[..., None] >= torch.tensor(LOW_COUNTS).cumsum(0)[:-1]).sum(2)
    cut = (uniform(count, blocks) * block).long()
    masked = torch.where(by_cell(kind) < 0.75, slots % block >= by_cell(cut), noise < by_cell(uniform(count, blocks)))
    masked = torch.where(by_cell(kind) < 0.5, place < by_cell(few), masked)
    masked = ((by_cell(kind) < 0.25) | masked | (place == 0)) & answer

    first = start // block * block
    column = torch.arange(int((total - first).max()))[None]
    inside = column < total - first
    where = (first + column).clamp(max=length - 1)
    weight = torch.where(slots >= start + content, TAIL_WEIGHT, 1.0) * masked
    noisy = torch.where(masked, MASK_ID, target).gather(1, where)
    return Batch(
        torch.cat([target, noisy], 1),
        torch.cat([target, target.gather(1, where)], 1),
        torch.cat([torch.zeros(count, length), weight.gather(1, where) * inside], 1),
        torch.tensor([row.task for row in rows]),
        torch.cat([slots.expand(count, -1), where * inside], 1),
        torch.cat([torch.full_like(target, -1), where // block * inside], 1),
        length + inside.sum(1),
        block,
    )
