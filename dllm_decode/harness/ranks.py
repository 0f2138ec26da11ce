"""Data parallelism: the processes that ``accelerate launch`` or ``torchrun`` started, told by the environment."""

from __future__ import annotations

import atexit
import datetime
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed

from dllm_decode.errors import DllmError

# Ranks meet only when all have decoded their share, and one may be much slower than another.
_PATIENCE = datetime.timedelta(days=7)


@dataclass(frozen=True)
class Ranks:
    """This process among its equals; what they exchange goes through gloo, which needs no GPU.

    Attributes:
        rank, world_size: this process and how many there are. ``local_rank``: its number on this machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @classmethod
    def join(cls) -> Ranks:
        """Read ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``, and meet the others if there are any.

        Raises:
            DllmError: the variables are no numbers, or do not say where to meet.
        """
        size, rank = _number("WORLD_SIZE", 1), _number("RANK", 0)
        if size <= 1:
            return cls()
        if not 0 <= rank < size:
            raise DllmError(f"RANK is {rank} of WORLD_SIZE {size}; start with accelerate launch or torchrun.")
        if not distributed.is_initialized():
            missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
            if missing:
                raise DllmError(
                    f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start with accelerate launch or "
                    "torchrun, or unset WORLD_SIZE."
                )
            distributed.init_process_group("gloo", timeout=_PATIENCE)
            atexit.register(_leave)
        return cls(rank, size, _number("LOCAL_RANK", rank))

    def device(self, asked: str | None) -> str | None:
        """The device of this rank: what was asked for, each rank its own GPU where that is a plain ``cuda``."""
        if asked in (None, "auto", "cuda", "cuda:0") and self.world_size > 1 and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return None if asked == "auto" else asked

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Tensors of all ranks, concatenated along the first axis (a number gets one)."""
        if self.world_size == 1:
            return tensor
        mine = tensor.cpu()
        mine = mine[None] if mine.ndim == 0 else mine
        found: list[Any] = [None] * self.world_size
        distributed.all_gather_object(found, mine)
        return torch.cat(found).to(tensor.device)

    def gather_object(self, value: Any, dst: int = 0) -> list[Any] | None:
        """Objects of all ranks on rank ``dst``, None on the others."""
        if self.world_size == 1:
            return [value]
        found: list[Any] | None = [None] * self.world_size if self.rank == dst else None
        distributed.gather_object(value, found, dst=dst)
        return found

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        if self.world_size > 1:
            distributed.barrier()


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise DllmError(f"the environment says {name}={text!r}; it must be a whole number, so correct or unset it.")
    return int(text)


def _leave() -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()
