"""Configs that are computed and configs that are refused."""

from __future__ import annotations

import pytest
import torch

from dllm_decode.errors import ConfigError
from dllm_decode.models import Dream, DreamConfig, LLaDA, LLaDAConfig


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LLaDAConfig(alibi=True), "llada config has alibi=True, which is not supported; only alibi=False or None is"),
        (LLaDAConfig(block_type="sequential"), "block_type='sequential'.*only block_type='llama'"),
        (LLaDAConfig(activation_type="swiglu"), "activation_type='swiglu'.*only activation_type='silu'"),
        (LLaDAConfig(layer_norm_type="default"), "layer_norm_type='default'"),
        (LLaDAConfig(weight_tying=True), "weight_tying=True"),
        (LLaDAConfig(scale_logits=True), "scale_logits=True"),
        (LLaDAConfig(input_emb_norm=True), "input_emb_norm=True"),
        (LLaDAConfig(attention_layer_norm=True), "attention_layer_norm=True"),
        (LLaDAConfig(include_bias=True), "include_bias=True"),
        (LLaDAConfig(include_qkv_bias=True), "include_qkv_bias=True"),
        (LLaDAConfig(multi_query_attention=True), "multi_query_attention=True"),
        (LLaDAConfig(block_group_size=2), "block_group_size=2"),
        (LLaDAConfig(rope=False), "rope=False"),
        (LLaDAConfig(clip_qkv=8.0), "clip_qkv=8.0"),
        (LLaDAConfig(architectures=["LLaDAMoEModelLM"]), "'llada' but its architecture is LLaDAMoEModelLM"),
        (LLaDAConfig(num_experts=64), "'llada' but its architecture is a mixture of experts, a different model"),
        (LLaDAConfig(d_model=30, n_heads=4), "width 30, 4 attention heads and 4 KV heads"),
        (LLaDAConfig(n_heads=32, n_kv_heads=5), "32 attention heads and 5 KV heads"),
        (LLaDAConfig(n_layers=0), "n_layers=0; it must be a positive integer"),
        (DreamConfig(use_sliding_window=True), "Dream config has use_sliding_window=True"),
        (DreamConfig(use_mrope=True), "use_mrope=True"),
        (DreamConfig(hidden_act="gelu"), "hidden_act='gelu'"),
        (DreamConfig(tie_word_embeddings=True), "tie_word_embeddings=True"),
        (DreamConfig(architectures=["Qwen2ForCausalLM"]), "'Dream' but its architecture is Qwen2ForCausalLM"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_unsupported_configs_are_refused(config: LLaDAConfig | DreamConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        (LLaDA if isinstance(config, LLaDAConfig) else Dream)(config)


def test_scaled_rotary_positions_are_refused() -> None:
    with pytest.raises(ConfigError, match="rope_scaling=.*yarn.*only rope_scaling=None is"):
        DreamConfig(rope_scaling={"rope_type": "yarn", "factor": 4.0})
    assert DreamConfig(rope_parameters={"rope_type": "default", "rope_theta": 5e5}).rope_theta == 5e5


def test_config_fills_what_follows() -> None:
    config = LLaDAConfig(d_model=64, n_heads=4, mlp_hidden_size=None, mlp_ratio=3, vocab_size=100, embedding_size=128)
    assert (config.n_kv_heads, config.mlp_hidden_size, config.embedding_rows) == (4, 192, 128)
    assert DreamConfig(num_attention_heads=8, num_key_value_heads=None).num_key_value_heads == 8


@pytest.mark.parametrize(
    ("model", "config", "tensors", "parameters"),
    [
        (LLaDA, LLaDAConfig(), 291, 8_015_581_184),
        (
            Dream,
            DreamConfig(
                vocab_size=152064,
                hidden_size=3584,
                intermediate_size=18944,
                num_hidden_layers=28,
                num_attention_heads=28,
                num_key_value_heads=4,
            ),
            339,
            7_615_616_512,
        ),
    ],
)
def test_full_size_models_have_the_published_tensors(
    model: type[LLaDA | Dream], config: LLaDAConfig | DreamConfig, tensors: int, parameters: int
) -> None:
    with torch.device("meta"):
        state = model(config).state_dict()
    assert len(state) == tensors
    assert sum(tensor.numel() for tensor in state.values()) == parameters
