"""LLaDA (arXiv 2502.09992): a bidirectional LLaMA-like transformer whose output at slot i predicts slot i."""

from __future__ import annotations

from typing import Any, ClassVar

from dllm_decode.models.config import DecoderConfig
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.layers import BlockNames

OFF = (False, None)


class LLaDAConfig(DecoderConfig):
    """config.json of LLaDA-8B; the defaults are its values."""

    model_type = "llada"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layers",
        "num_attention_heads": "n_heads",
        "num_key_value_heads": "n_kv_heads",
        "intermediate_size": "mlp_hidden_size",
        "max_position_embeddings": "max_sequence_length",
        "tie_word_embeddings": "weight_tying",
        "initializer_range": "init_std",
    }
    checkpoint_architectures = ("LLaDAModelLM",)
    required_values: ClassVar[dict[str, tuple[Any, ...]]] = {
        "block_type": ("llama",),
        "activation_type": ("silu",),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "bias_for_layer_norm": OFF,
        "include_bias": OFF,
        "include_qkv_bias": OFF,
        "rope": (True,),
        "alibi": OFF,
        "attention_layer_norm": OFF,
        "multi_query_attention": OFF,
        "block_group_size": (1,),
        "input_emb_norm": OFF,
        "scale_logits": OFF,
        "weight_tying": OFF,
        "clip_qkv": (None,),
    }

    d_model: int = 4096
    n_layers: int = 32
    n_heads: int = 32
    n_kv_heads: int | None = None
    mlp_hidden_size: int | None = 12288
    mlp_ratio: int = 4
    vocab_size: int = 126464
    embedding_size: int | None = None
    max_sequence_length: int = 4096
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500000.0
    rope_full_precision: bool = True
    weight_tying: bool = False
    init_std: float = 0.02
    block_size: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill what follows from other fields."""
        if self.n_kv_heads is None:
            self.n_kv_heads = self.n_heads
        if self.mlp_hidden_size is None:
            self.mlp_hidden_size = self.mlp_ratio * self.d_model
        super().__post_init__(**kwargs)

    @property
    def attention_block(self) -> int | None:
        """`block_size`, a field of block-causal models of this shape, such as the bundled tiny-block."""
        return self.block_size

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding and of the head; `embedding_size` pads the vocabulary."""
        return self.embedding_size or self.vocab_size


class LLaDA(BidirectionalLM):
    """LLaDA with its checkpoint's parameter names."""

    config_class = LLaDAConfig
    family = "llada"
    model_parts = (
        "model.transformer.wte",
        "model.transformer.blocks",
        "model.transformer.ln_f",
        "model.transformer.ff_out",
    )
    names = BlockNames(
        attention_norm="attn_norm",
        qkv=("q_proj", "k_proj", "v_proj"),
        output="attn_out",
        mlp_norm="ff_norm",
        mlp=("ff_proj", "up_proj", "ff_out"),  # ff_proj is the gate; this ff_out is not the head of the same name
    )
