"""Rotate q and k and put k and v where they belong, in one launch: what comes before attention over a ready cache."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from dllm_decode.interface.case import AttentionCase
from dllm_decode.kernels.block_attention import turn
from dllm_decode.kernels.launch import by_token
from dllm_decode.kernels.numeric import INTERPRETED


@triton.jit
def _rotate_heads(
    x, out, cos, sin, n: tl.constexpr, size: tl.constexpr, pitch, block: tl.constexpr, block_h: tl.constexpr,
    interpreted: tl.constexpr,
):  # fmt: skip
    """Rotate ``n`` heads of one token from ``x`` to ``out``; heads of ``out`` are ``pitch`` apart."""
    dtype = x.dtype.element_ty
    i, h = tl.arange(0, block), tl.arange(0, block_h)
    half: tl.constexpr = size // 2
    inside = (i < n)[:, None] & (h < half)[None, :]
    a = tl.load(x + i[:, None] * size + h[None, :], mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + i[:, None] * size + half + h[None, :], mask=inside, other=0.0).to(tl.float32)
    c = tl.load(cos + h, mask=h < half, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + h, mask=h < half, other=0.0).to(tl.float32)[None, :]
    a, b = turn(a, b, c, s, cos.dtype.element_ty, dtype, interpreted)
    tl.store(out + i[:, None] * pitch + h[None, :], a.to(dtype), mask=inside)
    tl.store(out + i[:, None] * pitch + half + h[None, :], b.to(dtype), mask=inside)


@triton.jit(do_not_specialize=["width"])
def rotate_and_store(
    q,
    k,
    v,
    cos,
    sin,
    cache_k,
    cache_v,
    positions,
    queries,
    rows,
    width,
    q_token,
    k_token,
    v_token,
    table_row,
    cache_row,
    cache_head,
    cache_slot,
    heads: tl.constexpr,
    kv_heads: tl.constexpr,
    size: tl.constexpr,
    cached: tl.constexpr,
    interpreted: tl.constexpr,
    block_q: tl.constexpr,
    block_k: tl.constexpr,
    block_h: tl.constexpr,
):
    """One token per program; padding is left alone."""
    token = tl.program_id(0).to(tl.int64)
    row, column = token // width, token % width
    if column < tl.load(queries + row):
        c, s = cos + row * table_row + column * size, sin + row * table_row + column * size
        _rotate_heads(q + token * q_token, q + token * q_token, c, s, heads, size, size, block_q, block_h, interpreted)
        fresh = k + token * k_token
        if cached:
            slot = tl.load(rows + row) * cache_row + tl.load(positions + token) * cache_slot
            _rotate_heads(fresh, cache_k + slot, c, s, kv_heads, size, cache_head, block_k, block_h, interpreted)
            i, d = tl.arange(0, block_k), tl.arange(0, 2 * block_h)
            inside = (i < kv_heads)[:, None] & (d < size)[None, :]
            x = tl.load(v + token * v_token + i[:, None] * size + d[None, :], mask=inside)
            tl.store(cache_v + slot + i[:, None] * cache_head + d[None, :], x, mask=inside)
        else:
            _rotate_heads(fresh, fresh, c, s, kv_heads, size, size, block_k, block_h, interpreted)


def rotate_to_cache(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, case: AttentionCase, layer: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rotate ``q`` in place; rotate ``k`` and store it and ``v`` in the cache, or rotate it in place without one.

    Args:
        q: ``[R, Q, heads, D]``; no branch tokens.
        k: ``[R, Q, kv_heads, D]``.
        v: ``[R, Q, kv_heads, D]``.
        cos: ``[R or 1, 1, Q, D]``; its dtype is that of the rotation.
        sin: like ``cos``.
        case: rows, positions and cache.
        layer: which layer of the cache.

    Returns:
        ``q``, ``k``, ``v``: the given tensors, or copies where their layout needed one.
    """
    count, width, heads, size = q.shape
    assert case.queries is not None and case.positions is not None and case.branch is None
    q, k, v = by_token(q), by_token(k), by_token(v)
    keys, values = k, v
    strides: tuple[int, ...] = (0, 0, 0)
    if case.cache is not None:
        keys, values = case.cache.data[layer, 0], case.cache.data[layer, 1]
        strides = keys.stride()[:3]
    rotate_and_store[(count * width,)](
        q,
        k,
        v,
        cos,
        sin,
        keys,
        values,
        case.positions,
        case.queries,
        case.queries if case.rows is None else case.rows,
        width,
        q.stride(1),
        k.stride(1),
        v.stride(1),
        0 if cos.shape[0] == 1 else cos.stride(0),
        *strides,
        heads=heads,
        kv_heads=case.kv_heads,
        size=size,
        cached=case.cache is not None,
        interpreted=INTERPRETED,
        block_q=triton.next_power_of_2(heads),
        block_k=triton.next_power_of_2(case.kv_heads),
        block_h=triton.next_power_of_2(size // 2),
        num_warps=4,
        enable_fp_fusion=True,
    )
    return q, k, v
