"""The rule of CCD's released code, which is not the paper's: for reproduction only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers import CCD
from samplers.contract.data import Decision, Prediction, View
from samplers.contract.memory import Memory
from samplers.contract.select import rank, top


@dataclass(frozen=True)
class Buffer:
    """What the released code keeps of the previous forward: its runners-up and what they predicted.

    Attributes:
        cells: long ``[B, V]``, -1 = none. ``tokens``: long ``[B, V]``, their proposals.
        size: long ``[B]``, how many there may be.
    """

    cells: Tensor
    tokens: Tensor
    size: Tensor


@dataclass(frozen=True)
class ReleasedCCD(CCD):
    """If the best cell was a runner-up at the forward before, commit the best former runners-up of unchanged token.

    Otherwise the best cell.  CCD-DS (``adaptive``) commits all of those.  ``history``, ``candidates``, ``eps`` and
    ``token`` of :class:`CCD` mean nothing here.

    Args:
        expand_ratio: at most ``budget * (1 + expand_ratio)`` runners-up are kept.
    """

    expand_ratio: float = 4.0

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return super().needs - {"logits"}

    def begin(self, view: View) -> Buffer:  # noqa: D102
        none = torch.full((len(view.start), self.longest), -1, device=view.start.device)
        return Buffer(none, none, torch.ones_like(view.start))

    @property
    def longest(self) -> int:
        """The most runners-up the released code keeps."""
        return self.budget + int(self.budget * self.expand_ratio)

    def decide(self, view: View, prediction: Prediction, memory: Buffer) -> tuple[Decision, Memory]:  # noqa: D102
        score = prediction.sureness(str(self.score))
        step, left = view.block_step, prediction.open.sum(-1)
        cells = view.end - view.start
        size = memory.size.masked_fill(left <= 0.1 * cells, 1)
        size = torch.where(step < 4, 1, (size + 1).clamp(max=self.longest))
        places = rank(score, prediction.open)
        first = places < self.budget
        width = places.shape[1]
        held = memory.cells.masked_fill((step == 0)[:, None] | (memory.cells < 0), width)
        before = torch.full((len(held), width + 1), -1, device=held.device).scatter_(1, held, memory.tokens)[:, :width]

        runner_up = before >= 0
        consistent = runner_up & (before == prediction.token) & (places < size[:, None])
        warm = (step >= 5) & (step < cells // self.budget - 1)
        count = consistent.sum(-1)
        matched = (warm & (first & runner_up).any(-1) & (count >= self.budget))[:, None]
        agreed = consistent if self.adaptive else top(score, consistent, self.budget)
        write = torch.where(matched, agreed, first)

        # The next runners-up: right behind what was committed, or the best that remain of a wider circle.
        circle = torch.where(matched[:, 0], 2 * size + count, self.budget + size)
        nth = rank(score, prediction.open & ~write & (places < circle[:, None]))
        nth = nth.masked_fill((nth >= size[:, None]) | (step < 3)[:, None], self.longest)
        slots = torch.full((len(nth), self.longest + 1), -1, device=nth.device)
        cells = slots.scatter(1, nth.clamp(max=self.longest), view.index.expand_as(nth))[:, : self.longest]
        tokens = prediction.token.gather(1, cells.clamp(min=0))
        return Decision(write, prediction.token, order=-score), Buffer(cells, tokens, size)
