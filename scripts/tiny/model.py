"""The bundled model: initial weights, loss, export."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.utils.logging import disable_progress_bar

from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.models.llada import LLaDA, LLaDAConfig
from dllm_decode.tasks.tokenizer import BOS_ID, EOS_ID, MASK_ID, save_tokenizer, vocabulary
from scripts.tiny.masks import Batch
from scripts.tiny.rows import NAMES


def build_model(width: int, layers: int, heads: int, inner: int, seed: int, block: int | None = None) -> LLaDA:
    """A LLaDA with zero-initialised block outputs and a head aligned with the embedding: copying is easy to learn."""
    size = len(vocabulary())
    config = LLaDAConfig(
        d_model=width,
        n_layers=layers,
        n_heads=heads,
        mlp_hidden_size=inner,
        vocab_size=size,
        embedding_size=size,
        max_sequence_length=1024,
        rope_theta=10000.0,
        rms_norm_eps=1e-5,
        mask_token_id=MASK_ID,
        eos_token_id=EOS_ID,
        pad_token_id=EOS_ID,
        bos_token_id=BOS_ID,
        block_size=block,
    )
    torch.manual_seed(seed)
    model = LLaDA(config)
    with torch.no_grad():
        for name, param in model.named_parameters():
            if param.ndim == 2:
                param.normal_(std=0.5 / param.shape[1] ** 0.5)
            if name.endswith(("attn_out.weight", "ff_out.weight")):
                param.zero_()
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding.normal_(std=0.5)
        head.copy_(0.1 * embedding)
        head[MASK_ID] = 0
    return model


def task_losses(model: LLaDA, batch: Batch) -> Tensor:
    """Weighted cross-entropy of the masked cells and its weight, summed per task: ``[2, tasks]``."""
    tokens, target, weight, task = batch.tokens, batch.target, batch.weight, batch.task
    cells = weight.flatten().nonzero()[:, 0]
    if batch.positions is None or batch.queries is None:
        logits = logits_at(model, tokens, cells)
    else:
        inp = ForwardInput(tokens, batch.positions, batch.queries, batch.queries, batch.branch, block=batch.block)
        logits = model.head(model.hidden(inp, cells))
    loss = F.cross_entropy(logits.float(), target.flatten()[cells], reduction="none")
    used = weight.flatten()[cells]
    owner = task[:, None].expand_as(tokens).flatten()[cells]
    sums = torch.zeros(2, len(NAMES), device=tokens.device)
    return sums.index_add(1, owner, torch.stack([loss * used, used]))


def logits_at(model: LLaDA, tokens: Tensor, cells: Tensor) -> Tensor:
    """Logits ``[M, V]`` at flat cells of rows without padding."""
    rows, length = tokens.shape
    whole = torch.full((rows,), length, device=tokens.device)
    positions = torch.arange(length, device=tokens.device)[None]
    return model.head(model.hidden(ForwardInput(tokens, positions, queries=whole, lengths=whole), cells))


def export(model: LLaDA, folder: Path) -> None:
    """Write weights (bf16 safetensors), config and tokenizer where ``load_model`` finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    half = LLaDA(model.config)
    half.load_state_dict(model.state_dict())
    half.to(torch.bfloat16).save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes it for the owner alone
    save_tokenizer(folder)
