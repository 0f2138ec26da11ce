"""The ladder: what each fused backend says it can do, and how the two flash kernels are called.

The flash kernels run on CUDA only; here stand-ins written from their documentation take their place, so that layouts,
lengths and row numbers are checked everywhere.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dllm_decode import attention, kernels
from dllm_decode.attention import BACKENDS, AttentionCase, choose_backend
from dllm_decode.attention.fused import find_function
from dllm_decode.interface.cache import KVCache
from dllm_decode.models import ForwardInput
from dllm_decode.models.layers import rotary_tables
from tests.dllm_decode.attention.test_attention import HEAD_DIM, inputs, uniform

CUDA, BF16 = torch.device("cuda"), torch.bfloat16


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`[Tq, H, D]` over `[Tk, Hkv, D]`."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    weights = (torch.einsum("qhd,khd->hqk", q.float(), k.float()) / q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v.float()).to(q.dtype)


def flash_attn_with_kvcache(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, k: Any = None, v: Any = None, *, cache_seqlens: Tensor,
    cache_batch_idx: Tensor | None = None, softmax_scale: float | None = None, causal: bool = False,
) -> Tensor:  # fmt: skip
    """q `[B, T, H, D]`, caches `[B_cache, S, Hkv, D]` with a contiguous last axis, lengths int32 `[B]`."""
    assert k is None and v is None and softmax_scale is None and not causal
    assert k_cache.stride(-1) == 1 and cache_seqlens.dtype == torch.int32
    assert cache_batch_idx is None or cache_batch_idx.dtype == torch.int32
    rows = range(len(q)) if cache_batch_idx is None else cache_batch_idx.tolist()
    seen = zip(q, rows, cache_seqlens.tolist(), strict=True)
    return torch.stack([dense(x, k_cache[r, :n], v_cache[r, :n]) for x, r, n in seen])


def varlen_attn(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_q: Tensor, cu_seq_k: Tensor, max_q: int, max_k: int, *,
    scale: float | None = None, enable_gqa: bool = False, seqused_k: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """query `[Tq, H, D]`, keys `[Tk, Hkv, D]`, cumulative starts and used lengths int32."""
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32 and scale is None and seqused_k is not None
    assert enable_gqa == (query.shape[1] != key.shape[1]) and query.is_contiguous()
    out = torch.empty_like(query)
    starts, keys, used = cu_seq_q.tolist(), cu_seq_k.tolist(), seqused_k.tolist()
    for b, n in enumerate(used):
        assert starts[b + 1] - starts[b] <= max_q and n <= keys[b + 1] - keys[b] <= max_k
        row = slice(starts[b], starts[b + 1])
        out[row] = dense(query[row], key[keys[b] : keys[b] + n], value[keys[b] : keys[b] + n])
    return out


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = ModuleType("flash_attn")
    module.flash_attn_with_kvcache = flash_attn_with_kvcache  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    find_function.cache_clear()
    yield
    find_function.cache_clear()


@pytest.mark.parametrize("name", ["flash", "varlen"])
@pytest.mark.parametrize("launch", [False, True], ids=["torch rotates", "Triton rotates"])
@pytest.mark.usefixtures("stand_ins")
@settings(max_examples=25)
@given(drawn=inputs())
@torch.no_grad()
def test_flash_kernels_get_what_they_want(name: str, launch: bool, drawn: tuple[ForwardInput, int, int, int]) -> None:
    inp, heads, kv_heads, seed = drawn
    if inp.branch is not None:
        return
    if launch:
        pytest.importorskip("triton", reason="Triton is not installed")
    (rows, width), generator = inp.tokens.shape, torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(rows, width, n, HEAD_DIM, generator=generator) for n in (heads, kv_heads, kv_heads))
    cos, sin = rotary_tables(inp.positions, HEAD_DIM, 100.0)
    case, outs = AttentionCase.of(inp, heads, kv_heads, HEAD_DIM), []
    if name == "varlen" and case.cache is not None and (case.span is None or rows > 1):
        return
    with pytest.MonkeyPatch.context() as patch:
        if not launch:
            patch.setattr(kernels, "unusable", lambda device, dtype: "not now")
        for backend in (BACKENDS["reference"], BACKENDS[name]):
            if inp.cache is not None:
                inp.cache.data.copy_(torch.randn(inp.cache.data.shape, generator=generator.manual_seed(seed)))
            outs.append(backend.mix(q.clone(), k.clone(), v, cos, sin, case, 1).unflatten(0, (rows, width)))
    real = torch.arange(width) < inp.queries[:, None]
    torch.testing.assert_close(outs[1][real], outs[0][real], atol=1e-5, rtol=0)


def case_of(count: int = 1, head_dim: int = 64, **fields: Any) -> AttentionCase:
    return AttentionCase.of(uniform(count, 2, **fields), 2, 2, head_dim)


def cache(rows: int) -> KVCache:
    return KVCache(layers=1, rows=rows, kv_heads=2, slots=4, head_dim=64)


@torch.no_grad()
def test_what_the_flash_kernels_refuse(monkeypatch: pytest.MonkeyPatch, stand_ins: None) -> None:
    for backend in (BACKENDS["flash"], BACKENDS["varlen"]):
        assert backend.supports(case_of(), BF16, CUDA) is None
        for reason, case, dtype, device in (
            ("CUDA only", case_of(), BF16, torch.device("cpu")),
            ("not float32", case_of(), torch.float32, CUDA),
            ("heads of 20", case_of(head_dim=20), BF16, CUDA),
            ("branches", case_of(branch=torch.tensor([[0, 1]])), BF16, CUDA),
            ("padding", AttentionCase(2, 2, 64, real=torch.ones(1, 2).bool()), BF16, CUDA),
        ):
            said = backend.supports(case, dtype, device)
            assert said is not None and reason in said
        with torch.enable_grad():
            assert "backward" in str(backend.supports(case_of(), BF16, CUDA))
    assert BACKENDS["flash"].supports(case_of(2, cache=cache(2)), BF16, CUDA) is None
    assert BACKENDS["varlen"].supports(case_of(1, cache=cache(2)), BF16, CUDA) is None
    assert "copy the cache" in str(BACKENDS["varlen"].supports(case_of(2, cache=cache(2)), BF16, CUDA))


@torch.no_grad()
def test_the_function_is_tested_for_not_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    flash = BACKENDS["flash"]

    def said() -> str:
        find_function.cache_clear()
        return str(flash.supports(case_of(), BF16, CUDA))

    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert said() == "flash_attn is not installed"
    four = ModuleType("flash_attn")  # flash-attn 4 shares the name, and lacks the function
    monkeypatch.setitem(sys.modules, "flash_attn", four)
    assert said() == "the installed flash_attn has no flash_attn_with_kvcache"
    four.flash_attn_with_kvcache = lambda q, k_cache, v_cache, causal: q  # type: ignore[attr-defined]
    assert "takes no cache_seqlens, cache_batch_idx" in said()
    find_function.cache_clear()


@torch.no_grad()
def test_torch_has_the_varlen_function_it_is_asked_for() -> None:
    find_function.cache_clear()
    found = find_function("torch.nn.attention.varlen", "varlen_attn", "seqused_k", "enable_gqa")
    assert callable(found) or "torch" in found


@torch.no_grad()
def test_what_the_triton_kernel_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    triton, cpu = BACKENDS["triton"], torch.device("cpu")
    monkeypatch.setattr(kernels, "_installed", lambda: True)
    monkeypatch.setattr(kernels, "interpreting", lambda: True)
    assert triton.supports(case_of(), BF16, cpu) is None
    assert "interpreter" in str(triton.avoided(cpu)) and triton.avoided(CUDA) is None
    twice = case_of(2, cache=cache(2), rows=torch.tensor([1, 1]))
    assert "share a cache row" in str(triton.supports(twice, BF16, cpu))
    drafts = case_of(2, cache=cache(2), rows=torch.tensor([1, 1]), branch=torch.zeros(2, 2).long())
    assert triton.supports(drafts, BF16, cpu) is None
    assert "float64" in str(triton.supports(case_of(), torch.float64, cpu))
    assert "even size" in str(triton.supports(case_of(head_dim=7), BF16, cpu))
    with torch.enable_grad():
        assert "backward" in str(triton.supports(case_of(), BF16, cpu))
    monkeypatch.setattr(kernels, "interpreting", lambda: False)
    assert "does not compile for cpu" in str(triton.supports(case_of(), BF16, cpu))
    monkeypatch.setattr(kernels, "_installed", lambda: False)
    assert triton.supports(case_of(), BF16, cpu) == "Triton is not installed"


@torch.no_grad()
def test_old_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_installed", lambda: True)
    monkeypatch.setattr(kernels, "_capability", lambda device: (7, 5))
    assert "8.0" in str(kernels.unusable(CUDA, BF16))
    monkeypatch.setattr(kernels, "_capability", lambda device: (9, 0))
    assert kernels.unusable(CUDA, BF16) is None


@torch.no_grad()
def test_auto_takes_the_first_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, stand_ins: None
) -> None:
    monkeypatch.setattr(attention, "_said", set())
    monkeypatch.setattr(kernels, "_installed", lambda: True)
    monkeypatch.setattr(kernels, "_capability", lambda device: (9, 0))
    with caplog.at_level(logging.INFO, "dllm_decode.attention"):
        for _ in range(2):
            assert choose_backend("auto", case_of(), torch.float32, torch.device("cpu")).name == "sdpa"
        assert choose_backend("auto", case_of(cache=cache(1)), BF16, CUDA).name == "flash"
        assert choose_backend("auto", case_of(branch=torch.tensor([[0, 1]])), BF16, CUDA).name == "triton"
        monkeypatch.setitem(sys.modules, "flash_attn", None)
        find_function.cache_clear()
        assert choose_backend("auto", case_of(cache=cache(1)), BF16, CUDA).name == "varlen"
        assert choose_backend("auto", case_of(2, cache=cache(2)), BF16, CUDA).name == "triton"
    said = [record.message for record in caplog.records]
    assert len(said) == 5
    assert said[0].startswith("attention on cpu in float32, no cache: sdpa (flash: it runs on CUDA only; varlen: ")
    assert said[1] == "attention on cuda in bfloat16, over the cache: flash"
    assert said[2].endswith("branches: triton (flash: branches need a mask; varlen: branches need a mask)")
    assert said[3].endswith("varlen (flash: flash_attn is not installed)")
