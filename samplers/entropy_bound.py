"""Entropy-bounded unmasking (EB-Sampler, arXiv 2505.24857, sec. 3)."""

from __future__ import annotations

from dataclasses import dataclass

from samplers.contract.data import Decision, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import commit, prefix_sum_by_rank, rank


@dataclass(frozen=True)
class EntropyBound(Policy):
    """Commit the surest cells while the sum of their entropies, less the largest, stays within ``gamma`` nats.

    Sorted by rising entropy the largest is the last one taken, so the test at rank n is ``sum_{j<n} H_(j) <= gamma``.
    ``gamma = 0`` commits one cell (and exact certainties).
    """

    gamma: float = bounded(0.1, 0, note="nats; the paper uses 0.001 to 0.1")
    needs = frozenset({"entropy"})

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        assert prediction.entropy is not None
        places = rank(-prediction.entropy, prediction.open)
        entropy = prediction.entropy.double()  # a small first entropy must survive the sum with a large last one
        before = prefix_sum_by_rank(entropy, places) - entropy
        return commit(before <= self.gamma, prediction, score=-prediction.entropy), memory
