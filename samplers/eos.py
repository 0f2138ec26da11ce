"""What to do about the end-of-text token: stop early (EosStop), or decide it last (DeferEos)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch

from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy


@dataclass(frozen=True)
class EosStop(Policy):
    """Stop a row once its text has ended; what is still masked is filled with that end-of-text token.

    Args:
        when: ``"settled"``: an end-of-text token is committed and nothing before it is masked. ``"block"``: the
            current block is complete and holds one (the ``early_stop`` option of Fast-dLLM's forks and LocalLeap).
    """

    when: Literal["settled", "block"] = "settled"

    def bind(self, setting: Setting) -> EosStop:  # noqa: D102
        if not setting.eos_ids:
            raise PolicyError("EosStop needs an end-of-text id, but the model has none; give it one or drop EosStop.")
        return self

    def finish(  # noqa: D102
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        tokens = torch.where(decision.write, decision.values, view.tokens)
        masked = (tokens == view.mask_id) & view.valid
        ends = view.can_end(tokens)
        if self.when == "settled":
            ended = ends & (masked.cumsum(-1) == 0)
        else:
            block = view.in_block
            ended = ends & block & ~(masked & block).any(-1, keepdim=True)
            if decision.hold is not None:  # the rule is not done with the block
                ended = ended & ~decision.hold[:, None]
        done = ended.any(-1)
        fill = masked & done[:, None]
        first = tokens.gather(1, ended.to(torch.uint8).argmax(-1, keepdim=True))
        values = torch.where(fill, first, decision.values)
        stop = done if decision.stop is None else done | decision.stop
        return replace(decision, write=decision.write | fill, values=values, stop=stop), memory


@dataclass(frozen=True)
class DeferEos(Policy):
    """Decide end-of-text tokens last: their confidence becomes 0 and the others' is renormalised without them.

    LLaDA ``generate.py``'s ``confidence_eos_eot_inf``: the proposal stays, only its rank changes.

    Args:
        ids: the tokens to defer; default the model's end-of-text ids.
    """

    ids: tuple[int, ...] = ()
    needs = frozenset({"logits"})

    def bind(self, setting: Setting) -> DeferEos:  # noqa: D102
        ids = self.ids or setting.eos_ids
        if not ids:
            raise PolicyError("DeferEos needs the ids to defer, but the model has no end-of-text id; give ids.")
        wrong = [i for i in ids if not 0 <= i < setting.vocab_size]
        if wrong:
            raise PolicyError(f"ids holds {wrong[0]}, but the vocabulary is 0..{setting.vocab_size - 1}; give others.")
        return replace(self, ids=ids)

    def rescore(self, view: View, prediction: Prediction, memory: Memory) -> tuple[Prediction, Memory]:  # noqa: D102
        logits, whole = prediction.logits, prediction.logsumexp
        assert logits is not None and whole is not None and prediction.cells is not None
        ids = torch.tensor(self.ids, device=logits.device)
        token = prediction.token.view(-1)[prediction.cells]
        chance = (logits.gather(1, token[:, None])[:, 0] - whole).exp()
        others = 1 - (logits.index_select(1, ids) - whole[:, None]).exp().sum(-1)
        deferred = torch.isin(token, ids)
        confidence = (chance / others).masked_fill_(deferred, 0.0)
        # Little is left beside them, and a sampled token is part of it: a difference of near numbers will not do.
        close = ((others < 0.1) & ~deferred).nonzero()[:, 0]
        if len(close):
            rest = logits[close].index_fill_(1, ids, -torch.inf)
            confidence[close] = (rest.gather(1, token[close, None])[:, 0] - rest.logsumexp(-1)).exp()
        return replace(prediction, confidence=prediction.scatter(confidence)), memory
