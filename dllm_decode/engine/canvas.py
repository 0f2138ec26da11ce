"""The rows of a run: what each canvas holds, where its block stands, what it has cost."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_decode.engine.blocks import BlockGrid
from samplers import Insertion, View, map_rows
from samplers.contract.memory import twin
from samplers.contract.view import some


@dataclass
class Rows:
    """All rows of a run; every tensor has the row as its first axis.

    ``slots`` is the single truth: long ``[B, N]``, prompt from slot 0, then the canvas; cell g of a row is slot
    ``offset + g``.  Nothing is padded on the left, so ragged prompts need no mask.

    Attributes:
        slots: long ``[B, N]``. ``offset``: long ``[B]``, slot of cell 0. ``budget``: cells asked for.
        length: long ``[B]``, the row's cells now; more than the budget where a block-causal model's last block goes on
            behind it. ``start``, ``end``: its block.
        given: bool ``[B, N]``, the slots that held no mask at the beginning (the prompt; more when infilling).
        owed: bool ``[B]``, the block's first cell was still masked after its opening forward.
        opened: long ``[B]``, start of the block at the last opening forward: keys from there on may be stale.
        moved: bool ``[B]``, cells were put in after the last forward: no key from the block on is where it was.
        step, block_step, block_index: forwards in all, forwards in this block, index of the block; a ``block_step`` of
            -1 is the forward that predicts the block's first cell and nothing else.
        fewest: long ``[B]``, the fewest masks the block has had, or a bound until a forward may commit nothing.
            ``waited``: forwards since then.
        live: bool ``[B]``. ``holes``: bool ``[B]``, some cell behind the first was given (infilling).
        name: long ``[B]``, index of the row among all that one call decodes.
        full_forwards, rows_forwarded, tokens_forwarded: long ``[B]``, costs so far.
    """

    slots: Tensor
    given: Tensor
    owed: Tensor
    offset: Tensor
    budget: Tensor
    length: Tensor
    start: Tensor
    end: Tensor
    opened: Tensor
    moved: Tensor
    step: Tensor
    block_step: Tensor
    block_index: Tensor
    fewest: Tensor
    waited: Tensor
    live: Tensor
    holes: Tensor
    name: Tensor
    full_forwards: Tensor
    rows_forwarded: Tensor
    tokens_forwarded: Tensor

    @classmethod
    def begin(
        cls,
        canvases: list[list[int]],
        offsets: list[int],
        mask_id: int,
        pad_id: int,
        device: torch.device,
        slots: int | None = None,
        names: list[int] | None = None,
        tails: list[int] | None = None,
    ) -> Rows:
        """Lay out rows: each a whole sequence (prompt and masks), ragged, with the slot of its first cell.

        ``slots``: N, by default the longest row's; ``names``: by default 0, 1, ...;
        ``tails``: how many of each row's cells were not asked for, by default none.
        """
        lengths = [len(c) - o for c, o in zip(canvases, offsets, strict=True)]
        wide = max(map(len, canvases)) if slots is None else slots
        laid = torch.tensor([c + [pad_id] * (wide - len(c)) for c in canvases], device=device)
        length, offset = torch.tensor(lengths, device=device), torch.tensor(offsets, device=device)
        budget = length if tails is None else length - torch.tensor(tails, device=device)

        holes = [any(token != mask_id for token in c[o:]) for c, o in zip(canvases, offsets, strict=True)]

        def zeros() -> Tensor:
            return torch.zeros_like(budget)

        return cls(
            laid,
            laid != mask_id,
            torch.zeros_like(budget, dtype=torch.bool),
            offset,
            budget.clone(),
            length,
            zeros(),
            zeros(),
            -offset,
            torch.zeros_like(budget, dtype=torch.bool),
            zeros(),
            zeros(),
            zeros() - 1,
            zeros(),
            zeros(),
            torch.ones_like(budget, dtype=torch.bool),
            torch.tensor(holes, device=device),
            torch.tensor(range(len(canvases)) if names is None else names, device=device),
            zeros(),
            zeros(),
            zeros(),
        )

    @classmethod
    def empty(cls, places: int, slots: int, pad_id: int, device: torch.device) -> Rows:
        """Places without rows: nothing is live."""
        rows = cls.begin([[]] * places, [0] * places, -1, pad_id, device, slots=slots)
        rows.live.zero_()
        return rows

    @property
    def width(self) -> int:
        """G: cells of the widest row."""
        return self.slots.shape[1] - int(self.offset.min()) if len(self.offset) else 0

    def select(self, rows: Tensor) -> Rows:
        """The chosen rows (long ``[R]``, ascending) as a copy; all of them share their ``slots`` with it."""
        if len(rows) == len(self.live):  # only slots are ever written into; the rest is replaced
            return twin(self)
        picked: Rows = map_rows(self, lambda x: x.index_select(0, rows))
        return picked

    def put(self, rows: Tensor, part: Rows) -> None:
        """Write the chosen rows back."""
        for name in self.__dataclass_fields__:
            held = getattr(self, name)
            if held.ndim > 1:
                held.index_copy_(0, rows, getattr(part, name))
            else:  # views, and memories made from them, may hold the numbers
                setattr(self, name, held.index_copy(0, rows, getattr(part, name)))

    def cells(self, width: int) -> Tensor:
        """Long ``[B, G]``: the tokens in generation coordinates; junk past a row's budget."""
        return self._in_cells(self.slots, width)

    def _in_cells(self, slots: Tensor, width: int) -> Tensor:
        index = self.offset[:, None] + torch.arange(width, device=slots.device)
        return slots.gather(1, index.clamp(max=slots.shape[1] - 1))

    def write(self, at: tuple[Tensor, Tensor], tokens: Tensor) -> None:
        """Write ``tokens`` (long ``[M]``) at the cells ``at``: rows and indices, long ``[M]`` each."""
        row, cell = at
        self.slots.index_put_((row, self.offset[row] + cell), tokens)

    def insert(self, put: Insertion, block_length: int | None, mask_id: int) -> None:
        """Put cells in; a block that reached the row's end goes on, up to ``block_length`` cells."""
        index = torch.arange(self.slots.shape[1], device=self.slots.device)
        cell, at, count = index - self.offset[:, None], put.at[:, None], put.count[:, None]
        fresh = (cell >= at) & (cell < at + count)
        length = torch.minimum(self.length + put.count, self.budget)
        lost = (count > 0) & (cell >= length[:, None]) & (cell < self.budget[:, None])
        moved = self.slots.gather(1, index - count * (cell >= at + count))
        self.slots = torch.where(fresh, put.token[:, None], moved).masked_fill(lost, mask_id)
        reach = length if block_length is None else torch.minimum(length, self.start + block_length)
        self.end = torch.where(self.end == self.length, reach.maximum(self.end), self.end)
        self.length, self.moved = length, put.count > 0

    def view(
        self,
        width: int,
        mask_id: int,
        eos_ids: tuple[int, ...],
        generators: tuple[torch.Generator, ...],
        vocab_size: int = 0,
    ) -> View:
        """What a policy sees of these rows."""
        tokens = self.cells(width)
        valid = torch.arange(width, device=tokens.device) < self.length[:, None]
        tokens = torch.where(valid, tokens, mask_id)
        return View(
            tokens=tokens,
            masked=(tokens == mask_id) & valid,
            valid=valid,
            start=self.start,
            end=self.end,
            length=self.length,
            budget=self.budget,
            step=self.step,
            block_step=self.block_step,
            block_index=self.block_index,
            mask_id=mask_id,
            eos_ids=eos_ids,
            generators=generators,
            vocab_size=vocab_size,
            given=self._in_cells(self.given, width) & valid if bool(self.holes.any()) else None,
            name=self.name,
        )

    def advance(self, masked: Tensor, done: Tensor, block_length: int | None, grid: BlockGrid | None = None) -> None:
        """Open the next block with something to decide in the rows whose block is ``done``; retire finished rows.

        Args:
            masked: bool ``[B, G]``.
            done: bool ``[B]``, the block holds no mask and is not held open.
            block_length: default cells per block; a part may change it on the opening prediction.
            grid: where the blocks of a block-causal model lie.
        """
        if not any(done.tolist()):
            return
        index = torch.arange(masked.shape[1], device=masked.device)
        first = torch.where(some(masked), masked.view(torch.uint8).argmax(-1), self.length)
        finished = first >= self.length
        while bool(done.any()):
            self.live = self.live & ~(done & finished)
            move = done & self.live & (first >= self.end)
            if not bool(move.any()):
                break
            step = self.length if block_length is None else torch.full_like(self.end, block_length)
            step = step if grid is None else grid.advance(self.offset + self.end)
            self.start = torch.where(move, self.end, self.start)
            self.end = torch.where(move, torch.minimum(self.end + step, self.length), self.end)
            self.block_index = self.block_index + move.long()
            first_step = 0 if grid is None else -grid.owes_seed(self, masked).long()
            self.block_step = torch.where(move, first_step, self.block_step)
            done = done & ~some(masked & (index < self.end[:, None]))
