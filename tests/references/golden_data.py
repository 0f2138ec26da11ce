"""Where the golden data lies and how its tiny checkpoints are loaded: `$DLLM_GOLDENS`, or tests/goldens."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from dllm_decode.models import FAMILIES, NativeModel, load_model


def golden_path(relative: str) -> Path:
    """A file or folder of the golden data, such as "baseline/tiny-llada"; missing data fails the test."""
    path = Path(os.environ.get("DLLM_GOLDENS") or Path(__file__).parents[1] / "goldens") / relative
    assert path.exists(), f"no golden data at {path}; set DLLM_GOLDENS to the folder that holds {relative}"
    return path


def golden_json(relative: str) -> Any:
    """A JSON file of the golden data."""
    return json.loads(golden_path(relative).read_text(encoding="utf-8"))


@lru_cache
def golden_model(relative: str) -> NativeModel:
    """A tiny checkpoint in float32.

    Either a checkpoint folder ("baseline/tiny-llada") or the stem of loose files ("fast_dllm/tiny_llada" for
    tiny_llada_config.json and tiny_llada.safetensors or tiny_llada_weights.npz).
    """
    parent, _, stem = relative.rpartition("/")
    folder = golden_path(parent) / stem
    if folder.is_dir():
        return load_model(folder, dtype="float32", device="cpu")
    fields = golden_json(f"{relative}_config.json")
    family = FAMILIES["Dream" if "hidden_size" in fields else "llada"]
    module = family(family.config_class(**fields))
    weights = golden_path(parent) / f"{stem}.safetensors"
    if weights.exists():
        state = load_file(weights)
    else:
        with np.load(golden_path(f"{relative}_weights.npz")) as arrays:
            state = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    config = module.config
    eos_ids = () if config.eos_token_id is None else (config.eos_token_id,)
    return NativeModel(
        module, mask_id=config.mask_token_id, eos_ids=eos_ids, pad_id=config.pad_token_id, name=relative
    )
