"""LoPA: look ahead on several canvases at once, and go on from the one that leaves the most certain rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, Prediction, Query, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import best

Score = Literal["neg_entropy", "confidence", "margin"]


@dataclass(frozen=True)
class Ahead:
    """The look-ahead canvases of the next round: each is the canvas and one cell more.

    Attributes:
        cell: long ``[B, k]``, that cell; -1 = no such canvas. ``token``: long ``[B, k]``, what it holds.
        created: fp32 ``[B, k]``, its score when the canvas was made. ``sure``: fp32 ``[B, k]``, its probability then.
    """

    cell: Tensor
    token: Tensor
    created: Tensor
    sure: Tensor


@dataclass(frozen=True)
class Lopa(Policy):
    """Lookahead parallel decoding (LoPA, arXiv 2512.16229).

    A round forwards the canvas (the anchor) and up to ``branching_factor`` look-aheads, and keeps the branch of the
    highest score: ``creation`` times the score of its extra cell (1 for the anchor), and the rest times the mean score
    of the least certain ``share`` of its masks (1 without any).  On its prediction every cell above ``threshold`` is
    committed, or the best one.  The best masks left over make the next look-aheads.

    The score of a cell is its negative entropy, its probability or its top-2 margin; only masks of the block count.

    Args:
        branching_factor: k, look-aheads beside the anchor (released scripts: 2, 3 or 4); 0 = plain threshold decoding.
        threshold: tau, strict. Released scripts: 0.9 for GSM8K and MATH, 0.95 for MBPP and HumanEval.
        score: what ranks cells and branches; the scripts' (the paper writes of confidence).
        creation, share: the scripts' 0 and 1 (the released constructor's: 0.5 and 0.5).
    """

    branching_factor: int = bounded(2, 0, note="the scripts': 2")
    threshold: float = bounded(0.9, above=0, note="the scripts': 0.9")
    score: Score = "neg_entropy"
    creation: float = bounded(0.0, 0, 1)
    share: float = bounded(1.0, 0, 1)

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return frozenset({"neg_entropy": {"entropy"}, "margin": {"margin"}}.get(self.score, set()))

    @property
    def most(self) -> int:
        """The most canvases that a forward carries per row."""
        return self.branching_factor + 1

    def begin(self, view: View) -> Ahead:  # noqa: D102
        none = torch.full_like(view.tokens[:, : self.branching_factor], -1)
        return Ahead(none, none, none.float(), none.float())

    def query(self, view: View, memory: Ahead) -> Query | None:  # noqa: D102
        cell = memory.cell.clamp(min=0)
        used = (memory.cell >= 0) & view.open.gather(1, cell) & (view.block_step > 0)[:, None]
        if not bool(used.any()):
            return None
        extra = (view.index == cell[:, :, None]) & used[:, :, None]
        ahead = torch.where(extra, memory.token[:, :, None], view.tokens[:, None])
        anchor = torch.ones_like(used[:, :1])
        return Query(torch.cat([view.tokens[:, None], ahead], 1), torch.cat([anchor, used], 1))

    def decide(self, view: View, prediction: Prediction, memory: Ahead) -> tuple[Decision, Memory]:  # noqa: D102
        winner = self._winner(view, prediction, memory)
        said = prediction.pick(winner)
        score, open_ = self._score(said), said.open
        sure = open_ & (said.confidence > self.threshold)
        write = torch.where(sure.any(-1, keepdim=True), sure, best(score, open_))

        left = open_ & ~write
        line = score.masked_fill(~left, -torch.inf).sort(dim=-1, descending=True, stable=True).indices
        line = line[:, : memory.cell.shape[1]]
        cell = torch.where(left.gather(1, line), line, -1)
        after = Ahead(cell, said.token.gather(1, line), score.gather(1, line), said.confidence.gather(1, line))
        if prediction.branches == 1:
            return Decision(write, said.token, order=-score, confidence=said.confidence, accepted=sure), after

        # The cell that the winner already holds was predicted by the anchor: its turn comes first.
        at = (winner - 1).clamp(min=0)[:, None]
        held = (view.index == memory.cell.gather(1, at)) & (winner > 0)[:, None]
        decision = Decision(
            write | held,
            torch.where(held, memory.token.gather(1, at), said.token),
            order=torch.where(held, -torch.inf, -score),
            confidence=torch.where(held, memory.sure.gather(1, at), said.confidence),
            turn=torch.where(held, 0, winner[:, None]).masked_fill(~(write | held), -1),
            accepted=sure | held,
        )
        return decision, after

    def _score(self, prediction: Prediction) -> Tensor:
        """Fp32 ``[B, G]``: how certain each cell is."""
        return prediction.sureness(self.score.removeprefix("neg_"))

    def _winner(self, view: View, prediction: Prediction, memory: Ahead) -> Tensor:
        """Long ``[B]``: the branch of the highest score; 0 is the anchor, which comes last among equals."""
        if prediction.branches == 1:
            return torch.zeros_like(view.start)
        score, open_ = self._score(prediction), prediction.open
        masks = open_.sum(-1)
        worst = (masks * self.share).long().clamp(min=1)
        rising = score.masked_fill(~open_, torch.inf).sort(dim=-1).values
        lowest = torch.where(view.index < worst[:, None], rising, 0.0).sum(-1)
        future = torch.where(masks > 0, lowest / worst, 1.0).view(-1, prediction.branches)
        created = torch.cat([torch.ones_like(memory.created[:, :1]), memory.created], 1)
        total = self.creation * created + (1 - self.creation) * future
        assert prediction.canvases is not None
        plain = (prediction.canvases == view.tokens[:, None]).all(-1)  # the anchor, and what was not forwarded
        total[:, 1:] = total[:, 1:].masked_fill(plain[:, 1:], -torch.inf)
        ahead = torch.cat([total[:, 1:], total[:, :1]], 1).argmax(-1) + 1
        return ahead % prediction.branches
