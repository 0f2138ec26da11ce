"""What a forward with several canvases per row costs on this machine, relative to one: measured once, when asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch

from dllm_decode.config import GenerationConfig
from dllm_decode.interface.model import DenoisingModel

#: Decodes a prompt under a policy and settings, and yields something after every forward.
Decode = Callable[[str, list[int], GenerationConfig], Iterator[Any]]

#: Tokens of the prompt that is decoded to find out, and how often each number of canvases is tried.
PROMPT, TRIES = 32, 3

_measured: WeakKeyDictionary[DenoisingModel, dict[Any, tuple[float, ...]]] = WeakKeyDictionary()


def row_costs(
    model: DenoisingModel, cache: str, config: GenerationConfig, decode: Decode
) -> Callable[[int], tuple[float, ...]]:
    """The function of :class:`samplers.contract.data.Setting`: costs of 1, 2, ... n canvases in one forward of a row.

    A whole step of the loop is timed (model, drafts and bookkeeping): the second of a canvas of masks, under this
    cache and these settings, the least of a few tries at 1, 2, 4, ... and n canvases; between them costs are taken
    to grow evenly.  Kept per model, cache and sizes for the life of the process.
    """
    size = config.max_new_tokens or config.block_length or PROMPT
    key = (cache, size, config.block_length, config.branches, config.guidance > 0, config.cache_dtype)

    def costs(most: int) -> tuple[float, ...]:
        known = _measured.setdefault(model, {})
        if (most, *key) not in known:
            counts = sorted({1, most, *(2**i for i in range(most.bit_length()) if 2**i <= most)})
            times = [[_seconds(model, config, size, n, decode) for n in counts] for _ in range(TRIES + 1)]
            # The first round warms up; in turn, so that a machine that slows down or speeds up is fair to all.
            known[(most, *key)] = _between(counts, [min(tries) for tries in zip(*times[1:], strict=True)])
        return known[(most, *key)]

    return costs


def _between(counts: list[int], seconds: list[float]) -> tuple[float, ...]:
    """Costs of 1, 2, ... canvases relative to one, from some of them; never falling."""
    out = [1.0]
    for (low, a), (high, b) in zip(
        zip(counts, seconds, strict=True), zip(counts[1:], seconds[1:], strict=True), strict=False
    ):
        out += [(a + (b - a) * (n - low) / (high - low)) / seconds[0] for n in range(low + 1, high + 1)]
    return tuple(max(out[: n + 1]) for n in range(len(out)))


def _seconds(model: DenoisingModel, config: GenerationConfig, size: int, canvases: int, decode: Decode) -> float:
    """The time of the step behind an opening, with so many canvases per row."""
    prompt = PROMPT if model.max_length is None else max(1, min(PROMPT, model.max_length - size))
    plain = GenerationConfig(
        max_new_tokens=size,
        block_length=config.block_length,
        branches=config.branches,
        guidance=config.guidance,
        cache_dtype=config.cache_dtype,
        early_stop=False,
    )
    ids = [(model.mask_id + 1) % model.vocab_size] * prompt
    # One thread of one processor: its own time, which others on the machine do not lengthen.
    alone = model.device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    steps = decode(f"freedave:drafts={canvases}", ids, plain)
    next(steps)
    began = clock()
    next(steps, None)
    seconds = clock() - began
    steps.close()  # type: ignore[attr-defined]
    return seconds
