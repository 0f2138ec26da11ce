"""Saber: commit what is surer than the commits so far were, take back what has become less sure (arXiv 2510.18165)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.contract.data import Decision, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.select import top


@dataclass(frozen=True)
class Trust:
    """What the forwards so far have said, per cell ``[B, G]``.

    Attributes:
        last: fp32, the best token's probability at the forward before, whatever the cell held.
        at_commit: fp32, the confidence of the cell's latest commit; -1 = never committed.
    """

    last: Tensor
    at_commit: Tensor


@dataclass(frozen=True)
class Saber(Policy):
    """Adaptive acceleration and backtracking.

    With mu the mean confidence that cells had when they were committed (1 at first; a cell's latest commit counts,
    also if it was revoked), commit the w masks above mu, and at least the ``least`` best ones.  Unless that fills the
    block, revoke ``min(max(least // 2, ceil(w / 8)), w - 1)`` of its committed cells, this forward's included: those
    whose best token's probability has risen least since the forward before (from 0 at a block's first).

    The released code may also take back cells of finished blocks, which here stay as they are; with one block, its
    default, the runs are the same.

    Args:
        least: n, cells that a forward commits at least (before it revokes).
    """

    least: int = bounded(2, 1, note="the paper uses 2")
    revises = True
    remembers = "cells"

    @property
    def scope(self) -> Scope:  # noqa: D102
        return Scope.BLOCK

    def begin(self, view: View) -> Trust:  # noqa: D102
        zeros = torch.zeros(view.tokens.shape, device=view.tokens.device)
        return Trust(zeros, zeros - 1)

    def decide(self, view: View, prediction: Prediction, memory: Trust) -> tuple[Decision, Memory]:  # noqa: D102
        sure, masks = prediction.confidence, prediction.open
        past = memory.at_commit >= 0
        mean = (memory.at_commit.double() * past).sum(-1) / past.sum(-1).clamp(min=1)
        mean = torch.where(past.any(-1), mean, 1.0)
        chosen = top(sure, masks, self.least) | (masks & (sure > mean[:, None]))
        count = chosen.sum(-1)

        full = count == masks.sum(-1)
        back = torch.minimum(((count + 7) // 8).clamp(min=self.least // 2), count - 1)
        rise = sure - memory.last * (view.block_step > 0)[:, None]
        held = chosen | view.doubtful
        kept = top(rise, held, held.sum(-1) - torch.where(full, 0, back))  # so that of a tie the first cells stay
        revoked = held & ~kept

        values = torch.where(revoked, view.mask_id, prediction.token)
        write = (chosen & ~revoked) | (revoked & ~view.masked)
        at_commit = torch.where(chosen, sure, memory.at_commit)
        return Decision(write, values, order=-sure), Trust(sure, at_commit)
