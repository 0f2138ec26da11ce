"""KLASS: commit what the model is sure of and has stopped changing its mind about (arXiv 2511.05664)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.recall import divergence
from samplers.contract.select import top
from samplers.topk import TopK


@dataclass(frozen=True)
class Klass(Policy):
    """Commit open cells that are confident, above ``threshold``, and stable; if there is none, the ``k`` best ones.

    A cell is stable when each of the last ``history`` forwards moved its distribution by less than ``divergence``
    nats: ``KL(p_t || p_(t-1))``.  All of these forwards are of this block, but what the first of them is compared with
    may be older.

    Args:
        threshold: for the confidence; ``None`` = the authors' for GSM8K: 0.6 with LLaDA, 0.9 with Dream.
        divergence: in nats; ``None`` = the authors' for GSM8K: 0.015 with LLaDA, 0.001 with Dream.
        history: how many forwards must have agreed.
        k: cells that a forward commits when no cell is ready. Ignored when ``steps`` is given.
        steps: forwards over which a block's masks are split for that, the remainder to the first.
        since: where what a cell is compared with begins: with the ``row``, as released, for which each forward scores
            all masks of the row, or with the ``block``, for which it scores the block's and a block's first forward is
            compared with nothing; ``None`` = ``row`` without a cache, ``block`` with one.
    """

    threshold: float | None = bounded(None, 0)
    divergence: float | None = bounded(None, 0)
    history: int = bounded(2, 1, note="the paper uses 2")
    k: int = bounded(1, 1)
    steps: int | None = bounded(None, 1)
    since: Literal["row", "block"] | None = None
    needs = frozenset({"logits"})
    remembers = "rows"

    def bind(self, setting: Setting) -> Klass:  # noqa: D102
        threshold, divergence = (0.9, 0.001) if setting.family == "dream" else (0.6, 0.015)
        return replace(
            self,
            threshold=threshold if self.threshold is None else self.threshold,
            divergence=divergence if self.divergence is None else self.divergence,
            since=self.since or ("row" if setting.cache == "none" else "block"),
        )

    @property
    def scope(self) -> Scope:  # noqa: D102
        return Scope.REST if self.since == "row" else Scope.OPEN

    @property
    def recalls(self) -> int:  # noqa: D102
        return self.history

    def begin(self, view: View) -> Memory:
        """Long ``[B]``: the masks the current block held when it opened."""
        return torch.zeros_like(view.start)

    def decide(self, view: View, prediction: Prediction, memory: Tensor) -> tuple[Decision, Memory]:  # noqa: D102
        assert self.threshold is not None and self.divergence is not None  # bound
        told = (prediction, *prediction.before)
        ready = prediction.open & (prediction.confidence > self.threshold)
        ready &= (view.block_step >= self.history - 1)[:, None] & (len(told) > self.history)
        for now, earlier in zip(told, told[1 : self.history + 1], strict=False):
            ready &= divergence(now, earlier, ready, self.divergence) < self.divergence

        left = prediction.open.sum(-1)
        opened = torch.where(view.block_step == 0, left, memory)
        count = self.k if self.steps is None else TopK(steps=self.steps).quota(view.block_step, left, opened)
        best = top(prediction.confidence, prediction.open, count)
        write = torch.where(ready.any(-1, keepdim=True), ready, best)
        return Decision(write, prediction.token, order=-prediction.confidence), opened
