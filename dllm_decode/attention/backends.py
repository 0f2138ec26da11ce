"""What a backend is, the two that run everywhere, and the cache write before them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from dllm_decode.interface.case import AttentionCase


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the "half split" convention, computed in the tables' dtype, returned in x's."""
    return turn(x, cos, signed(sin))


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """:func:`rotate` with ``sin`` already :func:`signed`."""
    y = x.to(cos.dtype)
    return (y * cos + y.roll(x.shape[-1] // 2, -1) * sin).to(x.dtype)


def turn_(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """:func:`turn` in place, in the tables' dtype; the same numbers."""
    other = x.roll(x.shape[-1] // 2, -1).mul_(sin)
    return x.mul_(cos).add_(other)


def signed(sin: Tensor) -> Tensor:
    """Sines `[..., D]` with the sign of the other half that they take: the first half's is negated."""
    return sin * _signs(sin.shape[-1], sin.dtype, sin.device)


@cache
def _signs(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept: gradients may pass through a product with it
        signs = torch.ones(size, dtype=dtype, device=device)
        signs[: size // 2] = -1
    return signs


def _side_by_side(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    """`[R, heads + 2 * kv_heads, Q, D]`: q, k and v `[R, Q, heads, D]` of one product, as one view.

    None = they are not, or gradients are on.
    """
    (rows, width, heads, size), (a, b, c, d) = q.shape, q.stride()
    if torch.is_grad_enabled() or not q.dtype == k.dtype == v.dtype or not q.stride() == k.stride() == v.stride():
        return None
    step = c * q.element_size()
    if k.data_ptr() != q.data_ptr() + heads * step or v.data_ptr() != k.data_ptr() + k.shape[2] * step:
        return None
    return q.as_strided((rows, heads + 2 * k.shape[2], width, size), (a, c, b, d))


def attention_weights(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, case: AttentionCase) -> Tensor:
    """Mean over heads of the attention among fresh tokens, fp32 `[R, Q, Q]`; arguments as in :meth:`Backend.mix`.

    Beside the backend that mixes: none of the fused ones shows its weights.
    """
    assert case.cache is None
    q, k = (rotate(x.transpose(1, 2), cos, sin).float() for x in (q, k))
    scores = q @ k.repeat_interleave(case.heads // case.kv_heads, dim=1).transpose(2, 3) / case.head_dim**0.5
    if case.mask is not None:
        scores = scores.masked_fill(~case.mask, float("-inf"))
    return scores.softmax(dim=-1).nan_to_num(0.0).mean(1)


class Backend(ABC):
    """One way to compute attention once the keys are in place."""

    name: str

    @abstractmethod
    def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
        """None when this backend can serve the case, else the reason why not (a clause for an error message)."""

    def avoided(self, device: torch.device) -> str | None:
        """Why "auto" passes this backend by although it could serve; None = it does not."""
        return None

    @abstractmethod
    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """`q [R, heads, Q, D]`, `k, v [R, kv_heads, S, D]` -> `[R, heads, Q, D]`, softmax(q k^T / sqrt(D)) v."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase, layer: int) -> Tensor:
        """See the function :func:`attend`."""
        if case.cache is not None:
            held_k, held_v = case.through_cache(layer, k, v)
            if case.branch is None:
                k, v = held_k, held_v
            else:
                kept = case.cache.kept
                k, v = torch.cat([held_k, kept(k)], dim=2), torch.cat([held_v, kept(v)], dim=2)
        return self(q, k, v, case)

    def mix(
        self, q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, case: AttentionCase, layer: int
    ) -> Tensor:
        """A layer's attention from its projections: rotate, write to the cache, attend.

        Args:
            q: `[R, Q, heads, D]`, before RoPE; may be overwritten.
            k: `[R, Q, kv_heads, D]`, before RoPE; may be overwritten.
            v: `[R, Q, kv_heads, D]`.
            cos: `[R or 1, 1, Q, D]`; its dtype is that of the rotation.
            sin: like `cos`.
            case: what each query may see.
            layer: which layer of the cache.

        Returns:
            `[R * Q, heads * D]`; padding tokens hold junk.
        """
        sin, joint = case.once(signed, sin), _side_by_side(q, k, v)
        if joint is not None:
            q, k, v = joint.split([case.heads, case.kv_heads, case.kv_heads], dim=1)
            both = joint[:, : case.heads + case.kv_heads]
            if joint.dtype == cos.dtype:
                turn_(both, cos, sin)
            else:
                q, k = turn(both, cos, sin).split([case.heads, case.kv_heads], dim=1)
        else:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            q, k = turn(q, cos, sin), turn(k, cos, sin)
        return self.attend(q, k, v, case, layer).transpose(1, 2).reshape(-1, case.heads * case.head_dim)


class Sdpa(Backend):
    """torch's scaled_dot_product_attention, on every device and dtype."""

    name = "sdpa"

    def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
        """Always None."""
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """Query heads of one group become extra queries of their KV head: no repeated keys, no wasted reads."""
        if q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu":
            # torch's CPU kernel has a bf16 backward several times slower than its fp32 one (measured on 2.13).
            with torch.autocast("cpu", enabled=False):
                return self._attend(q.float(), k.float(), v.float(), case).to(q.dtype)
        return self._attend(q, k, v, case)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        if case.heads == case.kv_heads:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=case.mask)
        grouped = q.reshape(q.shape[0], case.kv_heads, -1, q.shape[-1])
        return F.scaled_dot_product_attention(grouped, k, v, attn_mask=case.grouped_mask).reshape(q.shape)


class Reference(Backend):
    """The textbook formula in fp32, one step per line: the oracle of the other backends' tests."""

    name = "reference"

    def supports(self, case: AttentionCase, dtype: torch.dtype, device: torch.device) -> str | None:
        """Always None."""
        return None

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, case: AttentionCase) -> Tensor:
        """Repeat the keys per group, score, hide, softmax, mix."""
        group = case.heads // case.kv_heads
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
        scores = torch.einsum("rhqd,rhsd->rhqs", q.float(), k.float()) / case.head_dim**0.5
        if case.mask is not None:
            scores = scores.masked_fill(~case.mask, float("-inf"))
        weights = scores.softmax(dim=-1).nan_to_num(0.0)  # a query that sees nothing gets zeros
        return torch.einsum("rhqs,rhsd->rhqd", weights, v.float()).to(q.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, case: AttentionCase, backend: Backend, layer: int = 0) -> Tensor:
    """Attention of fresh queries over fresh and cached keys.

    With a cache the fresh keys and values are first written to their slots of `layer` (branch tokens are not), then
    the queries see their row's visible slots; branch tokens see, beside those, the fresh tokens of their own branch
    in place of the slots that it re-supplies. The cached prefix is shared by all branches of a row, never repeated.

    Args:
        q: `[R, heads, Q, D]`, after RoPE.
        k: `[R, kv_heads, Q, D]`, after RoPE.
        v: `[R, kv_heads, Q, D]`.
        case: what each query may see.
        backend: from `choose_backend`.
        layer: which layer of the cache.

    Returns:
        `[R, heads, Q, D]`; rows of padding tokens hold junk.
    """
    return backend.attend(q, k, v, case, layer)
