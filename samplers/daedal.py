"""DAEDAL: the answer's length is found while it is decoded (arXiv 2508.00819)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samplers.contract.data import Decision, Insertion, PolicyError, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.select import best


@dataclass(frozen=True)
class Length:
    """What Daedal remembers, per row ``[B]``.

    Attributes:
        growing: bool, stage 1 is not over. ``cut``: bool, another part has cut the row: it grows no more.
        cells: long, the row's length as the last forward left it.
        sure: fp32, the confidence in the text's end at the last forward that covered it.
    """

    growing: Tensor
    cut: Tensor
    cells: Tensor
    sure: Tensor


@dataclass(frozen=True)
class Daedal(Policy):
    """Begin short, and give the answer room while the end of the text is not in sight; goes with any decider.

    The confidence in the end is the mean probability of the last ``window`` end-of-text proposals of the row, decided
    cells too; fewer count as zeros.  Stage 1 decides nothing: while the confidence is below ``enough``, ``factor``
    masks are added at the end and the row is forwarded again; then half a window of end-of-text tokens is.  Stage 2
    decodes: at each forward with a confidence below ``expand_below``, the block's least confident mask that was not
    committed, if below ``low``, becomes ``factor`` masks.  ``max_new_tokens`` is the most a row may have.

    ``Daedal() | Threshold(0.9)`` is the published policy.  Over a cache, stage 1 forwards whole rows; what an
    insertion moves is forwarded again; where a forward does not cover the row's end, the last confidence counts.

    Args:
        initial_length: cells at the beginning.
        factor: masks added at a time, and masks that an expanded one becomes.
        window: end-of-text proposals that the confidence is taken over.
        enough: the confidence that ends stage 1.
        expand_below: the confidence from which on nothing is expanded.
        low: a mask is expanded if its own confidence is below this.
    """

    initial_length: int = bounded(64, 1)
    factor: int = bounded(8, 1)
    window: int = bounded(32, 1)
    enough: float = bounded(0.5, 0)
    expand_below: float = bounded(0.9, 0)
    low: float = bounded(0.1, 0)
    remembers = "rows"
    scope = Scope.ALL

    def bind(self, setting: Setting) -> Daedal:  # noqa: D102
        if not setting.eos_ids:
            raise PolicyError(
                "Daedal looks for the end of the text, but the model has no end-of-text id; leave it out."
            )
        if setting.horizon is not None:
            raise PolicyError(
                "Daedal looks for the end of the text in the whole row, but this block-causal model predicts only its "
                "open block; leave it out."
            )
        if setting.max_new_tokens is None:
            raise PolicyError("Daedal chooses the answer's length, but infilling has it given; leave one of them out.")
        return self

    @property
    def starts(self) -> int:  # noqa: D102
        return self.initial_length

    def begin(self, view: View) -> Length:  # noqa: D102
        yes = torch.ones_like(view.start, dtype=torch.bool)
        return Length(yes, ~yes, view.length, torch.zeros(yes.shape, device=yes.device))

    def finish(  # noqa: D102
        self, view: View, prediction: Prediction, decision: Decision, memory: Length
    ) -> tuple[Decision, Memory]:
        ends = prediction.predicted & view.is_eos(prediction.token)
        last = ends & (ends.flip(-1).cumsum(-1).flip(-1) <= self.window)
        seen = prediction.predicted.gather(1, view.length[:, None] - 1)[:, 0]
        sure = torch.where(seen, (prediction.confidence * last).sum(-1) / self.window, memory.sure)

        cut = memory.cut | (view.length < memory.cells)
        room = (view.length < view.budget) & ~cut
        growing = memory.growing & ~cut
        if decision.stop is not None:
            growing = growing & ~decision.stop
        more = growing & room & (sure < self.enough)

        doubted = (
            view.open & view.in_block & prediction.predicted & ~decision.write & (prediction.confidence < self.low)
        )
        cell = best(-prediction.confidence, doubted)
        expand = cell.any(-1) & ~growing & room & (sure < self.expand_below)
        at = torch.where(expand, cell.to(torch.uint8).argmax(-1), view.length)
        count = torch.where(more, self.factor, self.window // 2) * growing + (self.factor - 1) * expand
        token = torch.where(growing & ~more, view.eos_ids[0], view.mask_id)
        count = torch.minimum(count * room, view.budget - at)

        hold = growing if decision.hold is None else growing | decision.hold
        decision = replace(
            decision,
            write=decision.write & ~growing[:, None],
            hold=hold,
            insert=Insertion(at, count, token),
            reopen=growing,
        )
        cells = torch.minimum(view.length + count, view.budget)
        return decision, Length(more, cut, cells, sure)
