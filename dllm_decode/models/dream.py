"""Dream (arXiv 2508.15487): Qwen2.5's shape without the causal mask; the output at slot i predicts slot i + 1."""

from __future__ import annotations

from typing import Any, ClassVar

from dllm_decode.models.config import QwenConfig
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.layers import BlockNames

# AdaBlock's published configuration for Dream: pieces of Qwen2.5's vocabulary that hold a newline, itself first.
DREAM_DELIMITERS = (
    *(198, 271, 280, 319, 340, 382, 401, 532, 624, 630, 692, 698, 921, 1248, 1837, 1939),
    *(2219, 2533, 3276, 3876, 4894, 5267, 14750, 68327),
)


QWEN_NAMES = BlockNames(
    attention_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    output="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
)


class DreamConfig(QwenConfig):
    """config.json of Dream-7B; the defaults are those of its original config class."""

    model_type = "Dream"
    checkpoint_architectures = ("DreamModel",)
    required_values: ClassVar[dict[str, tuple[Any, ...]]] = {
        "hidden_act": ("silu",),
        "use_sliding_window": (False, None),
        "use_mrope": (False, None),
        "tie_word_embeddings": (False, None),
    }

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 22016
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = 32
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6


class Dream(BidirectionalLM):
    """Dream with its checkpoint's parameter names."""

    config_class = DreamConfig
    model_parts = ("model.embed_tokens", "model.layers", "model.norm", "lm_head")
    names = QWEN_NAMES
    qkv_bias = True
    shift = 1
    family = "dream"
    confidence = "filtered"
    delimiter_ids: ClassVar[tuple[int, ...]] = DREAM_DELIMITERS
