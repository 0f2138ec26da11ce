"""Entropy threshold: the decoding rule that dParallel ships with its models (arXiv 2509.26488)."""

from __future__ import annotations

from dataclasses import dataclass

from samplers.contract.data import Decision, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import commit


@dataclass(frozen=True)
class EntropyThreshold(Policy):
    """Commit every open cell whose entropy is at most ``threshold`` nats, and always the one of lowest entropy.

    ``threshold=None`` is the released value for the model: 0.5 for LLaDA, 0.45 for Dream.
    """

    threshold: float | None = bounded(None, 0, note="nats; released: 0.5")
    needs = frozenset({"entropy"})

    def bind(self, setting: Setting) -> EntropyThreshold:  # noqa: D102
        return EntropyThreshold(
            (0.45 if setting.family == "dream" else 0.5) if self.threshold is None else self.threshold
        )

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        assert prediction.entropy is not None and self.threshold is not None
        return commit(prediction.entropy <= self.threshold, prediction, score=-prediction.entropy), memory
