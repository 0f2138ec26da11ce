"""Drafts of what one-after-the-other decoding would do next, and the chain of those that hold (FreeDave)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from samplers.contract import Memory, Query, View, map_rows, merge_rows
from samplers.select import rank

T = TypeVar("T")


@dataclass(frozen=True)
class Drafts:
    """What a drafting policy remembers between forwards.

    Attributes:
        values: long ``[B, G]``, drafted tokens.
        rounds: long ``[B, G]``, when each cell is drafted, smaller first; G = not at all. Round 0 is what the policy
            has just asked to commit: drafts only if another part overruled it.
        step, block_step: long ``[B]``, forwards that one-after-the-other decoding would have had in all and in its
            block (this policy needs fewer).
        own: whatever else the policy remembers.
    """

    values: Tensor
    rounds: Tensor
    step: Tensor
    block_step: Tensor
    own: Memory

    @classmethod
    def none(cls, view: View, own: Memory) -> Drafts:
        """Nothing drafted yet."""
        return cls(view.tokens, torch.full_like(view.tokens, view.tokens.shape[1]), view.step, view.block_step, own)

    def resume(self, view: View, cross_block: bool) -> View:
        """The view with the step counts of one-after-the-other decoding."""
        # Unless drafts cross blocks, a new block begins with a forward of its own, step 0 for both.
        fresh = (view.block_step == 0) & (not cross_block)
        return replace(view, step=self.step, block_step=torch.where(fresh, 0, self.block_step))

    def canvases(self, view: View, count: int) -> Tensor:
        """Long ``[B, K, G]``: the canvas, then the canvas with its first 1, 2, ... rounds of drafts filled in."""
        width = view.tokens.shape[1]
        rounds = self.rounds.masked_fill(~view.masked, width)
        held = torch.zeros(len(rounds), width + 1, dtype=torch.long, device=rounds.device)
        held.scatter_(1, rounds, 1)[:, width] = 0
        # Renumbered without gaps; cells without a draft lie beyond all.
        nth = held.cumsum(-1).gather(1, rounds).masked_fill(rounds == width, count)
        filled = nth[:, None] <= torch.arange(count, device=rounds.device)[None, :, None]
        return torch.where(filled, self.values[:, None], view.tokens[:, None])

    def query(self, view: View, count: int, cross_block: bool) -> Query:
        """Forward the canvas and those drafts that add something and leave something to predict."""
        canvases = self.canvases(view, count)
        left = (canvases == view.mask_id) & (view.valid if cross_block else view.open)[:, None]
        used = left.any(-1)
        used[:, 1:] &= (canvases[:, 1:] != canvases[:, :-1]).any(-1)
        used[:, 0] = True
        return Query(canvases=canvases, used=used)


def in_line(now: View, score: Tensor, where: Tensor, across: bool) -> Tensor:
    """Long ``[B, G]``: the place (0 = next) of each cell of ``where`` by falling score, else G.

    ``across``: cells of nearer blocks come first.
    """
    places = rank(score, where)
    if not across:
        return places
    block = (now.index - now.start[:, None]).clamp(min=0) // (now.end - now.start).clamp(min=1)[:, None]
    return rank(-(block * where.shape[1] + places).double(), where)


def furthest(canvases: Tensor, reached: Tensor, branch: int, part: Tensor | None = None) -> Tensor:
    """The last draft behind ``branch`` that agrees with the canvas reached from there, else ``branch``.

    Args:
        canvases: long ``[B, K, G]``, the drafts.
        reached: long ``[B, G]``, the canvas after the step taken on ``branch``.
        branch: where the chain stands.
        part: bool ``[B, K, G]``, the cells that need not agree (``None``: all must).

    Returns:
        Long ``[B]``.
    """
    agrees = canvases == reached[:, None]
    if part is not None:
        agrees = agrees | part
    index = torch.arange(canvases.shape[1], device=canvases.device)
    behind = agrees.all(-1) & (index > branch)
    return torch.where(behind, index, branch).amax(-1)


def put_rows(here: Tensor, new: T, old: T) -> T:
    """A memory value or view with the rows ``here`` (bool ``[B]``) from ``new`` and the others from ``old``."""
    rows = here.nonzero()[:, 0]
    if len(rows) == len(here):
        return new
    merged: T = merge_rows(old, rows, map_rows(new, lambda x: x.index_select(0, rows)))
    return merged
