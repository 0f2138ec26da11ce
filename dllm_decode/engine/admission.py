"""What a pool will take in memory, before it is made."""

from __future__ import annotations

from pathlib import Path

import torch

from dllm_decode.engine.cost import Shape, estimate_memory, policy_bytes
from dllm_decode.engine.request import Request
from dllm_decode.interface.model import DenoisingModel


def pool_bytes(model: DenoisingModel, like: Request, places: int, slots: int, cells: int, budget: int) -> int:
    """Bytes of a pool of such requests: cache, the policy's memory, and the work of its widest forward."""
    return places * memory_bytes(model, like, cells) + work_bytes(model, like, places, slots, budget)


def work_bytes(model: DenoisingModel, like: Request, places: int, slots: int, budget: int) -> int:
    """Bytes of the cache and of a tick's forwards: ``budget`` tokens of openings, a block of every row."""
    module = getattr(model, "module", None)
    if module is None:
        return 0  # a plugged-in function: nothing is known of it, and it has no cache
    block, guided = min(like.config.block_length or slots, slots), like.config.guidance > 0
    shape = Shape.of(module.config, model.dtype.itemsize, like.config.cache_dtype)
    whole = estimate_memory(shape, places, slots, block, like.cache, guided)
    opening = max(1, -(-budget // slots))  # rows that one tick opens
    tick = estimate_memory(shape, opening, slots, block, like.cache, guided)
    return whole.cache + tick.workspace


def memory_bytes(model: DenoisingModel, like: Request, cells: int) -> int:
    """Bytes that the policy holds per row; found by beginning one row."""
    block = min(like.config.block_length or cells, cells)
    return policy_bytes(like.policy, block, cells, model.vocab_size)


def free_bytes(device: torch.device) -> int | None:
    """Memory that nobody uses on a device; ``None`` = it does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines if line.startswith("MemAvailable:"))
    return next((int(words[1]) * 1024 for words in found), None)
