"""Published shapes, for random weights where no checkpoint is at hand: what a config.json of each says of its size."""

from __future__ import annotations

from typing import Any

import torch

from dllm_decode.models import NativeModel
from dllm_decode.models.config import DecoderConfig
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.families import FAMILIES
from scripts import make_checkpoint

#: What `make_checkpoint` calls it.
SHAPES = {
    **{"llada": "llada-8b", "dream": "dream-7b", "sdar-1.7b": "sdar-1.7b", "sdar-8b": "sdar-8b"},
    "llada2-mini": "llada2-mini",
}
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
    config = make_checkpoint.config_of(SHAPES[shape])
    if config.mask_token_id is None:  # named by the family, not by its files
        config.mask_token_id = config.vocab_size - 1
    if not small:
        return config
    fields = {"vocab_size": 640, "mask_token_id": 639, **SMALL[shape.partition("-")[0]]}
    if shape != "llada":
        fields |= {"num_hidden_layers": 2, "intermediate_size": 96}
    return type(config)(**{**config.to_diff_dict(), **fields})


def random_model(
    shape: str, dtype: torch.dtype, device: torch.device, small: bool = False, joined: bool = True
) -> NativeModel:
    """Random weights of a shape, made on the device; the mask's head row is zero. ``joined``: as on load, on a GPU."""
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
    if device.type != "cpu":
        module.ready(joined)
    return NativeModel(module, mask_id=mask_id, name=f"random {shape}")
