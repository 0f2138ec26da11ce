"""Fixed schedules: k cells per forward, LLaDA's even split, Dream's time schedule (specs: their official samplers)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Forecast, Policy
from samplers.contract.select import rank, top

Score = Literal["confidence", "margin", "entropy", "random", "position"]
Schedule = Literal["even", "time"]


@dataclass(frozen=True)
class TopK(Policy):
    """Commit the ``k`` best open cells, or follow a schedule of ``steps`` forwards per block.

    Args:
        k: cells per forward; 1 is static decoding. Ignored when ``steps`` is given.
        steps: forwards per block. With ``schedule="even"`` the block's masks are split evenly, the remainder to the
            first steps (LLaDA ``get_num_transfer_tokens``); with ``"time"`` step i of a block with n masks left
            commits ``int(n (1 - t[i+1]/t[i]))``, ``t = linspace(1, eps, steps + 1)``, and the last step the rest
            (Dream ``diffusion_generate``).
        score: what ranks the cells: confidence, top-1 minus top-2 probability, negative entropy, random, or position
            (left to right).
        schedule: see ``steps``.
        eps: the time schedule's last time.
        origin: Dream's ``alg="origin"``: with the time schedule, each mask is committed independently with
            probability ``1 - t[i+1]/t[i]``.
        spend: also spend the schedule's forwards that commit nothing, as the official samplers do.
    """

    k: int = bounded(1, 1)
    steps: int | None = bounded(None, 1)
    score: Score = "confidence"
    schedule: Schedule = "even"
    eps: float = bounded(1e-3, above=0, below=1, note="Dream uses 0.001")
    origin: bool = False
    spend: bool = False
    remembers = "rows"

    def __post_init__(self) -> None:
        if (self.schedule == "time" or self.spend or self.origin) and self.steps is None:
            raise PolicyError("schedule=time, origin and spend follow a number of forwards per block; give steps.")
        if self.origin and self.schedule != "time":
            raise PolicyError("origin follows the time schedule; give schedule=time.")

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return frozenset({self.score} & {"margin", "entropy"})

    @property
    def waits(self) -> int:  # noqa: D102
        return self.steps or 0

    @property
    def forecast(self) -> Forecast | None:  # noqa: D102
        return ("top", self.k) if self.steps is None and self.score == "confidence" else None

    def begin(self, view: View) -> Memory:
        """Long ``[B]``: the masks the current block held when it opened; nothing without a schedule."""
        return None if self.steps is None else torch.zeros_like(view.start)

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        score = self.ranking(view, prediction)
        if self.steps is None:
            return Decision(top(score, prediction.open, self.k), prediction.token, order=-score), memory
        left = prediction.open.sum(-1)
        at_opening = torch.where(view.block_step == 0, left, memory)
        if self.origin:
            share = self.time_share(view.block_step)
            write = prediction.open & (view.uniform() < share[:, None])
        else:
            write = rank(score, prediction.open) < self.quota(view.block_step, left, at_opening)[:, None]
        write &= prediction.open
        hold = ~write.any(-1) & (left > 0)  # the time schedule lets forwards pass
        if self.spend:
            hold |= view.block_step + 1 < self.steps
        return Decision(write, prediction.token, order=-score, hold=hold), at_opening

    def ranking(self, view: View, prediction: Prediction) -> Tensor:
        """Fp32 ``[B, G]``: the chosen score, larger is surer."""
        if self.score == "random":
            return view.uniform()
        if self.score == "position":
            return -view.index.float().expand(view.tokens.shape)
        return prediction.sureness(self.score)

    def quota(self, block_step: Tensor, left: Tensor, at_opening: Tensor) -> Tensor:
        """Long ``[B]``: how many cells this forward commits."""
        assert self.steps is not None
        if self.schedule == "even":
            base = at_opening // self.steps + (block_step < at_opening % self.steps)
            # Past the schedule's end (a block that grew, masks left over) one cell per forward keeps moving.
            overdue = block_step >= self.steps
            return torch.where(overdue, base.clamp(min=1), base) if self.spend else base.clamp(min=1)
        share = self.time_share(block_step)
        return torch.where(block_step >= self.steps - 1, left, (left * share).long())

    def time_share(self, block_step: Tensor) -> Tensor:
        """Fp64 ``[B]``: ``1 - t[i+1]/t[i]``; 1 from the last step on."""
        assert self.steps is not None
        t = torch.linspace(1, self.eps, self.steps + 1, dtype=torch.float32, device=block_step.device)
        share = torch.cat([(1 - t[1:] / t[:-1])[: self.steps - 1], t.new_ones(1)]).double()
        return share[block_step.clamp(max=self.steps - 1)]
