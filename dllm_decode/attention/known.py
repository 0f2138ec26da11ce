"""What the host knows of a forward's tensors, so that nothing has to be read back from the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from dllm_decode.models.base import ForwardInput


def are_consecutive(positions: Tensor, real: Tensor | None) -> bool:
    """Whether each row's real tokens (bool `[R, Q]`, None = all) stand in consecutive slots (long `[R, Q]`)."""
    column = torch.arange(positions.shape[1], device=positions.device)
    right = positions == positions[:, :1] + column
    return bool((right if real is None else right | ~real).all())


@dataclass(frozen=True)
class Known:
    """Facts about a `ForwardInput` that decide how it is computed.

    Attributes:
        padded: some rows may have padding.
        ragged: rows may see different numbers of slots.
        slots: the largest of `lengths`, or a bound on it when `ragged`.
        rows: cache row of each forwarded row; None = known on the device only.
        consecutive: each row's real tokens stand in consecutive slots; None = nobody has looked.
        writes: some tokens are written to the cache (not all belong to branches).
        branches: with branches, the largest branch id + 1.
        reach: with branches, the largest slot that a token or a row has, + 1.
    """

    padded: bool
    ragged: bool
    slots: int
    rows: tuple[int, ...] | None = None
    consecutive: bool | None = None
    writes: bool = True
    branches: int = 0
    reach: int = 0

    @classmethod
    def of(cls, inp: ForwardInput) -> Known:
        """Read the tensors: free of charge on the CPU, a host sync (two with branches) elsewhere."""
        count, width = inp.tokens.shape
        rows = torch.arange(count, device=inp.tokens.device) if inp.rows is None else inp.rows
        queries, lengths, order = torch.stack([inp.queries, inp.lengths, rows]).tolist()
        branches, reach, writes = 0, 0, True
        if inp.branch is not None:
            facts = torch.stack([inp.branch.max() + 1, inp.branch.min(), inp.positions.max() + 1]).tolist()
            branches, reach, writes = facts[0], max(facts[2], *lengths), facts[1] < 0
        return cls(
            padded=min(queries) < width,
            ragged=min(lengths) < max(lengths),
            slots=max(lengths),
            rows=tuple(order),
            writes=writes,
            branches=branches,
            reach=reach,
        )
