"""Confidence threshold (Fast-dLLM, arXiv 2505.22618, sec. 3.3)."""

from __future__ import annotations

from dataclasses import dataclass

from samplers.contract.data import Decision, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Forecast, Policy
from samplers.contract.select import commit


@dataclass(frozen=True)
class Threshold(Policy):
    """Commit every open cell whose confidence reaches ``threshold``, and always the best one.

    A threshold above 1 is static decoding: one cell per forward, the most confident one.
    """

    threshold: float = bounded(0.9, above=0, note="the paper uses 0.9")

    @property
    def forecast(self) -> Forecast:  # noqa: D102
        return "threshold", self.threshold

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        return commit(prediction.confidence >= self.threshold, prediction), memory
