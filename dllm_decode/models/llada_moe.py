"""LLaDA-MoE-7B-A1B: full attention and LLaDA's samplers over a mixture of experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from dllm_decode.errors import ConfigError
from dllm_decode.models.config import QwenConfig
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.dream import QWEN_NAMES
from dllm_decode.models.layers import Block
from dllm_decode.models.moe import Experts, Mixture, Router, stack_experts
from dllm_decode.models.sdar import QWEN3_NAMES


class LLaDAMoEConfig(QwenConfig):
    """config.json of LLaDA-MoE; its model_type is LLaDA's, only the architecture tells them apart.

    Fields that the original code reads but never uses (partial_rotary_factor, norm_topk_prob, routed_scaling_factor,
    moe_router_score_function) are ignored here too.
    """

    model_type = "llada"
    attribute_map: ClassVar[dict[str, str]] = {"intermediate_size": "dense_intermediate_size"}
    checkpoint_architectures = ("LLaDAMoEModelLM",)
    required_values: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "clip_qkv": (None,),
        "moe_router_enable_expert_bias": (False, None),
        "tie_word_embeddings": (False, None),
    }
    default_mask_id = 156895
    default_eos_ids = (156892,)
    required_sizes = ("num_experts", "num_experts_per_tok", "expert_intermediate_size")
    sparse = True

    vocab_size: int | None = None
    hidden_size: int | None = None
    dense_intermediate_size: int | None = None
    expert_intermediate_size: int | None = None
    shared_expert_intermediate_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_layer_freq: list[int] | int = 1
    qk_layernorm: bool = True
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5
    rope_theta: float = 50000.0

    def is_sparse(self, layer: int) -> bool:
        """Whether a layer is a mixture."""
        every = self.moe_layer_freq
        return bool(every[layer]) if isinstance(every, list) else layer % every == 0

    @property
    def mixture_sizes(self) -> tuple[int, int, int]:
        """As ``moe_layer_freq`` says."""
        sparse = sum(self.is_sparse(layer) for layer in range(self.num_hidden_layers or 0))
        return sparse, self.expert_intermediate_size or 0, self.shared_expert_intermediate_size or 0

    def check(self) -> None:
        """Refuse a layer list of another length.

        Raises:
            ConfigError: also as every family.
        """
        super().check()
        every = self.moe_layer_freq
        if isinstance(every, list) and len(every) != self.num_hidden_layers:
            raise ConfigError(
                f"this LLaDA-MoE config lists {len(every)} layers in moe_layer_freq but has {self.num_hidden_layers}; "
                "give one entry per layer."
            )


class LLaDAMoE(BidirectionalLM):
    """LLaDA-MoE with its checkpoint's parameter names."""

    config_class = LLaDAMoEConfig
    model_parts = ("model.embed_tokens", "model.layers", "model.norm", "lm_head")
    names = QWEN3_NAMES

    @classmethod
    def make_block(cls, config: PreTrainedConfig, layer: int) -> Block:
        """A mixture of softmax-routed experts, their weights as they are, or a dense layer."""
        names = cls.names if config.qk_layernorm else QWEN_NAMES
        if not config.is_sparse(layer):
            return Block(config, names, qkv_bias=False, inner=config.dense_intermediate_size)
        shared = ("shared_expert.gate_proj", "shared_expert.up_proj", "shared_expert.down_proj")
        router = Router(config.hidden_size, config.num_experts, config.num_experts_per_tok, normalise=False)
        experts = Experts(config.num_experts, config.hidden_size, config.expert_intermediate_size)
        inner = config.shared_expert_intermediate_size or 0
        return Block(config, replace(names, mlp=shared), qkv_bias=False, inner=inner, mixture=Mixture(router, experts))


stack_experts("LLaDAMoE")
