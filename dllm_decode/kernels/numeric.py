"""Rounding inside kernels, the same on the GPU and in Triton's interpreter."""

from __future__ import annotations

import triton
import triton.language as tl

from dllm_decode.kernels import interpreting

#: Triton's interpreter truncates fp32 to bf16 and gets arithmetic on bf16 wrong: there, kernels round by hand and
#: compute in fp32 throughout.
INTERPRETED = interpreting()


@triton.jit
def rounded(x, dtype: tl.constexpr, interpreted: tl.constexpr):
    """Fp32 ``x`` rounded to ``dtype`` (to nearest, ties to even), still in fp32."""
    if dtype == tl.float32:
        y = x
    elif dtype == tl.bfloat16 and interpreted:
        bits = x.to(tl.int32, bitcast=True)
        y = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    else:
        y = x.to(dtype).to(tl.float32)
    return y


@triton.jit
def product(a, b, total, dtype: tl.constexpr, interpreted: tl.constexpr):
    """``total + a @ b`` with fp32 accumulation; ``a``, ``b`` fp32 holding numbers of ``dtype``."""
    if interpreted or dtype == tl.float32:
        out = tl.dot(a, b, total, input_precision="ieee")
    else:
        out = tl.dot(a.to(dtype), b.to(dtype), total)
    return out
