"""Quirks of published reference code, as parts that exist for reproduction only: nobody should decode with them."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.models import NativeModel
from samplers.contract.data import Decision, PolicyError, Prediction, Setting, View
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import rank
from samplers.factor import Factor
from samplers.freedave import FreeDavePlus
from samplers.freedave.drafts import Drafts


@dataclass(frozen=True)
class ExtraForward(Policy):
    """Reproduction only: the forward that Fast-dLLM's first release wastes on a block its opening completed.

    Its cached loops look for masks only after their second forward (NVlabs/Fast-dLLM, June 2025).  The tokens are the
    same; every such block costs one forward more.
    """

    def finish(  # noqa: D102
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        hold = view.block_step == 0
        return replace(decision, hold=hold if decision.hold is None else hold | decision.hold), memory


@dataclass(frozen=True)
class BlindFirst(Policy):
    """Reproduction only: Fast-dLLM's Dream loop, whose opening forward commits the block's first cell and no other.

    Dream scores a cell from the slot before it, which a window that begins at the block does not forward; the
    reference therefore takes that cell by argmax, whatever its confidence (``generation_utils_block.py``).  Here the
    window begins one slot early instead, so that every policy does without this.
    """

    def bind(self, setting: Setting) -> BlindFirst:  # noqa: D102
        if setting.cache == "none" or not setting.shift:
            raise PolicyError(
                "BlindFirst reproduces a cached loop of a shifted model (Dream); "
                "without a cache or a shift drop it from the policy."
            )
        return self

    def finish(  # noqa: D102
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        opening = view.block_step == 0
        if decision.stop is not None:  # the row has ended, all its masks are filled
            opening = opening & ~decision.stop
        opening = opening[:, None]
        first = prediction.open & (view.index == view.start[:, None])
        write = torch.where(opening, first, decision.write)
        return replace(decision, write=write, values=torch.where(opening, prediction.token, decision.values)), memory


@dataclass(frozen=True)
class ThresholdQuota(Policy):
    """Reproduction only: ``alg="confidence_threshold"`` of Fast-dLLM's uncached Dream loop (``generation_utils.py``).

    Each of ``steps`` forwards may commit masks/steps cells plus what earlier forwards left of theirs, and of these
    only the ones that reach ``threshold`` (and the best one).  Each cell that the last forward leaves adds a forward,
    spent even if nothing is left to decide.
    """

    steps: int = 1
    threshold: float = 0.9

    @property
    def waits(self) -> int:  # noqa: D102
        return self.steps

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise PolicyError(f"steps is {self.steps}; give a whole number from 1 up.")
        if not self.threshold > 0:
            raise PolicyError(f"threshold is {self.threshold}; give a number above 0.")

    def begin(self, view: View) -> Memory:
        """Long ``[B]`` twice: masks at the block's opening, forwards it will be given."""
        return torch.zeros_like(view.start), torch.full_like(view.start, self.steps)

    def decide(  # noqa: D102
        self, view: View, prediction: Prediction, memory: tuple[Tensor, Tensor]
    ) -> tuple[Decision, Memory]:
        left, opening = prediction.open.sum(-1), view.block_step == 0
        total = torch.where(opening, left, memory[0])
        steps = torch.where(opening, self.steps, memory[1])
        allowed = total // self.steps * (view.block_step + 1) - (total - left)
        allowed = torch.where(view.block_step + 1 >= self.steps, left, allowed)
        places = rank(prediction.confidence, prediction.open)
        quota = places < allowed[:, None]
        write = quota & ((prediction.confidence >= self.threshold) | (places == 0))
        missed = (quota & ~write).sum(-1)
        steps = torch.where(view.block_step + 1 >= steps, steps + missed, steps)
        hold = (view.block_step + 1 < steps) | (~write.any(-1) & (left > 0))
        return Decision(write, prediction.token, order=-prediction.confidence, hold=hold), (total, steps)


@dataclass(frozen=True)
class LastRankFactor(Factor):
    """Reproduction only: a slip of Fast-dLLM's factor rule: when only the last rank fails, it is committed too."""

    def first_failure(self, prediction: Prediction, places: Tensor) -> Tensor:  # noqa: D102
        first, last = super().first_failure(prediction, places), prediction.open.sum(-1, keepdim=True) - 1
        return first.masked_fill(first == last, places.shape[1])


@dataclass(frozen=True)
class SpendingFreeDavePlus(FreeDavePlus):
    """Reproduction only: the forward that FreeDave++'s code spends on a block its first draft completes at once."""

    def decide(self, view: View, prediction: Prediction, memory: Drafts) -> tuple[Decision, Memory]:  # noqa: D102
        decision, drafts = super().decide(view, prediction, memory)
        if decision.turn is None:
            return decision, drafts
        after = torch.where(decision.write, decision.values, view.tokens)
        canvases = view.tokens[:, None] if prediction.canvases is None else prediction.canvases
        drafted = (canvases == after[:, None]).all(-1).any(-1)
        last = decision.turn == decision.turn.amax(-1, keepdim=True)
        full = ~(view.open & (after == view.mask_id)).any(-1)
        return replace(decision, hold=full & ~drafted & ((last & decision.write).sum(-1) > 1)), drafts


class KeepsCutCache(NativeModel):
    """Reproduction only: keys behind a cut stay visible until the next block opens, as in Learn2PD's dual cache."""

    seen: Tensor

    def hidden(self, inp: ForwardInput, cells: Tensor) -> Tensor:
        """Widens what a block's forward sees to what its row's last full forward saw."""
        if inp.cache is None:
            return super().hidden(inp, cells)
        rows = torch.arange(len(inp.lengths)) if inp.rows is None else inp.rows
        whole = inp.queries == inp.lengths
        seen = torch.where(whole, inp.lengths, self.seen[rows].maximum(inp.lengths))
        self.seen = self.seen.index_copy(0, rows, seen)
        return super().hidden(replace(inp, lengths=seen, known=None), cells)


def keeping_cut_cache(model: NativeModel, rows: int = 64) -> KeepsCutCache:
    """The model with that oversight, for batches of up to ``rows``."""
    quirky = copy.copy(model)
    quirky.__class__ = KeepsCutCache
    assert isinstance(quirky, KeepsCutCache)
    quirky.seen = torch.zeros(rows, dtype=torch.long)
    return quirky
