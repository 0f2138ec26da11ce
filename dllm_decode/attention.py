"""Attention over ragged rows: one function, a ladder of backends, and what each query may see, worked out once.

`AttentionCase` is built once per forward and used by every layer: ragged lengths, branches, cache, and the backend
that serves them. A backend says whether it supports a case and why not.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_decode.errors import DllmError

if TYPE_CHECKING:
    from dllm_decode.cache import KVCache
    from dllm_decode.models.base import ForwardInput


@dataclass(frozen=True)
class AttentionCase:
    """What the queries of one forward may see. A field that is None says "nothing of the kind here".

    Attributes:
        heads, kv_heads, head_dim: the model's; `kv_heads` divides `heads`.
        real: bool `[R, Q]`, False = padding token, never seen as a key; None when nothing is padded.
        lengths: long `[R]`, visible cache slots per row; None when all `slots` are visible in every row.
        slots: cache slots read, the longest row's; 0 without a cache.
        positions: long `[R, Q]`, slot of each token; needed by the cache and by branches.
        branch: long `[R, Q]`, branch ids; None when every query sees everything.
        branches, reach: with branches, the largest branch id + 1 and the largest slot + 1.
        rows: long `[R]`, cache rows; `span` is the same as a slice when they are consecutive (read without a copy).
    """

    heads: int
    kv_heads: int
    head_dim: int
    real: Tensor | None = None
    lengths: Tensor | None = None
    slots: int = 0
    positions: Tensor | None = None
    branch: Tensor | None = None
    branches: int = 0
    reach: int = 0
    cache: KVCache | None = None
    rows: Tensor | None = None
    span: slice | None = None

    @classmethod
    def of(cls, inp: ForwardInput, heads: int, kv_heads: int, head_dim: int) -> AttentionCase:
        """Read a `ForwardInput`; one host sync finds out whether anything is ragged at all."""
        (count, width), device = inp.tokens.shape, inp.tokens.device
        rows = torch.arange(count, device=device) if inp.rows is None else inp.rows
        queries, lengths, order = torch.stack([inp.queries, inp.lengths, rows]).tolist()
        fields: dict[str, Any] = {"positions": inp.positions}
        if min(queries) < width:
            fields["real"] = torch.arange(width, device=device) < inp.queries[:, None]
        if inp.branch is not None:
            fields["branch"] = inp.branch
            fields["branches"] = int(inp.branch.max()) + 1
            fields["reach"] = max(int(inp.positions.max()) + 1, *lengths)
        if inp.cache is not None:
            if max(lengths) > inp.cache.slots or max(order) >= inp.cache.rows:
                raise DllmError(
                    f"row {max(order)} with {max(lengths)} slots does not fit a cache of {inp.cache.rows} rows x "
                    f"{inp.cache.slots} slots; make a larger one with new_cache(rows, slots)."
                )
            fields |= {"cache": inp.cache, "rows": rows, "slots": max(lengths)}
            if min(lengths) < max(lengths):
                fields["lengths"] = inp.lengths
            if order == list(range(order[0], order[0] + count)):
                fields["span"] = slice(order[0], order[0] + count)
        return cls(heads, kv_heads, head_dim, **fields)

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
        if self.branch is not None:
            return self._branch_mask(self.branch)
        if self.cache is None:
            return None if self.real is None else self.real[:, None, None, :]
        if self.lengths is None:
            return None
        return (torch.arange(self.slots, device=self.lengths.device) < self.lengths[:, None])[:, None, None, :]

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

        fresh = (branch[:, :, None] == branch[:, None, :]) & real[:, None, :]  # [R, Q, Q]
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


class Backend(ABC):
    """One way to compute attention once the keys are in place."""

    name: str

    @abstractmethod
    def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
        """None when this backend can serve the case, else the reason why not (a clause for an error message)."""

    @abstractmethod
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """`q [R, heads, Q, D]`, `k, v [R, kv_heads, S, D]` -> `[R, heads, Q, D]`, softmax(q k^T / sqrt(D)) v."""


class Sdpa(Backend):
    """torch's scaled_dot_product_attention, on every device and dtype."""

    name = "sdpa"

    def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
        """Always None."""
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """Query heads of one group become extra queries of their KV head: no repeated keys, no wasted reads."""
        if q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu":
            # torch's CPU kernel has a bf16 backward several times slower than its fp32 one (measured on 2.13).
            with torch.autocast("cpu", enabled=False):
                return self._attend(q.float(), k.float(), v.float(), case).to(q.dtype)
        return self._attend(q, k, v, case)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        if case.heads == case.kv_heads:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=case.mask)
        grouped = q.reshape(q.shape[0], case.kv_heads, -1, q.shape[-1])
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=case.grouped_mask).reshape(q.shape)


class Reference(Backend):
    """The textbook formula in fp32, one step per line: the oracle of the other backends' tests."""

    name = "reference"

    def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
        """Always None."""
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """Repeat the keys per group, score, hide, softmax, mix."""
        group = case.heads // case.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("rhqd,rhsd->rhqs", q.float(), k.float()) / case.head_dim**0.5
        if case.mask is not None:
            scores = scores.masked_fill(~case.mask, float("-inf"))
        weights = scores.softmax(dim=-1).nan_to_num(0.0)  # a query that sees nothing gets zeros
        return torch.einsum("rhqs,rhsd->rhqd", weights, v.float()).to(q.dtype)


# Fastest first; "auto" takes the first one that is here and supports the case.
LADDER = ("flash", "varlen", "triton", "sdpa", "reference")
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in (Sdpa(), Reference())}


def choose_backend(attention: str, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> Backend:
    """The backend of this name, or with "auto" the first of the ladder that supports the case.

    Raises:
        DllmError: an unknown name, or a named backend that does not support the case (with its reason).
    """
    if attention == "auto":
        names = [name for name in LADDER if name in BACKENDS]
        return next(BACKENDS[name] for name in names if BACKENDS[name].supports(case, dtype, device) is None)
    if attention not in BACKENDS:
        raise DllmError(f"unknown attention backend {attention!r}; use auto, {', '.join(BACKENDS)}.")
    reason = BACKENDS[attention].supports(case, dtype, device)
    if reason is not None:
        raise DllmError(f"attention backend {attention!r} cannot serve this forward: {reason}; use auto.")
    return BACKENDS[attention]


def attend(q: Tensor, k: Tensor, v: Tensor, case: AttentionCase, backend: Backend, layer: int = 0) -> Tensor:
    """Attention of fresh queries over fresh and cached keys.

    With a cache the fresh keys and values are first written to their slots of `layer` (branch tokens are not), then
    the queries see their row's visible slots; branch tokens see, beside those, the fresh tokens of their own branch
    in place of the slots that it re-supplies. The cached prefix is shared by all branches of a row, never repeated.

    Args:
        q: `[R, heads, Q, D]`, after RoPE.
        k: `[R, kv_heads, Q, D]`, after RoPE.
        v: `[R, kv_heads, Q, D]`.
        case: what each query may see.
        backend: from `choose_backend`.
        layer: which layer of the cache.

    Returns:
        `[R, heads, Q, D]`; rows of padding tokens hold junk.
    """
    if case.cache is not None:
        assert case.rows is not None
        case.cache.write(layer, case.rows, case.write_slots, None, k, v)
        held_k, held_v = case.cache.read(layer, case.span or case.rows, case.slots)
        if case.branch is None:
            k, v = held_k, held_v
        else:
            k, v = torch.cat([held_k, k.to(held_k.dtype)], dim=2), torch.cat([held_v, v.to(held_v.dtype)], dim=2)
    return backend(q, k, v, case)
