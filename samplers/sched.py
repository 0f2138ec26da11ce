"""SchED: exit as soon as the answer's mean logit margin reaches a bar that falls with progress (arXiv 2512.02892)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import PolicyError
from samplers.contract.fields import bounded
from samplers.early_exit import MarginExit


@dataclass(frozen=True)
class SchED(MarginExit):
    """Fill all masks and stop when the mean top-1 minus top-2 logit reaches tau(p), p = t/T.

    tau = low + (high - low) f(p); f is 1 - p (linear), (1 + cos(pi p)) / 2 (cosine) or e^(-k p) (exp).
    Goes with any decider.  ``max_change=0, progress="released"`` is the released code (on Dream).

    Args:
        high, low: the bar at the beginning and (but for exp) at the end, in raw logit units. The paper: 7.5, and 2.5
            or 0.
        schedule: how it falls.
        k: how fast exp falls (2 to 16).
        progress: ``"paper"``: p = t/T for the t-th forward; ``"released"``: (t - 1)/(T - 1), so that the first forward
            meets ``high`` and the last ``low``.
        steps, region, max_change, patience, min_progress, stale: see :class:`~samplers.early_exit.MarginExit`.
    """

    high: float = 7.5
    low: float = 2.5
    schedule: Literal["linear", "cosine", "exp"] = "cosine"
    k: float = bounded(4.0, above=0, note="the paper uses 2 to 16")
    progress: Literal["paper", "released"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.high >= self.low >= 0:
            raise PolicyError(
                f"high is {self.high} and low is {self.low}; give high >= low >= 0, such as 7.5 and 2.5."
            )

    def bar(self, taken: Tensor, total: Tensor) -> Tensor:  # noqa: D102
        if self.progress == "paper":
            p = (taken.double() / total).clamp(max=1)
        else:
            p = ((taken - 1).double() / (total - 1).clamp(min=1)).clamp(max=1)
        if self.schedule == "linear":
            fall = 1 - p
        elif self.schedule == "cosine":
            fall = (1 + torch.cos(math.pi * p)) / 2
        else:
            fall = torch.exp(-self.k * p)
        tau = self.low + (self.high - self.low) * fall
        # The released code has no schedule to speak of when T is 1.
        return tau.masked_fill(total <= 1, self.low) if self.progress == "released" else tau
