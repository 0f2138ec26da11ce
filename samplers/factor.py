"""Factor rule (Fast-dLLM, arXiv 2505.22618, sec. 3.3, theorem 1)."""

from __future__ import annotations

from dataclasses import dataclass

from samplers.contract.data import Decision, PolicyError, Prediction, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import commit, rank


@dataclass(frozen=True)
class Factor(Policy):
    """Commit the n most confident cells for the largest n whose prefix obeys ``(n + 1)(1 - c_(n)) <= factor``.

    The released code scans ranks from the front and stops at the first failure; so does this.  Its slip, kept behind
    ``last_rank_quirk``: when only the last rank fails, that cell is committed too.
    """

    factor: float = 1.0
    last_rank_quirk: bool = False

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise PolicyError(f"factor is {self.factor}; give a number above 0 (the paper uses 0.75 to 1).")

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        width = view.tokens.shape[1]
        places = rank(prediction.confidence, prediction.open)
        bar = 1 - self.factor / (places + 2)  # rank n is 1-based: n + 1 = place + 2
        failed = prediction.open & (prediction.confidence < bar) & (places > 0)
        first = places.masked_fill(~failed, width).amin(-1, keepdim=True)
        if self.last_rank_quirk:
            first = first.masked_fill(first == prediction.open.sum(-1, keepdim=True) - 1, width)
        return commit(places < first, prediction), memory
