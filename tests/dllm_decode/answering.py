"""A model that answers problems of the bundled tasks from a table: right, or wrong where it is told to be."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from dllm_decode.interface.text import TextCodec
from dllm_decode.models.callable import CallableModel
from dllm_decode.models.tokenizers import load_tokenizer
from dllm_decode.tasks import Sample
from dllm_decode.tasks.tokenizer import EOS_ID, MASK_ID, SEP_ID, save_tokenizer, vocabulary


@cache
def codec() -> TextCodec:
    """The bundled tokenizer."""
    with TemporaryDirectory() as folder:
        save_tokenizer(Path(folder))
        found = load_tokenizer(Path(folder), "llada")
    assert found is not None
    return found


def answering(
    answers: dict[str, str], before_call: Callable[[int], None] = lambda call: None, max_length: int | None = None
) -> CallableModel:
    """Prompts (put in the chat template) to answers; every cell is equally certain, so left comes first.

    ``before_call`` hears the number of each forward, from 1.
    """
    table = {tuple(codec().encode_prompt(prompt)): codec().encode(answer) for prompt, answer in answers.items()}
    size, calls = len(vocabulary()), [0]

    def fn(tokens: Tensor) -> Tensor:
        calls[0] += 1
        before_call(calls[0])
        logits = torch.zeros(*tokens.shape, size)
        for row, ids in enumerate(tokens.tolist()):
            start = ids.index(SEP_ID) + 1 if SEP_ID in ids else 0
            answer = table.get(tuple(ids[:start]), [])
            canvas = [*answer, *[EOS_ID] * len(ids)][: len(ids) - start]
            logits[row, range(start, len(ids)), canvas] = (
                60.0  # so certain that the confidence is exactly 1: ties go to the left
            )
        return logits

    return CallableModel(
        fn,
        mask_id=MASK_ID,
        eos_ids=(EOS_ID,),
        vocab_size=size,
        tokenizer=codec(),
        max_length=max_length,
        name="table",
    )


def table_of(samples: list[Sample], wrong: Callable[[int], bool] = lambda index: False) -> dict[str, str]:
    """Right answers of samples, and ``wrong`` ones where asked."""
    return {s.prompt: "x" if wrong(i) else s.answer for i, s in enumerate(samples)}
