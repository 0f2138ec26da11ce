"""ContentFirst: every forward decides at least one cell of the text, not only its tail (ours)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.select import best
from samplers.threshold import Threshold


@dataclass(frozen=True)
class ContentFirst(Policy):
    """A decider that, where it would write nothing before the first end token, also takes the best cell there.

    Deciders always commit their best cell so that decoding moves, and on a canvas longer than its text that is often
    one more end token behind it: a forward spent on the tail.  The text reaches up to the first end token that is
    decided or proposed; a block in which it has no open cell is left to the decider.  In no paper.

    Args:
        step: the decider.
    """

    step: Policy = Threshold(0.9)

    def __post_init__(self) -> None:
        extra = [role for role in self.step.roles if role not in ("begin", "decide")]
        if "decide" not in self.step.roles or extra:
            why = f"plays {' and '.join(extra)} too" if extra else "decides nothing"
            raise PolicyError(f"step is {type(self.step).__name__}, which {why}; give a decider such as threshold.")

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return self.step.needs

    @property
    def scope(self) -> Scope:  # noqa: D102
        return self.step.scope

    @property
    def waits(self) -> int:  # noqa: D102
        return self.step.waits

    @property
    def recalls(self) -> int:  # noqa: D102
        return self.step.recalls

    @property
    def revises(self) -> bool:  # noqa: D102
        return self.step.revises

    @property
    def remembers(self) -> Literal["rows", "cells"] | None:  # noqa: D102
        return self.step.remembers

    @property
    def widest_block(self) -> int | None:  # noqa: D102
        return self.step.widest_block

    def bind(self, setting: Setting) -> Policy:  # noqa: D102
        return replace(self, step=self.step.bind(setting))

    def begin(self, view: View) -> Memory:  # noqa: D102
        return self.step.begin(view)

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        decision, memory = self.step.decide(view, prediction, memory)
        proposed = torch.where(prediction.predicted & view.masked, prediction.token, view.tokens)
        text = view.can_end(proposed).cumsum(-1) == 0
        missed = ~(decision.write & text).any(-1, keepdim=True)
        if decision.hold is not None:
            missed = missed & ~decision.hold[:, None]  # a rule that waits has its reason
        added = best(prediction.confidence, prediction.open & text & ~decision.write) & missed
        values = torch.where(added, prediction.token, decision.values)
        return replace(decision, write=decision.write | added, values=values), memory
