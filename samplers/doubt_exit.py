"""DoubtExit: stop a row once all that is left of its text is sure enough together (ours; a union bound)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.early_exit import check_reach


@dataclass(frozen=True)
class Seen:
    """The latest proposals, long ``[B, G]``, their confidences, fp32, and where there are any, bool."""

    token: Tensor
    confidence: Tensor
    known: Tensor


@dataclass(frozen=True)
class DoubtExit(Policy):
    """Fill all masks and stop when the summed doubt of the text's open cells is at most ``eps``.

    The doubt of a cell is 1 - confidence; the text reaches up to and including its first end token, proposed or
    decided, and what lies behind it is filled with that token.  Were confidences the chances of being right, ``eps``
    would bound the chance that any filled cell is wrong: no logit scale, no schedule, no length.  SchED and Prophet
    ask for a mean margin instead, which a tail of sure end tokens lifts and which forgives one undecided cell.  Goes
    with any decider; a forward that does not cover every open cell of the text is not judged.

    Args:
        eps: the largest summed doubt.
        stale: judge with the latest proposal each cell ever had, so that a cache of blocks does not hide the rest of
            the text.
    """

    eps: float = 0.15
    stale: bool = False
    remembers = "cells"

    def __post_init__(self) -> None:
        if not self.eps >= 0:
            raise PolicyError(f"eps is {self.eps}; give a number from 0 up, such as 0.15.")

    @property
    def scope(self) -> Scope:  # noqa: D102
        return Scope.REST

    def bind(self, setting: Setting) -> Policy:  # noqa: D102
        check_reach("DoubtExit", setting, self.stale)
        return self

    def begin(self, view: View) -> Memory:  # noqa: D102
        return Seen(view.tokens, view.tokens * 0.0, torch.zeros_like(view.masked)) if self.stale else None

    def finish(  # noqa: D102
        self, view: View, prediction: Prediction, decision: Decision, memory: Seen | None
    ) -> tuple[Decision, Memory]:
        filled, doubt, memory = self.judge(view, prediction, memory)
        leaves = doubt <= self.eps
        fill = view.masked & leaves[:, None]
        values = torch.where(fill, filled, decision.values)
        stop = leaves if decision.stop is None else leaves | decision.stop
        return replace(decision, write=decision.write | fill, values=values, stop=stop), memory

    def judge(self, view: View, prediction: Prediction, memory: Seen | None) -> tuple[Tensor, Tensor, Seen | None]:
        """The canvas filled with what is proposed, long ``[B, G]``, and its doubt, fp32 ``[B]``; inf = cannot tell."""
        token, confidence, known = prediction.token, prediction.confidence, prediction.predicted
        if memory is not None:
            token = torch.where(known, token, memory.token)
            confidence = torch.where(known, confidence, memory.confidence)
            known = known | memory.known
            memory = Seen(token, confidence, known)
        proposed = torch.where(view.masked, token, view.tokens)
        ends = view.can_end(proposed) & (known | ~view.masked)
        text = ends.cumsum(-1) - ends.long() == 0
        waiting = view.masked & text
        doubt = ((1 - confidence) * waiting).sum(-1)
        doubt = doubt.masked_fill((waiting & ~known).any(-1), torch.inf)
        last = proposed.gather(1, ends.to(torch.uint8).argmax(-1, keepdim=True))
        return torch.where(text, proposed, last), doubt, memory
