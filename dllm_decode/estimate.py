"""Memory, stated before it is taken: weights, cache and workspace of a generation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dllm_decode.config import GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.roofline import Shape
from dllm_decode.score import CHUNK_ELEMENTS

GIB = 2**30


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes a generation takes: ``weights``, ``cache``, ``workspace`` (activations and one chunk of logits)."""

    weights: int
    cache: int
    workspace: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.workspace

    def __str__(self) -> str:
        return (
            f"{self.total / GIB:.2f} GiB (weights {self.weights / GIB:.2f}, cache {self.cache / GIB:.2f}, "
            f"workspace {self.workspace / GIB:.2f})"
        )


def estimate_memory(
    shape: Shape, rows: int, slots: int, block: int, cache: str, guidance: bool = False, drafts: int = 1
) -> MemoryEstimate:
    """Bytes before they are taken.

    Args:
        shape: the model's sizes.
        rows: prompts per batch.
        slots: prompt plus new tokens of the longest row.
        block: cells whose logits one forward may need per row.
        cache: ``"none"``, ``"prefix"`` or ``"dual"``.
        guidance: classifier-free guidance doubles the rows.
        drafts: canvases forwarded per row (FreeDave).
    """
    rows = rows * (2 if guidance else 1)
    weights = shape.itemsize * (shape.trunk + 2 * shape.head + (2 * shape.layers + 1) * shape.width)
    kv = 0 if cache == "none" else shape.kv_bytes * rows * (slots + 1)
    # The widest forward: whole rows, or all drafts of a block.
    tokens = rows * max(slots * (drafts if cache == "none" else 1), block * drafts)
    # What one layer holds at once, in its MLP: the residual stream and its increment, old and new, both norms'
    # outputs, queries, keys, values, and the MLP's two halves, their gate and their product. Before that, in its
    # attention, queries and keys are rotated in fp32.
    mlp = shape.itemsize * (6 * shape.width + 2 * shape.kv_width + 4 * shape.inner)
    attention = shape.itemsize * (5 * shape.width + 2 * shape.kv_width) + 4 * 3 * (shape.width + shape.kv_width)
    logits = min(rows * block * drafts * shape.vocabulary, CHUNK_ELEMENTS + shape.vocabulary) * (4 + shape.itemsize)
    return MemoryEstimate(weights, kv, tokens * max(mlp, attention) + logits)


@contextmanager
def memory_errors_explained(model: Any, rows: int, slots: int, cache: str, config: GenerationConfig) -> Iterator[None]:
    """Turn a failed allocation into one sentence with the numbers; other errors pass through."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "allocate memory" not in text:
            raise
        needs = ""
        module = getattr(model, "module", None)
        if module is not None:
            shape = Shape.of(module.config, model.dtype.itemsize)
            block = config.block_length or slots
            needs = f", which takes about {estimate_memory(shape, rows, slots, block, cache, config.guidance > 0)}"
        raise DllmError(
            f"out of memory on {model.device} decoding {rows} rows of up to {slots} tokens, cache={cache!r}{needs}; "
            "use fewer prompts at a time, fewer new tokens, a narrower dtype, or a smaller cache."
        ) from error
