"""Early exit: stop a row when the logit margins of its answer say that nothing will change any more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope


def check_reach(name: str, setting: Setting, stale: bool) -> None:
    """Refuse an exit, which reads every masked cell, where no forward covers them.

    Raises:
        PolicyError: a block-causal model, or the dual cache with ``stale`` off.
    """
    if setting.horizon is not None:
        raise PolicyError(
            f"{name} fills all masks of the row from one forward, but this block-causal model predicts only its open "
            "block; leave it out."
        )
    narrow = setting.block_length is not None and (
        setting.max_new_tokens is None or setting.block_length < setting.max_new_tokens
    )
    if setting.cache == "dual" and narrow and not stale:
        raise PolicyError(
            f"{name} reads every masked cell, but under cache='dual' a forward covers its block alone; "
            "use cache='prefix' or 'none', or stale=True to judge with the latest value of each cell."
        )


@dataclass(frozen=True)
class Watch:
    """What a part that waits for an exit remembers.

    Attributes:
        taken: long ``[B]``, forwards so far. ``calm``: long ``[B]``, forwards in a row that passed the gate.
        token: long ``[B, G]``, latest proposals. ``margin``: fp32 ``[B, G]``, their logit margins.
        known: bool ``[B, G]``, cells predicted at least once.
    """

    taken: Tensor
    calm: Tensor
    token: Tensor
    margin: Tensor
    known: Tensor


@dataclass(frozen=True, kw_only=True)
class MarginExit(Policy):
    """Base of SchED and Prophet: fill all masks and stop once the mean logit margin of the answer reaches a bar.

    The bar depends on the progress, the share of T forwards a row has had.  T is ``steps``, or the row's length
    budget: one cell per forward, what static decoding would need (an adaptive decider rarely gets far along it).
    Margins are looked at before the forward's own commits, whatever part decides; each row exits on its own.  A
    forward that does not cover them and every mask of the row is not judged.

    Args:
        steps: T, the forwards that progress is measured by.
        region: mean over the answer's still ``masked`` cells (released code) or over ``all`` of it (the papers' text);
            the answer is the whole row.
        max_change: the released gate: exit only if at most this share of the answer's masked cells has changed its
            proposal since the forward before; ``None`` = no gate.
        patience: how many forwards in a row must have passed the gate before the one that exits.
        min_progress: the gate also asks for this share of committed cells in the answer.
        stale: judge with the latest margin and proposal each cell ever had, so that a cache of blocks does not hide
            the rest of the row (ours, in no paper).
    """

    steps: int | None = bounded(None, 1)
    region: Literal["masked", "all"] = "masked"
    max_change: float | None = bounded(None, 0, 1)
    patience: int = bounded(0, 0)
    min_progress: float = bounded(0.0, 0, 1)
    stale: bool = False
    needs = frozenset({"logit_margin"})
    remembers = "cells"

    def __post_init__(self) -> None:
        if self.max_change is None and (self.patience or self.min_progress):
            raise PolicyError("patience and min_progress belong to the gate; give max_change too (1 lets all pass).")

    def bind(self, setting: Setting) -> Policy:  # noqa: D102
        check_reach(type(self).__name__, setting, self.stale)
        return self

    @property
    def scope(self) -> Scope:  # noqa: D102
        return Scope.REST if self.region == "masked" else Scope.ALL

    def begin(self, view: View) -> Memory:  # noqa: D102
        zeros = torch.zeros_like(view.start)
        return Watch(zeros, zeros, view.tokens, view.tokens * 0.0, torch.zeros_like(view.masked))

    def answer(self, view: View) -> Tensor:
        """Bool ``[B, G]``: the cells the exit is about."""
        return view.valid

    def watched(self, view: View) -> Tensor:
        """Bool ``[B, G]``: those of the answer whose margins count."""
        return self.answer(view) & view.masked if self.region == "masked" else self.answer(view)

    def bar(self, taken: Tensor, total: Tensor) -> Tensor:
        """Fp64 ``[B]``: the margin to reach at forward ``taken`` (1, 2, ...) of ``total``, long ``[B]`` each."""
        raise NotImplementedError

    def finish(  # noqa: D102
        self, view: View, prediction: Prediction, decision: Decision, memory: Watch
    ) -> tuple[Decision, Memory]:
        assert prediction.logit_margin is not None
        fresh = prediction.predicted
        token = torch.where(fresh, prediction.token, memory.token)
        margin = torch.where(fresh, prediction.logit_margin, memory.margin)
        known, taken = fresh | memory.known, memory.taken + 1

        watched = self.watched(view)
        needed = watched | view.masked
        judged = ~(needed & ~(known if self.stale else fresh)).any(-1)
        calm = memory.calm
        if self.max_change is not None:
            # Shares are fp32 numbers compared with Python's, as in the released code: 1 of 5 is above 0.2 by a hair.
            answer = self.answer(view)
            waiting = answer & view.masked
            changed = waiting & ((token != memory.token) | ~memory.known)
            change = (changed.sum(-1).float() / waiting.sum(-1).clamp(min=1)).double()
            progress = 1 - (waiting.sum(-1).float() / answer.sum(-1).clamp(min=1)).double()
            passed = (change <= self.max_change) & (progress >= self.min_progress)
            calm = torch.where(judged, (calm + 1) * passed, calm)
            judged = judged & (calm > self.patience)
        mean = (margin * watched).sum(-1) / watched.sum(-1)  # NaN, never an exit, where nothing is watched
        total = view.budget if self.steps is None else torch.full_like(view.budget, self.steps)
        leaves = judged & (mean >= self.bar(taken, total))

        fill = view.masked & leaves[:, None]
        stop = leaves if decision.stop is None else leaves | decision.stop
        done = replace(
            decision, write=decision.write | fill, values=torch.where(fill, token, decision.values), stop=stop
        )
        return done, Watch(taken, calm, token, margin, known)
