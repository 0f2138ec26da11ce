"""What the lab's tests compare: records made by hand, and a model that is right if it is not hurried."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dllm_decode.lab.records import WALL_FIELDS
from dllm_decode.models import LLaDA, LLaDAConfig
from dllm_decode.models.callable import CallableModel
from dllm_decode.tasks import samples
from dllm_decode.tasks.tokenizer import EOS_ID, MASK_ID, SEP_ID, save_tokenizer, vocabulary
from tests.dllm_decode.answering import codec

HURRIED = 5  # token it proposes where it should not be asked yet


def made(**changes: Any) -> dict[str, Any]:
    """A record of the shape that the runner writes: three cells of content, one end token, one cell behind it."""
    record = {
        "key": "k",
        "policy": "threshold",
        "label": "threshold",
        "family": "threshold",
        "cache": "none",
        "task": "copy",
        "template": 0,
        "sample": 0,
        "seed": 0,
        "correct": 1,
        "strict": 1,
        "n_prompt": 4,
        "n_canvas": 5,
        "n_until_eos": 4,
        "n_content": 3,
        "nfe": 3,
        "full_forwards": 3,
        "rows_forwarded": 3,
        "tokens_forwarded": 27,
        "nfe_content": 2,
        "revokes": 0,
        "early_exit": False,
        "wall_s": 0.5,
        "model_s": 0.4,
        "policy_s": 0.1,
        "latency_s": 1.0,
        "batch": 2,
        "tokens": [7, 8, 9, 1, 1],
        "steps": [[[3, 1, 0.9]], [[0, 7, 0.9], [1, 8, 0.9]], [[2, 9, 0.9], [4, 1, 0.0]]],
        "blocks": [[0, 5], [0, 5], [0, 5]],
        "prompt": "p",
        "answer": "a",
        "expected": "a",
    }
    return record | changes


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what may differ between two runs."""
    return {name: value for name, value in record.items() if name not in WALL_FIELDS}


@cache
def hesitant(tasks: tuple[str, ...] = ("copy", "sort"), count: int = 40) -> CallableModel:
    """Answers the first samples of some tasks, of every split.

    A cell is right (sure to 0.99) once the cell on its left is decided, and wrong (sure to 0.6) before that; end
    tokens are always sure.
    """
    table = {
        tuple(codec().encode_prompt(sample.prompt)): codec().encode(sample.answer)
        for task in tasks
        for split in ("valid", "test")
        for seed in (0, 1)
        for template in (None, 0, 1, 2)
        for sample in samples(task, split, count, seed, template)
    }
    size = len(vocabulary())
    sure, unsure = (torch.tensor(p * (size - 1) / (1 - p)).log().item() for p in (0.99, 0.6))

    def fn(tokens: Tensor) -> Tensor:
        logits = torch.zeros(*tokens.shape, size)
        for row, ids in enumerate(tokens.tolist()):
            start = ids.index(SEP_ID) + 1
            answer = [*table[tuple(ids[:start])], *[EOS_ID] * len(ids)]
            for at in range(start, len(ids)):
                right = answer[at - start]
                ready = right == EOS_ID or ids[at - 1] != MASK_ID
                logits[row, at, right if ready else HURRIED] = sure if ready else unsure
        return logits

    return CallableModel(fn, mask_id=MASK_ID, eos_ids=(EOS_ID,), vocab_size=size, tokenizer=codec(), name="hesitant")


def random_checkpoint(folder: Path) -> Path:
    """A random LLaDA with the bundled tokenizer."""
    torch.manual_seed(0)
    config = LLaDAConfig(
        d_model=16,
        n_layers=1,
        n_heads=2,
        mlp_hidden_size=24,
        vocab_size=len(vocabulary()),
        embedding_size=len(vocabulary()),
        max_sequence_length=160,
        init_std=0.5,
        mask_token_id=MASK_ID,
        eos_token_id=EOS_ID,
        pad_token_id=EOS_ID,
    )
    LLaDA(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder
