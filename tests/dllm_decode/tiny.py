"""Random models small enough for property tests, and forwards through the engine's interface."""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_decode.models import Dream, DreamConfig, ForwardInput, LLaDA, LLaDAConfig, NativeModel


def tiny(family: str, seed: int = 0, **changes: object) -> NativeModel:
    """A random model small enough for property tests."""
    torch.manual_seed(seed)
    if family == "llada":
        sizes = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 48, "vocab_size": 40}
        module: LLaDA | Dream = LLaDA(LLaDAConfig(**{**sizes, "init_std": 0.3, "mask_token_id": 39, **changes}))
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        sizes |= {"intermediate_size": 48, "vocab_size": 40}
        module = Dream(DreamConfig(**{**sizes, "initializer_range": 0.3, "mask_token_id": 39, **changes}))
    return NativeModel(module, mask_id=39)


def plain(tokens: Tensor, **fields: object) -> ForwardInput:
    """Rows of equal length, from slot 0."""
    rows, width = tokens.shape
    lengths = torch.full((rows,), width)
    return ForwardInput(tokens, torch.arange(width).expand(rows, -1), lengths, lengths, **fields)  # type: ignore[arg-type]


def logits(model: NativeModel, inp: ForwardInput) -> Tensor:
    """Logits of every token, `[R, Q, V]`."""
    rows, width = inp.tokens.shape
    return model.head(model.hidden(inp, torch.arange(rows * width))).view(rows, width, -1)
