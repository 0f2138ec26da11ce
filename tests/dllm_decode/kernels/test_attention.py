"""The block step's kernel against the reference backend: ragged, grouped, cached, branched, split, every dtype."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dllm_decode.attention import BACKENDS, LADDER, AttentionCase
from dllm_decode.config import GenerationConfig
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.engine.step import upload
from dllm_decode.interface.cache import KVCache
from dllm_decode.models import ForwardInput
from dllm_decode.models.layers import rotary_tables
from tests.dllm_decode.attention.test_attention import HEAD_DIM, inputs
from tests.dllm_decode.tiny import tiny

pytest.importorskip("triton", reason="Triton is not installed")

from dllm_decode.kernels.launch import Tiles, block_attention, tiles_for
from dllm_decode.kernels.rotary import rotate_to_cache

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: largest error allowed in units of the largest value; fp32 sums in another order, the others round differently
TOLERANCE = {torch.float64: 2e-6, torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # the kernel's


def here(inp: ForwardInput) -> ForwardInput:
    """On the device under test, as the engine brings it there."""
    return inp if DEVICE.type == "cpu" else upload(inp, DEVICE)


def projections(
    inp: ForwardInput, heads: int, kv_heads: int, size: int, dtype: torch.dtype, seed: int
) -> list[Tensor]:
    """Random q, k, v `[R, Q, heads, D]`; the cache is filled with random numbers."""
    (rows, width), generator = inp.tokens.shape, torch.Generator().manual_seed(seed)
    if inp.cache is not None:
        inp.cache.data = torch.randn(inp.cache.data.shape, generator=generator).to(DEVICE, dtype)
    return [
        torch.randn(rows, width, n, size, generator=generator).to(DEVICE, dtype) for n in (heads, kv_heads, kv_heads)
    ]


def both(
    inp: ForwardInput, heads: int, kv_heads: int, size: int, dtype: torch.dtype, table: torch.dtype, seed: int,
    tiles: Tiles | None,
) -> tuple[Tensor, Tensor, KVCache | None, KVCache | None]:  # fmt: skip
    """Output `[R, Q, heads * D]` and cache of the kernel and of the reference."""
    inp = here(inp)
    q, k, v = projections(inp, heads, kv_heads, size, dtype, seed)
    cos, sin = (x.to(table) for x in rotary_tables(inp.positions, size, 100.0))
    other = inp
    if inp.cache is not None:
        copy = KVCache(layers=2, rows=inp.cache.rows, kv_heads=kv_heads, slots=inp.cache.slots, head_dim=size)
        copy.data = inp.cache.data.clone()
        other = replace(inp, cache=copy)
    case, twin = (AttentionCase.of(x, heads, kv_heads, size) for x in (inp, other))
    assert torch.is_grad_enabled() is False and BACKENDS["triton"].supports(case, dtype, DEVICE) is None
    got = block_attention(q.clone(), k.clone(), v, cos, sin, case, 1, tiles)
    expected = BACKENDS["reference"].mix(q, k, v, cos, sin, twin, 1).view_as(got)
    return got, expected, inp.cache, other.cache


def agree(inp: ForwardInput, got: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    real = torch.arange(got.shape[1], device=got.device) < inp.queries[:, None].to(got.device)
    assert got.isfinite().all(), "padding holds junk, but never NaN: it would spread"
    error = (got - expected).abs()[real].max() / expected.abs()[real].max()
    assert error <= TOLERANCE[dtype], f"relative error {error:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=10)
@given(
    drawn=inputs(),
    size=st.sampled_from([2, HEAD_DIM, 6, 24, 40]),
    splits=st.sampled_from([1, 2, 4]),
    full_precision=st.booleans(),
)
@torch.no_grad()
def test_kernel_equals_reference(
    dtype: torch.dtype, drawn: tuple[ForwardInput, int, int, int], size: int, splits: int, full_precision: bool
) -> None:
    inp, heads, kv_heads, seed = drawn
    if inp.cache is not None:
        inp = replace(inp, cache=held(inp.cache.rows, kv_heads, inp.cache.slots, size))
    splits = 1 if inp.cache is None else splits
    table = torch.float32 if full_precision else dtype
    got, expected, cache, twin = both(inp, heads, kv_heads, size, dtype, table, seed, Tiles(16, 16, splits))
    agree(inp, got, expected, dtype)
    if cache is not None and twin is not None:
        slots = cache.slots
        torch.testing.assert_close(cache.data[..., :slots, :], twin.data[..., :slots, :], atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", [name for name in LADDER if name != "reference"])
@settings(max_examples=8)
@given(drawn=inputs(), size=st.sampled_from([8, 32]), scattered=st.booleans())
@torch.no_grad()
def test_every_backend_that_runs_here_equals_reference(
    name: str, dtype: torch.dtype, drawn: tuple[ForwardInput, int, int, int], size: int, scattered: bool
) -> None:
    """Rotation, cache write and attention as a layer asks for them; the flash kernels get their turn on a GPU."""
    inp, heads, kv_heads, seed = drawn
    outs, caches = [], []
    for backend in (BACKENDS[name], BACKENDS["reference"]):
        own = inp
        if inp.cache is not None:
            own = replace(inp, cache=held(inp.cache.rows, kv_heads, inp.cache.slots, size))
            own = own if scattered else replace(own, rows=None)
        own = here(own)
        q, k, v = projections(own, heads, kv_heads, size, dtype, seed)
        cos, sin = rotary_tables(own.positions, size, 100.0)
        case = AttentionCase.of(own, heads, kv_heads, size)
        if backend.supports(case, dtype, DEVICE) is not None:
            return
        outs.append(backend.mix(q, k, v, cos, sin, case, 1).unflatten(0, q.shape[:2]))
        caches.append(own.cache)
    agree(inp, outs[0], outs[1], dtype)
    if caches[0] is not None and caches[1] is not None:
        slots = caches[0].slots
        close = {"atol": 1e-6, "rtol": 0 if DEVICE.type == "cpu" else TOLERANCE[dtype]}
        torch.testing.assert_close(caches[0].data[..., :slots, :], caches[1].data[..., :slots, :], **close)


def window(count: int, width: int, total: int, cache: KVCache | None, ragged: bool = True) -> ForwardInput:
    """A dual-cache step: each row's block somewhere inside its own length."""
    generator = torch.Generator().manual_seed(count + width)
    lengths = torch.randint(width, total + 1, (count,), generator=generator) if ragged else torch.full((count,), total)
    queries = torch.randint(1, width + 1, (count,), generator=generator) if ragged else torch.full((count,), width)
    first = ((lengths - queries) * torch.rand(count, generator=generator)).long()
    positions = (first[:, None] + torch.arange(width)) * (torch.arange(width) < queries[:, None])
    return here(ForwardInput(torch.zeros(count, width).long(), positions, queries, lengths, cache=cache))


def held(count: int, kv_heads: int, slots: int, size: int) -> KVCache:
    return KVCache(layers=2, rows=count, kv_heads=kv_heads, slots=slots, head_dim=size, device=DEVICE)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "width", "total", "tiles"),
    [
        (4, 4, 32, 33, 90, None),  # several tiles of queries and keys, a width that is no power of two
        (14, 2, 24, 9, 70, Tiles(32, 16, 4)),  # Dream's group of 7; a head size that is no power of two
        (2, 1, 128, 32, 64, None),  # the 8B models' head size
    ],
)
@torch.no_grad()
def test_shapes_of_real_steps(
    heads: int, kv_heads: int, size: int, width: int, total: int, tiles: Tiles | None
) -> None:
    inp = window(2, width, total, held(2, kv_heads, total, size))
    got, expected, cache, twin = both(inp, heads, kv_heads, size, torch.float32, torch.float32, 5, tiles)
    agree(inp, got, expected, torch.float32)
    assert cache is not None and twin is not None
    torch.testing.assert_close(cache.data[..., :total, :], twin.data[..., :total, :], atol=1e-6, rtol=0)


@torch.no_grad()
def test_a_row_gets_the_same_bits_in_any_batch() -> None:
    count, width, total, size = 3, 8, 40, 16
    inp = window(count, width, total, held(count, 2, total, size))
    q, k, v = projections(inp, 4, 2, size, torch.float32, 1)
    cos, sin = rotary_tables(inp.positions, size, 100.0)
    assert inp.cache is not None
    whole = block_attention(q, k, v, cos, sin, AttentionCase.of(inp, 4, 2, size), 0, Tiles(16, 16, 2))
    for r in range(count):
        alone = ForwardInput(
            inp.tokens[r : r + 1], inp.positions[r : r + 1], inp.queries[r : r + 1], inp.lengths[r : r + 1],
            cache=inp.cache, rows=torch.tensor([r], device=DEVICE),
        )  # fmt: skip
        one = slice(r, r + 1)
        case = AttentionCase.of(alone, 4, 2, size)
        got = block_attention(q[one], k[one], v[one], cos[one], sin[one], case, 0, Tiles(16, 16, 2))
        assert torch.equal(got[0], whole[r])


@torch.no_grad()
def test_hidden_slots_may_hold_anything() -> None:
    # Slots that the step supplies anew, and those behind a row's length, are never read.
    inp = window(2, 6, 30, held(2, 1, 40, 8))
    q, k, v = projections(inp, 2, 1, 8, torch.float32, 2)
    cos, sin = rotary_tables(inp.positions, 8, 100.0)
    assert inp.cache is not None
    case = AttentionCase.of(inp, 2, 1, 8)
    clean = block_attention(q, k, v, cos, sin, case, 0, Tiles(16, 16, 2))
    for r in range(2):
        inp.cache.data[0, :, r, :, int(inp.lengths[r]) :] = torch.nan
        inp.cache.data[0, :, r, :, inp.positions[r, : inp.queries[r]]] = torch.nan
    assert torch.equal(block_attention(q, k, v, cos, sin, case, 0, Tiles(16, 16, 2)), clean)


@pytest.mark.parametrize("cached", [False, True])
@torch.no_grad()
def test_wide_forwards_rotate_in_a_launch_of_their_own(cached: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dllm_decode.attention.fused.ONE_LAUNCH", 4)
    width, size = 12, 8
    cache = held(2, 2, width, size) if cached else None
    lengths = torch.tensor([12, 7])
    positions = torch.arange(width).expand(2, -1) * (torch.arange(width) < lengths[:, None])
    inp = here(ForwardInput(torch.zeros(2, width).long(), positions, lengths, lengths, cache=cache))
    q, k, v = projections(inp, 4, 2, size, torch.float16, 3)
    if cache is not None:
        cache.data.zero_()
    cos, sin = rotary_tables(inp.positions, size, 100.0)
    case = AttentionCase.of(inp, 4, 2, size)
    expected = BACKENDS["reference"].mix(q, k, v, cos, sin, case, 0).unflatten(0, q.shape[:2])
    kept = None if cache is None else cache.data.clone()
    if cache is not None:
        cache.data.zero_()
    got = BACKENDS["triton"].mix(q.clone(), k.clone(), v, cos, sin, case, 0).view_as(expected)
    agree(inp, got, expected, torch.float16)
    if cache is not None and kept is not None:
        assert torch.equal(cache.data[..., :width, :], kept[..., :width, :])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@torch.no_grad()
def test_rotation_rounds_as_torch_does(dtype: torch.dtype) -> None:
    # bf16 and fp16 tables mean that every step of the rotation is rounded (Dream); fp32 tables that only the end is.
    for table in {torch.float32, dtype}:
        inp = window(2, 7, 20, None, ragged=False)
        q, k, v = projections(inp, 6, 2, 16, dtype, 4)
        cos, sin = (x.to(table) for x in rotary_tables(inp.positions, 16, 100.0))
        from dllm_decode.attention import rotate

        expected = [rotate(x.transpose(1, 2), cos, sin).transpose(1, 2) for x in (q, k)]
        got = rotate_to_cache(q.clone(), k.clone(), v, cos, sin, AttentionCase.of(inp, 6, 2, 16), 0)
        for a, b in zip(got, expected, strict=False):
            # The GPU may fuse a multiplication into an addition: the last bit before the final rounding.
            torch.testing.assert_close(a, b, atol=0 if DEVICE.type == "cpu" else 1e-2, rtol=0)


@pytest.mark.parametrize(
    ("family", "layers", "policy"),
    [("llada", "n_layers", "freedave:drafts=2"), ("dream", "num_hidden_layers", "topk:k=2")],
)
def test_whole_runs_through_the_kernel(family: str, layers: str, policy: str) -> None:
    # Ragged prompts, opening forwards, block steps, and drafts as branches over the cache.
    def run(attention: str) -> list[list[int]]:
        model = tiny(family, **{layers: 1})
        model.module.to(DEVICE)  # type: ignore[call-arg]
        model.module.attention = attention
        config = GenerationConfig(max_new_tokens=4, block_length=2)
        return DiffusionSampler(model, policy, cache="dual", config=config).generate([[3, 1, 4], [1, 5]]).sequences

    assert run("triton") == run("reference")


def test_splits_fill_a_gpu_and_no_more() -> None:
    def splits(count: int, heads: int, kv_heads: int, slots: int) -> int:
        cache = KVCache(layers=1, rows=1, kv_heads=1, slots=1, head_dim=2)
        case = AttentionCase(heads, kv_heads, 128, slots=slots, cache=cache)
        return tiles_for(case, count, 32, torch.bfloat16, torch.device("cpu")).splits

    assert splits(1, 32, 32, 1024) == 4  # LLaDA-8B alone: 32 programs on 132 processors
    assert splits(1, 28, 4, 2048) == 8  # Dream-7B alone: 4 KV heads, 4 tiles of their 7 x 32 queries
    assert splits(8, 32, 32, 1024) == 1
    assert splits(1, 32, 32, 512) == 4  # 128 programs, and 128 keys for each
    assert splits(1, 32, 32, 200) == 1  # too few keys to be worth a merge
