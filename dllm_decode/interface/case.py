"""What the queries of one forward may see, worked out once for all layers and all backends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dllm_decode.errors import DllmError
from dllm_decode.interface.inputs import Known, are_consecutive

if TYPE_CHECKING:
    from dllm_decode.interface.cache import KVCache
    from dllm_decode.interface.inputs import ForwardInput


def _pair(k: Tensor, v: Tensor) -> Tensor | None:
    """`[2, ...]`: keys and values of one product, as one view; None = they are not."""
    if k.stride() != v.stride() or k.shape != v.shape or k.dtype != v.dtype or not k.is_cpu:
        return None
    apart, rest = divmod(v.data_ptr() - k.data_ptr(), k.element_size())
    if rest or apart <= 0 or k.untyped_storage().data_ptr() != v.untyped_storage().data_ptr():
        return None
    return k.as_strided((2, *k.shape), (apart, *k.stride()))


@dataclass(frozen=True)
class AttentionCase:
    """What the queries of one forward may see. A field that is None says "nothing of the kind here".

    Attributes:
        heads, kv_heads, head_dim: the model's; `kv_heads` divides `heads`.
        real: bool `[R, Q]`, False = padding token, never seen as a key; None when nothing is padded.
        queries: long `[R]`, real tokens per row when padding is on the right; None when it may be anywhere.
        lengths: long `[R]`, visible cache slots per row; None when all `slots` are visible in every row.
        slots: cache slots read, the longest row's or a bound on it; 0 without a cache.
        positions: long `[R, Q]`, slot of each token; needed by the cache and by branches.
        block: cells of an attention block, when tokens of several are forwarded: none sees a later one.
        branch: long `[R, Q]`, branch ids; None when every query sees everything.
        joint: branches see each other's tokens.
        branches, reach: with branches, the largest branch id + 1 and the largest slot + 1.
        rows: long `[R]`, cache rows; `span` is the same as a slice when they are consecutive (read without a copy).
        shares_rows: rows of the forward share a cache row, and one of them writes to it.
        stated_consecutive: whether each row's real tokens stand in consecutive slots; None = nobody has looked.
        start: with `span`, the first of the consecutive slots that the tokens of every row are written to; None = they
            are not the same ones, or nobody has looked.
    """

    heads: int
    kv_heads: int
    head_dim: int
    real: Tensor | None = None
    queries: Tensor | None = None
    lengths: Tensor | None = None
    slots: int = 0
    positions: Tensor | None = None
    block: int | None = None
    branch: Tensor | None = None
    joint: bool = False
    branches: int = 0
    reach: int = 0
    cache: KVCache | None = None
    rows: Tensor | None = None
    span: slice | None = None
    shares_rows: bool = False
    stated_consecutive: bool | None = None
    start: int | None = None

    @classmethod
    def of(cls, inp: ForwardInput, heads: int, kv_heads: int, head_dim: int) -> AttentionCase:
        """Read a `ForwardInput`; without `inp.known` one host sync finds out whether anything is ragged at all."""
        known = Known.of(inp) if inp.known is None else inp.known
        (count, width), device = inp.tokens.shape, inp.tokens.device
        fields: dict[str, Any] = {"positions": inp.positions, "queries": inp.queries, "block": inp.block}
        fields["stated_consecutive"] = known.consecutive
        if known.padded:
            fields["real"] = torch.arange(width, device=device) < inp.queries[:, None]
        if inp.branch is not None:
            fields |= {"branch": inp.branch, "branches": known.branches, "reach": known.reach, "joint": inp.joint}
        if inp.cache is not None:
            largest = -1 if known.rows is None else max(known.rows)
            if known.slots > inp.cache.slots or largest >= inp.cache.rows:
                raise DllmError(
                    f"row {largest} with {known.slots} slots does not fit a cache of {inp.cache.rows} rows x "
                    f"{inp.cache.slots} slots; make a larger one with new_cache(rows, slots)."
                )
            rows = torch.arange(count, device=device) if inp.rows is None else inp.rows
            fields |= {"cache": inp.cache, "rows": rows, "slots": known.slots}
            if known.ragged:
                fields["lengths"] = inp.lengths
            if known.rows is not None:
                if known.rows == tuple(range(known.rows[0], known.rows[0] + count)):
                    fields |= {"span": slice(known.rows[0], known.rows[0] + count), "start": known.start}
                fields["shares_rows"] = known.writes and len(set(known.rows)) < count
        return cls(heads, kv_heads, head_dim, **fields)

    @property
    def kind(self) -> str:
        """What sort of forward this is, in words."""
        base = "no cache" if self.cache is None else "over the cache"
        return base + (", branches" if self.branch is not None else "") + (", block-causal" if self.block else "")

    def once(self, work: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`work(x)`, done once for all layers."""
        held: dict[Any, tuple[Tensor, Tensor]] = self.__dict__.setdefault("_once", {})
        if work not in held or held[work][0] is not x:
            held[work] = x, work(x)
        return held[work][1]

    def through_cache(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store fresh keys and values `[R, kv_heads, Q, head_dim]`; returns what rows see, `[.., slots, head_dim]`."""
        assert self.cache is not None and self.rows is not None
        if self._lanes is None:
            self.cache.write(layer, self.rows, self.write_slots, None, k, v)
            return self.cache.read(layer, self.span or self.rows, self.slots)
        written, held = self._lanes
        if (both := _pair(k, v)) is not None:
            written[layer].copy_(both)
        else:
            for to, fresh in zip(written[layer], (k, v), strict=True):
                to.copy_(fresh)
        return held[2 * layer], held[2 * layer + 1]

    @cached_property
    def _lanes(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None:
        """Per layer, where one copy stores all fresh tokens, and, keys and values apart, what is read.

        None = rows lie apart, or the cache holds codes.
        """
        assert self.cache is not None and self.positions is not None
        if self.span is None or self.start is None or not self.cache.in_place:
            return None
        to = slice(self.start, self.start + self.positions.shape[1])
        return self.cache.lanes(self.span, to, paired=True), self.cache.lanes(self.span, slice(0, self.slots))

    @cached_property
    def consecutive(self) -> bool:
        """Whether each row's real tokens stand in consecutive slots (one host sync if nobody has said so)."""
        if self.stated_consecutive is not None:
            return self.stated_consecutive
        assert self.positions is not None
        return are_consecutive(self.positions, self.real)

    @cached_property
    def seen(self) -> Tensor:
        """Int32 `[R]`: key slots each row sees, without branches; of the cache if there is one, else fresh tokens."""
        if self.cache is None:
            assert self.queries is not None
            return self.queries.int()
        if self.lengths is not None:
            return self.lengths.int()
        assert self.rows is not None
        return torch.full_like(self.rows, self.slots, dtype=torch.int32)

    @cached_property
    def cache_rows(self) -> Tensor:
        """Int32 `[R]`: `rows`."""
        assert self.rows is not None
        return self.rows.int()

    @cached_property
    def brings(self) -> Tensor:
        """Uint8 `[R, 1 + branches, slots + 1]`: whether branch b - 1 brings a token for slot s (0: shared tokens).

        The last column collects padding.
        """
        assert self.positions is not None
        count, width = self.positions.shape
        reach = self.reach if self.cache is None else max(self.slots, self.reach)
        slot = self.positions if self.real is None else torch.where(self.real, self.positions, reach)
        name = torch.zeros_like(slot) if self.branch is None else self.branch + 1
        table = torch.zeros(count, 1 + self.branches, reach + 1, dtype=torch.uint8, device=slot.device)
        row = torch.arange(count, device=slot.device)[:, None].expand(-1, width)
        return table.index_put_((row, name, slot), table.new_ones(()))

    @cached_property
    def write_slots(self) -> Tensor:
        """Long `[R, Q]`: cache slot each token is written to; the spare slot for padding and branch tokens."""
        assert self.positions is not None and self.cache is not None
        slots = self.positions
        if self.real is not None:
            slots = torch.where(self.real, slots, self.cache.slots)
        if self.branch is not None:
            slots = torch.where(self.branch < 0, slots, self.cache.slots)
        return slots

    @cached_property
    def mask(self) -> Tensor | None:
        """Bool `[R, 1, Q or 1, S]`, True = visible; None when every query sees every key.

        Keys are the fresh tokens without a cache, the cache's slots with one, and slots then fresh tokens with
        a cache and branches.
        """
        visible = self._visible
        if self.block is None:
            return visible
        return self._staircase(self.block) if visible is None else visible & self._staircase(self.block)

    @property
    def _visible(self) -> Tensor | None:
        if self.branch is not None:
            return self._branch_mask(self.branch)
        if self.cache is None:
            return None if self.real is None else self.real[:, None, None, :]
        if self.lengths is None:
            return None
        return (torch.arange(self.slots, device=self.lengths.device) < self.lengths[:, None])[:, None, None, :]

    def _staircase(self, block: int) -> Tensor:
        """Bool `[R, 1, Q, S]`: keys whose attention block is not behind the query's."""
        assert self.positions is not None
        slots = self.positions
        if self.cache is not None:
            held = torch.arange(self.slots, device=slots.device).expand(len(slots), -1)
            slots = held if self.branch is None else torch.cat([held, slots], dim=1)
        return (slots[:, None] // block <= self.positions[:, :, None] // block)[:, None]

    def _branch_mask(self, branch: Tensor) -> Tensor:
        assert self.positions is not None
        (rows, width), device = branch.shape, branch.device
        real = torch.ones_like(branch, dtype=torch.bool) if self.real is None else self.real
        # own[r, b, s]: branch b of row r brings its own token for slot s, so it must not see the shared one there.
        own = torch.zeros(rows, self.branches + 1, self.reach, dtype=torch.bool, device=device)
        names = torch.where(real & (branch >= 0), branch, self.branches)  # the last row collects everything else
        own[torch.arange(rows, device=device)[:, None], names, self.positions] = True
        own[:, self.branches] = False
        replaced = own.gather(1, names[:, :, None].expand(-1, -1, self.reach))  # [R, Q, reach]

        fresh = branch[:, :, None] == branch[:, None, :]  # [R, Q, Q]
        if self.joint:
            fresh = fresh | (branch >= 0)[:, :, None] & (branch >= 0)[:, None, :]
        fresh = fresh & real[:, None, :]
        if self.cache is None:
            slot = self.positions[:, None, :].expand(-1, width, -1)
            mask = fresh | ((branch < 0) & real)[:, None, :] & ~replaced.gather(2, slot)
        else:
            # Shared tokens of this forward are in the cache by now; only branch tokens are keys of their own.
            held = torch.arange(self.slots, device=device).expand(rows, -1)
            lengths = self.slots if self.lengths is None else self.lengths[:, None]
            cached = (held < lengths)[:, None, :] & ~replaced[:, :, : self.slots]
            mask = torch.cat([cached, fresh & (branch >= 0)[:, None, :]], dim=2)
        if self.real is not None:
            mask[:, :, 0] |= ~self.real  # padding sees something: NaN would leak through 0 * NaN
        return mask[:, None]

    @cached_property
    def grouped_mask(self) -> Tensor | None:
        """`mask` for queries whose head groups are laid out along the query axis, `[R, 1, group * Q or 1, S]`."""
        mask, group = self.mask, self.heads // self.kv_heads
        return mask if mask is None or mask.shape[2] == 1 else mask.repeat(1, 1, group, 1)
