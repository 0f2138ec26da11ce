"""SDAR (arXiv 2510.06303) and TraDo: Qwen3's shape, block-causal; the output at slot i predicts slot i."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from dllm_decode.models.config import QwenConfig
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.dream import QWEN_NAMES
from dllm_decode.models.layers import Block
from dllm_decode.models.moe import Experts, Mixture, Router, stack_experts

QWEN3_NAMES = replace(QWEN_NAMES, qk_norm=("self_attn.q_norm", "self_attn.k_norm"))


class SDARConfig(QwenConfig):
    """config.json of SDAR-8B-Chat; a file that names no block is of the blocks of 4 that were published first."""

    model_type = "sdar"
    checkpoint_architectures = ("SDARForCausalLM",)
    required_values: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",),
        "attention_bias": (False, None),
        "use_sliding_window": (False, None),
        "tie_word_embeddings": (False, None),
    }
    default_mask_id = 151669
    default_eos_ids = (151645, 151643)
    stop_tokens = ("<|im_end|>",)
    required_sizes: ClassVar[tuple[str, ...]] = ("intermediate_size", "head_dim", "block_size")

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 8
    head_dim: int = 128
    block_size: int | None = 4
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1000000.0

    @property
    def attention_block(self) -> int | None:
        """`block_size`."""
        return self.block_size


class SDAR(BidirectionalLM):
    """SDAR with its checkpoint's parameter names, which are Qwen3's."""

    config_class = SDARConfig
    model_parts = ("model.embed_tokens", "model.layers", "model.norm", "lm_head")
    names = QWEN3_NAMES


class SDARMoEConfig(SDARConfig):
    """config.json of SDAR-30B-A3B: Qwen3-MoE's fields."""

    model_type = "sdar_moe"
    checkpoint_architectures = ("SDARMoeForCausalLM",)
    required_values: ClassVar[dict[str, tuple[Any, ...]]] = {
        **SDARConfig.required_values,
        "norm_topk_prob": (True,),
        "mlp_only_layers": ((), [], None),
    }
    required_sizes = (*SDARConfig.required_sizes, "num_experts", "moe_intermediate_size", "decoder_sparse_step")
    sparse = True

    num_experts: int = 128
    num_experts_per_tok: int = 8
    moe_intermediate_size: int = 768
    decoder_sparse_step: int = 1

    @property
    def mixture_sizes(self) -> tuple[int, int, int]:
        """Every ``decoder_sparse_step``-th layer."""
        return self.num_hidden_layers // self.decoder_sparse_step, self.moe_intermediate_size, 0


class SDARMoE(SDAR):
    """SDAR-30B-A3B: softmax routing, the chosen experts' weights made to sum to 1."""

    config_class = SDARMoEConfig

    @classmethod
    def make_block(cls, config: PreTrainedConfig, layer: int) -> Block:
        """Every ``decoder_sparse_step``-th layer is a mixture, the others are dense."""
        if (layer + 1) % config.decoder_sparse_step:
            return super().make_block(config, layer)
        router = Router(config.hidden_size, config.num_experts, config.num_experts_per_tok, normalise=True)
        experts = Experts(config.num_experts, config.hidden_size, config.moe_intermediate_size)
        return Block(config, cls.names, qkv_bias=False, inner=0, mixture=Mixture(router, experts))


stack_experts("SDARMoE")
