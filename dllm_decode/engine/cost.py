"""What a forward must cost, in operations, bytes and time, and what a generation takes in memory.

The formulas every speed figure of this project is compared with.  For R rows of T forwarded tokens that see S key
slots, with H head positions per row::

    flop  = 2 P_trunk R T + 4 L d_attention R T S + 2 P_head R H
    bytes = w (P_trunk + P_head) + kv R (S + T)
    floor = max(flop / gemm rate, bytes / bandwidth)

``P_trunk`` counts the blocks' matrices, ``P_head`` the output head, ``w`` bytes per weight, ``kv`` cache bytes per
token over all layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.score import CHUNK_ELEMENTS
from dllm_decode.errors import DllmError
from samplers import Composition, map_rows

GIB = 2**30
#: Per query and key where drafts see one another: the mask, and what it is made of.
MASK_BYTES = 5
#: Per cell of a row: views, prediction and decision.
CELL_BYTES = 80


@dataclass(frozen=True)
class Machine:
    """Measured rates: ``flops`` of a matrix product per second, ``bandwidth`` of memory in bytes per second."""

    flops: float
    bandwidth: float


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes.

    Attributes:
        layers, width, heads, kv_heads, inner, vocabulary: as in its config.
        itemsize: bytes per weight, and per cached number where ``cache_dtype`` does not say.
        head_dim: of a head; 0 = the width's share.
        sparse: layers that are mixtures of ``experts`` of width ``expert_inner``, ``best`` of them per token, beside a
            dense MLP of width ``shared``.
        cache_dtype: of cached numbers if not the weights', see ``GenerationConfig``.
    """

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    itemsize: int
    head_dim: int = 0
    sparse: int = 0
    experts: int = 0
    best: int = 0
    expert_inner: int = 0
    shared: int = 0
    cache_dtype: str | None = None

    @classmethod
    def of(cls, config: Any, itemsize: int, cache_dtype: str | None = None) -> Shape:
        """Read the config of a native family."""
        sparse, inner, shared = config.mixture_sizes
        return cls(
            config.num_hidden_layers,
            config.hidden_size,
            config.num_attention_heads,
            config.num_key_value_heads,
            config.intermediate_size or 0,
            config.embedding_rows,
            itemsize,
            config.head_dim,
            sparse,
            config.num_experts if sparse else 0,
            config.num_experts_per_tok if sparse else 0,
            inner,
            shared,
            cache_dtype,
        )

    @property
    def attention_width(self) -> int:
        """Numbers per token in the queries."""
        return self.heads * (self.head_dim or self.width // self.heads)

    @property
    def kv_width(self) -> int:
        """Numbers per token and layer in the keys (as many in the values)."""
        return self.kv_heads * (self.attention_width // self.heads)

    @property
    def trunk(self) -> int:
        """Weights of all blocks, every expert counted."""
        return self.touched(None)

    def touched(self, tokens: int | None) -> int:
        """Weights of the blocks that ``tokens`` tokens read (None: all): of the experts, those likely asked."""
        attention = self.layers * (2 * self.attention_width + 2 * self.kv_width)
        dense = 3 * ((self.layers - self.sparse) * self.inner + self.sparse * self.shared)
        share = 1.0 if tokens is None or not self.experts else 1 - (1 - self.best / self.experts) ** tokens
        asked = 3 * self.sparse * self.experts * self.expert_inner * share
        return round(self.width * (attention + dense + asked))

    @property
    def head(self) -> int:
        """Weights of the output head; the embedding is as large."""
        return self.width * self.vocabulary

    @property
    def kv_bytes(self) -> int:
        """Cache bytes per token; in 8 bits a head has a scale beside its numbers."""
        held = self.kv_width + self.kv_heads * self.itemsize if self.cache_dtype else self.kv_width * self.itemsize
        return 2 * self.layers * held

    def flop(self, rows: int, tokens: int, keys: int, heads: int) -> float:
        """Operations of one forward; ``tokens``, ``keys`` and ``heads`` are per row."""
        attention = 4 * self.layers * self.attention_width * tokens * keys
        return rows * (2.0 * self.touched(1) * tokens + attention + 2.0 * self.head * heads)

    def bytes(self, rows: int, tokens: int, keys: int, cached: bool) -> float:
        """Bytes one forward must move."""
        kv = self.kv_bytes * rows * (keys + tokens) if cached else 0
        if cached and self.cache_dtype:  # widened keys and values are written, and read again
            kv += 2 * 2 * self.layers * self.kv_width * self.itemsize * rows * keys
        return float(self.itemsize * (self.touched(rows * tokens) + self.head) + kv)

    def floor(self, machine: Machine, rows: int, tokens: int, keys: int, heads: int, cached: bool) -> float:
        """Seconds one forward needs at least."""
        return max(
            self.flop(rows, tokens, keys, heads) / machine.flops,
            self.bytes(rows, tokens, keys, cached) / machine.bandwidth,
        )


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
    shape: Shape,
    rows: int,
    slots: int,
    block: int,
    cache: str,
    guidance: bool = False,
    drafts: int = 1,
    policy: Composition | None = None,
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
        policy: whose memory is counted too.
    """
    held = 0 if policy is None else rows * policy_bytes(policy, block, slots, shape.vocabulary)
    rows = rows * (2 if guidance else 1)
    weights = shape.itemsize * (shape.trunk + 2 * shape.head + (2 * shape.layers + 1) * shape.width)
    kv = 0 if cache == "none" else shape.kv_bytes * rows * (slots + 1)
    # What one layer holds at once, in its MLP: the residual stream and its increment, old and new, both norms'
    # outputs, queries, keys, values, and the MLP's two halves, their gate and their product. Before that, in its
    # attention, queries and keys are rotated in fp32.
    mlp = shape.itemsize * (6 * shape.width + 2 * shape.kv_width + 4 * shape.inner)
    attention = shape.itemsize * (5 * shape.width + 2 * shape.kv_width) + 4 * 3 * (shape.width + shape.kv_width)
    layer = max(mlp, attention)
    widened = 2 * shape.kv_width * shape.itemsize * rows * slots if kv and shape.cache_dtype else 0
    # The widest forwards: whole rows, and all drafts of a block, whose mask over a cache is the rest.
    whole = rows * slots * (drafts if cache == "none" else 1) * layer
    drafted = block * drafts
    branches = rows * (drafted * layer + (MASK_BYTES * drafted * (slots + drafted) if drafts > 1 else 0))
    # The logits come when the layers' memory is free again.
    logits = min(rows * drafted * shape.vocabulary, CHUNK_ELEMENTS + shape.vocabulary) * (4 + shape.itemsize)
    logits += shape.itemsize * rows * drafted * shape.width
    views = CELL_BYTES * rows * slots * drafts
    widest = max(whole + widened, logits, branches + widened if cache != "none" else 0)
    return MemoryEstimate(weights, kv, widest + views + held)


def policy_bytes(policy: Composition, block: int, slots: int, vocabulary: int) -> int:
    """Bytes that a policy holds per row from one forward to the next: its memory, and logits that parts read."""
    from dllm_decode.engine.canvas import Rows

    mask_id = vocabulary - 1
    rows = Rows.begin([[mask_id] * slots], [0], mask_id, mask_id, torch.device("cpu"))
    view = rows.view(slots, mask_id, (), (torch.Generator(),), vocabulary)
    view = view.at(end=view.start + block)
    sizes: list[int] = []

    def weigh(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.nbytes)
        return tensor

    map_rows(policy.begin(view), weigh)
    kept = len(policy.needs & {"logits", "probs"}) * (1 + policy.recalls)
    return sum(sizes) + 4 * kept * block * vocabulary


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed; the CPU's allocator says so in words only."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error).lower()


@contextmanager
def memory_errors_explained(model: Any, rows: int, slots: int, cache: str, config: GenerationConfig) -> Iterator[None]:
    """Turn a failed allocation into one sentence with the numbers; other errors pass through."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        needs = ""
        module = getattr(model, "module", None)
        if module is not None:
            shape = Shape.of(module.config, model.dtype.itemsize, config.cache_dtype)
            block = config.block_length or slots
            needs = f", which takes about {estimate_memory(shape, rows, slots, block, cache, config.guidance > 0)}"
        raise DllmError(
            f"out of memory on {model.device} decoding {rows} rows of up to {slots} tokens, cache={cache!r}{needs}; "
            "use fewer prompts at a time, fewer new tokens, a narrower dtype, or a smaller cache."
        ) from error
