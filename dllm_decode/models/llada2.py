"""LLaDA2.0 and 2.1 (arXiv 2512.15745): block-causal, mixtures of experts, half of each head rotated; no shift."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from transformers import PreTrainedConfig

from dllm_decode.errors import ConfigError
from dllm_decode.models.config import DecoderConfig
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.layers import Block, BlockNames
from dllm_decode.models.moe import Experts, GroupedRouter, Mixture, stack_experts

OFF = (False, None)


class LLaDA2Config(DecoderConfig):
    """config.json of LLaDA2.x; sizes have no defaults, for those of the original class are another model's."""

    model_type = "llada2_moe"
    checkpoint_architectures = ("LLaDA2MoeModelLM",)
    required_values: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",),
        "score_function": ("sigmoid",),
        "moe_router_enable_expert_bias": (True,),
        "router_dtype": ("fp32",),
        "use_bias": OFF,
        "use_qkv_bias": OFF,
        "use_rmsnorm": (True,),
        "norm_head": OFF,
        "tie_word_embeddings": OFF,
        "num_shared_experts": (1, 2, 3, 4, 0, None),
    }
    default_mask_id = 156895
    default_eos_ids = (156892, 156900)
    stop_tokens = ("<|role_end|>",)
    required_sizes = (
        *("intermediate_size", "head_dim", "num_experts", "num_experts_per_tok", "moe_intermediate_size"),
        *("n_group", "topk_group", "block_size"),
    )
    sparse = True

    vocab_size: int = 0
    hidden_size: int = 0
    intermediate_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int = 0
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    moe_intermediate_size: int | None = None
    n_group: int | None = None
    topk_group: int | None = None
    num_shared_experts: int | None = 1
    first_k_dense_replace: int = 1
    routed_scaling_factor: float = 2.5
    partial_rotary_factor: float = 0.5
    use_qk_norm: bool = True
    block_size: int | None = 32
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    rope_theta: float = 600000.0
    tie_word_embeddings: bool = False

    @property
    def rotary_dim(self) -> int:
        """The first ``partial_rotary_factor`` of each head."""
        return int((self.head_dim or 0) * self.partial_rotary_factor)

    @property
    def mixture_sizes(self) -> tuple[int, int, int]:
        """All layers but the first."""
        layers, inner = (self.num_hidden_layers or 0) - self.first_k_dense_replace, self.moe_intermediate_size or 0
        return max(layers, 0), inner, inner * (self.num_shared_experts or 0)

    @property
    def attention_block(self) -> int | None:
        """`block_size`, 32 where the file names none."""
        return self.block_size

    def check(self) -> None:
        """Refuse relatives that share the model_type, by name.

        Raises:
            ConfigError: also as every family.
        """
        if getattr(self, "image_token_offset", None) is not None:
            raise ConfigError(
                "this checkpoint is LLaDA2.0-Uni, which also reads and makes images (it has an image_token_offset); "
                "only the text models LLaDA2.0 and 2.1 are supported."
            )
        if getattr(self, "expert_capacity", None):
            raise ConfigError(
                f"this checkpoint is LLaDA2.2 (expert_capacity={self.expert_capacity}), which chooses experts for "
                "whole blocks of cells; only LLaDA2.0 and 2.1, which choose for each cell, are supported."
            )
        super().check()
        experts, groups, best = int(self.num_experts or 0), int(self.n_group or 1), int(self.topk_group or 0)
        if experts % groups or experts < 2 * groups or best > groups:
            raise ConfigError(
                f"this llada2_moe config has {experts} experts in n_group={groups} groups of which topk_group={best} "
                "count; groups of two or more must divide the experts, and no more can count than there are."
            )


class LLaDA2(BidirectionalLM):
    """LLaDA2 with its checkpoint's parameter names."""

    config_class = LLaDA2Config
    model_parts = ("model.word_embeddings", "model.layers", "model.norm", "lm_head")
    names = BlockNames(
        attention_norm="input_layernorm",
        qkv=("attention.query_key_value",),
        output="attention.dense",
        mlp_norm="post_attention_layernorm",
        mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
        qk_norm=("attention.query_layernorm", "attention.key_layernorm"),
    )
    _keep_in_fp32_modules_strict = {"expert_bias"}

    @classmethod
    def make_block(cls, config: PreTrainedConfig, layer: int) -> Block:
        """The first layers are dense, the others routed experts beside a shared one."""
        names = cls.names if config.use_qk_norm else replace(cls.names, qk_norm=None)
        if layer < config.first_k_dense_replace:
            return Block(config, names, qkv_bias=False, inner=config.intermediate_size)
        shared = ("mlp.shared_experts.gate_proj", "mlp.shared_experts.up_proj", "mlp.shared_experts.down_proj")
        router = GroupedRouter(
            config.hidden_size,
            config.num_experts,
            config.num_experts_per_tok,
            config.n_group,
            config.topk_group,
            config.routed_scaling_factor,
        )
        experts = Experts(config.num_experts, config.hidden_size, config.moe_intermediate_size)
        inner = config.moe_intermediate_size * (config.num_shared_experts or 0)
        return Block(config, replace(names, mlp=shared), qkv_bias=False, inner=inner, mixture=Mixture(router, experts))


stack_experts("LLaDA2")
