"""The block schedule of block-causal models: SDAR (arXiv 2510.06303), TraDo, LLaDA2.0 (arXiv 2512.15745)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import rank


@dataclass(frozen=True)
class BlockQuota(Policy):
    """Commit every open cell surer than ``threshold`` if there are as many as the schedule asks for, else the best.

    Forward i of a block of B cells asks for ``B div steps`` of them, one more in the first ``B mod steps`` forwards,
    however many of the block the prompt has filled.  What is left after them goes one by one.

    Args:
        steps: forwards per block; ``None`` = one per cell (SDAR's, TraDo's and LLaDA2.0's default).
        threshold: SDAR's dynamic rule (0.9) and LLaDA2.0 (0.95); ``None`` = only what the schedule asks for (SDAR's
            static rule). Exceeding it counts, reaching it does not.
        order: which cells are the best: the surest, or the first from the left (SDAR's sequential rule).
        size: B; default the model's attention block, or the length of a decoding block.
    """

    steps: int | None = bounded(None, 1)
    threshold: float | None = bounded(None, above=0, note="SDAR uses 0.9, LLaDA2.0 0.95")
    order: Literal["confidence", "left_to_right"] = "confidence"
    size: int | None = bounded(None, 1)

    def bind(self, setting: Setting) -> BlockQuota:
        """The size of a block.

        Raises:
            PolicyError: the block is the whole canvas, whose length only a prompt says.
        """
        size = self.size or setting.block_length or setting.max_new_tokens
        if size is None:
            raise PolicyError("BlockQuota needs to know how long a block is; give block_length or size.")
        return BlockQuota(self.steps or size, self.threshold, self.order, size)

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        confidence = prediction.confidence
        score = -view.index.to(confidence) if self.order == "left_to_right" else confidence
        write = rank(score.expand_as(confidence), prediction.open) < self.quota(view.block_step)[:, None]
        if self.threshold is not None:
            sure = prediction.open & (confidence > self.threshold)
            enough = sure.sum(-1) >= self.quota(view.block_step)
            write = torch.where(enough[:, None], sure, write)
        return Decision(write & prediction.open, prediction.token, order=-score.expand_as(confidence)), memory

    def quota(self, step: Tensor) -> Tensor:
        """Long ``[B]``: cells that forward ``step`` of a block asks for, at least one."""
        assert self.steps is not None and self.size is not None
        return (self.size // self.steps + (step < self.size % self.steps).long()).clamp(min=1)
