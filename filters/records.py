"""Training data of a filter: what it would read at a forward, and which proposals were right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from filters.files import FilterError, write_whole


@dataclass(frozen=True)
class Records:
    """N forwards, one block each.

    Attributes:
        features: fp32 ``[N, width]``, see :mod:`filters.features`; 0 outside the block.
        right: bool ``[N, width]``, the proposal equals the reference's token, committed cells included.
        open: bool ``[N, width]``, cells that could be committed: where a decision counts.
        inside: bool ``[N, width]``, cells of the block.
    """

    features: Tensor
    right: Tensor
    open: Tensor
    inside: Tensor

    def __len__(self) -> int:
        return len(self.features)

    @property
    def width(self) -> int:
        """Cells per block."""
        return self.features.shape[1]

    def take(self, rows: Tensor) -> Records:
        """The chosen records (long ``[R]``)."""
        return Records(*(getattr(self, f.name)[rows] for f in fields(self)))

    @classmethod
    def cat(cls, parts: Sequence[Records]) -> Records:
        """All records of several sets.

        Raises:
            FilterError: there is none, or the widths differ.
        """
        if len({part.width for part in parts}) != 1:
            raise FilterError("there are no records, or records of different block widths; collect them anew.")
        return cls(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)))

    def save(self, path: Path) -> None:
        """Write a ``.safetensors`` file; an interrupted write leaves none.

        Raises:
            FilterError: it cannot be written.
        """
        tensors = {f.name: getattr(self, f.name).contiguous() for f in fields(self)}
        write_whole({path: lambda beside: save_file(tensors, beside)})

    @classmethod
    def load(cls, path: Path) -> Records:
        """Read what :meth:`save` wrote.

        Raises:
            FilterError: the file is damaged.
        """
        try:
            return cls(**load_file(path))
        except (SafetensorError, OSError, TypeError) as error:
            raise FilterError(f"{str(path)!r} holds no filter records; delete it and collect again.") from error
