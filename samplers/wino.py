"""WINO: commit generously, check every committed cell as if it were masked, revoke what the check disputes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Query, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import best, top

#: The released code's: a forward commits at most a share (over) of the masks, within bounds.
SHARE, LEAST, MOST = (7, 10), 5, 20
#: A block's first check may revoke fewer than so many cells.
FIRST = 30


@dataclass(frozen=True)
class Standing:
    """What the forwards of a block have come to.

    Attributes:
        last: long ``[B]``, cells that the latest of them committed.
        known: bool ``[B, G]``, cells that they committed and have not revoked.
    """

    last: Tensor
    known: Tensor


@dataclass(frozen=True)
class Wino(Policy):
    """Wide in, narrow out (WINO, arXiv 2507.18578).

    Wide in: commit every cell of the block whose confidence is above ``threshold``, at most 70 % of the masks and
    never more than 20.  Narrow out: a *twin* of each cell, a mask at its position that sees everything but its
    original, says how likely the committed token still is; below ``threshold_back`` the cell becomes a mask again.
    Fewer cells are revoked than the forward before committed, so a block of L cells takes at most L + 30 forwards.

    A cell is first checked in the forward after its commit; the commits of a block's last forward never are.

    Args:
        threshold: tau1, strict. The authors' for LLaDA-8B: 0.6 GSM8K, 0.7 MATH500, HumanEval and Sudoku, 0.8 MBPP,
            0.5 Countdown and ARC.
        threshold_back: tau2, strict.
        twins: ``"block"`` = twins of the whole block, which see each other, as released; ``"lone"`` = only committed
            cells have twins, and a twin sees no other: cheaper, and another policy in its numbers.
    """

    threshold: float = bounded(0.6, above=0, note="the paper's for GSM8K: 0.6")
    threshold_back: float = bounded(0.9, 0, note="the paper's: 0.9")
    twins: Literal["block", "lone"] = "block"
    revises = True
    remembers = "cells"

    def bind(self, setting: Setting) -> Wino:  # noqa: D102
        if setting.shift:
            raise PolicyError(
                "Wino checks a cell by a twin at its own position, but this model scores a cell one slot earlier, "
                "where no twin can stand; use another policy with Dream."
            )
        if not setting.shadows:
            raise PolicyError(
                "Wino needs twins that hide their originals, which this model cannot forward; use a native LLaDA."
            )
        return self

    def begin(self, view: View) -> Standing:  # noqa: D102
        return Standing(torch.full_like(view.start, FIRST), torch.zeros_like(view.masked))

    def query(self, view: View, memory: Standing) -> Query | None:  # noqa: D102
        known = self._known(view, memory)
        joint = self.twins == "block"
        return Query(shadow=view.in_block & known.any(-1, keepdim=True) if joint else known, joint=joint)

    def decide(self, view: View, prediction: Prediction, memory: Standing) -> tuple[Decision, Memory]:  # noqa: D102
        known = self._known(view, memory)
        last = torch.where(view.block_step == 0, FIRST, memory.last)
        cap = (view.open.sum(-1) * SHARE[0] // SHARE[1]).clamp(min=LEAST, max=MOST)
        sure = prediction.open & (prediction.confidence > self.threshold)
        write = top(prediction.confidence, sure, cap) | best(prediction.confidence, prediction.open)
        count = write.sum(-1)

        revoked = torch.zeros_like(known)
        if prediction.shadow is not None and prediction.shadow.held is not None:
            held = prediction.shadow.held
            disputed = known & (held < self.threshold_back) & (count > 1)[:, None]
            revoked = disputed & top(-held, known, last - 1)
        decision = Decision(
            write | revoked,
            torch.where(revoked, view.mask_id, prediction.token),
            order=-prediction.confidence,
            hold=count <= revoked.sum(-1),
        )
        return decision, Standing(count, (known | write) & ~revoked)

    @staticmethod
    def _known(view: View, memory: Standing) -> Tensor:
        """Bool ``[B, G]``: cells to be checked."""
        return memory.known & view.in_block & ~view.masked & (view.block_step > 0)[:, None]
