"""ContentFirst: every forward decides at least one cell of the text, not only its tail (ours)."""

from __future__ import annotations

from dataclasses import dataclass

from samplers.around import Around, add, text_of
from samplers.contract.data import Decision, Prediction, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import best
from samplers.threshold import Threshold


@dataclass(frozen=True)
class ContentFirst(Around):
    """A decider that, where it would write nothing before the first end token, also takes the best cell there.

    Deciders always commit their best cell so that decoding moves, and on a canvas longer than its text that is often
    one more end token behind it: a forward spent on the tail.  The text reaches up to the first end token that is
    decided or proposed; a block in which it has no open cell is left to the decider.  In no paper.

    Args:
        step: the decider.
    """

    step: Policy = Threshold(0.9)

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        decision, memory = self.step.decide(view, prediction, memory)
        text = text_of(view, prediction)
        missed = ~(decision.write & text).any(-1, keepdim=True)
        if decision.hold is not None:
            missed = missed & ~decision.hold[:, None]  # a rule that waits has its reason
        added = best(prediction.confidence, prediction.open & text & ~decision.write) & missed
        return add(decision, prediction, added), memory
