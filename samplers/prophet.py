"""Prophet: exit as soon as the answer's logit margins pass a bar of three stages (arXiv 2508.19982)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from samplers.contract.data import PolicyError, View
from samplers.contract.fields import bounded
from samplers.contract.policy import Scope
from samplers.early_exit import MarginExit


@dataclass(frozen=True)
class Prophet(MarginExit):
    """Fill all masks and stop when the mean top-1 minus top-2 logit of the answer reaches the stage's threshold.

    The answer is a span of cells whose place the user knows, usually behind an answer text given in the canvas; its
    committed cells count too.  Without ``answer_start`` it is ``region``, as where Prophet is run on open-ended tasks
    (SchED's comparison: region=masked, max_change=0, stages=1/3 and 2/3).

    Args:
        early, middle, late: thresholds in raw logit units.
        stages: the progress p = t/T at which ``middle`` and ``late`` begin.
        answer_start: first cell of the answer.
        answer_length: cells of the answer, as far as the row reaches.
        steps, region, max_change, patience, min_progress, stale: see :class:`~samplers.early_exit.MarginExit`.
    """

    early: float = 7.5
    middle: float = 5.0
    late: float = 2.5
    stages: tuple[float, ...] = (0.33, 0.67)
    answer_start: int | None = bounded(None, 0)
    answer_length: int = bounded(5, 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.early >= self.middle >= self.late >= 0:
            raise PolicyError(
                f"the thresholds are {self.early}, {self.middle}, {self.late}; give early >= middle >= late >= 0."
            )
        if len(self.stages) != 2 or not 0 <= self.stages[0] <= self.stages[1] <= 1:
            raise PolicyError(f"stages is {self.stages}; give two rising shares of the forwards, such as 0.33/0.67.")

    @property
    def scope(self) -> Scope:  # noqa: D102
        return super().scope if self.answer_start is None else Scope.ALL

    def answer(self, view: View) -> Tensor:  # noqa: D102
        if self.answer_start is None:
            return super().answer(view)
        end = self.answer_start + self.answer_length
        return view.valid & (view.index >= self.answer_start) & (view.index < end)

    def watched(self, view: View) -> Tensor:  # noqa: D102
        return super().watched(view) if self.answer_start is None else self.answer(view)

    def bar(self, taken: Tensor, total: Tensor) -> Tensor:  # noqa: D102
        p = taken.double() / total
        later = torch.where(p < self.stages[1], self.middle, self.late)
        return torch.where(p < self.stages[0], self.early, later).double()
