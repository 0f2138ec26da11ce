"""One layer's attention for a block step in one launch: rotate, write to the cache, attend.

Each program serves one KV head of one row, a tile of its queries (all query heads of the group together) and, when the
batch is too small to fill the GPU, one part of the key slots.  It reads the row's cached slots ``[0, length)`` except
those that this forward supplies anew; these it takes from its inputs and rotates itself.  So no program reads a slot
that another one writes in the same launch, and writing needs no grid-wide barrier.

Parts of the keys are merged by their log-sum-exp in a second, tiny launch.  (The last program to finish could do it in
the same launch, but only with ordering between programs that no interpreter can check.)
"""

from __future__ import annotations

import triton
import triton.language as tl

from dllm_decode.kernels.numeric import product, rounded


@triton.jit
def _scores(q1, q2, k1, k2, visible, scale, dtype: tl.constexpr, interpreted: tl.constexpr):
    """Scaled scores ``[M, N]`` in base 2, -inf where not visible; heads come in halves (RoPE pairs them)."""
    total = tl.zeros([q1.shape[0], k1.shape[1]], tl.float32)
    total = product(q1, k1, total, dtype, interpreted)
    total = product(q2, k2, total, dtype, interpreted)
    return tl.where(visible, total * scale, float("-inf"))


@triton.jit
def _fold(s, v, top, weight, total, dtype: tl.constexpr, interpreted: tl.constexpr):
    """Online softmax: take scores ``[M, N]`` and values ``[N, D]`` into the running maximum, weight and sum."""
    new = tl.maximum(top, tl.max(s, 1))
    base = tl.where(new == float("-inf"), 0.0, new)  # nothing seen yet: exp2(-inf - 0) = 0, never NaN
    shrink = tl.exp2(top - base)
    p = tl.exp2(s - base[:, None])
    weight = weight * shrink + tl.sum(p, 1)
    total = total * shrink[:, None]
    total = product(rounded(p, dtype, interpreted), v, total, dtype, interpreted)
    return new, weight, total


@triton.jit
def turn(x1, x2, cos, sin, table: tl.constexpr, dtype: tl.constexpr, interpreted: tl.constexpr):
    """Rotate the pairs ``(x1, x2)``; every step is rounded to the tables' dtype, the result to ``dtype``."""
    y1 = rounded(x1 * cos, table, interpreted) - rounded(x2 * sin, table, interpreted)
    y2 = rounded(x2 * cos, table, interpreted) + rounded(x1 * sin, table, interpreted)
    y1 = rounded(rounded(y1, table, interpreted), dtype, interpreted)
    y2 = rounded(rounded(y2, table, interpreted), dtype, interpreted)
    return y1, y2


@triton.jit(do_not_specialize=["width", "reach"])
def attend_block(
    q,
    k,
    v,
    cos,
    sin,
    cache_k,
    cache_v,
    out,
    part_out,
    part_log,
    positions,
    queries,
    lengths,
    rows,
    branch,
    brings,
    scale,
    width,
    reach,
    q_token,
    k_token,
    v_token,
    table_row,
    cache_row,
    cache_head,
    cache_slot,
    heads: tl.constexpr,
    group: tl.constexpr,
    size: tl.constexpr,
    names: tl.constexpr,
    splits: tl.constexpr,
    cached: tl.constexpr,
    fresh: tl.constexpr,
    turns: tl.constexpr,
    hides: tl.constexpr,
    branched: tl.constexpr,
    interpreted: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_f: tl.constexpr,
    block_h: tl.constexpr,
):
    """See the module.

    ``hides`` says how cached slots that the forward supplies anew are found: 0 there are none, 1 they are the row's
    window, 2 a table knows.  ``block_h`` is half the head size, rounded up to a power of two.
    """
    dtype = q.dtype.element_ty
    table = cos.dtype.element_ty
    half: tl.constexpr = size // 2
    tile, split = tl.program_id(0) // splits, tl.program_id(0) % splits
    head, row = tl.program_id(1), tl.program_id(2)
    count = tl.load(queries + row).to(tl.int32)

    # A tile row m stands for token j and query head `head * group + g`: heads of a group share keys and values.
    m = tile * block_m + tl.arange(0, block_m)
    j, g = m // group, m % group
    h = tl.arange(0, block_h)
    d = tl.arange(0, 2 * block_h)
    live = j < count
    q_at = (row.to(tl.int64) * width + j) * q_token + (head * group + g) * size
    q_take = live[:, None] & (h < half)[None, :]
    q1 = tl.load(q + q_at[:, None] + h[None, :], mask=q_take, other=0.0).to(tl.float32)
    q2 = tl.load(q + q_at[:, None] + half + h[None, :], mask=q_take, other=0.0).to(tl.float32)
    if turns:
        q_angle = row.to(tl.int64) * table_row + j * size
        q_cos = tl.load(cos + q_angle[:, None] + h[None, :], mask=q_take, other=0.0).to(tl.float32)
        q_sin = tl.load(sin + q_angle[:, None] + h[None, :], mask=q_take, other=0.0).to(tl.float32)
        q1, q2 = turn(q1, q2, q_cos, q_sin, table, dtype, interpreted)
    name = tl.zeros([block_m], tl.int32) - 1
    own = brings + row.to(tl.int64) * names * reach
    if branched:
        name = tl.load(branch + row.to(tl.int64) * width + j, mask=live, other=-1).to(tl.int32)
    drafted = name >= 0

    top = tl.full([block_m], float("-inf"), tl.float32)
    weight = tl.zeros([block_m], tl.float32)
    total = tl.zeros([block_m, 2 * block_h], tl.float32)

    length = 0
    if cached:
        length = tl.load(lengths + row).to(tl.int32)
        place = tl.load(rows + row).to(tl.int64) * cache_row + head * cache_head
        first = 0
        if hides == 1:
            first = tl.load(positions + row.to(tl.int64) * width).to(tl.int32)
        share = tl.cdiv(tl.cdiv(length, block_n), splits) * block_n
        low = split * share
        high = tl.minimum(low + share, length)
        high = tl.where(tile * block_m < count * group, high, low)  # a tile of padding reads nothing
        for start in range(low, high, block_n):
            n = start + tl.arange(0, block_n)
            inside = n < high
            if hides == 1:
                inside = inside & ((n < first) | (n >= first + count))
            if hides == 2:
                inside = inside & (tl.load(own + n, mask=inside, other=1) == 0)
            visible = inside[None, :] & live[:, None]
            if branched:
                mine = own + (name[:, None] + 1) * reach + n[None, :]
                visible = visible & (tl.load(mine, mask=visible & drafted[:, None], other=0) == 0)
            slot = place + n.to(tl.int64) * cache_slot
            take = inside[None, :] & (h < half)[:, None]
            k1 = tl.load(cache_k + slot[None, :] + h[:, None], mask=take, other=0.0).to(tl.float32)
            k2 = tl.load(cache_k + slot[None, :] + half + h[:, None], mask=take, other=0.0).to(tl.float32)
            x = tl.load(cache_v + slot[:, None] + d[None, :], mask=inside[:, None] & (d < size)[None, :], other=0.0)
            scores = _scores(q1, q2, k1, k2, visible, scale, dtype, interpreted)
            top, weight, total = _fold(scores, x.to(tl.float32), top, weight, total, dtype, interpreted)

    if fresh:
        stop = tl.where(split == splits - 1, count, 0)
        for start in tl.range(0, stop, block_f, num_stages=1):  # one pass as a rule: nothing to prefetch
            n = start + tl.arange(0, block_f)
            real = n < count
            token = row.to(tl.int64) * width + n
            take = real[None, :] & (h < half)[:, None]
            k_at = token * k_token + head * size
            k1 = tl.load(k + k_at[None, :] + h[:, None], mask=take, other=0.0).to(tl.float32)
            k2 = tl.load(k + k_at[None, :] + half + h[:, None], mask=take, other=0.0).to(tl.float32)
            if turns:
                k_angle = row.to(tl.int64) * table_row + n * size
                k_cos = tl.load(cos + k_angle[None, :] + h[:, None], mask=take, other=0.0).to(tl.float32)
                k_sin = tl.load(sin + k_angle[None, :] + h[:, None], mask=take, other=0.0).to(tl.float32)
                k1, k2 = turn(k1, k2, k_cos, k_sin, table, dtype, interpreted)
            v_at = token * v_token + head * size
            v_take = real[:, None] & (d < size)[None, :]
            x = tl.load(v + v_at[:, None] + d[None, :], mask=v_take, other=0.0).to(tl.float32)
            key_name = tl.zeros([block_f], tl.int32) - 1
            if branched:
                key_name = tl.load(branch + token, mask=real, other=-1).to(tl.int32)
            if cached:
                where = tl.load(positions + token, mask=real, other=0)
                slot = place + where * cache_slot
                stored = (n < tl.where(tile == 0, count, 0)) & (key_name < 0)  # one program per row and head writes
                save = stored[None, :] & (h < half)[:, None]
                tl.store(cache_k + slot[None, :] + h[:, None], k1.to(dtype), mask=save)
                tl.store(cache_k + slot[None, :] + half + h[:, None], k2.to(dtype), mask=save)
                tl.store(cache_v + slot[:, None] + d[None, :], x.to(dtype), mask=stored[:, None] & (d < size)[None, :])
                real = real & ((where < length) | (key_name >= 0))
            visible = real[None, :] & live[:, None]
            if branched:
                # A draft sees its own tokens, and the shared ones for whose slots it brings none.
                where = tl.load(positions + token, mask=n < count, other=0)
                shared = visible & (key_name < 0)[None, :]
                mine = own + (name[:, None] + 1) * reach + where[None, :]
                shared = shared & (tl.load(mine, mask=shared & drafted[:, None], other=0) == 0)
                visible = shared | (visible & drafted[:, None] & (key_name[None, :] == name[:, None]))
            scores = _scores(q1, q2, k1, k2, visible, scale, dtype, interpreted)
            top, weight, total = _fold(scores, x, top, weight, total, dtype, interpreted)

    total = total / tl.where(weight > 0, weight, 1.0)[:, None]
    item = (row.to(tl.int64) * width + j) * heads + head * group + g
    inside = j < width
    whole = inside[:, None] & (d < size)[None, :]
    if splits == 1:
        value = rounded(total, dtype, interpreted).to(dtype)
        tl.store(out + item[:, None] * size + d[None, :], value, mask=whole)
    else:
        item += split.to(tl.int64) * tl.num_programs(2) * width * heads
        tl.store(part_out + item[:, None] * size + d[None, :], total, mask=whole)
        logarithm = tl.where(weight > 0, top + tl.log2(tl.where(weight > 0, weight, 1.0)), float("-inf"))
        tl.store(part_log + item, logarithm, mask=inside)


@triton.jit(do_not_specialize=["items"])
def merge_parts(
    part_out,
    part_log,
    out,
    items,
    size: tl.constexpr,
    splits: tl.constexpr,
    interpreted: tl.constexpr,
    block: tl.constexpr,
    block_d: tl.constexpr,
):
    """``out [items, size]``: the parts' outputs, weighted by the exponential of their log-sum-exp."""
    item = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    d = tl.arange(0, block_d)
    inside = item < items
    top = tl.full([block], float("-inf"), tl.float32)
    for part in tl.static_range(splits):
        top = tl.maximum(top, tl.load(part_log + part * items + item, mask=inside, other=float("-inf")))
    top = tl.where(top == float("-inf"), 0.0, top)
    weight = tl.zeros([block], tl.float32)
    total = tl.zeros([block, block_d], tl.float32)
    for part in tl.static_range(splits):
        share = tl.exp2(tl.load(part_log + part * items + item, mask=inside, other=float("-inf")) - top)
        at = (part * items + item)[:, None] * size + d[None, :]
        total += share[:, None] * tl.load(part_out + at, mask=inside[:, None] & (d < size)[None, :], other=0.0)
        weight += share
    dtype = out.dtype.element_ty
    total = rounded(total / tl.where(weight > 0, weight, 1.0)[:, None], dtype, interpreted).to(dtype)
    tl.store(out + item[:, None] * size + d[None, :], total, mask=inside[:, None] & (d < size)[None, :])
