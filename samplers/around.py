"""Around: what a decider that adds to another one's cells passes on from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.threshold import Threshold


@dataclass(frozen=True)
class Around(Policy):
    """Base of deciders around another.

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


def text_of(view: View, prediction: Prediction) -> Tensor:
    """Bool ``[B, G]``: the cells before the first end token that is decided or proposed."""
    proposed = torch.where(prediction.predicted & view.masked, prediction.token, view.tokens)
    return view.can_end(proposed).cumsum(-1) == 0


def add(decision: Decision, prediction: Prediction, cells: Tensor) -> Decision:
    """The decision that writes the proposals at ``cells`` too."""
    values = torch.where(cells, prediction.token, decision.values)
    return replace(decision, write=decision.write | cells, values=values)
