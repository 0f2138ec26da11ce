"""Frechet rule (Fast-dLLM++, arXiv 2606.02955)."""

from __future__ import annotations

from dataclasses import dataclass

from samplers.contract.data import Decision, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import commit, prefix_sum_by_rank, rank


@dataclass(frozen=True)
class Frechet(Policy):
    """Commit the n most confident cells for the largest n with ``G_n > margin``.

    ``G_n = sum_{j<=n} c_(j) - (n - 1) - (1 - c_(n))`` is the Frechet lower bound of the joint probability minus the
    doubt about the last cell; it never grows with n.
    """

    margin: float = bounded(0.25, -1, 1, note="the paper uses 0.25")

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        confidence = prediction.confidence
        places = rank(confidence, prediction.open)
        bound = prefix_sum_by_rank(confidence, places) - places - (1 - confidence)
        return commit(bound > self.margin, prediction), memory
