"""Greedy block decoding for the validation table: the few lines of it that training needs.

Training must not wait for, nor be steered by a change in, the engine; figures that are published come from the engine.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.models.llada import LLaDA
from dllm_decode.tasks import TASKS, samples, score
from dllm_decode.tasks.tokenizer import BOS_ID, EOS_ID, MASK_ID, SEP_ID, decode, encode


@torch.no_grad()
def decode_blocks(
    model: LLaDA, prompts: list[list[int]], canvas: int, block: int, threshold: float, k: int = 1
) -> tuple[list[list[int]], Tensor]:
    """Answers up to the first end token, and forwards per row.

    Every open cell of the block at or above ``threshold`` is decided, at least the best ``k``. Shorter prompts get
    longer canvases, so that all rows have one length; their surplus stays masked.  A block-causal model has its own
    blocks, counted from the prompt's first token, in place of ``block``.
    """
    device = next(model.parameters()).device
    start = torch.tensor([len(p) for p in prompts], device=device)
    length = int(start.max()) + canvas
    tokens = torch.full((len(prompts), length), MASK_ID, device=device)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = torch.tensor(prompt, device=device)
    cell = torch.arange(length, device=device)[None] - start[:, None]
    forwards = torch.zeros(len(prompts), dtype=torch.long)
    own = model.config.attention_block
    grid = cell if own is None else torch.arange(length, device=device)[None].expand_as(cell)
    for low in range(0, canvas if own is None else length, own or block):
        ended = ((tokens == EOS_ID) & (cell >= 0)).any(1)
        inside = (grid >= low) & (grid < low + (own or block)) & (cell < canvas) & ~ended[:, None]
        while (open_cells := inside & (tokens == MASK_ID)).any():
            live = open_cells.any(1).nonzero()[:, 0]
            forwards[live.cpu()] += 1
            open_live = open_cells[live]
            whole = torch.full((len(live),), length, device=device)
            positions = torch.arange(length, device=device).expand(len(live), -1)
            inp = ForwardInput(tokens[live], positions, queries=whole, lengths=whole, block=own)
            logits = model.head(model.hidden(inp, open_live.flatten().nonzero()[:, 0])).float()
            total = logits.logsumexp(1)
            logits[:, MASK_ID] = -torch.inf
            best, token = logits.max(1)
            confidence = torch.full(open_live.shape, -1.0, device=device)
            confidence[open_live] = (best - total).exp()
            proposal = torch.zeros(open_live.shape, dtype=torch.long, device=device)
            proposal[open_live] = token
            rank = confidence.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
            write = open_live & ((confidence >= threshold) | (rank < k))
            tokens[live] = torch.where(write, proposal, tokens[live])
    answers = []
    for row, prompt in enumerate(prompts):
        answer = tokens[row, len(prompt) : len(prompt) + canvas].tolist()
        answers.append(answer[: answer.index(EOS_ID)] if EOS_ID in answer else answer)
    return answers, forwards


def accuracy(
    model: LLaDA, task: str, split: str, n: int, seed: int, block: int = 16, threshold: float = 0.9, k: int = 1
) -> tuple[float, float]:
    """Share of right answers on ``n`` samples of one task, and mean forwards."""
    drawn = sorted(samples(task, split, n, seed), key=lambda sample: len(sample.prompt))
    right, forwards = 0, 0
    for at in range(0, n, 50):
        part = drawn[at : at + 50]
        prompts = [[BOS_ID, *encode(sample.prompt), SEP_ID] for sample in part]
        answers, spent = decode_blocks(model, prompts, TASKS[task].max_new_tokens, block, threshold, k)
        right += sum(score(sample, decode(ids)) for sample, ids in zip(part, answers, strict=True))
        forwards += int(spent.sum())
    return right / n, forwards / n
