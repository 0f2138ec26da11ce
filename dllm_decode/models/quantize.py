"""Weights in 8 or 4 bits by torchao, layer by layer, each as soon as it is on its device.

Only the matrices are quantised (weight only: activations stay as they are); embedding and output head stay in 16 bits
unless asked, as do norms, and experts, which are no linear layers here.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from dllm_decode.errors import LoadError

#: name -> bits per weight, and where it runs
KINDS: dict[str, tuple[int, tuple[str, ...]]] = {"int8": (8, ("cpu", "cuda")), "int4": (4, ("cuda",)), "fp8": (8, ())}


def check_quantize(kind: str, device: torch.device) -> None:
    """Refuse what cannot run here, before anything is read.

    Raises:
        LoadError: an unknown kind, no torchao, or a device that has no such product; says what would work.
    """
    if kind not in KINDS:
        raise LoadError(f"unknown quantize={kind!r}; use {', '.join(KINDS)} or None.")
    try:
        _torchao()
    except ImportError as error:
        raise LoadError(
            f"quantize={kind!r} needs torchao, which cannot be imported ({str(error):.100}); install "
            "dllm-decode[quantize], or leave quantize out."
        ) from error
    where = KINDS[kind][1]
    if where and device.type not in where:
        words = " and ".join(where)
        raise LoadError(f"quantize={kind!r} runs on {words} only, not on {device.type}; use int8 or fp8.")

    if kind == "fp8" and device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise LoadError("quantize='fp8' needs a GPU of compute capability 8.9 or above; use int8.")


def quantizer(kind: str, but: str | None) -> Callable[[str, nn.Module], None]:
    """What quantises a module that has its weights, if it is a linear layer and not the one called ``but``."""
    config = _config(kind)

    def quantise(name: str, layer: nn.Module) -> None:
        if type(layer) is nn.Linear and name != but:
            _torchao().quantize_(layer, config)  # the old weight is let go here

    return quantise


def _config(kind: str) -> Any:
    torchao = _torchao()
    if kind == "int8":
        return torchao.Int8WeightOnlyConfig()
    if kind == "fp8":
        return torchao.Float8WeightOnlyConfig()
    return torchao.Int4WeightOnlyConfig(group_size=128, int4_packing_format="tile_packed_to_4d")


def _torchao() -> Any:
    return importlib.import_module("torchao.quantization")
