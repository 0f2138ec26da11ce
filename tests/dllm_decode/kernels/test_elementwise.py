"""RMSNorm with residual and SiLU gate against the torch lines that they replace."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is not installed")

from dllm_decode.kernels.elementwise import add_norm, gated
from dllm_decode.models.layers import RMSNorm

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
#: one unit in the last place: sums and exponentials in fp32 differ in their last bits, which may tip a rounding
ULP = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@settings(max_examples=12)
@given(
    shape=st.lists(st.integers(0, 4), max_size=2).flatmap(lambda s: st.integers(1, 300).map(lambda n: (*s, n))),
    dtype=st.sampled_from(list(ULP)),
    adds=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_norm_of_a_residual_sum(shape: tuple[int, ...], dtype: torch.dtype, adds: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, delta = (torch.randn(shape, generator=generator).to(DEVICE, dtype) for _ in range(2))
    norm = RMSNorm(shape[-1], 1e-5).to(DEVICE, dtype)
    norm.weight.data = torch.randn(shape[-1], generator=generator).to(DEVICE, dtype)
    total, got = add_norm(x, delta if adds else None, norm.weight.detach(), norm.eps)
    expected = x + delta if adds else x
    assert torch.equal(total, expected), "the sum is rounded before it is normalised, like torch's"
    with torch.no_grad():
        torch.testing.assert_close(got, norm(expected), atol=ULP[dtype] / 10, rtol=ULP[dtype])


@settings(max_examples=8)
@given(
    count=st.one_of(st.sampled_from([0, 1024]), st.integers(1, 2500)),
    dtype=st.sampled_from(list(ULP)),
    seed=st.integers(0, 2**16),
)
def test_gate(count: int, dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gate, up = ((torch.randn(count, generator=generator) * 4).to(DEVICE, dtype) for _ in range(2))
    torch.testing.assert_close(gated(gate, up), F.silu(gate) * up, atol=ULP[dtype] / 10, rtol=ULP[dtype])


def test_gate_of_a_joint_product() -> None:
    both = torch.randn(3, 5, 2 * 70, device=DEVICE)
    gate, up = both.chunk(2, dim=-1)
    torch.testing.assert_close(gated(gate, up), F.silu(gate) * up, atol=1e-7, rtol=1e-6)


def test_gate_far_out() -> None:
    x = torch.tensor([-200.0, -90.0, 0.0, 90.0, 200.0], device=DEVICE)
    torch.testing.assert_close(gated(x, torch.ones_like(x)), F.silu(x), atol=1e-30, rtol=1e-6)
