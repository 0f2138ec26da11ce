"""Backends against a loop over single queries, on random ragged, grouped, cached and branched cases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dllm_decode import attention
from dllm_decode.attention import BACKENDS, AttentionCase, Backend, attend, choose_backend
from dllm_decode.errors import DllmError
from dllm_decode.interface.cache import KVCache
from dllm_decode.models import ForwardInput

HEAD_DIM = 4


@st.composite
def inputs(draw: st.DrawFn) -> tuple[ForwardInput, int, int, int]:
    """A forward input with its heads, KV heads and a seed: any mix of ragged, cached, branched."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    kv_heads, group = draw(st.sampled_from([1, 2])), draw(st.sampled_from([1, 3]))
    ragged, cached, branched = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    slots = draw(st.integers(width, 9))

    def per_row(low: int, high: int) -> list[int]:
        one = draw(st.integers(low, high))
        return [draw(st.integers(low, high)) if ragged else one for _ in range(rows)]

    queries = per_row(1, width) if ragged else [width] * rows
    lengths = [max(q, n) for q, n in zip(queries, per_row(1, slots), strict=True)] if cached else queries
    fields: dict[str, Any] = {}
    positions, branch = torch.zeros(rows, width, dtype=torch.long), torch.full((rows, width), -1)
    for r, (q, n) in enumerate(zip(queries, lengths, strict=True)):
        # Within the shared tokens and within each branch a slot occurs once.
        ids = [draw(st.integers(-1, 2)) if branched else -1 for _ in range(q)]
        for name in set(ids):
            mine = [i for i, b in enumerate(ids) if b == name]
            positions[r, mine] = torch.tensor(draw(st.permutations(range(n)))[: len(mine)])
            branch[r, mine] = name
    if branched:
        fields["branch"] = branch
    if cached:
        held = draw(st.integers(rows, 6))
        fields["cache"] = KVCache(layers=2, rows=held, kv_heads=kv_heads, slots=slots, head_dim=HEAD_DIM)
        if draw(st.booleans()):
            fields["rows"] = torch.tensor(draw(st.permutations(range(held)))[:rows])
    tokens = torch.zeros(rows, width, dtype=torch.long)
    inp = ForwardInput(tokens, positions, torch.tensor(queries), torch.tensor(lengths), **fields)
    return inp, kv_heads * group, kv_heads, draw(st.integers(0, 2**16))


def one_by_one(q: Tensor, k: Tensor, v: Tensor, inp: ForwardInput, before: Tensor | None) -> Tensor:
    """The rules of `ForwardInput` read word by word, one query at a time; `before` is the layer's cache as it was."""
    out, group = torch.zeros_like(q), q.shape[1] // k.shape[1]
    for r in range(q.shape[0]):
        row = r if inp.rows is None else int(inp.rows[r])
        count = int(inp.queries[r])
        where = inp.positions[r].tolist()
        branch = [-1] * count if inp.branch is None else inp.branch[r].tolist()
        for i in range(count):
            mine = {where[j]: j for j in range(count) if branch[j] == branch[i] and branch[i] >= 0}
            shared = {where[j]: j for j in range(count) if branch[j] == -1}
            keys, values = [], []
            slots = shared if before is None else range(int(inp.lengths[r]))
            for slot in slots:
                if slot in mine:
                    continue
                if slot in shared:
                    keys.append(k[r, :, shared[slot]])
                    values.append(v[r, :, shared[slot]])
                else:
                    assert before is not None
                    keys.append(before[0, row, :, slot])
                    values.append(before[1, row, :, slot])
            for j in mine.values():
                keys.append(k[r, :, j])
                values.append(v[r, :, j])
            for head in range(q.shape[1]):
                own_k = torch.stack([key[head // group] for key in keys])
                own_v = torch.stack([value[head // group] for value in values])
                weights = (own_k @ q[r, head, i] / HEAD_DIM**0.5).softmax(0)
                out[r, head, i] = weights @ own_v
    return out


@pytest.mark.parametrize("name", ["sdpa", "reference"])
@settings(max_examples=150, deadline=None)
@given(drawn=inputs())
def test_backends_equal_one_query_at_a_time(name: str, drawn: tuple[ForwardInput, int, int, int]) -> None:
    backend = BACKENDS[name]
    inp, heads, kv_heads, seed = drawn
    (rows, width), generator = inp.tokens.shape, torch.Generator().manual_seed(seed)
    q = torch.randn(rows, heads, width, HEAD_DIM, generator=generator)
    k, v = (torch.randn(rows, kv_heads, width, HEAD_DIM, generator=generator) for _ in range(2))
    before = None
    if inp.cache is not None:
        inp.cache.data.copy_(torch.randn(inp.cache.data.shape, generator=generator))
        before = inp.cache.data.clone()
    case = AttentionCase.of(inp, heads, kv_heads, HEAD_DIM)
    assert backend.supports(case, q.dtype, q.device) is None
    assert case.mask is None or case.mask.any(-1).all(), "a query that sees nothing is NaN on some devices"
    got = attend(q, k, v, case, backend, layer=1)
    expected = one_by_one(q, k, v, inp, None if before is None else before[1])
    real = torch.arange(width) < inp.queries[:, None]
    torch.testing.assert_close(got.transpose(1, 2)[real], expected.transpose(1, 2)[real], atol=1e-5, rtol=0)
    assert got.isfinite().all()
    if before is not None and inp.cache is not None:
        written = before.clone()
        for r in range(rows):
            row = r if inp.rows is None else int(inp.rows[r])
            for j in range(int(inp.queries[r])):
                if inp.branch is None or inp.branch[r, j] < 0:
                    written[1, 0, row, :, inp.positions[r, j]] = k[r, :, j]
                    written[1, 1, row, :, inp.positions[r, j]] = v[r, :, j]
        slots = inp.cache.slots
        assert torch.equal(inp.cache.data[..., :slots, :], written[..., :slots, :])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@settings(max_examples=40)
@given(drawn=inputs())
def test_sdpa_equals_reference_in_every_dtype(dtype: torch.dtype, drawn: tuple[ForwardInput, int, int, int]) -> None:
    inp, heads, kv_heads, seed = drawn
    (rows, width), generator = inp.tokens.shape, torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(rows, n, width, HEAD_DIM, generator=generator).to(dtype) for n in (heads, *[kv_heads] * 2))
    case, outs = AttentionCase.of(inp, heads, kv_heads, HEAD_DIM), []
    for name in ("sdpa", "reference"):
        if inp.cache is not None:
            held = torch.randn(inp.cache.data.shape, generator=generator.manual_seed(seed))
            inp.cache.data = held.to(dtype)
        assert BACKENDS[name].supports(case, dtype, q.device) is None
        outs.append(attend(q, k, v, case, BACKENDS[name], layer=1).transpose(1, 2))
    assert outs[0].dtype == dtype
    real = torch.arange(width) < inp.queries[:, None]
    tolerance = {torch.float64: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[dtype]
    torch.testing.assert_close(outs[0][real].double(), outs[1][real].double(), atol=tolerance * 3, rtol=tolerance)


def uniform(count: int, width: int, **fields: Any) -> ForwardInput:
    full = torch.full((count,), width)
    tokens = torch.zeros(count, width, dtype=torch.long)
    return ForwardInput(tokens, torch.arange(width).expand(count, -1), full, full, **fields)


def test_no_mask_is_built_when_nothing_is_ragged() -> None:
    assert AttentionCase.of(uniform(3, 5), 2, 2, HEAD_DIM).mask is None
    cache = KVCache(layers=1, rows=3, kv_heads=2, slots=9, head_dim=HEAD_DIM)
    assert AttentionCase.of(uniform(3, 5, cache=cache), 2, 2, HEAD_DIM).mask is None
    ragged = ForwardInput(
        torch.zeros(2, 5, dtype=torch.long), torch.arange(5).expand(2, -1), torch.tensor([5, 3]), torch.tensor([5, 3])
    )
    mask = AttentionCase.of(ragged, 2, 2, HEAD_DIM).mask
    assert mask is not None and mask.shape == (2, 1, 1, 5)


def test_masks_are_built_once_per_forward_not_per_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    original = AttentionCase._branch_mask
    monkeypatch.setattr(AttentionCase, "_branch_mask", lambda self, b: built.append(1) or original(self, b))
    branch = torch.tensor([[-1, -1, 0, 1]])
    case = AttentionCase.of(uniform(1, 4, branch=branch), 2, 2, HEAD_DIM)
    q = torch.randn(1, 2, 4, HEAD_DIM)
    for layer in range(3):
        attend(q, q, q, case, BACKENDS["sdpa"], layer)
    assert built == [1]


def test_consecutive_rows_are_read_without_a_copy() -> None:
    cache = KVCache(layers=1, rows=4, kv_heads=2, slots=6, head_dim=HEAD_DIM)
    inp = uniform(2, 3, cache=cache, rows=torch.tensor([1, 2]))
    case = AttentionCase.of(inp, 2, 2, HEAD_DIM)
    assert case.span is not None
    k, _ = cache.read(0, case.span, case.slots)
    assert k.untyped_storage().data_ptr() == cache.data.untyped_storage().data_ptr()
    scattered = AttentionCase.of(uniform(2, 3, cache=cache, rows=torch.tensor([3, 0])), 2, 2, HEAD_DIM)
    assert scattered.span is None


def test_bf16_training_on_cpu_matches_fp32() -> None:
    generator = torch.Generator().manual_seed(0)
    case = AttentionCase(2, 2, HEAD_DIM)
    tensors = [torch.randn(2, 2, 5, HEAD_DIM, generator=generator).bfloat16() for _ in range(3)]
    low = [t.clone().requires_grad_() for t in tensors]
    high = [t.float().requires_grad_() for t in tensors]
    attend(*low, case, BACKENDS["sdpa"]).float().square().sum().backward()
    attend(*high, case, BACKENDS["sdpa"]).square().sum().backward()
    for a, b in zip(low, high, strict=True):
        assert a.grad is not None and b.grad is not None
        torch.testing.assert_close(a.grad.float(), b.grad, atol=0.05, rtol=0.05)


def test_ladder_and_its_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(Backend):
        name = "triton"

        def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
            return "it does no branches" if case.branch is not None else None

        def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
            return q

    here = torch.float32, torch.device("cpu")
    easy = AttentionCase.of(uniform(1, 2), 2, 2, HEAD_DIM)
    hard = AttentionCase.of(uniform(1, 2, branch=torch.tensor([[0, 1]])), 2, 2, HEAD_DIM)
    assert choose_backend("auto", easy, *here).name == "sdpa"
    assert choose_backend("reference", easy, *here).name == "reference"
    monkeypatch.setattr(attention, "BACKENDS", {**BACKENDS, "triton": Picky()})
    assert choose_backend("auto", easy, *here).name == "triton"
    assert choose_backend("auto", hard, *here).name == "sdpa"
    with pytest.raises(DllmError, match="'triton' cannot serve this forward: it does no branches; use auto"):
        choose_backend("triton", hard, *here)
    with pytest.raises(
        DllmError, match="unknown attention backend 'fast'; use auto, flash, varlen, triton, sdpa, reference"
    ):
        choose_backend("fast", easy, *here)
