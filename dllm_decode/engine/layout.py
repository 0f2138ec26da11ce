"""The query columns of a forward: plain rows, rows with shadow twins, branches laid one after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """Query columns of one forward.

    Attributes:
        tokens, positions: long ``[R, Q]``. ``queries``: long ``[R]``, real columns.
        branch: long ``[R, Q]`` or ``None``.
        owner: long ``[R]``, the group row each forwarded row belongs to; ``None`` = each is its own.
        joint: the branches see each other.
        starts: slot of each row's first token, where the others follow in consecutive slots; else ``None``.
    """

    tokens: Tensor
    positions: Tensor
    queries: Tensor
    branch: Tensor | None = None
    owner: Tensor | None = None
    joint: bool = False
    starts: list[int] | None = None


def lay_out(slots: Tensor, first: Tensor, last: Tensor, shadow: Tensor | None, offset: Tensor, mask_id: int) -> Layout:
    """Columns ``[first, last)`` of each row; shadow twins, if any, behind them."""
    queries = last - first
    sizes = queries.tolist()
    wide = max(sizes)
    column = torch.arange(wide, device=slots.device)
    positions = first[:, None] + column
    if min(sizes) < wide:
        positions = positions.clamp(max=slots.shape[1] - 1)
    tokens = slots.gather(1, positions)
    if shadow is None or not bool(shadow.any()):
        shown = positions if min(sizes) == wide else positions * (column < queries[:, None])
        return Layout(tokens, shown, queries, starts=first.tolist())
    count = shadow.sum(-1)
    extra = int(count.max())
    twin = (~shadow).to(torch.uint8).argsort(dim=-1, stable=True)[:, :extra] + offset[:, None]
    # Twins follow each row's last real column, so that padding stays on the right.
    total = queries + count
    column = torch.arange(wide + extra, device=slots.device)
    at = (column - queries[:, None]).clamp(min=0, max=max(extra - 1, 0))
    is_twin = (column >= queries[:, None]) & (column < total[:, None])
    padded = torch.nn.functional.pad(positions, (0, extra))
    positions = torch.where(is_twin, twin.gather(1, at), padded) * (column < total[:, None])
    tokens = torch.where(is_twin, mask_id, slots.gather(1, positions))
    branch = torch.where(is_twin, at, -1)
    return Layout(tokens, positions, total, branch)


def fold_branches(plain: Layout, owner: Tensor, rows: int) -> tuple[Layout, Tensor]:
    """Lay the branches of each row one after the other; also returns each branch's first column."""
    total = torch.zeros(rows, dtype=torch.long, device=owner.device).index_add_(0, owner, plain.queries)
    begun = plain.queries.cumsum(0) - plain.queries
    head = torch.zeros(rows, dtype=torch.long, device=owner.device)
    head.scatter_reduce_(0, owner, begun, "amin", include_self=False)
    shifted = begun - head[owner]
    column = torch.arange(plain.tokens.shape[1], device=owner.device)
    real = column < plain.queries[:, None]
    place = (owner[:, None].expand_as(real)[real], (shifted[:, None] + column)[real])
    out = []
    name = torch.arange(len(owner), device=owner.device)
    nth = name - torch.full_like(head, len(owner)).scatter_reduce_(0, owner, name, "amin")[owner]
    for values in (plain.tokens, plain.positions, nth[:, None].expand_as(real)):
        folded = torch.zeros(rows, int(total.max()), dtype=torch.long, device=owner.device)
        folded[place] = values[real]
        out.append(folded)
    return Layout(out[0], out[1], total, out[2]), shifted


def flat_cells(where: Tensor, columns: Tensor, layout: Layout) -> Tensor:
    """Flat indices into ``R * Q`` of the columns at ``where``."""
    row = torch.arange(where.shape[0], device=where.device)[:, None]
    return (row * layout.tokens.shape[1] + columns)[where]
