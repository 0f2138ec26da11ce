"""How far a forward reaches: which slots it sends, and which cells it scores, under each cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.blocks import BlockGrid
from dllm_decode.engine.canvas import Rows
from samplers import Composition, View
from samplers.contract import Scope


@dataclass(frozen=True)
class Reach:
    """The geometry of forwards of one run.

    Attributes:
        policy, config: of the run. ``cache``: its kind. ``shift``: a cell is scored from so many slots before it.
        grid: where the blocks of a block-causal model lie, else ``None``.
    """

    policy: Composition
    config: GenerationConfig
    cache: str
    shift: int
    grid: BlockGrid | None

    def opening_span(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Long ``[B]`` twice: first slot and the one after the last of each row's next forward if it opens a block."""
        if self.grid is not None:
            return self.grid.span(rows)
        return torch.zeros_like(rows.offset), rows.offset + rows.length

    def furthest(self, rows: Rows) -> Tensor:
        """Long ``[R]``: the cell behind the last one that each row's block may reach to."""
        if self.grid is None:
            return rows.length
        return torch.minimum(self.grid.ends(rows.offset + rows.start) - rows.offset, rows.length)

    def is_full(self, rows: Rows) -> list[bool]:
        """Per row, whether its next forward covers it whole and refills the cache."""
        steps = rows.block_step.tolist()
        if self.grid is not None:  # a block's opening has what is not final, never the whole row
            return [False] * len(steps)
        if self.config.refresh == "window":
            return [step == 0 and index == 0 for step, index in zip(steps, rows.block_index.tolist(), strict=True)]
        every = self.config.refresh
        return [step == 0 and index % every == 0 for step, index in zip(steps, rows.block_index.tolist(), strict=True)]

    def span(self, group: Rows, view: View, full: bool) -> tuple[Tensor, Tensor]:
        """Long ``[R]`` twice: first slot of the forward and the one after its last."""
        if self.grid is not None:
            return self.grid.span(group)
        if full:
            return torch.zeros_like(group.offset), group.offset + group.length
        start, end = group.offset + group.start, group.offset + group.end
        if self.shift:
            # A shifted model scores cell s from slot s - 1: forward that too if the block's first cell was still owed
            # after the opening. Fixed for the block, or what a forward sees would depend on when that cell was
            # committed, and a draft of it would not be predicted as the canvas that it becomes.
            # A part that reads the whole block reads that cell's score even when it is committed.
            owed = group.owed | view.masked.gather(1, group.start[:, None])[:, 0] | (Scope.BLOCK in self.policy.scope)
            start = start - (owed & (start > 0)).long()
        if 0 in group.block_step.tolist():
            opening, reach = group.block_step == 0, self.config.refresh_window
            stale = torch.minimum(group.offset + group.opened, start - reach)
            start = torch.where(opening, stale.clamp(min=0), start)
            end = torch.where(opening, torch.minimum(end + reach, group.offset + group.length), end)
        if self.policy.starts is not None:  # what has moved is forwarded again
            end = torch.where(group.moved, group.offset + group.length, end)
        return start, end if self.cache == "dual" else group.offset + group.length

    def scored(self, group: Rows, view: View, opening: Tensor, window: tuple[Tensor, Tensor] | None) -> Tensor:
        """Bool ``[R, G]``: cells whose logits the policy wants from this forward, and can have.

        Args:
            group: the rows.
            view: theirs.
            opening: bool ``[R]``, the block's first forward.
            window: what :meth:`span` says, or ``None``: the whole row.
        """

        def cells(scope: Scope) -> Tensor:
            if Scope.ALL in scope:
                return view.valid
            inside = view.masked if Scope.REST in scope else view.open
            return inside | view.in_block if Scope.BLOCK in scope else inside

        scope, at_opening = self.policy.scope, self.policy.opening_scope
        wanted = cells(scope)
        if scope != at_opening:
            wanted = torch.where(opening[:, None], cells(at_opening), wanted)
        if self.grid is not None:
            return wanted & self.grid.predicts(group, view.index)
        if window is None:
            return wanted
        first, last = window
        if self.policy.opening_scope != Scope.OPEN:  # an open cell is never behind the window
            wanted = wanted & (view.index < (last - group.offset)[:, None])
        if not self.shift:
            return wanted & (view.index >= (first - group.offset)[:, None])
        return wanted & ((view.index + group.offset[:, None] - self.shift).clamp(min=0) >= window[0][:, None])
