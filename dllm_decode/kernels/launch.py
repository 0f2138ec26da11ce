"""Launching the block step's kernel: how the work is cut, and which of its modes a forward needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from dllm_decode.interface.case import AttentionCase
from dllm_decode.kernels import processors
from dllm_decode.kernels.block_attention import attend_block, merge_parts
from dllm_decode.kernels.numeric import INTERPRETED

#: How cached slots that the forward supplies anew are found.
NOTHING_FRESH, WINDOW, TABLE = 0, 1, 2


@dataclass(frozen=True)
class Tiles:
    """How the work is cut: query rows and keys per step, parts of the keys, warps and pipeline stages per program."""

    block_m: int
    block_n: int
    splits: int = 1
    warps: int = 4
    stages: int = 3


def tiles_for(case: AttentionCase, count: int, width: int, dtype: torch.dtype, device: torch.device) -> Tiles:
    """A cut for ``count`` rows of ``width`` queries: small tiles, and split keys while processors would idle."""
    block_h = max(16, triton.next_power_of_2(case.head_dim // 2))
    queries = width * (case.heads // case.kv_heads)
    narrow = dtype == torch.float32 or block_h > 64  # shared memory: both halves of the keys and the values
    block_m = min(max(16, triton.next_power_of_2(queries)), 128 if queries > 256 and not narrow else 64)
    block_n = 32 if narrow else 64
    programs = count * case.kv_heads * math.ceil(queries / block_m)
    spare = processors(device) // programs
    splits = max(1, min(spare, case.slots // (2 * block_n), 16))  # two steps of keys at least in each part
    return Tiles(
        block_m,
        block_n,
        1 << (splits.bit_length() - 1),
        8 if block_m >= 64 else 4,
        2 if narrow else 3,
    )


def by_token(x: Tensor) -> Tensor:
    """``[R, Q, heads, D]`` with its tokens at one stride and each token's numbers side by side."""
    count, width, _, size = x.shape
    even = x.stride(3) == 1 and x.stride(2) == size and (count == 1 or x.stride(0) == width * x.stride(1))
    return x if even else x.contiguous()


def block_attention(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    case: AttentionCase,
    layer: int = 0,
    tiles: Tiles | None = None,
) -> Tensor:
    """Attention of one layer.

    Args:
        q: ``[R, Q, heads, D]``.
        k: ``[R, Q, kv_heads, D]``, written to the cache if the case has one (branch tokens are not); ``None`` = it
            is in the cache already.
        v: like ``k``.
        cos: ``[R or 1, 1, Q, D]``, to rotate ``q`` and ``k`` with; ``None`` = they are rotated.
        sin: like ``cos``.
        case: what each query may see.
        layer: which layer of the cache.
        tiles: how to cut the work; ``None`` = :func:`tiles_for`.

    Returns:
        ``[R, Q, heads * D]`` in the dtype of ``q``; zeros at padding.
    """
    count, width, heads, size = q.shape
    assert case.queries is not None
    cut = tiles_for(case, count, width, q.dtype, q.device) if tiles is None else tiles
    fresh, cached, branched = k is not None, case.cache is not None, case.branch is not None
    q = by_token(q)
    k, v = (by_token(k), by_token(v)) if k is not None and v is not None else (q, q)
    out = torch.empty(count, width, heads * size, dtype=q.dtype, device=q.device)
    hides, brings = NOTHING_FRESH, out
    if branched or (fresh and cached and not case.consecutive):
        hides, brings = TABLE, case.brings
    elif fresh and cached:
        hides = WINDOW
    keys, values, lengths = out, out, case.queries
    strides: tuple[int, ...] = (0, 0, 0)
    if case.cache is not None:
        keys, values = case.cache.data[layer, 0], case.cache.data[layer, 1]
        lengths, strides = case.seen, keys.stride()[:3]
    parts, logs = out, out
    if cut.splits > 1:
        parts = torch.empty(cut.splits, count * width * heads, size, dtype=torch.float32, device=q.device)
        logs = torch.empty(cut.splits, count * width * heads, dtype=torch.float32, device=q.device)
    block_h = max(16, triton.next_power_of_2(size // 2))
    grid = (cut.splits * triton.cdiv(width * (heads // case.kv_heads), cut.block_m), case.kv_heads, count)
    attend_block[grid](
        q,
        k,
        v,
        q if cos is None else cos,
        q if sin is None else sin,
        keys,
        values,
        out,
        parts,
        logs,
        case.queries if case.positions is None else case.positions,
        case.queries,
        lengths,
        case.queries if case.rows is None else case.rows,
        case.queries if case.branch is None else case.branch,
        brings,
        math.log2(math.e) / math.sqrt(size),
        width,
        brings.shape[-1],
        q.stride(1),
        k.stride(1),
        v.stride(1),
        0 if cos is None or cos.shape[0] == 1 else cos.stride(0),
        *strides,
        heads=heads,
        group=heads // case.kv_heads,
        size=size,
        names=brings.shape[1],
        splits=cut.splits,
        cached=cached,
        fresh=fresh,
        turns=cos is not None,
        hides=hides,
        branched=branched,
        interpreted=INTERPRETED,
        block_m=cut.block_m,
        block_n=cut.block_n,
        block_f=min(cut.block_n, 32 if cos is not None else 64),  # rotating holds a tile's angles in registers too
        block_h=block_h,
        num_warps=cut.warps,
        num_stages=cut.stages,
        enable_fp_fusion=True,
    )
    if cut.splits > 1:
        items = count * width * heads
        merge_parts[(triton.cdiv(items, 16),)](
            parts,
            logs,
            out,
            items,
            size=size,
            splits=cut.splits,
            interpreted=INTERPRETED,
            block=16,
            block_d=2 * block_h,
            enable_fp_fusion=True,
        )
    return out
