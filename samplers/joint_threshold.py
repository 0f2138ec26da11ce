"""LLaDA2.1's decoding with edits: fill masks and correct committed tokens of the open block, from one forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.contract.data import Decision, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.select import rank


@dataclass(frozen=True)
class JointThreshold(Policy):
    """Fill masks above ``threshold`` and replace the block's tokens that the model would now write otherwise.

    A forward fills every open cell surer than ``threshold`` if these are ``least`` or more, else the ``least`` best;
    at the same time every committed cell of the block whose proposal differs from its token and is surer than
    ``edit_threshold`` takes the proposal.  A full block is forwarded again until nothing is edited, at most
    ``max_post_steps`` times.  Finished blocks never change, nor do the prompt's tokens.

    SGLang's rule of this name is ``threshold=0.5, edit_threshold=0``; LLaDA2.1's quality mode 0.7 and 0.5.

    Args:
        threshold: confidence above which masks are filled.
        edit_threshold: confidence above which a committed token is replaced.
        max_post_steps: forwards of a block without masks.
        least: masks filled per forward at least (``num_to_transfer``).
    """

    threshold: float = bounded(0.95, above=0, note="LLaDA2.1 uses 0.95")
    edit_threshold: float = bounded(0.9, 0, note="LLaDA2.1 uses 0.9")
    max_post_steps: int = bounded(16, 0)
    least: int = bounded(1, 1)
    scope = Scope.BLOCK
    revises = True
    remembers = "rows"

    @property
    def waits(self) -> int:  # noqa: D102
        return self.max_post_steps

    def begin(self, view: View) -> Memory:
        """Long ``[B]``: how often the current block has been forwarded without a mask."""
        return torch.zeros_like(view.start)

    def decide(self, view: View, prediction: Prediction, memory: Tensor) -> tuple[Decision, Memory]:  # noqa: D102
        sure = prediction.open & (prediction.confidence > self.threshold)
        enough = sure.sum(-1, keepdim=True) >= self.least
        best = (rank(prediction.confidence, prediction.open) < self.least) & prediction.open
        fill = torch.where(enough, sure, best)
        edit = (
            view.doubtful
            & prediction.predicted
            & (prediction.token != view.tokens)
            & (prediction.confidence > self.edit_threshold)
        )

        full = ~view.open.any(-1)
        posts = torch.where(view.block_step <= 0, 0, memory) + full.long()
        settled = full & ~edit.any(-1)
        hold = ~settled & (posts < self.max_post_steps)
        return Decision(fill | edit, prediction.token, order=-prediction.confidence, hold=hold), posts
