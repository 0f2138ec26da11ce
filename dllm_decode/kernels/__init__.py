"""Triton kernels of a decoding step; every one has a torch twin that the tests hold it to.

Nothing here is imported unless a forward runs where it helps: Triton is optional, and its kernels take their mode
(compiled or interpreted) from the environment when their module is imported.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import torch


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter: on the CPU, slowly, for tests (``TRITON_INTERPRET=1``)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes")


@cache
def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None and importlib.util.find_spec("triton.language") is not None


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def unusable(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the kernels cannot run on this device in this dtype, as a clause; None = they can."""
    if not _installed():
        return "Triton is not installed"
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"it does not compute in {str(dtype).removeprefix('torch.')}"
    if device.type == "cpu" and interpreting():
        return None
    if device.type != "cuda":
        return f"Triton does not compile for {device.type}"
    if torch.version.hip is None and _capability(device) < (8, 0):
        return "the GPU is older than compute capability 8.0"
    return None


def worthwhile(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether to use the kernels unasked: they can run here, and not in the interpreter."""
    return device.type == "cuda" and not interpreting() and unusable(device, dtype) is None


@cache
def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; on a CPU those of an H200, so that the interpreter takes the same path."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 132
