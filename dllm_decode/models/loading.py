"""`load_model`: a checkpoint folder or hub id to a model that is ready to decode, or one sentence saying why not."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from dllm_decode.attention import BACKENDS
from dllm_decode.errors import LoadError
from dllm_decode.interface.text import TextCodec
from dllm_decode.models.families import FAMILIES
from dllm_decode.models.layers import BidirectionalLM
from dllm_decode.models.native import NativeModel
from dllm_decode.models.packed import pack_linears
from dllm_decode.models.tokenizers import load_tokenizer

BUNDLED = Path(__file__).resolve().parent.parent / "weights"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_FILES = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]
SAFETENSORS_NAMES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
QUIET_BELOW = 2**30  # bytes of weights; larger checkpoints show a progress bar


def load_model(
    name_or_path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    attention: str = "auto",
) -> NativeModel:
    """Load a LLaDA or Dream checkpoint.

    Args:
        name_or_path: a local folder (config.json, safetensors, tokenizer files); "tiny", the bundled model; or a hub
            id "owner/name". The network is used only for a hub id that is not a local folder. No remote code is run.
        dtype: "float32", "bfloat16" or "float16"; None = as stored, except that on a CPU 16-bit weights run in
            float32, which is exact and on most processors faster.
        device: such as "cpu" or "cuda:1"; None = "cuda" when there is one, else "cpu".
        attention: backend name, or "auto" for the fastest that serves each forward.

    Raises:
        LoadError: what was asked for is unknown, files are missing, unreadable, truncated or of the wrong shape, or
            there is no mask id.
        ConfigError: the config asks for something that is not computed here.
    """
    want_dtype, want_device = _dtype(dtype), _device(device)
    if attention != "auto" and attention not in BACKENDS:
        raise LoadError(f"unknown attention backend {attention!r}; use auto, {', '.join(BACKENDS)}.")
    folder = _folder(name_or_path)
    family, config = _config(folder)
    generation = _json(folder / "generation_config.json") if (folder / "generation_config.json").is_file() else {}
    mask_id = _mask_id(folder, config, generation)
    stored = _check_weights(folder, family, config)
    if want_dtype is None:
        want_dtype = torch.float32 if want_device.type == "cpu" else stored
    module = _read(folder, family, config, want_dtype)
    try:
        module.to(device=want_device)  # type: ignore[call-arg]
    except RuntimeError as error:
        size = module.num_parameters() * want_dtype.itemsize / 2**30
        raise LoadError(
            f"cannot put the {size:.1f} GiB of weights of {name_or_path} on {want_device} "
            f"({_first_line(error)}); free memory there, or choose another device or dtype."
        ) from error
    if want_device.type == "cpu":
        pack_linears(module)
    eos_ids = _ids(config.eos_token_id, generation.get("eos_token_id"))
    return NativeModel(
        module,
        mask_id=mask_id,
        eos_ids=eos_ids,
        pad_id=next(iter(_ids(config.pad_token_id, generation.get("pad_token_id"))), None),
        tokenizer=load_tokenizer(folder, config.model_type),
        name=str(name_or_path),
        attention=attention,
    )


def inspect_model(
    name_or_path: str | Path, dtype: str | torch.dtype | None = None, device: str | torch.device | None = None
) -> tuple[Any, torch.dtype, TextCodec | None]:
    """What `load_model` would load, without reading weights: config, dtype it would run in, tokenizer.

    Raises:
        LoadError, ConfigError: as `load_model`.
    """
    want_dtype, want_device = _dtype(dtype), _device(device)
    folder = _folder(name_or_path)
    family, config = _config(folder)
    stored = _check_weights(folder, family, config)
    if want_dtype is None:
        want_dtype = torch.float32 if want_device.type == "cpu" else stored
    return config, want_dtype, load_tokenizer(folder, config.model_type)


def _dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    if dtype is None or dtype in DTYPES.values():
        return dtype  # type: ignore[return-value]
    if str(dtype) not in DTYPES:
        raise LoadError(f"unknown dtype {dtype!r}; use {', '.join(DTYPES)} or None for the checkpoint's own.")
    return DTYPES[str(dtype)]


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        wanted = torch.device(device)
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch built without CUDA
        raise LoadError(
            f"device {str(device)!r} cannot be used here ({_first_line(error)}); use cpu, or cuda where there is one."
        ) from error
    return wanted


def _folder(name: str | Path) -> Path:
    """The local folder of a checkpoint, fetched from the hub if the name is a hub id."""
    if str(name) == "tiny":
        if not (BUNDLED / "tiny" / "config.json").is_file():
            raise LoadError(
                f"the bundled model is missing from this installation ({BUNDLED / 'tiny'}); reinstall dllm-decode or "
                "train it with scripts/train_tiny.py."
            )
        return BUNDLED / "tiny"
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise LoadError(f"{name} is a file; give the checkpoint's folder, which holds config.json and safetensors.")
    if not HUB_ID.fullmatch(str(name)):
        raise LoadError(
            f"there is no folder {name}; give a checkpoint folder, a hub id such as owner/name, or 'tiny'."
        )
    from huggingface_hub import snapshot_download  # only a hub id needs it, and it costs import time

    try:
        return Path(snapshot_download(str(name), allow_patterns=HUB_FILES))
    except Exception as error:  # many unrelated classes: HTTP, offline, missing repository, disk
        raise LoadError(
            f"{name} is not a local folder and could not be fetched from the hub ({type(error).__name__}: "
            f"{_first_line(error)}); check the name and the connection, or give a local folder."
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"cannot read {path} ({_first_line(error)}); fetch it again.") from error
    if not isinstance(content, dict):
        raise LoadError(f"{path} holds no JSON object; fetch it again.")
    return content


def _config(folder: Path) -> tuple[type[BidirectionalLM], Any]:
    if not (folder / "config.json").is_file():
        raise LoadError(f"{folder} has no config.json; give the folder that holds it beside the safetensors files.")
    fields = _json(folder / "config.json")
    kind = fields.get("model_type")
    if kind not in FAMILIES:
        raise LoadError(
            f"{folder} holds a model of type {kind!r}; supported types are {', '.join(FAMILIES)} "
            "(any other masked-diffusion model plugs in as a CallableModel)."
        )
    # transformers 4 also saves its own names, at its own defaults (tie_word_embeddings=True): the family's count.
    alias = FAMILIES[kind].config_class.attribute_map  # type: ignore[union-attr]
    fields = {name: value for name, value in fields.items() if alias.get(name) not in fields}
    try:
        config = FAMILIES[kind].config_class.from_dict(fields)  # type: ignore[union-attr]
    except (TypeError, KeyError, AttributeError) as error:
        raise LoadError(f"cannot read {folder / 'config.json'} ({_first_line(error)}); fetch it again.") from error
    config.check()
    return FAMILIES[kind], config


def _ids(*values: int | list[int] | None) -> tuple[int, ...]:
    """Ids of several fields, each an int, a list or None, in order and without repeats."""
    lists = [value if isinstance(value, list) else [value] for value in values if value is not None]
    return tuple(dict.fromkeys(item for items in lists for item in items))


def _mask_id(folder: Path, config: Any, generation: dict[str, Any]) -> int:
    found = _ids(config.mask_token_id, generation.get("mask_token_id"))
    if not found:
        raise LoadError(
            f"{folder / 'config.json'} names no mask_token_id; add the id of the model's mask token to it."
        )
    if not 0 <= found[0] < config.embedding_rows:
        raise LoadError(
            f"{folder / 'config.json'} says mask_token_id={found[0]}, but the vocabulary has ids 0.."
            f"{config.embedding_rows - 1}; correct it."
        )
    return found[0]


def _shards(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, all of them present."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        weight_map = _json(index).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise LoadError(f"{index} has no weight_map; fetch it again.")
        shards = [folder / name for name in sorted(set(weight_map.values()))]
    else:
        shards = [folder / "model.safetensors"]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing:
        raise LoadError(f"{folder} lacks {_some(missing)}; fetch the safetensors weights completely.")
    return shards


def _check_weights(folder: Path, family: type[BidirectionalLM], config: Any) -> torch.dtype:
    """Compare the shards' headers with the model, without reading weights; return the dtype most of them have."""
    with torch.device("meta"):
        expected = {name: tuple(tensor.shape) for name, tensor in family(config).state_dict().items()}
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
                f"{shard} is truncated or not a safetensors file ({_first_line(error)}); fetch it again."
            ) from error
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
    return SAFETENSORS_NAMES[common]


def _read(folder: Path, family: type[BidirectionalLM], config: Any, dtype: torch.dtype) -> BidirectionalLM:
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


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
