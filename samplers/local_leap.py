"""LocalLeap: relax the threshold around confident anchors (arXiv 2510.07081)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from samplers.contract.data import Decision, PolicyError, Prediction, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import commit, dilate


@dataclass(frozen=True)
class LocalLeap(Policy):
    """Commit confident anchors, and their neighbours under a relaxed threshold.

    Anchors are this forward's open cells with ``confidence >= anchor_threshold``; within ``radius`` of one,
    ``relaxed_threshold`` is enough.  One pass: a relaxed neighbour is no anchor.  Committed cells are none either, so
    a neighbourhood lives for one forward, and blocks cut it.  Radius 0 is plain threshold decoding.

    Args:
        anchor_threshold, relaxed_threshold, radius: kappa, tau and W; the paper's for LLaDA (Dream: 0.9, 0.8, 4).
        inverted: allow ``relaxed_threshold > anchor_threshold``, which the released code does not refuse: cells near
            an anchor, and anchors themselves, are then harder to commit.
    """

    anchor_threshold: float = bounded(0.9, above=0, note="the paper's: 0.9")
    relaxed_threshold: float = bounded(0.75, above=0, note="the paper's: 0.75")
    radius: int = bounded(4, 0, note="cells; the paper uses 4")
    inverted: bool = False

    def __post_init__(self) -> None:
        if self.relaxed_threshold > self.anchor_threshold and not self.inverted:
            raise PolicyError(
                f"relaxed_threshold {self.relaxed_threshold} is above anchor_threshold {self.anchor_threshold}, which "
                "would make cells near anchors harder to commit; give at most the anchor_threshold."
            )

    def decide(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Decision, Memory]:  # noqa: D102
        anchors = prediction.open & (prediction.confidence >= self.anchor_threshold)
        near = dilate(anchors, self.radius)
        bar = torch.where(near, self.relaxed_threshold, self.anchor_threshold)
        return commit(prediction.confidence >= bar, prediction), memory
