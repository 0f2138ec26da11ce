"""Small helpers that every selection rule is made of.  Ties: higher score, then lower position, on every device."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from samplers.contract.data import Decision, Prediction
from samplers.contract.view import WIDE


def _first(score: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Long and bool ``[B, 1]``: the highest-scored cell of each row among ``where``, and whether there is one."""
    first = 0
    if where.shape[1] > WIDE:  # the few columns that have such a cell
        some = where.view(torch.uint8).amax(0).nonzero()
        first = int(some[0]) if len(some) else 0
        part = slice(first, int(some[-1]) + 1 if len(some) else 1)
        score, inside = score[:, part], where[:, part]
    else:
        inside = where
    # The clamp keeps a cell whose own score is -inf above the cells outside.
    top = torch.where(inside, score.clamp(min=torch.finfo(score.dtype).min), -torch.inf).argmax(-1, keepdim=True)
    return (top + first if first else top), inside.gather(1, top)


def best(score: Tensor, where: Tensor) -> Tensor:
    """Bool ``[B, G]``: the one highest-scored cell of each row among ``where`` (none if ``where`` is empty)."""
    cell, there = _first(score, where)
    return torch.zeros_like(where).scatter_(1, cell, there)


def rank(score: Tensor, where: Tensor) -> Tensor:
    """Long ``[B, G]``: each cell's place (0 = first) among ``where`` by falling score; G for all other cells."""
    width = score.shape[1]
    # The clamp keeps a cell whose own score is -inf above the cells outside.
    score = score.clamp(min=torch.finfo(score.dtype).min).masked_fill(~where, -torch.inf)
    order = score.sort(dim=-1, descending=True, stable=True).indices
    places = torch.arange(width, device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places).masked_fill(~where, width)


def top(score: Tensor, where: Tensor, k: Tensor | int) -> Tensor:
    """Bool ``[B, G]``: the ``k`` (int or long ``[B]``) highest-scored cells of each row among ``where``."""
    if isinstance(k, int) and k == 1:
        return best(score, where)
    return (rank(score, where) < (k[:, None] if isinstance(k, Tensor) else k)) & where


def dilate(mask: Tensor, radius: int) -> Tensor:
    """Bool ``[B, G]``: cells at most ``radius`` away from a cell of ``mask``."""
    if radius == 0:
        return mask
    return F.max_pool1d(mask.float()[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0] > 0


def commit(chosen: Tensor, prediction: Prediction, score: Tensor | None = None) -> Decision:
    """Write the proposed tokens at ``chosen``; the best open cell of each row is always added, so decoding moves.

    ``score`` (``[B, G]``, default the confidence) says which open cell is the best and in which order cells count.
    """
    score = prediction.confidence if score is None else score
    accepted = chosen & prediction.open
    cell, there = _first(score, prediction.open)
    write = accepted.scatter(1, cell, there)  # a row without an open cell has none accepted either
    return Decision(write, prediction.token, order=-score, accepted=accepted)


def prefix_sum_by_rank(values: Tensor, places: Tensor) -> Tensor:
    """Cumulative sum of ``values`` ``[B, G]`` taken in the order ``places`` (from :func:`rank`), per cell.

    Cells outside the ranking (place G) contribute nothing and receive the total.
    """
    width = values.shape[1]
    outside = places >= width
    slots = places.masked_fill(outside, width)
    lined = values.new_zeros(values.shape[0], width + 1).scatter_(1, slots, values.masked_fill(outside, 0.0))
    lined[:, width] = 0.0
    return lined.cumsum(-1).gather(1, slots)
