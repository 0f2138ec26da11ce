"""The tokens of one forward, and what the host knows of them so that nothing has to be read back from the device."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from dllm_decode.interface.cache import KVCache


@dataclass(frozen=True)
class AttentionWatch:
    """Asks a forward without a cache for the attention of its last layers, beside what it computes anyway.

    Attributes:
        layers: how many. ``maps``: the model appends one per layer, fp32 `[R, Q, Q]`, the mean over heads.
    """

    layers: int
    maps: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class ForwardInput:
    """The tokens of one forward: R rows of up to Q tokens, right padded, each row with its own positions.

    Attributes:
        tokens: long `[R, Q]`.
        positions: long `[R, Q]`, absolute slot of each token in its row (the prompt starts at slot 0); 0 at padding.
        queries: long `[R]`, real tokens per row; columns from there on are padding: never seen as keys, output junk.
        lengths: long `[R]`, key slots visible per row, i.e. the row's current total length; without a cache equal to
            `queries` unless there are branches.
        branch: long `[R, Q]`, or None when every query sees everything. Branch -1 is shared context: seen by all, it
            sees only branch -1 (and the cache). A token of branch b >= 0 sees the shared context, minus the slots for
            which its own branch brings a token, and its own branch.
        joint: branches see each other: the twins of a row's cells beside what all see but their own original.
        cache: fresh keys and values are written to slot `positions[r, j]` of cache row `rows[r]`, then queries see
            slots `[0, lengths[r])`. Tokens of branches >= 0 are not written.
        rows: long `[R]`, cache row of each row; None = 0..R-1. Rows that write must differ; rows that hold only branch
            tokens may share one.
        block: block-causal visibility: a token at slot p sees, of what it would see without this, the slots s with
            s // block <= p // block. None = all of it.
        watch: asks for attention weights; None = nobody does.
        known: what the caller knows of these tensors; None = they are looked at, which waits for the device.
    """

    tokens: Tensor
    positions: Tensor
    queries: Tensor
    lengths: Tensor
    branch: Tensor | None = None
    cache: KVCache | None = None
    rows: Tensor | None = None
    known: Known | None = None
    joint: bool = False
    watch: AttentionWatch | None = None
    block: int | None = None


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
        start: slot of the first token, where nothing is padded, nothing belongs to a branch, and the tokens of every
            row stand in the same consecutive slots; None = they do not, or nobody has looked.
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
    start: int | None = None

    @classmethod
    def of(cls, inp: ForwardInput, starts: list[int] | None = None) -> Known:
        """Read the tensors: free of charge on the CPU, a host sync (two with branches) elsewhere.

        `starts`: slot of each row's first token, if the others are known to follow in consecutive slots.
        """
        count, width = inp.tokens.shape
        if inp.tokens.is_cpu:
            queries, lengths = inp.queries.tolist(), inp.lengths.tolist()
            order = list(range(count)) if inp.rows is None else inp.rows.tolist()
        else:
            rows = torch.arange(count, device=inp.tokens.device) if inp.rows is None else inp.rows
            queries, lengths, order = torch.stack([inp.queries, inp.lengths, rows]).tolist()
        branches, reach, writes = 0, 0, True
        alike = starts is not None and min(queries) == width and min(starts) == max(starts)
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
            consecutive=None if starts is None else True,
            start=starts[0] if starts is not None and alike else None,
        )
