"""A policy's memory: one explicit value of row-first tensors, picked apart and put back row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

#: An explicit state value: ``None``, a tensor, or a dataclass/tuple/list/dict of tensors whose first axis is the row.
Memory = Any
T = TypeVar("T")


def map_rows(memory: Memory, fn: Callable[[Tensor], Tensor]) -> Memory:
    """Apply ``fn`` to every tensor of a memory value (dataclasses, tuples, lists and dicts are walked)."""
    if isinstance(memory, Tensor):
        return fn(memory)
    if isinstance(memory, dict):
        return {k: map_rows(v, fn) for k, v in memory.items()}
    if isinstance(memory, (tuple, list)):
        return type(memory)(map_rows(v, fn) for v in memory)
    if hasattr(memory, "__dataclass_fields__"):
        changes = {name: map_rows(getattr(memory, name), fn) for name in memory.__dataclass_fields__}
        return replace(memory, **changes)
    return memory


def tensors_of(memory: Memory) -> Iterable[Tensor]:
    """Every tensor of a memory value, in a fixed order."""
    found: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        found.append(x)
        return x

    map_rows(memory, keep)
    return found


def merge_rows(old: Memory, rows: Tensor, new: Memory) -> Memory:
    """Put the memory ``new`` of the rows ``rows`` (long ``[R]``) back into ``old``; row axis first."""
    fresh = iter(tensors_of(new))

    def put(x: Tensor) -> Tensor:
        return x.index_copy(0, rows, next(fresh))

    return map_rows(old, put)


def put_rows(here: Tensor, new: T, old: T) -> T:
    """A memory value with the rows ``here`` (bool ``[B]``) from ``new`` and the others from ``old``."""
    if new is old or bool(here.all()):
        return new
    fresh = iter(tensors_of(new))

    def put(x: Tensor) -> Tensor:
        return torch.where(here.view(-1, *[1] * (x.dim() - 1)), next(fresh), x)

    merged: T = map_rows(old, put)
    return merged
