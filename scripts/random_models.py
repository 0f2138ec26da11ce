"""Small random models of both families, for scripts that need many of them or none in particular."""

from __future__ import annotations

from functools import lru_cache

import torch

from dllm_decode.models import Dream, DreamConfig, LLaDA, LLaDAConfig, NativeModel


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
    module: LLaDA | Dream
    if family == "llada":
        module = LLaDA(LLaDAConfig(
            d_model=width, n_layers=layers, n_heads=2, mlp_hidden_size=inner, vocab_size=vocabulary,
            embedding_size=vocabulary, init_std=0.5, mask_token_id=mask, max_sequence_length=slots,
        ))  # fmt: skip
    else:
        module = Dream(DreamConfig(
            hidden_size=width, num_hidden_layers=layers, num_attention_heads=2, num_key_value_heads=1,
            intermediate_size=inner, vocab_size=vocabulary, initializer_range=0.5, mask_token_id=mask,
            max_position_embeddings=slots,
        ))  # fmt: skip
    return NativeModel(module.to(dtype), mask_id=mask, eos_ids=(eos,), name=f"random {family}")


#: the same for those who come back to a model; the seed of torch is left alone then
known_model = lru_cache(maxsize=256)(random_model)
