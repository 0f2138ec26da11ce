"""The decoder that all families share; a family file only names its parts as its checkpoint does."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from dllm_decode.attention import AttentionCase, choose_backend
from dllm_decode.interface.inputs import AttentionWatch, ForwardInput
from dllm_decode.models.layers import Block, BlockNames, RMSNorm, RotaryMemory, add, add_norm
from dllm_decode.models.moe import Experts, GroupedRouter, Router
from dllm_decode.models.packed import pack_linears


def _by_rows(module: nn.Module, state: dict[str, Tensor], *args: Any) -> None:
    """What is saved lies by rows, however `ready` laid it out."""
    state.update({name: tensor.contiguous() for name, tensor in state.items() if isinstance(tensor, Tensor)})


class BidirectionalLM(PreTrainedModel):
    """A bidirectional transformer over token ids; subclasses say what their checkpoint calls the parts.

    Class attributes:
        model_parts: names of embedding, block list, final norm, output head.
        names: names inside a block.
        qkv_bias: whether q, k, v have biases.
        shift: 1 when the output at slot i predicts slot i + 1, else 0.
        seeded: see `DenoisingModel`.
        family: "llada" or "dream", see `DenoisingModel`.
        confidence: "clean" or "filtered", see `DenoisingModel`.
        delimiter_ids: see `DenoisingModel`.
    """

    model_parts: ClassVar[tuple[str, str, str, str]]
    names: ClassVar[BlockNames]
    qkv_bias: ClassVar[bool] = False
    shift: ClassVar[int] = 0
    seeded: ClassVar[bool] = False
    family: ClassVar[str] = ""
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
        blocks = nn.ModuleList(self.make_block(config, layer) for layer in range(config.num_hidden_layers))
        modules = (
            nn.Embedding(rows, config.hidden_size),
            blocks,
            RMSNorm(config.hidden_size, config.rms_norm_eps),
            nn.Linear(config.hidden_size, rows, bias=False),
        )
        for name, module in zip(self.model_parts, modules, strict=True):
            add(self, name, module)
        self._parts = attrgetter(*self.model_parts)
        self.attention = "auto"
        self._rotary = RotaryMemory()
        self.register_state_dict_post_hook(_by_rows)
        self.post_init()

    @classmethod
    def make_block(cls, config: PreTrainedConfig, layer: int) -> Block:
        """The block of one layer."""
        return Block(config, cls.names, qkv_bias=cls.qkv_bias, inner=config.intermediate_size)

    def ready(self, joined: bool = True) -> None:
        """Lay the weights out for inference, once they are in place: joint products, packed where a CPU gains."""
        for block in self._parts(self)[1] if joined else ():
            block.join()
        pack_linears(self)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        std: float = self.config.initializer_range
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.get_parameter("bias"))
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        elif isinstance(module, Router | GroupedRouter | Experts):
            for matrix in module.parameters(recurse=False):
                nn.init.normal_(matrix, std=std)

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        return self._parts(self)[0]

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        add(self, self.model_parts[0], value)

    def get_output_embeddings(self) -> nn.Module:
        """The output head."""
        return self._parts(self)[3]

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the output head."""
        add(self, self.model_parts[3], new_embeddings)

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        size: int = self.config.head_dim
        return size

    def _trunk(
        self,
        tokens: Tensor,
        positions: Tensor,
        case: AttentionCase,
        cells: Tensor | None = None,
        trail: list[Tensor] | None = None,
        watch: AttentionWatch | None = None,
    ) -> Tensor:
        """Embedding to final norm: `[R * Q, width]`, or `[M, width]` at `cells`; `trail` gets each layer's input."""
        embedding, blocks, norm, _ = self._parts(self)
        x = embedding(tokens).flatten(0, 1)
        # In full precision q and k are rotated in fp32 whatever the dtype.
        dtype = torch.float32 if self.config.rope_full_precision else x.dtype
        sizes = self.head_dim, self.config.rope_theta, self.config.rotary_dim
        cos, sin = self._rotary.tables(positions, dtype, *sizes)
        backend = choose_backend(self.attention, case, x.dtype, x.device)
        delta: Tensor | None = None
        for layer, block in enumerate(blocks):
            if trail is not None:
                trail.append(x if delta is None else x + delta)
            last = layer == len(blocks) - 1
            seen = watch if watch is not None and layer >= len(blocks) - watch.layers else None
            x, delta = block(x, delta, cos, sin, case, backend, layer, cells if last else None, seen)
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
        block = self.config.attention_block
        positions = position_ids.expand(input_ids.shape) if block else None
        case = AttentionCase(
            heads, kv_heads, self.head_dim, real=real, queries=queries, positions=positions, block=block
        )
        trail: list[Tensor] | None = [] if output_hidden_states else None
        hidden = self._trunk(input_ids, position_ids, case, trail=trail).unflatten(0, input_ids.shape)
        trail = None if trail is None else [x.unflatten(0, input_ids.shape) for x in trail]
        return CausalLMOutput(logits=self.head(hidden), hidden_states=tuple(trail) if trail else None)

    def hidden(self, inp: ForwardInput, cells: Tensor) -> Tensor:
        """`DenoisingModel.hidden`: the final norm's output `[M, width]` at flat cells."""
        case = AttentionCase.of(inp, self.config.num_attention_heads, self.config.num_key_value_heads, self.head_dim)
        return self._trunk(inp.tokens, inp.positions, case, cells=cells, watch=inp.watch)

    def head(self, hidden: Tensor) -> Tensor:
        """`[..., width]` -> logits `[..., vocabulary]`."""
        return self._parts(self)[3](hidden)
