"""EoTP: cut a row where the model expects its text to end (Learn2PD, arXiv 2509.25188, sec. 4.3)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.select import best


@dataclass(frozen=True)
class EoTP(Policy):
    """Drop every cell behind a predicted end-of-text token; the row is shorter from then on.

    The two rules of the released code, one token being enough:

    1. some cell that the decider accepted is an end-of-text token: cut behind the leftmost one;
    2. otherwise, some masked cell is predicted to be one: cut behind the most confident of these, although it is not
       decided yet (it may still become something else).

    The most confident cell, which is committed anyway so that decoding moves, counts as accepted only if the decider
    chose it.  ``Threshold(2) | EoTP()`` is the reference without a filter.

    Args:
        guess: apply rule 2. ``False`` is the paper's text: cut only behind end-of-text tokens that are committed.
        reach: which masks rule 2 looks at: the ``"block"``'s, or all of the ``"rest"``; ``"auto"`` = as the reference,
            rest without a cache and block with one. Under the dual cache only the block can be read.
        ids: end-of-text tokens; default the model's.
    """

    guess: bool = True
    reach: Literal["auto", "block", "rest"] = "auto"
    ids: tuple[int, ...] = ()

    @property
    def scope(self) -> Scope:  # noqa: D102
        return Scope.REST if self.guess and self.reach == "rest" else Scope.OPEN

    def bind(self, setting: Setting) -> EoTP:  # noqa: D102
        ids = self.ids or setting.eos_ids
        if not ids:
            raise PolicyError("EoTP needs an end-of-text id, but the model has none; give ids, or drop EoTP.")
        if setting.horizon is not None and self.guess:
            raise PolicyError(
                "EoTP guesses where the text ends from cells behind the block, which this block-causal model does not "
                "predict; use guess=False, or leave it out."
            )
        if setting.max_new_tokens is None:
            raise PolicyError("EoTP would cut away given tokens when infilling; drop EoTP or infill=True.")
        if self.reach == "rest" and setting.cache == "dual":
            raise PolicyError("EoTP cannot read the rest of the row under the dual cache; use reach=block.")
        reach = self.reach if self.reach != "auto" else "rest" if setting.cache == "none" else "block"
        return replace(self, ids=ids, reach=reach)

    def finish(  # noqa: D102
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        ends = decision.write & self._is_end(decision.values)
        if self.guess and decision.accepted is not None:
            ends = ends & decision.accepted
        cut = ends.to(torch.uint8).argmax(-1)
        known = ends.any(-1)
        if self.guess:
            seen = prediction.open if self.reach == "block" else view.masked & prediction.predicted
            likely = best(prediction.confidence, seen & self._is_end(prediction.token))
            cut = torch.where(known, cut, likely.to(torch.uint8).argmax(-1))
            known = known | likely.any(-1)
        length = torch.where(known, cut + 1, view.length)
        if decision.length is not None:
            length = torch.minimum(length, decision.length)
        return replace(decision, length=length), memory

    def _is_end(self, tokens: Tensor) -> Tensor:
        return torch.isin(tokens, torch.tensor(self.ids, device=tokens.device))
