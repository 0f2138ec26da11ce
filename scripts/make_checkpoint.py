"""A random checkpoint with the sizes, tensor names and shards of a published one, to try loading and speed without it.

    python -m scripts.make_checkpoint --shape llada-8b --out llada-8b-random
    python -m scripts.make_checkpoint --shape dream-7b --scale 8 --out small     # an eighth of the width and layers

Written tensor by tensor: it takes the checkpoint's size on disk and some MiB of memory.  There is no tokenizer in it:
prompts are lists of ids.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from dllm_decode.errors import DllmError
from dllm_decode.files import write_whole
from dllm_decode.models.families import FAMILIES
from dllm_decode.models.moe import stored_shapes

QWEN3 = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936, "block_size": 4}
#: family and fields of the published config.json files; ``shards`` as they are stored
SHAPES: dict[str, dict[str, Any]] = {
    "llada-8b": {"family": "llada", "shards": 6, "mask_token_id": 126_336, "eos_token_id": 126_081},
    "dream-7b": {
        **{"family": "Dream", "shards": 4, "hidden_size": 3584, "intermediate_size": 18_944, "vocab_size": 152_064},
        **{"num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "rope_theta": 1e6},
        **{"mask_token_id": 151_666, "eos_token_id": 151_643},
    },
    "sdar-1.7b": {
        **{"family": "sdar", "shards": 1, **QWEN3, "hidden_size": 2048, "intermediate_size": 6144},
        **{"num_hidden_layers": 28, "num_attention_heads": 16},
    },
    "sdar-4b": {
        **{"family": "sdar", "shards": 2, **QWEN3, "hidden_size": 2560, "intermediate_size": 9728},
        "num_hidden_layers": 36,
    },
    "sdar-8b": {"family": "sdar", "shards": 4, **QWEN3},
    "llada2-mini": {
        **{"family": "llada2_moe", "shards": 7, "vocab_size": 157_184, "hidden_size": 2048, "intermediate_size": 5120},
        **{"num_hidden_layers": 20, "num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128},
        **{"moe_intermediate_size": 512, "num_experts": 256, "num_experts_per_tok": 8, "n_group": 8, "topk_group": 4},
    },
}
PIECE = 1 << 22  #: numbers written at a time


def config_of(shape: str, scale: int = 1) -> Any:
    """The config of a named shape; width, layers and vocabulary divided by ``scale``.

    Raises:
        DllmError: there is no such shape, or it cannot be divided so.
    """
    if shape not in SHAPES:
        raise DllmError(f"there is no shape {shape!r}; use one of {', '.join(SHAPES)}.")
    fields = {k: v for k, v in SHAPES[shape].items() if k not in ("family", "shards")}
    kind = FAMILIES[SHAPES[shape]["family"]].config_class
    if scale == 1:
        config = kind(**fields)  # type: ignore[misc]
    else:
        whole = kind(**fields)  # type: ignore[misc]
        heads, kv_heads = whole.num_attention_heads, whole.num_key_value_heads
        small = {
            name: max(1, getattr(whole, name) // scale)
            for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")
        }
        small |= {"num_attention_heads": max(1, heads // scale), "mask_token_id": small["vocab_size"] - 1}
        small |= {"num_key_value_heads": max(1, kv_heads // scale), "eos_token_id": small["vocab_size"] - 2}
        config = kind(**{**fields, **{whole.attribute_map.get(k, k): v for k, v in small.items()}})  # type: ignore[misc]
    config.check()
    return config


def make_checkpoint(shape: str, out: Path, scale: int = 1, seed: int = 0) -> int:
    """Write the folder; returns the bytes of its weights, which are bf16 (a router's bias fp32).

    Raises:
        DllmError: an unknown shape, or a folder that holds something.
    """
    config = config_of(shape, scale)
    if out.exists() and any(out.iterdir()):
        raise DllmError(f"{out} is not empty; give a folder that is.")
    out.mkdir(parents=True, exist_ok=True)
    family = FAMILIES[SHAPES[shape]["family"]]
    with torch.device("meta"):
        state = family(config).state_dict()
    wide = {name for name in state if name.endswith("expert_bias")}
    shapes = stored_shapes({name: tuple(tensor.shape) for name, tensor in state.items()})
    sizes = {name: math.prod(dims) * (4 if name in wide else 2) for name, dims in shapes.items()}
    total, count = sum(sizes.values()), SHAPES[shape]["shards"]
    parts: list[list[str]] = [[]]
    held = 0
    for name in shapes:
        if held + sizes[name] / 2 > total * len(parts) / count and parts[-1] and len(parts) < count:
            parts.append([])
        parts[-1].append(name)
        held += sizes[name]
    draw = torch.Generator().manual_seed(seed)
    drawn = torch.randn(PIECE + 4099, generator=draw) * config.initializer_range
    files: dict[str, str] = {}
    for number, names in enumerate(parts, 1):
        last = "model.safetensors" if count == 1 else f"model-{number:05}-of-{len(parts):05}.safetensors"
        _write_shard(out / last, {name: shapes[name] for name in names}, wide, drawn)
        files |= dict.fromkeys(names, last)
    if count > 1:
        index = {"metadata": {"total_size": total}, "weight_map": files}
        write_whole(out / "model.safetensors.index.json", json.dumps(index, indent=1))
    write_whole(out / "config.json", json.dumps({**config.to_diff_dict(), **_named(config)}, indent=1, default=str))
    return total


def _named(config: Any) -> dict[str, Any]:
    """What a reader needs to know the family again."""
    return {
        "model_type": config.model_type,
        "architectures": [config.checkpoint_architectures[0]],
        "dtype": "bfloat16",
    }


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], wide: set[str], drawn: torch.Tensor) -> None:
    """One safetensors file, tensor by tensor."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, dims in shapes.items():
        size = math.prod(dims) * (4 if name in wide else 2)
        kind = "F32" if name in wide else "BF16"
        header[name] = {"dtype": kind, "shape": list(dims), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    fresh = path.with_name(f".{path.name}.{os.getpid()}.part")
    with fresh.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dims in shapes.items():
            for values in _numbers(name, math.prod(dims), len(dims), drawn):
                kept = values.float() if name in wide else values.bfloat16()
                file.write(kept.view(torch.uint8).numpy())
    fresh.replace(path)


def _numbers(name: str, count: int, dims: int, drawn: torch.Tensor) -> Iterator[torch.Tensor]:
    """The values of a tensor in pieces: norms are one, biases zero, matrices normal, each from another place."""
    shift = sum(name.encode()) % 4099
    for low in range(0, count, PIECE):
        size = min(PIECE, count - low)
        if dims > 1:
            yield drawn[shift : shift + size]
        else:
            yield torch.zeros(size) if name.endswith("bias") else torch.ones(size)
        shift = (shift + 997) % 4099


def main(
    shape: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}.")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    scale: Annotated[int, typer.Option(min=1, help="Divide width, layers and vocabulary by this.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
) -> None:
    """Write a random checkpoint of a published shape."""
    try:
        total = make_checkpoint(shape, out, scale, seed)
    except DllmError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    print(f"{out}: {total / 2**30:.2f} GiB of weights.")


if __name__ == "__main__":
    typer.run(main)
