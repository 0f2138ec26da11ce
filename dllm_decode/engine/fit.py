"""What of a model fits a machine, and how fast it would decode there: from the sizes in its config.json alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from dllm_decode.engine.cost import Machine, Shape, estimate_memory

#: dtype or quantisation -> bytes per weight of the blocks' matrices, and of everything else
WEIGHTS = {"float32": (4.0, 4), "bfloat16": (2.0, 2), "int8": (1.0, 2), "fp8": (1.0, 2), "int4": (0.5, 2)}
TIGHT = 0.85  #: of the free memory


@dataclass(frozen=True)
class Fit:
    """One way to run a model.

    Attributes:
        weights: dtype or quantisation. ``cache``: its kind. ``rows``: prompts together.
        bytes: all that it takes. ``step``: seconds of a block step at least.
        answer: seconds of one answer at least, when ``rows`` are decoded together, at one cell per forward.
        verdict: "fits", "tight" or "does not fit".
    """

    weights: str
    cache: str
    rows: int
    bytes: float
    step: float
    answer: float
    verdict: str


def fits(
    config: Any,
    rates: Mapping[torch.dtype, Machine],
    free: int | None,
    device: str,
    prompt: int = 512,
    new: int = 256,
    block: int = 32,
    batches: tuple[int, ...] = (1, 8, 32),
    cache_dtype: str | None = None,
) -> Iterator[Fit]:
    """All ways, the most exact weights first.

    Args:
        config: of a native family.
        rates: of this machine, by the dtype of its products.
        free: bytes of memory, ``None`` = not known, and everything is said to fit.
        device: "cpu" or "cuda"; int4 runs on a GPU only.
        prompt: tokens.
        new: cells.
        block: cells per block, where the model has none of its own.
        batches: numbers of rows.
        cache_dtype: of caches, see :class:`~dllm_decode.config.GenerationConfig`.
    """
    block = config.attention_block or min(block, new)
    slots = prompt + new
    for kind, (narrow, wide) in WEIGHTS.items():
        if kind == "int4" and device == "cpu":
            continue
        machine = rates[torch.float32 if kind == "float32" else torch.bfloat16]
        shape = Shape.of(config, wide, cache_dtype)
        saved = (wide - narrow) * _plain(shape)  # what quantised matrices do not take; experts stay as they are
        for cache in ("none", "dual") if config.attention_block is None else ("none", "block"):
            for rows in batches:
                taken = estimate_memory(shape, rows, slots, block, cache).total - saved
                step = _seconds(shape, narrow / wide, machine, rows, slots if cache == "none" else block, slots, cache)
                opening = _seconds(shape, narrow / wide, machine, rows, slots, slots, cache)
                openings = 0 if cache == "none" else -(-new // block)
                whole = openings * opening + (new - openings) * step
                yield Fit(kind, cache, rows, taken, step, whole, _verdict(taken, free))


def best(found: list[Fit]) -> Fit | None:
    """The way to try first: the most exact weights that fit (or are tight), with the fastest answers per row."""
    for verdict in ("fits", "tight"):
        usable = [fit for fit in found if fit.verdict == verdict]
        if usable:
            exact = [fit for fit in usable if fit.weights == usable[0].weights]
            return min(exact, key=lambda fit: fit.answer / fit.rows)
    return None


def _seconds(shape: Shape, narrower: float, machine: Machine, rows: int, tokens: int, slots: int, cache: str) -> float:
    """The floor of a forward whose blocks' matrices are read at a fraction of their width."""
    scored = min(tokens, 16)
    compute = shape.flop(rows, tokens, slots, scored) / machine.flops
    spared = shape.itemsize * _plain(shape) * (1 - narrower)
    moved = shape.bytes(rows, tokens, slots, cached=cache != "none") - spared
    return max(compute, moved / machine.bandwidth)


def _plain(shape: Shape) -> int:
    """Weights of the blocks that are no experts."""
    return shape.trunk - 3 * shape.sparse * shape.experts * shape.expert_inner * shape.width


def _verdict(taken: float, free: int | None) -> str:
    if free is None or taken <= TIGHT * free:
        return "fits"
    return "tight" if taken <= free else "does not fit"
