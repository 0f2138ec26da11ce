"""FreeDave: lossless parallel decoding by drafting and verifying with the model itself (arXiv 2510.00294)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from samplers.contract.data import Decision, PolicyError, Prediction, Query, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy, Scope
from samplers.freedave.budget import Budget, RowCosts, linear
from samplers.freedave.chain import follow
from samplers.freedave.drafts import Drafts, in_line
from samplers.freedave.stochastic import Order, StochasticFreeDave
from samplers.threshold import Threshold
from samplers.topk import TopK


@dataclass(frozen=True)
class FreeDave(Policy):
    """Decode exactly as ``step`` does, forward for forward, in fewer forwards.

    A forward predicts every masked cell, but ``step`` uses few of the answers.  The others make drafts: the canvases
    that ``step`` would reach if the model did not change its mind.  The next forward predicts the canvas and its
    drafts side by side.  As long as the step taken on one of them leads to the next, the chain goes on; the last
    canvas of the chain takes its step too.  Tokens and order of commits are those of ``step`` under the same cache,
    also beside parts that stop or cut rows (but a step with a memory, such as CCD, may differ behind a cut).

    At a temperature above 0 the step is one cell per forward, drawn from the model's distribution, and so is the
    outcome (:class:`~samplers.freedave.stochastic.StochasticFreeDave`).

    Args:
        step: the rule to accelerate, any deterministic decider that takes nothing back. In the paper TopK(k=1).
        drafts: canvases per forward, the current one included (the paper's d: 4 for LLaDA, 8 for Dream); 1 = none.
            ``"auto"``: per row and forward the number with the least expected cost per step, from how the row's drafts
            have fared (:class:`~samplers.freedave.budget.Budget`); the outcome is the same, the forwards are not.
        order: ``"confidence"`` = as the step ranks cells, or ``"left_to_right"``.
        cross_block: let drafts run into the next blocks. Sound only without a cache.
        drafts_at_most: the largest number that ``"auto"`` chooses.
        row_cost: what ``"auto"`` takes a further canvas to cost, as a share of a forward with one; ``None`` = as
            measured on this machine, once, before the first such run.
    """

    step: Policy = TopK()
    drafts: int | Literal["auto"] = bounded(4, 1, note="1 = nothing is drafted")
    order: Order = "confidence"
    cross_block: bool = False
    drafts_at_most: int = bounded(8, 1)
    row_cost: float | None = bounded(None, 0, note="None measures it")
    costs: RowCosts | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        reason = _unfit(self.step)
        if reason:
            raise PolicyError(f"{type(self).__name__} cannot replay this step: {reason}; use step=TopK().")
        if self.order == "left_to_right" and not isinstance(self.step, TopK):
            raise PolicyError(
                f"order=left_to_right says how TopK ranks cells, but the step is {type(self.step).__name__}; "
                "use step=TopK() or order=confidence."
            )

    def bind(self, setting: Setting) -> Policy:  # noqa: D102
        if self.cross_block and setting.cache != "none":
            raise PolicyError(
                f"cross_block drafts cells whose context cache={setting.cache!r} has not refreshed yet; "
                "use cache='none' or cross_block=False."
            )
        if self.cross_block and setting.measures is not None:
            raise PolicyError(
                f"{setting.measures} measures blocks on a plain opening forward, but {type(self).__name__} drafts "
                f"across blocks; use {type(self).__name__} inside blocks (cross_block=False)."
            )
        if self.cross_block and setting.horizon is not None:
            raise PolicyError(
                "cross_block drafts cells of later blocks, which this block-causal model does not predict; "
                "use cross_block=False."
            )
        if setting.temperature > 0:
            if self.step != TopK():
                raise PolicyError(
                    f"at temperature {setting.temperature:g} {type(self).__name__} verifies one drawn cell at a time; "
                    "use step=TopK(k=1) or temperature=0."
                )
            return StochasticFreeDave(self._budget(setting), self.order, self.cross_block)
        step = replace(self.step, score="position") if self.order == "left_to_right" else self.step  # type: ignore
        return replace(self, step=step.bind(setting), costs=self._budget(setting).costs)

    @property
    def most(self) -> int:
        """The most canvases that a forward carries per row."""
        return self.drafts_at_most if self.drafts == "auto" else self.drafts

    def _budget(self, setting: Setting) -> Budget:
        if self.drafts != "auto":
            return Budget(self.drafts)
        costs = setting.row_costs if self.row_cost is None else linear(self.row_cost)
        if costs is None:
            raise PolicyError("drafts=auto has nothing that measures what rows cost here; give row_cost, such as 0.5.")
        return Budget(self.drafts_at_most, costs)

    @property
    def needs(self) -> frozenset[str]:  # noqa: D102
        return self.step.needs

    @property
    def scope(self) -> Scope:  # noqa: D102
        if not self.cross_block:
            return self.step.scope
        return Scope.ALL if Scope.BLOCK in self.step.scope else Scope.REST

    @property
    def widest_block(self) -> int | None:  # noqa: D102
        return self.step.widest_block

    def begin(self, view: View) -> Drafts:  # noqa: D102
        return Drafts.none(view, Budget(self.most).begin(view), self.step.begin(view))

    def query(self, view: View, memory: Drafts) -> Query | None:  # noqa: D102
        return memory.query(view, Budget(self.most, self.costs).choose(memory.seen), self.cross_block)

    def decide(self, view: View, prediction: Prediction, memory: Drafts) -> tuple[Decision, Memory]:  # noqa: D102
        canvases = view.tokens[:, None] if prediction.canvases is None else prediction.canvases
        now = memory.resume(view, self.cross_block)
        part = self.unjudged(canvases, view.mask_id)
        chain = follow(self.step, canvases, now, prediction, memory.own, self.cross_block, part)
        seen = Budget(self.most, self.costs).learn(memory.seen, prediction, chain.last)
        drafts = self.draft(view, chain.now, prediction.pick(chain.last), seen, chain.memory)
        write, order = chain.turn >= 0, 4 * chain.turn + chain.surest.atan()  # by branch, then as the step says
        decision = Decision(
            write,
            chain.now.tokens,
            order=order,
            confidence=chain.confidence,
            turn=chain.turn,
            accepted=write if chain.accepted is None else chain.accepted & write,
        )
        return decision, drafts

    def unjudged(self, canvases: Tensor, mask_id: int) -> Tensor | None:
        """Bool ``[B, K, G]``: cells of a draft that need not agree with where a step leads; ``None`` = all must."""
        return None

    def draft(self, view: View, now: View, said: Prediction, seen: Tensor, rule: Memory) -> Drafts:
        """Go on with the step from ``now``, as if the model went on saying what it ``said``."""
        inside = said.predicted & (self.cross_block | (view.index < view.end[:, None]))
        step = self.step
        if isinstance(step, TopK) and step.steps is None and (step.k == 1 or not self.cross_block):
            # The same as below, without taking the steps one by one.
            line = in_line(now, step.ranking(now, said), inside & now.masked, self.cross_block)
            rounds = (line if step.k == 1 else line // step.k) + 1
            values, rounds = said.token, rounds.masked_fill_(line == line.shape[1], line.shape[1])
        else:
            values, rounds = now.tokens, torch.full_like(now.tokens, now.tokens.shape[1])
            ahead, learned = now, rule
            for number in range(1, self.most):
                chosen, learned = step.decide(ahead, replace(said, open=inside & ahead.open), learned)
                values = torch.where(chosen.write, chosen.values, values)
                rounds = torch.where(chosen.write, number, rounds)
                ahead = ahead.after(chosen.write, chosen.values)
                ahead = ahead.moved() if self.cross_block else ahead
        rounds = rounds.masked_fill(inside & ~now.masked, 0)
        return Drafts(values, rounds, now.step, now.block_step, seen, rule)


@dataclass(frozen=True)
class FreeDavePlus(FreeDave):
    """FreeDave++, for a threshold as the step. Not lossless: the outcome may differ from that of the threshold.

    Drafts add one cell each, the most confident first, and a draft is accepted if the step writes all of it, even if
    the step writes more: the chain then goes on from less than the threshold would have committed.

    Args:
        step: the threshold rule; 0.95 for LLaDA and Dream, 0.9 for TraDo.
        drafts, order, cross_block: as in :class:`FreeDave`.
    """

    step: Policy = Threshold(0.95)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.drafts == "auto":
            raise PolicyError("what FreeDavePlus decodes depends on the number of drafts; give one, such as drafts=4.")

    def unjudged(self, canvases: Tensor, mask_id: int) -> Tensor:  # noqa: D102
        return canvases == mask_id

    def draft(  # noqa: D102
        self, view: View, now: View, said: Prediction, seen: Tensor, rule: Memory
    ) -> Drafts:
        # Also what has just been committed is in line, in case another part overrules it.
        inside = said.predicted & (self.cross_block | (view.index < view.end[:, None]))
        rounds = in_line(view, said.confidence, inside, self.cross_block)
        return Drafts(said.token, rounds, now.step, now.block_step, seen, rule)


def _unfit(step: Policy) -> str | None:
    """Why a part cannot be replayed on branches, or ``None``."""
    if not isinstance(step, Policy):
        return f"{step!r} is no policy"
    name = type(step).__name__
    extra = [role for role in step.roles if role not in ("begin", "decide")]
    if "decide" not in step.roles:
        return f"{name} decides nothing"
    if extra:
        return f"{name} also plays {' and '.join(extra)}, which belongs beside FreeDave, not in it"
    if step.recalls:
        return f"{name} recalls earlier forwards, which drafts skip"
    if step.revises or getattr(step, "spend", False) or getattr(step, "schedule", None) == "time":
        return f"{name} takes cells back, or forwards without committing any"
    if getattr(step, "score", None) == "random" or getattr(step, "origin", False):
        return f"{name} ranks cells at random"
    inner = getattr(step, "step", None)
    return _unfit(inner) if isinstance(inner, Policy) else None
