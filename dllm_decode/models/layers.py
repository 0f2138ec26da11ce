"""What a decoder of any family is made of: norms, rotary tables, one block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig

from dllm_decode import kernels
from dllm_decode.attention import AttentionCase, Backend, attention_weights
from dllm_decode.interface.inputs import AttentionWatch
from dllm_decode.models.joined import JointLinear, join


class RMSNorm(nn.Module):
    """x / rms(x) * weight; the normalisation in fp32, the product with the weight in the input's dtype."""

    def __init__(self, size: int, eps: float) -> None:
        """`size`: last axis; `eps`: added to the mean square."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` -> the same shape and dtype."""
        if torch.is_grad_enabled() or not x.is_cpu:
            return F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype) * self.weight
        y = x.float()  # the same operations, without what torch looks up and lays out for each
        scale = (y * y).mean(-1, keepdim=True).add_(self.eps).rsqrt_()
        return (y * scale).to(x.dtype).mul_(self.weight)


def add_norm(x: Tensor, delta: Tensor | None, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """`x + delta` (`x` without a delta) and its norm; one launch on a GPU."""
    if _fusable(x, delta) and type(norm) is RMSNorm:
        from dllm_decode.kernels import elementwise

        return elementwise.add_norm(x, delta, norm.weight, norm.eps)
    total = x if delta is None else x + delta
    return total, norm(total)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """`silu(gate) * up`; one launch on a GPU."""
    if _fusable(gate, up):
        from dllm_decode.kernels import elementwise

        return elementwise.gated(gate, up)
    if torch.is_grad_enabled() or gate.dtype != up.dtype:
        return F.silu(gate) * up
    return F.silu(gate).mul_(up)


def _fusable(x: Tensor, y: Tensor | None) -> bool:
    """The kernels have no backward pass, and want both operands alike (adapters may change the dtype)."""
    if torch.is_grad_enabled() or (y is not None and (y.dtype != x.dtype or y.shape != x.shape)):
        return False  # asked first: what trains is compiled, and torch.compile would trace the questions below
    return kernels.worthwhile(x.device, x.dtype)


def rotary_tables(
    positions: Tensor, head_dim: int, theta: float, rotary_dim: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines, fp32 `[R, 1, Q, head_dim]`, of angle position * theta^(-2i / rotary_dim), each half the same.

    With partial rotation (`rotary_dim < head_dim`) the angles behind the first `rotary_dim / 2` are zero, see
    `rotary_order`. Computed anew in every forward: a buffer would hold garbage after transformers builds a model on
    the meta device.
    """
    rotary_dim = head_dim if rotary_dim is None else rotary_dim
    exponent = torch.arange(0, rotary_dim, 2, device=positions.device, dtype=torch.float32) / rotary_dim
    angles = positions.float()[:, None, :, None] * (1.0 / theta**exponent)
    angles = F.pad(angles, (0, (head_dim - rotary_dim) // 2))
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


class RotaryMemory:
    """The tables of the last few forwards: steps of a block, and openings of a row, have the same positions again."""

    #: Tables kept, and the most numbers in one: rows of a small model's answer, not of a long batch.
    KEPT, MOST = 4, 1 << 18

    def __init__(self) -> None:
        self._held: list[tuple[Tensor, object, tuple[Tensor, Tensor]]] = []

    def tables(self, positions: Tensor, dtype: torch.dtype, *sizes: Any) -> tuple[Tensor, Tensor]:
        """:func:`rotary_tables` of `positions` and `sizes` in `dtype`."""
        known, keeps = (dtype, sizes), positions.is_cpu and not torch.is_grad_enabled()
        for held in self._held if keeps else ():
            if held[1] == known and held[0].shape == positions.shape and torch.equal(held[0], positions):
                return held[2]
        cos, sin = rotary_tables(positions, *sizes)
        made = cos.to(dtype), sin.to(dtype)
        if keeps and cos.numel() <= self.MOST:  # a copy of the positions: the caller may write into its tensor
            self._held = [(positions.clone(), known, made), *self._held[: self.KEPT - 1]]
        return made


def rotary_order(head_dim: int, rotary_dim: int) -> list[int] | None:
    """Where each number of a head comes from, so that those rotated together stand `head_dim / 2` apart.

    A checkpoint that rotates only the first `rotary_dim` numbers pairs i with i + rotary_dim / 2. Queries and keys in
    this order have the same products, and every kernel rotates whole heads. None = all are rotated: nothing moves.
    """
    if rotary_dim == head_dim:
        return None
    half, rest = rotary_dim // 2, (head_dim - rotary_dim) // 2
    still = range(rotary_dim, head_dim)
    return [*range(half), *still[:rest], *range(half, rotary_dim), *still[rest:]]


def add(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register `module` under a dotted path, with plain containers on the way."""
    *parents, last = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = getattr(root, name)
    root.add_module(last, module)


@dataclass(frozen=True)
class BlockNames:
    """What a checkpoint calls the parts of a block.

    Attributes:
        qkv: of q, k and v, or one name of all three in this order.
        qk_norm: of the norms that queries and keys get per head before the rotation; None = there are none.
        mlp: of gate, up and down. ``mixture``: of the experts, in blocks that have some.
    """

    attention_norm: str
    qkv: tuple[str, ...]
    output: str
    mlp_norm: str
    mlp: tuple[str, str, str]
    qk_norm: tuple[str, str] | None = None
    mixture: str = "mlp"


class Block(nn.Module):
    """x += o(attention(norm(x))); h = norm(x); x += down(silu(gate(h)) * up(h)), experts(h), or both."""

    def __init__(
        self,
        config: PreTrainedConfig,
        names: BlockNames,
        *,
        qkv_bias: bool,
        inner: int,
        mixture: nn.Module | None = None,
    ) -> None:
        """`inner`: width of the dense MLP, 0 = there is none; `mixture`: `[..., width]` to the same, or None."""
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim: int = config.head_dim
        width, eps = config.hidden_size, config.rms_norm_eps
        sizes = [self.heads * self.head_dim, *[self.kv_heads * self.head_dim] * 2]
        add(self, names.attention_norm, RMSNorm(width, eps))
        for name, size in zip(names.qkv, sizes if len(names.qkv) == 3 else [sum(sizes)], strict=True):
            add(self, name, nn.Linear(width, size, bias=qkv_bias))
        for name in names.qk_norm or ():
            add(self, name, RMSNorm(self.head_dim, eps))
        add(self, names.output, nn.Linear(sizes[0], width, bias=False))
        add(self, names.mlp_norm, RMSNorm(width, eps))
        if mixture is not None:
            add(self, names.mixture, mixture)
        if inner:
            for name, (fan_in, fan_out) in zip(
                names.mlp, [(width, inner), (width, inner), (inner, width)], strict=True
            ):
                add(self, name, nn.Linear(fan_in, fan_out, bias=False))
        # Looked up at every call, so that a replaced submodule (adapters, quantisation) is the one that runs.
        self._norms = attrgetter(names.attention_norm, names.mlp_norm)
        self._qkv, self._output = [attrgetter(name) for name in names.qkv], attrgetter(names.output)
        self._qk_norm = attrgetter(*names.qk_norm) if names.qk_norm else None
        self._mlp = attrgetter(*names.mlp) if inner else None
        self._mixture = attrgetter(names.mixture) if mixture is not None else None
        self.order = rotary_order(self.head_dim, config.rotary_dim)
        self._joinable = names.qkv, names.mlp[:2] if inner else (), (names.output,), names.mlp[2:] if inner else ()
        self._joint: list[JointLinear | None] = [None] * 4

    def join(self) -> None:
        """Make one product of q, k and v, and one of gate and up; for inference, once the weights are in place."""
        self._joint = [join(self, names) if names else None for names in self._joinable]

    def _apply(self, *args: Any, **kwargs: Any) -> Block:
        """Weights that move to another device or dtype part again."""
        self._joint = [None] * 4
        super()._apply(*args, **kwargs)
        return self

    def forward(
        self,
        x: Tensor,
        delta: Tensor | None,
        cos: Tensor,
        sin: Tensor,
        case: AttentionCase,
        backend: Backend,
        layer: int,
        cells: Tensor | None = None,
        watch: AttentionWatch | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Residual stream `x + delta`, `[R * Q, width]` each, in and out; the next norm does the sum.

        What comes out is `[M, width]` when only `cells` (flat indices) are wanted afterwards; `watch` gets this
        layer's attention.
        """
        attention_norm, mlp_norm = self._norms(self)
        x, h = add_norm(x, delta, attention_norm)
        q, k, v = self._project(h, cos.shape[2])
        if watch is not None:  # first: a backend may overwrite q and k
            watch.maps.append(attention_weights(q, k, cos, sin, case))
        mixed = backend.mix(q, k, v, cos, sin, case, layer)
        if cells is not None:  # from here on every token is on its own
            x, mixed = x[cells], mixed[cells]
        x, h = add_norm(x, self._alone(2, self._output(self), mixed), mlp_norm)
        out = None if self._mixture is None else self._mixture(self)(h)
        if self._mlp is not None:
            gate, up, down = self._mlp(self)
            joint = self._joint[1]
            both = joint(h) if joint is not None and joint.stands_for((gate, up)) else (gate(h), up(h))
            dense = self._alone(3, down, gated(*both))
            out = dense if out is None else out + dense
        assert out is not None
        return x, out

    def _alone(self, place: int, layer: nn.Module, x: Tensor) -> Tensor:
        """`layer(x)`, the short way if there is one."""
        joint = self._joint[place]
        out: Tensor = joint.whole(x) if joint is not None and joint.stands_for((layer,)) else layer(x)
        return out

    def _project(self, h: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values `[R, Q, heads or kv_heads, head_dim]`, Q = `width`, ready to be rotated."""
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        parts, joint = [part(self) for part in self._qkv], self._joint[0]
        if joint is not None and joint.stands_for(parts):
            said: Sequence[Tensor] = [joint.whole(h)]
        else:
            said = [part(h) for part in parts]
        said = [x.view(len(h) // width, width, -1, self.head_dim) for x in said]
        q, k, v = said if len(said) == 3 else said[0].split(sizes, dim=-2)
        if self._qk_norm is not None:
            q_norm, k_norm = self._qk_norm(self)
            q, k = q_norm(q), k_norm(k)
        if self.order is not None:
            q, k = q[..., self.order], k[..., self.order]
        return q, k, v
