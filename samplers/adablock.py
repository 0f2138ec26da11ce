"""AdaBlock-dLLM: end blocks where the model expects a line to end (arXiv 2509.26432)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from samplers.contract.data import PolicyError, Prediction, Setting, View
from samplers.contract.fields import bounded
from samplers.contract.memory import Memory
from samplers.contract.policy import Policy
from samplers.contract.select import best


@dataclass(frozen=True)
class AdaBlock(Policy):
    """Set each block's length on its opening forward; any decider then fills it.

    Among the masks of the next ``window`` of the budget, take the predicted delimiter with the highest confidence.
    If that reaches ``delimiter_threshold``, the block ends with it; otherwise it has ``default_length`` cells.
    The window is a share of the whole budget, as in the released code (the paper's notes say: of the position).

    Args:
        delimiters: tokens that end a line, by id or by text of one token; default the tokenizer's own (LLaDA: the
            newline; Dream: the list of its published configuration).
        delimiter_threshold: tau_D; the paper's for LLaDA (Dream: 0.5). Infinity gives blocks of ``default_length``.
        default_length: B0; default the configured block length (itself 32 unless set).
        window: share of the budget to look ahead.
    """

    delimiters: tuple[int | str, ...] = ()
    delimiter_threshold: float = bounded(0.3, 0, note="LLaDA: 0.3", infinity=True)
    default_length: int | None = bounded(None, 1)
    window: float = bounded(0.25, 0, 1, note="a share of the budget; the paper uses 0.25")

    def bind(self, setting: Setting) -> AdaBlock:
        """Turn delimiters into ids, and settle the default length."""
        ids = [i for d in self.delimiters or setting.delimiter_ids for i in _ids(d, setting)]
        if not ids and self.delimiter_threshold <= 1:
            raise PolicyError(
                "AdaBlock found no one-token newline in this model's tokenizer; "
                "give delimiters, by id or text, such as delimiters=198."
            )
        length = self.default_length if self.default_length is not None else setting.block_length
        return replace(self, delimiters=tuple(ids), default_length=length)

    def block_length(self, view: View, prediction: Prediction, memory: Memory) -> Tensor:  # noqa: D102
        left = view.length - view.start
        window = torch.minimum((view.budget * self.window).long(), left)
        ahead = (view.index >= view.start[:, None]) & (view.index < (view.start + window)[:, None])
        ids = torch.tensor(self.delimiters, dtype=torch.long, device=view.tokens.device)
        ends = ahead & view.masked & prediction.predicted & torch.isin(prediction.token, ids)
        surest = best(prediction.confidence, ends)
        sure = (surest & (prediction.confidence >= self.delimiter_threshold)).any(-1)
        default = left if self.default_length is None else left.clamp(max=self.default_length)
        return torch.where(sure, surest.to(torch.uint8).argmax(-1) - view.start + 1, default)


def _ids(delimiter: int | str, setting: Setting) -> list[int]:
    """The id of one delimiter, given as an id or as text."""
    if isinstance(delimiter, str):
        if setting.token_ids is None:
            raise PolicyError(f"the model has no tokenizer to look up delimiter {delimiter!r}; give its id.")
        ids = setting.token_ids(delimiter)
        if len(ids) != 1:
            raise PolicyError(f"delimiter {delimiter!r} is {len(ids)} tokens; give text of one token, or ids.")
        return ids
    if not 0 <= delimiter < setting.vocab_size:
        raise PolicyError(
            f"delimiter id {delimiter} is not in the vocabulary 0..{setting.vocab_size - 1}; give others."
        )
    return [delimiter]


def volatility_band(prediction: Prediction, view: View, high: float = 0.8, low: float = 0.1) -> Tensor:
    """Bool ``[B, G]``: masks whose confidence lies between the low floor and the confident plateau.

    What AdaBlock is about (paper, section 3): beside decided text confidence stands on a plateau above ``high``, far
    from it on a floor below ``low``; in between it fluctuates, over a stretch that a fixed block length cuts blindly.
    The rule never computes it; it is here to be looked at.  Needs a prediction that covers the cells of interest
    (an opening forward under AdaBlock covers all masks).
    """
    if not 0 <= low <= high <= 1:
        raise PolicyError(f"the band is low={low} to high={high}; give 0 <= low <= high <= 1.")
    confidence = prediction.confidence
    return view.masked & prediction.predicted & (confidence >= low) & (confidence < high)
