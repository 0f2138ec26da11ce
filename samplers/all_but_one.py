"""AllButOne: cells exactly one of which is wrong are decided together, all but the least sure (ours)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from samplers.around import Around, add, text_of
from samplers.contract.data import Decision, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import best
from samplers.threshold import Threshold


@dataclass(frozen=True)
class AllButOne(Around):
    """A decider that, where one of many waiting cells is wrong, also takes all of them but the least sure.

    "Replace any one letter" of eight: each letter stays with 7 chances of 8, no cell is sure, and a threshold decides
    them one by one, though together they are plain: exactly one is wrong.  Such cells show by their doubts
    (1 - confidence), which sum to about one while each is small.  To decide all but the one in most doubt makes that
    one the exception, as likely as it says itself; the next forward sees it settled.  Few cells, or cells in more
    doubt, sum to one by accident (grids, sums), and are left to the decider.  In no paper.

    Args:
        step: the decider.
        cells: how many must wait at least, before the text's first end token.
        slack: how far from one their doubts may sum.
        doubt: the largest that any of them may have.
    """

    step: Policy = Threshold(0.9)
    cells: int = bounded(4, least=2)
    slack: float = bounded(0.25, least=0)
    doubt: float = bounded(0.3, least=0, most=1)

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        decision, memory = self.step.decide(view, prediction, memory)
        taken = decision.write if decision.accepted is None else decision.accepted  # a fallback's cell waits too
        waiting = prediction.open & text_of(view, prediction) & ~taken
        doubts = (1 - prediction.confidence) * waiting
        one = (doubts.sum(-1) - 1).abs() <= self.slack
        one &= (waiting.sum(-1) >= self.cells) & (doubts.amax(-1) <= self.doubt)
        if decision.hold is not None:
            one &= ~decision.hold
        cells = waiting & ~best(doubts, waiting) & one[:, None]
        return replace(add(decision, prediction, cells), accepted=taken | cells), memory
