"""One bidirectional decoder for both families; a family file only names its parts as its checkpoint does."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from dllm_decode import kernels
from dllm_decode.attention import AttentionCase, Backend, choose_backend
from dllm_decode.interface.inputs import ForwardInput


class RMSNorm(nn.Module):
    """x / rms(x) * weight; the normalisation in fp32, the product with the weight in the input's dtype."""

    def __init__(self, size: int, eps: float) -> None:
        """`size`: last axis; `eps`: added to the mean square."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., size]` -> the same shape and dtype."""
        return F.rms_norm(x.float(), self.weight.shape, None, self.eps).to(x.dtype) * self.weight


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
    return F.silu(gate) * up


def _fusable(x: Tensor, y: Tensor | None) -> bool:
    """The kernels have no backward pass, and want both operands alike (adapters may change the dtype)."""
    alike = y is None or (y.dtype == x.dtype and y.shape == x.shape)
    return alike and kernels.worthwhile(x.device, x.dtype) and not torch.is_grad_enabled()


def rotary_tables(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines, fp32 `[R, 1, Q, head_dim]`, of angle position * theta^(-2i / head_dim), each half the same.

    Computed anew in every forward: a buffer would hold garbage after transformers builds a model on the meta device.
    """
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions.float()[:, None, :, None] * (1.0 / theta**exponent)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def _add(root: nn.Module, path: str, module: nn.Module) -> None:
    """Register `module` under a dotted path, with plain containers on the way."""
    *parents, last = path.split(".")
    for name in parents:
        if not hasattr(root, name):
            root.add_module(name, nn.Module())
        root = getattr(root, name)
    root.add_module(last, module)


class Block(nn.Module):
    """x += o(attention(norm(x))); x += down(silu(gate(norm(x))) * up(norm(x)))."""

    def __init__(self, config: PreTrainedConfig, parts: Sequence[str], *, qkv_bias: bool) -> None:
        """`parts`: names of attention norm, q, k, v, o, MLP norm, gate, up, down, in this order."""
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = config.hidden_size // self.heads
        width, inner, eps = config.hidden_size, config.intermediate_size, config.rms_norm_eps
        kv_width = self.kv_heads * self.head_dim
        modules = (
            RMSNorm(width, eps),
            nn.Linear(width, width, bias=qkv_bias),
            nn.Linear(width, kv_width, bias=qkv_bias),
            nn.Linear(width, kv_width, bias=qkv_bias),
            nn.Linear(width, width, bias=False),
            RMSNorm(width, eps),
            nn.Linear(width, inner, bias=False),
            nn.Linear(width, inner, bias=False),
            nn.Linear(inner, width, bias=False),
        )
        for name, module in zip(parts, modules, strict=True):
            _add(self, name, module)
        # Looked up at every call, so that a replaced submodule (adapters, quantisation) is the one that runs.
        self._parts = attrgetter(*parts)

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
    ) -> tuple[Tensor, Tensor]:
        """Residual stream `x + delta`, `[R, Q, width]` each, in and out; the next norm does the sum.

        What comes out is `[M, width]` when only `cells` (flat indices) are wanted afterwards.
        """
        attention_norm, q_proj, k_proj, v_proj, o_proj, mlp_norm, gate, up, down = self._parts(self)
        x, h = add_norm(x, delta, attention_norm)
        q = q_proj(h).unflatten(-1, (self.heads, self.head_dim))
        k = k_proj(h).unflatten(-1, (self.kv_heads, self.head_dim))
        v = v_proj(h).unflatten(-1, (self.kv_heads, self.head_dim))
        mixed = backend.mix(q, k, v, cos, sin, case, layer)
        if cells is not None:  # from here on every token is on its own
            x, mixed = x.flatten(0, 1)[cells], mixed.flatten(0, 1)[cells]
        x, h = add_norm(x, o_proj(mixed), mlp_norm)
        return x, down(gated(gate(h), up(h)))


class BidirectionalLM(PreTrainedModel):
    """A bidirectional transformer over token ids; subclasses say what their checkpoint calls the parts.

    Class attributes:
        model_parts: names of embedding, block list, final norm, output head.
        block_parts: names inside a block, see `Block`.
        qkv_bias: whether q, k, v have biases.
        shift: 1 when the output at slot i predicts slot i + 1, else 0.
        confidence: "clean" or "filtered", see `DenoisingModel`.
        delimiter_ids: see `DenoisingModel`.
    """

    model_parts: ClassVar[tuple[str, str, str, str]]
    block_parts: ClassVar[tuple[str, ...]]
    qkv_bias: ClassVar[bool]
    shift: ClassVar[int]
    confidence: ClassVar[str] = "clean"
    delimiter_ids: ClassVar[tuple[int, ...]] = ()

    base_model_prefix = ""
    main_input_name = "input_ids"
    _supports_sdpa = True
    _no_split_modules = ["Block"]

    def __init__(self, config: PreTrainedConfig) -> None:
        """Build with random weights; `from_pretrained` fills them.

        Raises:
            ConfigError: the config asks for something that is not computed here.
        """
        config.check()
        super().__init__(config)
        rows = config.embedding_rows
        blocks = nn.ModuleList(
            Block(config, self.block_parts, qkv_bias=self.qkv_bias) for _ in range(config.num_hidden_layers)
        )
        modules = (
            nn.Embedding(rows, config.hidden_size),
            blocks,
            RMSNorm(config.hidden_size, config.rms_norm_eps),
            nn.Linear(config.hidden_size, rows, bias=False),
        )
        for name, module in zip(self.model_parts, modules, strict=True):
            _add(self, name, module)
        self._parts = attrgetter(*self.model_parts)
        self.attention = "auto"
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std: float = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.get_parameter("bias"))
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self._parts(self)[0]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        _add(self, self.model_parts[0], value)

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self._parts(self)[3]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output head."""
        _add(self, self.model_parts[3], new_embeddings)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.config.hidden_size // self.config.num_attention_heads

    def _trunk(
        self,
        tokens: Tensor,
        positions: Tensor,
        case: AttentionCase,
        cells: Tensor | None = None,
        trail: list[Tensor] | None = None,
    ) -> Tensor:
        """Embedding to final norm: `[R, Q, width]`, or `[M, width]` at `cells`; `trail` gets each layer's input."""
        embedding, blocks, norm, _ = self._parts(self)
        x = embedding(tokens)
        cos, sin = rotary_tables(positions, self.head_dim, self.config.rope_theta)
        if not self.config.rope_full_precision:  # else q and k are rotated in fp32 whatever the dtype
            cos, sin = cos.to(x.dtype), sin.to(x.dtype)
        backend = choose_backend(self.attention, case, x.dtype, x.device)
        delta: Tensor | None = None
        for layer, block in enumerate(blocks):
            if trail is not None:
                trail.append(x if delta is None else x + delta)
            last = layer == len(blocks) - 1
            x, delta = block(x, delta, cos, sin, case, backend, layer, cells if last else None)
        _, x = add_norm(x, delta, norm)
        if trail is not None:
            trail.append(x)
        return x

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> CausalLMOutput:
        """Raw logits of every token (Dream's are not shifted here).

        Args:
            input_ids: long `[B, T]`.
            attention_mask: `[B, T]`, 0 = padding on any side, not seen by anyone; None (fastest) = nothing is padded.
            position_ids: long `[B, T]` or `[1, T]`; None = 0..T-1 (left padding only shifts a row's positions, and
                rotary embeddings depend on differences).
            output_hidden_states: also return each block's input and the final norm's output, each `[B, T, width]`.
        """
        if position_ids is None:
            position_ids = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        real = None
        if attention_mask is not None and not attention_mask.bool().all():
            real = attention_mask.bool()
        heads, kv_heads = self.config.num_attention_heads, self.config.num_key_value_heads
        queries = input_ids.new_full(input_ids.shape[:1], input_ids.shape[1]) if real is None else None
        case = AttentionCase(heads, kv_heads, self.head_dim, real=real, queries=queries)
        trail: list[Tensor] | None = [] if output_hidden_states else None
        hidden = self._trunk(input_ids, position_ids, case, trail=trail)
        return CausalLMOutput(logits=self.head(hidden), hidden_states=tuple(trail) if trail else None)

    def hidden(self, inp: ForwardInput, cells: Tensor) -> Tensor:
        """`DenoisingModel.hidden`: the final norm's output `[M, width]` at flat cells."""
        case = AttentionCase.of(inp, self.config.num_attention_heads, self.config.num_key_value_heads, self.head_dim)
        return self._trunk(inp.tokens, inp.positions, case, cells=cells)

    def head(self, hidden: Tensor) -> Tensor:
        """`[..., width]` -> logits `[..., vocabulary]`."""
        return self._parts(self)[3](hidden)
