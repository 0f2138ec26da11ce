"""Stop a row at a piece of text, such as ``"Question:"``: the stop strings of evaluation harnesses and servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from samplers import Decision, Policy, PolicyError, Prediction, View
from samplers.contract.memory import Memory


@dataclass(frozen=True)
class StopStrings(Policy):
    """Cut a row once one of some strings stands in its settled text: what comes behind is not decoded.

    Settled text (the cells before the first mask) never changes again, and so neither does where it is cut: the text
    before the string is what a whole run gives.

    When infilling, only the text behind the last given token is read: nothing before it can be cut.

    Args:
        strings: any of them ends the text.
        decode: token ids to text, special tokens included.
        blocks_only: count finished blocks only; needed with parts that revise the cells of the current block.
    """

    strings: tuple[str, ...]
    decode: Callable[[list[int]], str] = field(repr=False, compare=False)
    blocks_only: bool = False
    remembers = "rows"

    def __post_init__(self) -> None:
        if not self.strings or not all(self.strings):
            raise PolicyError(f"strings is {self.strings!r}; give one or more texts, none of them empty.")

    def begin(self, view: View) -> Memory:
        """Long ``[B]``: cells already read."""
        return torch.zeros_like(view.start)

    def finish(  # noqa: D102
        self, view: View, prediction: Prediction, decision: Decision, memory: Memory
    ) -> tuple[Decision, Memory]:
        tokens = torch.where(decision.write, decision.values, view.tokens)
        masked = (tokens == view.mask_id) & view.valid
        settled = ((masked.cumsum(-1) == 0) & view.valid).sum(-1)
        if self.blocks_only:
            settled = torch.minimum(settled, view.start)
        length = view.length if decision.length is None else decision.length
        first = torch.zeros_like(settled)
        if view.given is not None:
            first = (view.given * (view.index + 1)).amax(-1)
        for row in (settled > memory).nonzero()[:, 0].tolist():
            end = int(settled[row])
            if first_stop(self.decode(tokens[row, int(first[row]) : end].tolist()), self.strings) is not None:
                length = length.clone()
                length[row] = min(end, int(length[row]))
        return replace(decision, length=length), torch.maximum(memory, settled)


def first_stop(text: str, strings: Sequence[str]) -> int | None:
    """Where the first of some strings begins in a text, or None."""
    return min((at for at in (text.find(s) for s in strings if s) if at >= 0), default=None)
