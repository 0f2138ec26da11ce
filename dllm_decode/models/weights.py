"""The weights of a checkpoint: compared with the model by their headers before any is read."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers.utils import logging as transformers_logging

from dllm_decode.errors import LoadError
from dllm_decode.files import parse_json
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.moe import stacked_place, stored_shapes

SAFETENSORS_NAMES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
COMPUTED = "rotary_emb.inv_freq"  # old checkpoints stored the rotary tables
QUIET_BELOW = 2**30  # bytes of weights; larger checkpoints show a progress bar


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        LoadError: unreadable, or something else.
    """
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
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
    found = {name: shape for name, shape in found.items() if not name.endswith(COMPUTED)}
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


def read_weights(
    folder: Path,
    family: type[BidirectionalLM],
    config: Any,
    dtype: torch.dtype,
    device: torch.device,
    finish: Callable[[str, nn.Module], None] | None = None,
) -> BidirectionalLM:
    """The model with its weights: made without memory, then filled tensor by tensor, straight from file to device.

    The host never holds more than the tensor on its way to a GPU.  On a CPU tensors stored in ``dtype`` stay mapped
    files.  The shards must have passed `check_weights`.

    Args:
        folder: of the checkpoint.
        family: class of the model.
        config: of the model.
        dtype: of the weights there; buffers that a family computes in fp32 stay so.
        device: where they go.
        finish: called with name and layer as soon as its weights are there, before the next is read (to quantise it).
    """
    with torch.device("meta"):
        module = family(config).to(dtype)  # type: ignore[arg-type]
    wide = set(family._keep_in_fp32_modules_strict or ())
    shards = _shards(folder)
    size = sum(shard.stat().st_size for shard in shards)
    bar = transformers_logging.tqdm(
        total=size, unit="B", unit_scale=True, desc="Loading weights", disable=size < QUIET_BELOW
    )
    with bar:
        for stored, tensor in _tensors(shards, device):
            bar.update(tensor.nbytes)
            name, part = stacked_place(stored)
            holder, _, last = name.rpartition(".")
            owner = module.get_submodule(holder)
            if part is None:
                _put(owner, last, tensor.to(torch.float32 if last in wide else dtype))
            else:  # one expert's rows of the stack
                if getattr(owner, last).is_meta:
                    _put(owner, last, torch.empty_like(getattr(owner, last), device=device))
                expert, piece, pieces = part
                getattr(owner, last).data[expert].chunk(pieces)[piece].copy_(tensor)
            del tensor  # before the next is read
            if finish is not None and not any(p.is_meta for p in owner.parameters(recurse=False)):
                finish(holder, owner)
    return module.eval()


def _tensors(shards: Iterable[Path], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    """Stored names and tensors, one at a time, on the device."""
    for shard in shards:
        with safe_open(shard, framework="pt", device=str(device)) as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                if not name.endswith(COMPUTED):
                    yield name, file.get_tensor(name)


def _put(owner: nn.Module, name: str, tensor: Tensor) -> None:
    """Give a module's parameter or buffer, so far without memory, its tensor."""
    if name in owner._buffers:
        owner._buffers[name] = tensor
    else:
        setattr(owner, name, nn.Parameter(tensor))


def _some(names: list[str]) -> str:
    """The first name, and how many more there are."""
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def first_line(error: BaseException) -> str:
    """What an error says, in one line without a full stop."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
