"""Published shapes, for random weights where no checkpoint is at hand: what a config.json of each says of its size."""

from __future__ import annotations

import copy
from typing import Any

import torch

from dllm_decode.models import NativeModel
from dllm_decode.models.config import DecoderConfig
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.dream import DreamConfig
from dllm_decode.models.families import FAMILIES
from dllm_decode.models.llada import LLaDAConfig
from dllm_decode.models.llada2 import LLaDA2Config
from dllm_decode.models.sdar import SDARConfig

SHAPES: dict[str, DecoderConfig] = {
    "llada": LLaDAConfig(mask_token_id=126336),
    "dream": DreamConfig(
        vocab_size=152064, hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28,
        num_key_value_heads=4, max_position_embeddings=131072, rope_theta=1e6, mask_token_id=151666,
    ),
    "sdar-1.7b": SDARConfig(
        hidden_size=2048, intermediate_size=6144, num_hidden_layers=28, num_attention_heads=16, mask_token_id=151669
    ),
    "sdar-8b": SDARConfig(mask_token_id=151669),
    "llada2-mini": LLaDA2Config(
        vocab_size=157184, hidden_size=2048, intermediate_size=5120, num_hidden_layers=20, num_attention_heads=16,
        num_key_value_heads=4, head_dim=128, num_experts=256, num_experts_per_tok=8, moe_intermediate_size=512,
        n_group=8, topk_group=4, mask_token_id=156895,
    ),
}  # fmt: skip
#: Of dry runs; llada and dream keep their own ratio of heads.
SMALL: dict[str, dict[str, Any]] = {
    "llada": {
        **{"d_model": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 96},
        **{"embedding_size": 640},
    },
    "dream": {"hidden_size": 56, "num_attention_heads": 14, "num_key_value_heads": 2},
    "sdar": {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16},
    "llada2": {
        **{"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_experts": 16},
        **{"moe_intermediate_size": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 2},
    },
}  # fmt: skip


def config_of(shape: str, small: bool = False) -> DecoderConfig:
    """A published shape's config, or one with the same parts in small: two layers, 640 tokens."""
    config = SHAPES[shape]
    if not small:
        return copy.deepcopy(config)
    fields = {"vocab_size": 640, "mask_token_id": 639, **SMALL[shape.partition("-")[0]]}
    if shape != "llada":
        fields |= {"num_hidden_layers": 2, "intermediate_size": 96}
    return type(config)(**{**config.to_diff_dict(), **fields})


def random_model(shape: str, dtype: torch.dtype, device: torch.device, small: bool = False) -> NativeModel:
    """Random weights of a shape, made on the device; the mask's head row is zero."""
    config = config_of(shape, small)
    family: type[BidirectionalLM] = next(model for model in FAMILIES.values() if model.config_class is type(config))
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            module = family(config)  # type: ignore[call-arg]
    finally:
        torch.set_default_dtype(before)
    mask_id = module.config.mask_token_id
    with torch.no_grad():
        module.get_output_embeddings().weight[mask_id] = 0  # type: ignore[operator]
    return NativeModel(module, mask_id=mask_id, name=f"random {shape}")
