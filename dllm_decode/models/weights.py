"""The weights of a checkpoint: compared with the model by their headers before any is read."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from dllm_decode.errors import LoadError
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.moe import stored_shapes

SAFETENSORS_NAMES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
QUIET_BELOW = 2**30  # bytes of weights; larger checkpoints show a progress bar


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        LoadError: unreadable, or something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot read {path} ({first_line(error)}); fetch it again.") from error
    if not isinstance(content, dict):
        raise LoadError(f"{path} holds no JSON object; fetch it again.")
    return content


def _shards(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, all of them present."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = read_json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise LoadError(f"{index} has no weight_map; fetch it again.")
        if not all(isinstance(name, str) for name in weight_map.values()):
            raise LoadError(f"{index} names no files in its weight_map; fetch it again.")
        shards = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        shards = [folder / "model.safetensors"]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise LoadError(f"{folder} lacks {_some(missing)}; fetch the safetensors weights completely.")
    return shards


def check_weights(folder: Path, family: type[BidirectionalLM], config: Any) -> tuple[torch.dtype, int]:
    """Compare the shards' headers with the model, without reading weights: the usual dtype, and how many numbers."""
    found: dict[str, tuple[int, ...]] = {}
    dtypes: Counter[str] = Counter()
    for shard in _shards(folder):
        try:
            with safe_open(shard, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    view = file.get_slice(name)
                    found[name] = tuple(view.get_shape())
                    dtypes[view.get_dtype()] += 1
        except (SafetensorError, OSError) as error:
            raise LoadError(
                f"{shard} is truncated or not a safetensors file ({first_line(error)}); fetch it again."
            ) from error
    if config.num_hidden_layers > len(found):  # before so many are made
        raise LoadError(
            f"by {folder / 'config.json'} the model has {config.num_hidden_layers} layers, but the weights hold "
            f"{len(found)} tensors in all; check that both belong together."
        )
    with torch.device("meta"):
        expected = stored_shapes({n: tuple(tensor.shape) for n, tensor in family(config).state_dict().items()})
    # Old checkpoints stored the rotary tables, which are computed here.
    found = {name: shape for name, shape in found.items() if not name.endswith("rotary_emb.inv_freq")}
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing:
        raise LoadError(
            f"the weights in {folder} lack {_some(missing)}, which the model of its config.json has; check that both "
            "belong together."
        )
    if extra:
        raise LoadError(
            f"the weights in {folder} hold {_some(extra)}, unknown to the model of its config.json; check that both "
            "belong together."
        )
    for name, shape in expected.items():
        if found[name] != shape:
            raise LoadError(
                f"in the weights in {folder} {name} has shape {found[name]}, but by config.json it must be {shape}; "
                "check that both belong together."
            )
    common = dtypes.most_common(1)[0][0]
    if common not in SAFETENSORS_NAMES:
        raise LoadError(
            f"the weights in {folder} are stored as {common}; supported are {', '.join(SAFETENSORS_NAMES)}, so "
            "convert them first."
        )
    return SAFETENSORS_NAMES[common], sum(map(math.prod, found.values()))


def read_weights(folder: Path, family: type[BidirectionalLM], config: Any, dtype: torch.dtype) -> BidirectionalLM:
    """The model with its weights, in ``dtype``."""
    small = sum(shard.stat().st_size for shard in _shards(folder)) < QUIET_BELOW
    bars = transformers_logging.is_progress_bar_enabled()
    if small:
        transformers_logging.disable_progress_bar()
    try:
        return family.from_pretrained(folder, config=config, dtype=dtype, local_files_only=True)
    finally:
        if small and bars:
            transformers_logging.enable_progress_bar()


def _some(names: list[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def first_line(error: BaseException) -> str:
    """What an error says, in one line without a full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
