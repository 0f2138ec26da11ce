"""Hierarchical decoding (dInfer, arXiv 2510.08666): one cell of each run of masks, so that the block halves again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.contract.data import Decision, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.select import best, rank


@dataclass(frozen=True)
class Hierarchy(Policy):
    """Commit the best cell of each run of neighbouring masks, every cell above ``threshold``, and the best of all.

    With ``remask`` the block's committed cells are candidates again where the model is no longer sure of any token:
    runs are runs of candidates; chosen candidates get what is proposed now, the others become masks.  The best
    candidates are added until more are chosen than were candidates before they were masks, so every forward nets a
    commit.

    Args:
        threshold: a cell above it is committed; ``None`` = none for this.
        low: the best of a run is committed if it is above this; ``None`` = always.
        remask: a committed cell whose best token now has less probability than this is a candidate; ``None`` = never.
    """

    threshold: float | None = bounded(0.9, 0)
    low: float | None = bounded(0.3, 0)
    remask: float | None = bounded(None, 0)

    @property
    def scope(self) -> Scope:  # noqa: D102
        return Scope.OPEN if self.remask is None else Scope.BLOCK

    @property
    def revises(self) -> bool:  # noqa: D102
        return self.remask is not None

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        sure, masks = prediction.confidence, prediction.open
        doubted = torch.zeros_like(masks)
        if self.remask is not None:
            doubted = view.doubtful & prediction.predicted & (sure < self.remask)
        candidates = masks | doubted
        chosen = best_of_runs(sure, candidates)
        if self.low is not None:
            chosen &= sure > self.low
        if self.threshold is not None:
            chosen |= candidates & (sure > self.threshold)
        if self.remask is None:
            chosen |= best(sure, candidates)
            return Decision(chosen, prediction.token, order=-sure), memory
        missing = doubted.sum(-1) + 1 - chosen.sum(-1)
        chosen |= rank(sure, candidates & ~chosen) < missing[:, None]
        values = torch.where(chosen, prediction.token, view.mask_id)
        return Decision(chosen | doubted, values, order=-sure), memory


def best_of_runs(score: Tensor, where: Tensor) -> Tensor:
    """Bool ``[B, G]``: the highest-scored cell of each run of neighbouring cells of ``where``; ties: the first."""
    starts = where.clone()
    starts[:, 1:] &= ~where[:, :-1]
    run, places = starts.cumsum(-1), rank(score, where)  # places outside are behind all others
    first = torch.full_like(places, places.shape[1]).repeat(1, 2).scatter_reduce(1, run, places, "amin")
    return where & (places == first.gather(1, run))
