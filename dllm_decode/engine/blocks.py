"""Block-causal models: where their blocks lie, and which slots each forward has.

Blocks count from slot 0, prompt included, and nothing behind the open one exists for the model.  The keys of a
finished block are final once it has been forwarded with its final tokens; that forward is folded into the next block's
opening, which therefore begins at the first slot whose keys are not final.  So the cache is exact: what it holds is
what a forward of everything would compute.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel


class Placed(Protocol):
    """Of rows, where they stand: long ``[B]`` each, see :class:`~dllm_decode.engine.canvas.Rows`."""

    offset: Tensor
    start: Tensor
    opened: Tensor
    block_step: Tensor


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of one run.

    Attributes:
        size: slots of an attention block. ``length``: cells of a decoding block, which divides it.
        shift: the model's. ``seeded``: a block's first cell is predicted by a forward that ends before it.
        cached: keys of finished blocks are kept.
    """

    size: int
    length: int
    shift: int = 0
    seeded: bool = False
    cached: bool = True

    @classmethod
    def of(cls, model: DenoisingModel, config: GenerationConfig, cache: str) -> BlockGrid | None:
        """The grid of a run whose config :func:`fit_config` has returned; None = every cell sees all others."""
        size, length = model.attention_block, config.block_length
        if size is None:
            return None
        return cls(size, size if length is None else length, model.shift, model.seeded, cache == "block")

    def tail(self, length: int) -> int:
        """Cells behind a row of this many slots that its last block has too."""
        return -length % self.size

    def begins(self, slot: Tensor) -> Tensor:
        """First slot of the attention block that holds each slot."""
        return slot // self.size * self.size

    def ends(self, slot: Tensor) -> Tensor:
        """The slot behind the attention block that holds each slot."""
        return self.begins(slot) + self.size

    def advance(self, end: Tensor) -> Tensor:
        """Cells of the decoding block that begins at each slot."""
        return self.length - end % self.length

    def owes_seed(self, rows: Placed, masked: Tensor) -> Tensor:
        """Bool ``[B]``: rows whose block, just opened, begins with a mask that it cannot predict itself."""
        slot = rows.offset + rows.start
        first = masked.gather(1, rows.start.clamp(max=masked.shape[1] - 1)[:, None])[:, 0]
        return first & (slot % self.size == 0) & (slot > 0) & self.seeded

    def span(self, rows: Placed) -> tuple[Tensor, Tensor]:
        """Long ``[R]`` twice: first slot of the next forward and the one after its last."""
        begin = self.begins(rows.offset + rows.start)
        last = torch.where(rows.block_step < 0, begin, self.ends(rows.offset + rows.start))
        if not self.cached:
            return torch.zeros_like(begin), last
        stale = self.begins(rows.offset + rows.opened)
        return torch.where(rows.block_step <= 0, stale, begin), last

    def predicts(self, rows: Placed, index: Tensor) -> Tensor:
        """Bool ``[R, G]``: cells that the next forward can score: of the open block, or the seed of the next one."""
        slot, (_, last) = rows.offset[:, None] + index, self.span(rows)
        begin = self.begins(rows.offset + rows.start)[:, None]
        inside = (slot < last[:, None]) & ((slot - self.shift).clamp(min=0) >= begin)
        return torch.where(rows.block_step[:, None] < 0, slot == last[:, None], inside)

    def several(self, first: Tensor, last: Tensor) -> int | None:
        """Size of the blocks if a forward has several of one row, which must not see later ones; else None."""
        return self.size if bool((last - first > self.size).any()) else None


def default_cache(model: DenoisingModel) -> str:
    """The cache that changes nothing: ``"block"`` for block-causal models, ``"none"`` for others."""
    return "block" if model.attention_block is not None and model.supports_cache else "none"


def check_cache_fits(model: DenoisingModel, cache: str) -> None:
    """Refuse a cache that a model cannot have.

    Raises:
        DllmError: in one sentence.
    """
    if cache != "none" and not model.supports_cache:
        raise DllmError(
            f"model {model.name!r} keeps no keys and values, so cache={cache!r} cannot work; use cache='none'."
        )
    if cache == "block" and model.attention_block is None:
        raise DllmError(
            f"every cell of {model.name!r} sees all others, so no block's keys are ever final and cache='block' "
            "cannot work; use none, prefix or dual."
        )
    if cache in ("prefix", "dual") and model.attention_block is not None:
        raise DllmError(
            f"{model.name!r} is block-causal: its keys of finished blocks are exact and nothing lies behind the open "
            f"block, so cache={cache!r} has nothing to approximate; use block or none."
        )


def fit_config(model: DenoisingModel, config: GenerationConfig) -> GenerationConfig:
    """The config with decoding blocks that fit a block-causal model's: at most one attention block, and dividing it.

    Raises:
        DllmError: a shorter block length that does not divide it, or settings of an approximate cache.
    """
    size = model.attention_block
    if size is None:
        return config
    length = size if config.block_length is None else min(config.block_length, size)
    if size % length:
        raise DllmError(
            f"block_length is {length}, but {model.name!r} has attention blocks of {size} cells; give a length that "
            "divides them."
        )
    if config.refresh != 1 or config.refresh_window:
        raise DllmError(
            f"refresh={config.refresh!r}, refresh_window={config.refresh_window} spare a stale cache some work, but "
            f"that of {model.name!r} is exact; leave them out."
        )
    return config if config.block_length == length else config.replace(block_length=length)
