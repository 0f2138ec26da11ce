"""CreditDecoding: a token that is proposed again and again earns credit that lifts its logit (arXiv 2510.06133)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samplers.contract.data import Decision, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy

#: When nothing reaches the threshold, cells this near the surest one go along with it, as in the released code.
NEAR = 1e-5


@dataclass(frozen=True)
class Credits:
    """The tokens that were proposed for each cell since its block opened.

    Attributes:
        tokens: long ``[B, G, K]``; -1 = none.
        amount: fp32 ``[B, G, K]``, their credit.
    """

    tokens: Tensor
    amount: Tensor


@dataclass(frozen=True)
class Credit(Policy):
    """Commit cells whose credited confidence reaches ``threshold``, or the surest ones, with their credited token.

    Each forward multiplies a block's credits by ``beta`` and gives the proposed token of each of its masks
    ``confidence ** gamma``.  Logits become ``logit + alpha ln(1 + credit)``; token and confidence are those of their
    softmax.  Credit ends with the block.

    Only tokens that were proposed have any, and the best of them is the best of all, for the one proposed now is.  So
    credit is kept for some tokens per cell, not for the whole vocabulary.

    Args:
        threshold: tau, for the credited confidence.
        alpha: how much credit lifts a logit.
        beta: share of the credit that a forward leaves.
        gamma: exponent of the confidence that is credited.
        slots: tokens per cell that may have credit, of more the least goes; default one for each forward of a block.
    """

    threshold: float = bounded(0.9, above=0, note="the released: 0.9")
    alpha: float = bounded(0.7, 0)
    beta: float = bounded(0.8, 0, 1, note="the released: 0.8")
    gamma: float = bounded(0.2, 0)
    slots: int | None = bounded(None, 1)
    needs = frozenset({"logits"})
    remembers = "cells"

    def bind(self, setting: Setting) -> Credit:  # noqa: D102
        limits = [n for n in (setting.block_length, setting.max_new_tokens) if n is not None]
        if self.slots is not None or setting.measures or not limits:
            return self
        return replace(self, slots=min(limits))

    def begin(self, view: View) -> Credits:  # noqa: D102
        rows, width = view.tokens.shape
        none = view.tokens.new_full((rows, width, width if self.slots is None else self.slots), -1)
        return Credits(none, none * 0.0)

    def decide(self, view: View, prediction: Prediction, memory: Credits) -> tuple[Decision, Memory]:  # noqa: D102
        logits, whole, cells = prediction.logits, prediction.logsumexp, prediction.cells
        assert logits is not None and whole is not None and cells is not None
        # Of the scored cells, [M] or [M, K]; a row whose block opens starts anew.
        kept = memory.tokens.shape[-1]
        step = view.block_step[cells // view.tokens.shape[1], None]
        tokens = memory.tokens.view(-1, kept)[cells].masked_fill(step == 0, -1)
        amount = memory.amount.view(-1, kept)[cells].masked_fill(step == 0, 0.0) * self.beta
        token, sure = (x.view(-1)[cells, None] for x in (prediction.token, prediction.confidence))
        known = tokens == token
        slot = torch.where(known, -1.0, amount).argmin(-1, keepdim=True)  # its own, or else an empty or the least one
        earned = amount.gather(1, slot) * known.any(-1, keepdim=True) + sure**self.gamma
        tokens, amount = tokens.scatter(1, slot, token), amount.scatter(1, slot, earned)

        clean = (logits.gather(1, tokens.clamp(min=0)) - whole[:, None]).exp().masked_fill(tokens < 0, 0.0)
        lifted = clean * (1 + amount) ** self.alpha
        most, best = (lifted / (1 + (lifted - clean).sum(-1, keepdim=True))).max(-1, keepdim=True)
        credited = prediction.scatter(most[:, 0])
        values = torch.zeros_like(prediction.token)
        values.view(-1)[cells] = tokens.gather(1, best)[:, 0]

        surest = credited.masked_fill(~prediction.open, 0.0).amax(-1, keepdim=True)
        write = prediction.open & (credited >= (surest - NEAR).clamp(max=self.threshold))
        held = Credits(memory.tokens.clone(), memory.amount.clone())
        held.tokens.view(-1, kept)[cells], held.amount.view(-1, kept)[cells] = tokens, amount
        confidence = prediction.scatter(clean.gather(1, best)[:, 0])
        return Decision(write, values, order=-credited, confidence=confidence), held
