"""What a policy sees of the canvas."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from samplers.contract.memory import twin

#: Canvases wider than this are looked at in ways that pay there only.
WIDE = 256


def some(where: Tensor) -> Tensor:
    """Bool ``[B]``: rows of ``where`` (bool ``[B, G]``) with a True; on wide canvases `any` is ten times as slow."""
    if where.shape[1] <= WIDE:
        return where.any(-1)
    return where.view(torch.uint8).amax(-1).view(torch.bool)


@dataclass(frozen=True)
class View:
    """What a policy sees of the canvas before (and while) it decides; nobody writes into its tensors.

    Attributes:
        tokens: long ``[B, G]``; the mask id at masks.
        masked: bool ``[B, G]``; valid cells that are not decided.
        valid: bool ``[B, G]``; cells inside the row's current length.
        start, end: long ``[B]``; the current block is ``[start, end)``.
        length: long ``[B]``; the row's current length (a part may cut it, or put cells in). ``budget``: the most it
            may be: the cells asked for.
        step, block_step, block_index: long ``[B]``; forwards this row has had in all and in this block, blocks begun.
        mask_id, eos_ids: special ids.
        given: bool ``[B, G]`` when infilling, else ``None``: cells that were never masked; no part changes them.
        generators: one random generator per row, seeded by (seed, prompt, sample): randomness never crosses rows.
        name: long ``[B]``, index of each row among all that one call decodes; ``None`` = 0 to B - 1.
        vocab_size: number of token ids.
    """

    tokens: Tensor
    masked: Tensor
    valid: Tensor
    start: Tensor
    end: Tensor
    length: Tensor
    budget: Tensor
    step: Tensor
    block_step: Tensor
    block_index: Tensor
    mask_id: int
    eos_ids: tuple[int, ...]
    generators: tuple[torch.Generator, ...]
    given: Tensor | None = None
    vocab_size: int = 0
    name: Tensor | None = None

    @property
    def text_behind(self) -> Tensor | None:
        """Bool ``[B, G]``: cells with given text behind them: the text cannot end there; ``None`` = no cell."""
        if self.given is None:
            return None
        text = self.given & ~self.is_eos(self.tokens)
        return text.flip(-1).cumsum(-1).flip(-1) - text.long() > 0

    def can_end(self, tokens: Tensor) -> Tensor:
        """Bool ``[B, G]``: cells where ``tokens`` end the row's text: not given, and without given text behind."""
        ends = self.is_eos(tokens) & self.valid
        behind = self.text_behind
        return ends if self.given is None or behind is None else ends & ~(self.given | behind)

    @cached_property
    def index(self) -> Tensor:
        """Long ``[1, G]``: the cells' own indices."""
        return torch.arange(self.tokens.shape[1], device=self.tokens.device)[None]

    @cached_property
    def in_block(self) -> Tensor:
        """Bool ``[B, G]``: cells of the current block, committed or not."""
        return (self.index >= self.start[:, None]) & (self.index < self.end[:, None]) & self.valid

    @cached_property
    def open(self) -> Tensor:
        """Bool ``[B, G]``: masks the current block may commit (also masks left before it)."""
        return self.masked & (self.index < self.end[:, None])

    @cached_property
    def waiting(self) -> Tensor:
        """Bool ``[B]``: rows with an ``open`` cell."""
        return some(self.open)

    @property
    def doubtful(self) -> Tensor:
        """Bool ``[B, G]``: cells of the current block that a part may take back: committed, and not given."""
        held = self.in_block & ~self.masked
        return held if self.given is None else held & ~self.given

    def is_eos(self, tokens: Tensor) -> Tensor:
        """Bool, shape of ``tokens``: which of them end the text."""
        out = torch.zeros_like(tokens, dtype=torch.bool)
        for eos in self.eos_ids:
            out |= tokens == eos
        return out

    def uniform(self) -> Tensor:
        """Fp32 ``[B, G]`` of U[0, 1) numbers, each row drawn from its own generator (batch-independent)."""
        out = torch.zeros(self.tokens.shape, dtype=torch.float32)
        for row, generator in enumerate(self.generators):
            n = int(self.budget[row])
            out[row, :n] = torch.rand(n, generator=generator)
        return out.to(self.tokens.device)

    def after(self, write: Tensor, values: Tensor, forwards: Tensor | int = 1) -> View:
        """The view with ``values`` written at ``write`` (both ``[B, G]``), in the same block.

        ``forwards``, an int or ``[B]``, is how many forwards later that is.
        """
        tokens = torch.where(write, values, self.tokens)
        masked = (tokens == self.mask_id) & self.valid
        step, block_step = self.step + forwards, self.block_step + forwards
        return self.at(tokens=tokens, masked=masked, step=step, block_step=block_step)

    def at(self, **numbers: Tensor) -> View:
        """The same cells with other blocks or counts (``start``, ``end``, ``step``, ...: long ``[B]``)."""
        moved, held = twin(self, **numbers), self.__dict__
        moved.__dict__["index"] = self.index
        if moved.masked is self.masked and moved.end is self.end:
            moved.__dict__.update({name: held[name] for name in ("open", "waiting") if name in held})
        return moved

    def filled(self, write: Tensor, at: tuple[Tensor, Tensor], tokens: Tensor) -> View:
        """The view with masks decided: those at ``write`` (bool ``[B, G]``), which are the cells ``at``.

        ``at`` is their rows and their indices, ``tokens`` what they hold, never the mask: long ``[M]`` each.
        """
        return self.at(tokens=self.tokens.clone().index_put_(at, tokens), masked=self.masked ^ write)

    def moved(self) -> View:
        """The same with rows whose block is complete at their next block that is not, taken to be as long."""
        first = self.masked.to(torch.uint8).argmax(-1)  # 0 where nothing is masked
        beyond = first >= self.end
        if not bool(beyond.any()):
            return self
        width = (self.end - self.start).clamp(min=1)
        blocks = torch.where(beyond, (first - self.end) // width + 1, 0)
        return replace(
            self,
            start=self.start + blocks * width,
            end=torch.minimum(self.end + blocks * width, self.length.maximum(self.end)),
            block_step=torch.where(blocks > 0, 0, self.block_step),
            block_index=self.block_index + blocks,
        )

    def imagine(self, canvases: Tensor) -> View:
        """The view of hypothetical canvases: long ``[B, K, G]`` in, a view of ``B*K`` rows out (row-major)."""
        rows, branches, width = canvases.shape
        numbers = (self.start, self.end, self.length, self.budget, self.step, self.block_step, self.block_index)
        start, end, length, budget, step, block_step, block_index = (
            torch.stack(numbers)[:, :, None].expand(-1, -1, branches).flatten(1).unbind()
        )
        tokens = canvases.reshape(rows * branches, width)
        valid = self.valid[:, None].expand(canvases.shape).reshape(tokens.shape)
        return View(
            tokens=tokens,
            masked=(tokens == self.mask_id) & valid,
            valid=valid,
            start=start,
            end=end,
            length=length,
            budget=budget,
            step=step,
            block_step=block_step,
            block_index=block_index,
            mask_id=self.mask_id,
            eos_ids=self.eos_ids,
            generators=tuple(g for g in self.generators for _ in range(branches)),
            vocab_size=self.vocab_size,
            given=None if self.given is None else self.given.repeat_interleave(branches, 0),
            name=None if self.name is None else self.name.repeat_interleave(branches),
        )
