"""What is left of a layer between its matrix products: RMSNorm with the residual sum, and the SiLU gate."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from dllm_decode.kernels.numeric import INTERPRETED, rounded


@triton.jit
def sum_and_norm(
    x,
    delta,
    weight,
    total_out,
    norm_out,
    eps,
    size: tl.constexpr,
    adds: tl.constexpr,
    interpreted: tl.constexpr,
    block: tl.constexpr,
):
    """One token per program: ``total = x + delta``, ``norm = total / rms(total) * weight``; rounded as torch does."""
    dtype = x.dtype.element_ty
    i = tl.arange(0, block)
    inside = i < size
    at = tl.program_id(0).to(tl.int64) * size + i
    total = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if adds:
        total = rounded(total + tl.load(delta + at, mask=inside, other=0.0).to(tl.float32), dtype, interpreted)
        tl.store(total_out + at, total.to(dtype), mask=inside)
    scale = tl.rsqrt(tl.sum(total * total, 0) / size + eps)
    norm = rounded(total * scale, dtype, interpreted)
    norm = rounded(norm * tl.load(weight + i, mask=inside, other=0.0).to(tl.float32), dtype, interpreted)
    tl.store(norm_out + at, norm.to(dtype), mask=inside)


@triton.jit
def silu_times(gate, up, out, count, size, stride, interpreted: tl.constexpr, block: tl.constexpr):
    """``silu(gate) * up`` of rows of ``size`` numbers, ``stride`` apart; rounded to the dtype after each."""
    dtype = gate.dtype.element_ty
    i = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = i < count
    at = i // size * stride + i % size
    x = tl.load(gate + at, mask=inside, other=0.0).to(tl.float32)
    y = tl.load(up + at, mask=inside, other=0.0).to(tl.float32)
    shrunk = tl.exp(-tl.abs(x))  # of the side that cannot overflow
    x = rounded(x * tl.where(x >= 0, 1.0, shrunk) / (1.0 + shrunk), dtype, interpreted)
    tl.store(out + i, rounded(x * y, dtype, interpreted).to(dtype), mask=inside)


def add_norm(x: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """RMSNorm of a residual sum.

    Args:
        x: ``[..., size]``.
        delta: what is added to it, the same shape; ``None`` = nothing.
        weight: ``[size]``.
        eps: added to the mean square.

    Returns:
        The sum (``x`` itself without ``delta``) and its norm, in the dtype of ``x``.
    """
    x, size = x.contiguous(), x.shape[-1]
    norm = torch.empty_like(x)
    total = x if delta is None else torch.empty_like(x)
    block = triton.next_power_of_2(size)
    if x.numel():
        sum_and_norm[(x.numel() // size,)](
            x,
            x if delta is None else delta.contiguous(),
            weight,
            total,
            norm,
            eps,
            size=size,
            adds=delta is not None,
            interpreted=INTERPRETED,
            block=block,
            num_warps=min(16, max(1, block // 512)),
            enable_fp_fusion=True,
        )
    return total, norm


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """``silu(gate) * up`` of two tensors of one shape and dtype; halves of one product are read where they lie."""
    size, count = gate.shape[-1], gate.numel()
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    if count:
        gate, up = gate.reshape(-1, size), up.reshape(-1, size)  # of a joint product: views
        if gate.stride() != up.stride() or gate.stride(1) != 1:
            gate, up = gate.contiguous(), up.contiguous()
        silu_times[(triton.cdiv(count, 1024),)](
            gate,
            up,
            out,
            count,
            size,
            gate.stride(0),
            interpreted=INTERPRETED,
            block=1024,
            num_warps=4,
            enable_fp_fusion=True,
        )
    return out
