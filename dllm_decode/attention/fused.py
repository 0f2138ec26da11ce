"""Backends that need a GPU: flash-attn, torch's own variable-length flash kernel, and the Triton kernel.

None has a backward pass here, so with gradients on they step aside.  Before the first two, one Triton launch (where
Triton is) rotates q and k and writes the cache; the Triton kernel does it all in one.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from dllm_decode import kernels
from dllm_decode.attention.backends import Backend
from dllm_decode.interface.case import AttentionCase

#: Block steps up to this many tokens per row rotate their keys inside the attention kernel; wider forwards have many
#: query tiles, each of which would rotate all of them again, so they rotate in a launch of their own.
ONE_LAUNCH = 128


@cache
def find_function(module: str, name: str, *parameters: str) -> Callable[..., Any] | str:
    """``module.name`` if it is there and takes ``parameters``, else a clause saying what is missing."""
    package = module.split(".")[0]
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        return f"{package} is not installed" if error.name == package else f"{module} cannot be imported ({error})"
    if found is None:  # flash-attn 4 shares the namespace of flash-attn 2 but has no such function
        return f"the installed {package} has no {name}"
    lacking = [p for p in parameters if p not in inspect.signature(found).parameters]
    if lacking:
        return f"{name} of the installed {package} takes no {', '.join(lacking)}"
    return found


def _common(case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
    """What both flash kernels cannot do."""
    if device.type != "cuda":
        return "it runs on CUDA only"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"it computes in float16 and bfloat16, not {str(dtype).removeprefix('torch.')}"
    if case.head_dim > 256 or case.head_dim % 8:
        return f"heads of {case.head_dim} are not a multiple of 8 up to 256"
    return _any_kernel(case) or ("branches need a mask" if case.branch is not None else None)


def _any_kernel(case: AttentionCase) -> str | None:
    if torch.is_grad_enabled():
        return "it has no backward pass and gradients are on"
    if case.queries is None:
        return "padding that may stand anywhere needs a mask"
    if case.cache is not None and not case.cache.in_place:
        return "the cache holds codes of 8 bits, which it does not read"
    if case.block is not None:
        return "several blocks of a block-causal model at once need a mask"
    return None


class _Flash(Backend):
    """What the two flash kernels share: the step before them."""

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, case: AttentionCase, layer: int
    ) -> Tensor:
        """Rotation and cache write in one Triton launch if possible, then the kernel."""
        if kernels.unusable(q.device, q.dtype) is not None or case.positions is None:
            return super().mix(q, k, v, cos, sin, case, layer)
        from dllm_decode.kernels.rotary import rotate_to_cache

        q, k, v = rotate_to_cache(q, k, v, cos, sin, case, layer)
        return self.ready(q, k, v, case, layer).transpose(1, 2).flatten(2).flatten(0, 1)

    def ready(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase, layer: int) -> Tensor:
        """Attend once the cache is written; all ``[R, tokens, heads, D]``, returns ``[R, heads, Q, D]``."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        if case.cache is not None:
            assert case.rows is not None
            k, v = case.cache.read(layer, case.span or case.rows, case.slots)
        return self(q, k, v, case)


class Flash(_Flash):
    """flash-attn's ``flash_attn_with_kvcache``: ragged rows without packing, the cache where it lies."""

    name = "flash"

    def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
        """Fp16 and bf16 on CUDA, no branches."""
        reason = _common(case, dtype, device)
        if reason is not None:
            return reason
        return None if callable(found := self._kernel()) else found

    @staticmethod
    def _kernel() -> Callable[..., Any] | str:
        return find_function("flash_attn", "flash_attn_with_kvcache", "cache_seqlens", "cache_batch_idx", "causal")

    def ready(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase, layer: int) -> Tensor:
        """Scattered cache rows are named, not copied together."""
        if case.cache is None or case.span is not None:
            return super().ready(q, k, v, case, layer)
        k, v = case.cache.read(layer, slice(None), case.slots)
        return self._call(q, k.transpose(1, 2), v.transpose(1, 2), case, case.cache_rows).transpose(1, 2)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """Keys are a "cache" of which each row sees its first slots, whether they are one or not."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))  # its layout is [R, tokens, heads, D], any strides
        return self._call(q, k, v, case, None).transpose(1, 2)

    def _call(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase, rows: Tensor | None) -> Tensor:
        kernel = self._kernel()
        assert callable(kernel)
        out: Tensor = kernel(q, k, v, cache_seqlens=case.seen, cache_batch_idx=rows, causal=False)
        return out


class Varlen(_Flash):
    """``torch.nn.attention.varlen.varlen_attn``: the flash kernel inside torch, over packed rows."""

    name = "varlen"

    def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
        """Fp16 and bf16 on CUDA, no branches; over a cache one row only, more would have to be copied together."""
        reason = _common(case, dtype, device)
        if reason is None and case.cache is not None and (case.span is None or case.span.stop - case.span.start > 1):
            reason = "it wants the rows' keys in one packed tensor, which would copy the cache in every layer"
        return reason if reason is not None or callable(found := self._kernel()) else found

    @staticmethod
    def _kernel() -> Callable[..., Any] | str:
        return find_function("torch.nn.attention.varlen", "varlen_attn", "seqused_k", "enable_gqa")

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """Rows stay right padded: each starts at a multiple of the width and ``seqused_k`` says how far it goes."""
        kernel = self._kernel()
        assert callable(kernel)
        (count, _, width, _), keys = q.shape, k.shape[2]
        start = torch.arange(count + 1, dtype=torch.int32, device=q.device)
        q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
        out: Tensor = kernel(
            q,
            k,
            v,
            start * width,
            start * keys,
            width,
            keys,
            enable_gqa=case.heads != case.kv_heads,
            seqused_k=case.seen,
        )
        return out.unflatten(0, (count, width)).transpose(1, 2)


class TritonKernel(Backend):
    """The block step's own kernel: rotation, cache write and attention in one launch; branches and GQA included."""

    name = "triton"

    def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
        """Fp32, fp16 and bf16 on a GPU; on the CPU in Triton's interpreter."""
        if case.head_dim % 2 or case.head_dim > 256:
            return f"heads of {case.head_dim} are not an even size up to 256"
        if case.joint:
            return "branches that see each other need a mask"
        if case.shares_rows:
            return "rows of this forward share a cache row that one of them writes"
        return kernels.unusable(device, dtype) or _any_kernel(case)

    def avoided(self, device: torch.device) -> str | None:
        """The interpreter is for tests."""
        return None if device.type == "cuda" else "it would run in Triton's interpreter"

    def attend(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase, layer: int) -> Tensor:
        """One launch that also writes the cache (rotated tensors in, heads before tokens)."""
        from dllm_decode.kernels.launch import block_attention

        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        out = block_attention(q, k, v, None, None, case, layer)
        return out.unflatten(-1, (case.heads, case.head_dim)).transpose(1, 2)

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """Without a cache the keys are the fresh ones."""
        assert case.cache is None
        return self.attend(q, k, v, case, 0)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, case: AttentionCase, layer: int
    ) -> Tensor:
        """One launch for a block step, two for a wide forward."""
        from dllm_decode.kernels.launch import block_attention
        from dllm_decode.kernels.rotary import rotate_to_cache

        if case.branch is not None or case.positions is None or q.shape[1] <= ONE_LAUNCH:
            return block_attention(q, k, v, cos, sin, case, layer).flatten(0, 1)
        q, k, v = rotate_to_cache(q, k, v, cos, sin, case, layer)
        if case.cache is not None:
            return block_attention(q, None, None, None, None, case, layer).flatten(0, 1)
        return block_attention(q, k, v, None, None, case, layer).flatten(0, 1)
