"""What the filter reads: one number per cell of the block, committed cells included."""

from __future__ import annotations

import torch
from torch import Tensor

#: What the number is: the confidence of the model's present proposal (LLaDA), or minus its entropy, 0 where the cell
#: is committed (the released code for Dream).
FEATURES = ("confidence", "negative_entropy")


def block_cells(start: Tensor, end: Tensor, width: int, cells: int) -> tuple[Tensor, Tensor]:
    """Where the ``width`` inputs of a filter lie in generation coordinates.

    Args:
        start: long ``[B]``, the block's first cell.
        end: long ``[B]``, the one after its last.
        width: inputs of the filter.
        cells: G, columns of the canvas.

    Returns:
        Long ``[B, width]`` cell indices, clamped to the canvas, and bool ``[B, width]``: which are inside the block.
    """
    index = start[:, None] + torch.arange(width, device=start.device)
    return index.clamp(max=cells - 1), index < end[:, None]


def block_features(values: Tensor, start: Tensor, end: Tensor, width: int) -> Tensor:
    """Fp32 ``[B, width]``: the block's numbers, padded with 0 on the right when the block is short.

    Args:
        values: ``[B, G]``, one number per cell.
        start: long ``[B]``, the block's first cell.
        end: long ``[B]``, the one after its last.
        width: inputs of the filter; must not be less than any ``end - start``.
    """
    index, inside = block_cells(start, end, width, values.shape[1])
    return torch.where(inside, values.gather(1, index).float(), 0.0)


def to_cells(outputs: Tensor, start: Tensor, end: Tensor, cells: int, fill: float) -> Tensor:
    """Undo :func:`block_features`: ``[B, width]`` -> ``[B, cells]``, ``fill`` outside the block."""
    index, inside = block_cells(start, end, outputs.shape[1], cells)
    spread = outputs.new_full((outputs.shape[0], cells + 1), fill)  # the last column swallows the padding
    spread.scatter_(1, torch.where(inside, index, cells), outputs)
    return spread[:, :cells]
