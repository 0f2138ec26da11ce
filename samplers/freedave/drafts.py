"""Drafts of what one-after-the-other decoding would do next, and the chain of those that hold (FreeDave)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samplers.contract.data import Query, View
from samplers.contract.memory import Memory
from samplers.contract.select import rank


@dataclass(frozen=True)
class Drafts:
    """What a drafting policy remembers between forwards.

    Attributes:
        values: long ``[B, G]``, drafted tokens.
        rounds: long ``[B, G]``, when each cell is drafted, smaller first; G = not at all. Round 0 is what the policy
            has just asked to commit: drafts only if another part overruled it.
        step, block_step: long ``[B]``, the step counts that one-after-the-other decoding would see when it decides
            next (this policy needs fewer forwards).
        seen: fp32 ``[B, 2, K]``, how drafts have fared, see :class:`~samplers.freedave.budget.Budget`.
        own: whatever else the policy remembers.
    """

    values: Tensor
    rounds: Tensor
    step: Tensor
    block_step: Tensor
    seen: Tensor
    own: Memory

    @classmethod
    def none(cls, view: View, seen: Tensor, own: Memory) -> Drafts:
        """Nothing drafted yet."""
        rounds = torch.full_like(view.tokens, view.tokens.shape[1])
        return cls(
            view.tokens, rounds, view.step + 1, view.block_step, seen, own
        )  # a forward counts when it is decided on

    def resume(self, view: View, cross_block: bool) -> View:
        """The view with the step counts of one-after-the-other decoding."""
        # Unless drafts cross blocks, a new block begins with a forward of its own, step 0 for both.
        block_step = self.block_step if cross_block else self.block_step * (view.block_step > 0)
        return replace(view, step=self.step, block_step=block_step)

    def query(self, view: View, count: Tensor, cross_block: bool) -> Query | None:
        """Forward the canvas and the canvas with its first 1, 2, ... rounds of drafts filled in, ``count`` in all.

        Not those that add nothing, or leave nothing to predict; and nothing where all rows open a block, unless drafts
        cross blocks.
        """
        if not cross_block and bool((view.block_step == 0).all()):
            return None
        width = view.tokens.shape[1]
        rounds = self.rounds.masked_fill(~view.masked, width)
        held = rounds.new_zeros(len(rounds), width + 1).scatter_(1, rounds, 1).cumsum(-1)
        # Renumbered without gaps; cells without a draft lie beyond all.
        nth = held.gather(1, rounds).masked_fill_(rounds == width, width + 1)
        index = torch.arange(int(count.max()), device=rounds.device)
        canvases = torch.where(nth[:, None] <= index[:, None], self.values[:, None], view.tokens[:, None])
        drafted = held[:, width - 1 : width]
        beyond = (index >= count[:, None]) | (index > drafted)
        canvases.masked_fill_(beyond[:, :, None], -1)  # no draft of its own: agrees with nothing
        waiting = (nth * (view.masked if cross_block else view.open)).amax(-1, keepdim=True)
        used = (index < waiting) & ~beyond
        return Query(canvases=canvases, used=used | (index == 0))


def in_line(now: View, score: Tensor, where: Tensor, across: bool) -> Tensor:
    """Long ``[B, G]``: the place (0 = next) of each cell of ``where`` by falling score, else G.

    ``across``: cells of nearer blocks come first.
    """
    places = rank(score, where)
    if not across:
        return places
    block = (now.index - now.start[:, None]).clamp(min=0) // (now.end - now.start).clamp(min=1)[:, None]
    return rank(-(block * where.shape[1] + places).double(), where)
