"""A policy's memory: one explicit value of row-first tensors, picked apart and put back row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from samplers.contract.setting import PolicyError

#: An explicit state value: ``None``, a tensor, or a dataclass, named or plain tuple, list or dict of tensors and such
#: values.  The first axis of every tensor is the row; there is nothing else in it.
Memory = Any
T = TypeVar("T")


def children(memory: Memory) -> dict[str, Any] | None:
    """What a memory value holds, by a name for people; ``None`` for anything that is not a container."""
    if isinstance(memory, dict):
        return {f"[{key!r}]": value for key, value in memory.items()}
    if isinstance(memory, tuple) and hasattr(memory, "_fields"):
        return {f".{name}": getattr(memory, name) for name in memory._fields}
    if isinstance(memory, (tuple, list)):
        return {f"[{i}]": value for i, value in enumerate(memory)}
    if is_dataclass(memory) and not isinstance(memory, type):
        return {f".{field.name}": getattr(memory, field.name) for field in fields(memory)}
    return None


def _rebuilt(memory: T, values: list[Any]) -> T:
    """A container of the same kind with other values, in the order of :func:`children`."""
    kind: Any = type(memory)
    if isinstance(memory, dict):
        return cast(T, dict(zip(memory, values, strict=True)))
    if isinstance(memory, tuple) and hasattr(memory, "_fields"):
        return cast(T, kind(*values))
    if isinstance(memory, (tuple, list)):
        return cast(T, kind(values))
    names = [field.name for field in fields(cast(Any, memory))]
    return cast(T, replace(cast(Any, memory), **dict(zip(names, values, strict=True))))


def map_rows(memory: T, fn: Callable[[Tensor], Tensor]) -> T:
    """Apply ``fn`` to every tensor of a memory value."""
    if isinstance(memory, Tensor):
        return cast(T, fn(memory))
    held = children(memory)
    return memory if held is None else _rebuilt(memory, [map_rows(value, fn) for value in held.values()])


def twin(value: T, **changes: Any) -> T:
    """A dataclass with other values in some fields: `replace` in a tenth of its time, for those that check nothing."""
    made: T = object.__new__(type(value))
    held = value.__dict__
    made.__dict__.update({name: held[name] for name in value.__dataclass_fields__})  # type: ignore[attr-defined]
    made.__dict__.update(changes)  # and nothing that was worked out from the others
    return made


def check_rows(memory: Memory, rows: int, name: str, path: str = "memory") -> None:
    """Raise :class:`PolicyError` for the first thing in the memory of the policy ``name`` that is no row-first tensor.

    Args:
        memory: what it returned.
        rows: length B of the first axis.
        name: of the policy.
        path: where in the memory this is.
    """
    if isinstance(memory, Tensor):
        if memory.dim() and len(memory) == rows:
            return
        raise PolicyError(
            f"{name}'s {path} is a tensor of shape {list(memory.shape)}, but its first axis must be the row, "
            f"{rows} here; give every row its own entry."
        )
    held = children(memory)
    if held is None and memory is not None:
        raise PolicyError(
            f"{name}'s {path} is {memory!r:.60}, but a memory holds tensors whose first axis is the row and nothing "
            "else; make it a tensor with an entry for each row (torch.zeros_like(view.start)), or a field."
        )
    for key, value in (held or {}).items():
        check_rows(value, rows, name, path + key)


def _pairs(old: Memory, new: Memory) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensors of two memory values, side by side."""
    if isinstance(old, Tensor) and isinstance(new, Tensor):
        yield old, new
        return
    mine, theirs = children(old), children(new)
    if type(old) is not type(new) or (mine or {}).keys() != (theirs or {}).keys():
        raise PolicyError(
            f"a memory was {type(old).__name__} and became {type(new).__name__}; "
            "return the same kind of value, with the same parts, as begin made."
        )
    for key, value in (mine or {}).items():
        yield from _pairs(value, (theirs or {})[key])


def _merged(old: T, new: T, put: Callable[[Tensor, Tensor], Tensor]) -> T:
    fresh = iter([put(a, b) for a, b in _pairs(old, new)])
    return map_rows(old, lambda _: next(fresh))


def merge_rows(old: T, rows: Tensor, new: T) -> T:
    """Put the memory ``new`` of the rows ``rows`` (long ``[R]``) back into ``old``; row axis first."""
    return _merged(old, new, lambda a, b: a.index_copy(0, rows, b))


def move_cells(memory: T, source: Tensor, fresh: T) -> T:
    """A memory value whose cells have moved: in tensors of two axes or more the second is the cell.

    Args:
        memory: as it was.
        source: long ``[B, G]``, where each cell stood before; -1 = it is new.
        fresh: the same memory as ``begin`` makes it: what is known of a new cell.
    """

    def move(was: Tensor, new: Tensor) -> Tensor:
        if was.dim() < 2:
            return was
        place = source.view(*source.shape, *[1] * (was.dim() - 2)).expand_as(was)
        return torch.where(place < 0, new, was.gather(1, place.clamp(min=0)))

    return _merged(memory, fresh, move)


def put_rows(here: Tensor, new: T, old: T) -> T:
    """A memory value with the rows ``here`` (bool ``[B]``) from ``new`` and the others from ``old``."""
    if new is old or bool(here.all()):
        return new
    return _merged(old, new, lambda a, b: torch.where(here.view(-1, *[1] * (a.dim() - 1)), b, a))
