"""Small random models of both families, for scripts that need many of them or none in particular."""

from __future__ import annotations

from functools import lru_cache

import torch

from dllm_decode.models import Dream, DreamConfig, LLaDA, LLaDAConfig, NativeModel
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.fast_dllm_v2 import FastDLLMv2, FastDLLMv2Config
from dllm_decode.models.llada2 import LLaDA2, LLaDA2Config
from dllm_decode.models.sdar import SDAR, SDARConfig

#: Block-causal families, with attention blocks of four cells.
BLOCK_FAMILIES = ("sdar", "llada2", "fast_dllm_v2")


def random_model(
    family: str,
    vocabulary: int,
    slots: int,
    width: int = 16,
    layers: int = 1,
    inner: int = 24,
    seed: int = 0,
    eos: int = 0,
    dtype: torch.dtype = torch.float32,
) -> NativeModel:
    """A model that is sure of some cells and unsure of others; the mask is the last of ``vocabulary`` ids."""
    torch.manual_seed(seed)
    mask = vocabulary - 1
    module: BidirectionalLM
    qwen = {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "num_key_value_heads": 1,
        "intermediate_size": inner, "vocab_size": vocabulary, "initializer_range": 0.5, "mask_token_id": mask,
        "max_position_embeddings": slots,
    }  # fmt: skip
    if family == "llada":
        module = LLaDA(LLaDAConfig(
            d_model=width, n_layers=layers, n_heads=2, mlp_hidden_size=inner, vocab_size=vocabulary,
            embedding_size=vocabulary, init_std=0.5, mask_token_id=mask, max_sequence_length=slots,
        ))  # fmt: skip
    elif family == "sdar":
        module = SDAR(SDARConfig(**qwen, head_dim=12, block_size=4))
    elif family == "llada2":
        module = LLaDA2(LLaDA2Config(
            **qwen, head_dim=8, block_size=4, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12,
            n_group=2, topk_group=1, first_k_dense_replace=layers - 1,
        ))  # fmt: skip
    elif family == "fast_dllm_v2":
        module = FastDLLMv2(FastDLLMv2Config(**qwen, bd_size=4))
    else:
        module = Dream(DreamConfig(**qwen))
    return NativeModel(module.to(dtype), mask_id=mask, eos_ids=(eos,), name=f"random {family}")


#: the same for those who come back to a model; the seed of torch is left alone then
known_model = lru_cache(maxsize=256)(random_model)
