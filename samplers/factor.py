"""Factor rule (Fast-dLLM, arXiv 2505.22618, sec. 3.3, theorem 1)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from samplers.contract.data import Decision, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import commit, rank


@dataclass(frozen=True)
class Factor(Policy):
    """Commit the n most confident cells for the largest n whose prefix obeys ``(n + 1)(1 - c_(n)) <= factor``.

    The released code scans ranks from the front and stops at the first failure; so does this.  (Its slip, to commit
    the last cell too when that alone fails, is not repeated.)
    """

    factor: float = bounded(1.0, above=0, note="the paper uses 0.75 to 1")

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        places = rank(prediction.confidence, prediction.open)
        return commit(places < self.first_failure(prediction, places), prediction), memory

    def first_failure(self, prediction: Prediction, places: Tensor) -> Tensor:
        """Long ``[B, 1]``: the first rank, from 0, that does not obey; that of the best cell always does."""
        bar = 1 - self.factor / (places + 2)  # rank n is 1-based: n + 1 = place + 2
        failed = prediction.open & (prediction.confidence < bar) & (places > 0)
        return places.masked_fill(~failed, places.shape[1]).amin(-1, keepdim=True)
