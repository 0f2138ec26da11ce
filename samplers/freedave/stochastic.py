"""FreeDave at a temperature: drafts drawn from one forward, accepted so that the outcome keeps its distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, Prediction, Query, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.contract.select import best
from samplers.freedave.budget import Budget
from samplers.freedave.drafts import Drafts, in_line

Order = Literal["confidence", "left_to_right"]


@dataclass(frozen=True)
class StochasticFreeDave(Policy):
    """Draw one cell after the other from the model's distribution, verifying several per forward.

    What is kept exactly is the distribution of this one-cell-per-forward sampler: take the first masked cell in
    ``order``, a rule of the canvas alone, and draw its token from the model's distribution q there.  ``drafts=1`` is
    that sampler.

    With more, the forward that predicted a canvas also drew tokens for the cells it did not take, each from its p:
    drafts.  The next forward predicts the canvas with the first 0, 1, 2, ... of them filled in.  Where the rule names
    the cell that the next draft fills, the draft d is accepted with probability min(1, q(d)/p(d)), else the token is
    drawn from the part of q above p, norm(max(0, q - p)) (Leviathan et al., arXiv 2211.17192): the token then has
    distribution q whatever p is.  A refusal, or a rule that names another cell (its token is drawn from q), ends the
    chain.  Which cell is named, and the draft's place in line, never depend on the drafts' tokens still to be judged,
    so every token follows q given the canvas before it.

    Made by :class:`~samplers.freedave.freedave.FreeDave` when the temperature is above 0.

    Args:
        budget: how many canvases a forward carries.
        order: ``"confidence"`` = the cell whose likeliest token is likeliest, or ``"left_to_right"``.
        cross_block: let drafts run into the next blocks.
    """

    budget: Budget = Budget(4)
    order: Order = "confidence"
    cross_block: bool = False
    needs = frozenset({"probs"})

    @property
    def scope(self) -> Scope:  # noqa: D102
        return Scope.REST if self.cross_block else Scope.OPEN

    def begin(self, view: View) -> Drafts:
        """The drafts and, fp32 ``[B, K, V]``, the distribution that the draft of each round was drawn from."""
        p = torch.zeros(len(view.tokens), self.budget.most, view.vocab_size, device=view.tokens.device)
        return Drafts.none(view, self.budget.begin(view), p)

    def query(self, view: View, memory: Drafts) -> Query | None:  # noqa: D102
        return memory.query(view, self.budget.choose(memory.seen), self.cross_block)

    def decide(self, view: View, prediction: Prediction, memory: Drafts) -> tuple[Decision, Memory]:  # noqa: D102
        count = prediction.branches
        canvases = view.tokens[:, None] if prediction.canvases is None else prediction.canvases
        now, luck, score = memory.resume(view, self.cross_block), view.uniform(), self.ranking(prediction)
        names = torch.arange(len(view.start), device=view.start.device)
        at = last = torch.zeros_like(view.start)
        turn = torch.full_like(view.tokens, -1)
        confidence = prediction.confidence[::count]
        for branch in range(count):
            here = at == branch
            if not bool(here.any()):
                break
            rows = slice(branch, None, count)
            open_ = prediction.predicted[rows] & now.open if self.cross_block else prediction.open[rows]
            cell = best(score[rows], open_) & here[:, None]
            place = cell.to(torch.uint8).argmax(-1)
            q = _at(prediction, names * count + branch, place)
            token, accepted = prediction.token[rows][names, place], torch.zeros_like(here)
            following = branch + 1
            if following < count:
                judged = cell.any(-1) & (cell == (canvases[:, following] != canvases[:, branch])).all(-1)
                draft = canvases[names, following, place]
                judged = judged & (draft >= 0)  # not beyond the row's own number of canvases
                draft = draft.clamp(min=0)
                p = memory.own[names, memory.rounds[names, place].clamp(max=self.budget.most) - 1]
                # The n-th draft is judged by the row's n-th number; the 0th is for its only refusal.
                n = min(following, luck.shape[1] - 1)
                accepted = judged & (luck[:, n] * p[names, draft] < q[names, draft])
                instead = torch.where(accepted, draft, _draw((q - p).clamp(min=0), luck[:, 0]))
                token = torch.where(judged, instead, token)
            confidence = torch.where(cell, q[names, token][:, None], confidence)
            turn, last = turn.masked_fill(cell, branch), torch.where(here, branch, last)
            now = now.after(cell, token[:, None].expand_as(cell), here)
            now = now.moved() if self.cross_block else now
            at = torch.where(here, torch.where(accepted, following, -1), at)
        decision = Decision(turn >= 0, now.tokens, order=turn.double(), confidence=confidence, turn=turn)
        seen = self.budget.learn(memory.seen, prediction, last)
        return decision, self.draft(view, now, prediction, names * count + last, score, seen)

    def ranking(self, prediction: Prediction) -> Tensor:
        """Fp32 ``[B, G]``: what the order looks at, larger is earlier; nothing that was drawn."""
        if self.order == "left_to_right":
            index = torch.arange(prediction.token.shape[1], device=prediction.token.device)
            return -index.float().expand(prediction.token.shape)
        assert prediction.probs is not None
        return prediction.scatter(prediction.probs.amax(-1))

    def draft(
        self, view: View, now: View, prediction: Prediction, last: Tensor, score: Tensor, seen: Tensor
    ) -> Drafts:
        """What the branches ``last`` drew for the cells next in line, and from which distributions."""
        width = view.tokens.shape[1]
        where = prediction.predicted[last] & now.masked & (self.cross_block | (view.index < view.end[:, None]))
        line = in_line(now, score[last], where, self.cross_block)
        rounds = (line + 1).masked_fill(line >= min(self.budget.most - 1, width), width)
        row, cell = (rounds < width).nonzero(as_tuple=True)
        p = torch.zeros(len(rounds), self.budget.most, view.vocab_size, device=rounds.device)
        p[row, rounds[row, cell] - 1] = _at(prediction, last[row], cell)
        return Drafts(prediction.token[last], rounds, now.step, now.block_step, seen, p)


def _at(said: Prediction, row: Tensor, cell: Tensor) -> Tensor:
    """Fp32 ``[N, V]``: the distributions at ``N`` cells; junk where nothing was predicted."""
    assert said.probs is not None and said.cells is not None
    if not len(said.cells):  # every branch was complete: nothing was scored
        return said.probs.new_zeros(len(row), said.probs.shape[1])
    flat = row * said.token.shape[1] + cell
    return said.probs[torch.searchsorted(said.cells, flat).clamp(max=len(said.cells) - 1)]


def _draw(weights: Tensor, luck: Tensor) -> Tensor:
    """Long ``[B]``: a token per row in proportion to ``weights`` ``[B, V]``, by the numbers ``luck`` from [0, 1)."""
    reach = weights.double().cumsum(-1)
    token = (reach <= luck[:, None] * reach[:, -1:]).sum(-1).clamp(max=weights.shape[1] - 1)
    # Rounding must not land on a token of weight 0.
    possible = weights.gather(1, token[:, None])[:, 0] > 0
    return torch.where(possible, token, weights.argmax(-1))
