"""`load_model`: a checkpoint folder or hub id to a model that is ready to decode, or one sentence saying why not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from dllm_decode.attention import BACKENDS
from dllm_decode.errors import ConfigError, LoadError
from dllm_decode.interface.text import TextCodec
from dllm_decode.models.decoder import BidirectionalLM
from dllm_decode.models.families import FAMILIES, family_of
from dllm_decode.models.native import NativeModel
from dllm_decode.models.quantize import KINDS, check_quantize, quantizer
from dllm_decode.models.room import fitting_dtype, free_memory
from dllm_decode.models.tokenizers import load_tokenizer
from dllm_decode.models.weights import check_weights, first_line, read_json, read_weights

BUNDLED = Path(__file__).resolve().parent.parent / "weights"
BUNDLED_NAMES = ("tiny", "tiny-long", "tiny-block")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_FILES = ["*.json", "*.safetensors", "merges.txt", "*.jinja"]
FAMILY_NAMES = {family: name for name, family in FAMILIES.items()}
BLOCK_IN_NAME = re.compile(r"-b(\d+)$")


def load_model(
    name_or_path: str | Path,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    attention: str = "auto",
    attention_block: int | None = None,
    quantize: str | None = None,
    quantize_head: bool = False,
) -> NativeModel:
    """Load a checkpoint of a native family (:data:`~dllm_decode.models.families.LISTED` names them).

    Args:
        name_or_path: a local folder (config.json, safetensors, tokenizer files); a bundled model
            ("tiny", "tiny-long", "tiny-block"); or a hub id "owner/name". The network is used only for a hub id that
            is not a local folder. No remote code is run.
        dtype: "float32", "bfloat16" or "float16"; None = as stored, except that on a CPU 16-bit weights run in
            float32, which is exact and on most processors faster (if memory holds that; the log says if not).
        device: such as "cpu" or "cuda:1"; None = "cuda" when there is one, else "cpu".
        attention: backend name, or "auto" for the fastest that serves each forward.
        attention_block: cells of an attention block, if another than the checkpoint names (block-causal models only).
        quantize: "int8", "fp8" or "int4" (on a GPU only) matrices by torchao (the extra ``quantize``), layer by layer;
            the rest stays in ``dtype``, which is then as stored by default, on a CPU too.
        quantize_head: the output head too.

    Raises:
        LoadError: what was asked for is unknown, files are missing, unreadable, truncated or of the wrong shape, there
            is no mask id, or memory does not hold the weights (found before any is read).
        ConfigError: the config asks for something that is not computed here.
    """
    want_dtype, want_device = _dtype(dtype), _device(device)
    if quantize is not None:
        check_quantize(quantize, want_device)
    if attention != "auto" and attention not in BACKENDS:
        raise LoadError(f"unknown attention backend {attention!r}; use auto, {', '.join(BACKENDS)}.")
    folder = find_folder(name_or_path)
    family, config = _config(folder)
    generation = read_json(folder / "generation_config.json") if (folder / "generation_config.json").is_file() else {}
    _check_block(folder, config, attention_block)
    tokenizer = load_tokenizer(folder, FAMILY_NAMES[family])
    mask_id = _mask_id(folder, config, generation, tokenizer)
    stored, numbers = check_weights(folder, family, config)
    free = free_memory(want_device)
    if quantize is not None:
        want_dtype = stored if want_dtype is None else want_dtype
        in_bytes = KINDS[quantize][0] / 8
        sparse, inner, _ = config.mixture_sizes  # experts, embedding and head stay as they are
        ends = 2 * config.embedding_rows * config.hidden_size
        ends += 3 * sparse * config.num_experts * inner * config.hidden_size if sparse else 0
        numbers = round(ends + (numbers - ends) * in_bytes / want_dtype.itemsize)
    want_dtype = fitting_dtype(str(name_or_path), numbers, want_dtype, stored, want_device, free, quantize is not None)
    finish = quantizer(quantize, but=None if quantize_head else family.model_parts[3]) if quantize else None
    try:
        module = read_weights(folder, family, config, want_dtype, want_device, finish)
    except RuntimeError as error:
        size = numbers * want_dtype.itemsize / 2**30
        raise LoadError(
            f"cannot put the {size:.1f} GiB of weights of {name_or_path} on {want_device} "
            f"({first_line(error)}); free memory there, or choose another device or dtype."
        ) from error
    module.ready(joined=quantize is None)
    return NativeModel(
        module,
        mask_id=mask_id,
        eos_ids=_eos_ids(config, generation, tokenizer),
        pad_id=next(iter(_known_ids("pad_token_id", config, generation)), None),
        tokenizer=tokenizer,
        name=str(name_or_path),
        attention=attention,
        attention_block=attention_block,
    )


def inspect_model(
    name_or_path: str | Path, dtype: str | torch.dtype | None = None, device: str | torch.device | None = None
) -> tuple[Any, torch.dtype, TextCodec | None]:
    """What `load_model` would load, without reading weights: config, dtype it would run in, tokenizer.

    Raises:
        LoadError, ConfigError: as `load_model`.
    """
    want_dtype, want_device = _dtype(dtype), _device(device)
    folder = find_folder(name_or_path)
    family, config = _config(folder)
    stored, _ = check_weights(folder, family, config)
    if want_dtype is None:
        want_dtype = torch.float32 if want_device.type == "cpu" else stored
    return config, want_dtype, load_tokenizer(folder, FAMILY_NAMES[family])


def inspect_config(name_or_path: str | Path, device: str | torch.device | None = None) -> tuple[Any, torch.device]:
    """The config of a checkpoint, of which no more than that file need be there, and the device that is meant.

    Raises:
        LoadError, ConfigError: as `load_model`.
    """
    return _config(find_folder(name_or_path))[1], _device(device)


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
        if wanted.type == "meta":
            raise LoadError("device 'meta' computes nothing; use cpu, or cuda where there is one.")
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:  # Assertion: torch without CUDA
        why = first_line(error).partition(". ")[0]
        raise LoadError(
            f"device {str(device)!r} cannot be used here ({why:.120}); use cpu, or cuda where there is one."
        ) from error
    return wanted


def find_folder(name: str | Path) -> Path:
    """The local folder of a checkpoint, fetched from the hub if the name is a hub id.

    Raises:
        LoadError: there is none.
    """
    if str(name) in BUNDLED_NAMES:
        if not (BUNDLED / name / "config.json").is_file():
            raise LoadError(
                f"the bundled model is missing from this installation ({BUNDLED / name}); reinstall dllm-decode or "
                "train it with scripts/train_tiny.py."
            )
        return BUNDLED / name
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise LoadError(f"{name} is a file; give the checkpoint's folder, which holds config.json and safetensors.")
    if not HUB_ID.fullmatch(str(name)):
        raise LoadError(
            f"there is no folder {name}; give a checkpoint folder, a hub id such as owner/name, or a bundled "
            f"model: {', '.join(BUNDLED_NAMES)}."
        )
    from huggingface_hub import snapshot_download  # only a hub id needs it, and it costs import time

    try:
        return Path(snapshot_download(str(name), allow_patterns=HUB_FILES))
    except Exception as error:  # many unrelated classes: HTTP, offline, missing repository, disk
        raise LoadError(
            f"{name} is not a local folder and could not be fetched from the hub ({type(error).__name__}: "
            f"{first_line(error)}); check the name and the connection, or give a local folder."
        ) from error


def _config(folder: Path) -> tuple[type[BidirectionalLM], Any]:
    if not (folder / "config.json").is_file():
        raise LoadError(f"{folder} has no config.json; give the folder that holds it beside the safetensors files.")
    fields = read_json(folder / "config.json")
    family = family_of(fields)
    if family is None:
        raise LoadError(
            f"{folder} holds a model of type {fields.get('model_type')!r}; supported types are {', '.join(FAMILIES)} "
            "(any other masked-diffusion model plugs in as a CallableModel)."
        )
    # transformers 4 also saves its own names, at its own defaults (tie_word_embeddings=True): the family's count.
    alias = family.config_class.attribute_map  # type: ignore[union-attr]
    fields = {name: value for name, value in fields.items() if alias.get(name) not in fields}
    try:
        config = family.config_class.from_dict(fields)  # type: ignore[union-attr]
    except ConfigError:
        raise
    except Exception as error:  # transformers checks fields with errors of its own
        raise LoadError(f"cannot read {folder / 'config.json'} ({first_line(error)}); fetch it again.") from error
    config.check()
    return family, config


def _check_block(folder: Path, config: Any, given: int | None) -> None:
    """SDAR's files of blocks of 8 to 64 cells say so in their names: one that says otherwise inside is not guessed at.

    Raises:
        LoadError: name and config.json disagree, and nobody says which is right.
    """
    hint = BLOCK_IN_NAME.search(folder.name)
    if given is None and hint and config.attention_block not in (None, int(hint[1])):
        raise LoadError(
            f"{folder.name} sounds like attention blocks of {hint[1]} cells, but by config.json they have "
            f"{config.attention_block}; say which with attention_block={hint[1]} or {config.attention_block}."
        )


def _ids(*values: int | list[int] | None) -> tuple[int, ...]:
    """Ids of several fields, each an int, a list or None, in order and without repeats."""
    lists = [value if isinstance(value, list) else [value] for value in values if value is not None]
    listed = [item for items in lists for item in items]
    wrong = [item for item in listed if not _is_id(item)]
    if wrong:
        raise LoadError(
            f"the checkpoint names {wrong[0]!r:.60} as the id of a special token; give whole numbers from 0."
        )
    return tuple(dict.fromkeys(listed))


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _known_ids(field: str, config: Any, generation: dict[str, Any]) -> tuple[int, ...]:
    """What both files say in this field, ids of the vocabulary."""
    listed = _ids(getattr(config, field), generation.get(field))
    if not all(i < config.embedding_rows for i in listed):
        raise LoadError(f"{field} is {listed!r:.80}; give ids from 0 to {config.embedding_rows - 1}.")
    return listed


def _eos_ids(config: Any, generation: dict[str, Any], tokenizer: TextCodec | None) -> tuple[int, ...]:
    """Ids that end an answer: the checkpoint's own or the family's, and those of the family's stop tokens."""
    listed = _known_ids("eos_token_id", config, generation)
    if not listed:
        listed = tuple(i for i in config.default_eos_ids if i < config.embedding_rows)
    known = {} if tokenizer is None else tokenizer.tokenizer.get_vocab()
    return _ids(*listed, *(known.get(token) for token in config.stop_tokens))


def _mask_id(folder: Path, config: Any, generation: dict[str, Any], tokenizer: TextCodec | None) -> int:
    own = None if tokenizer is None else tokenizer.tokenizer.mask_token_id
    default = config.default_mask_id
    inside = default if default is not None and default < config.embedding_rows else None
    found = _ids(config.mask_token_id, generation.get("mask_token_id"), own, inside)
    if not found:
        raise LoadError(
            f"{folder / 'config.json'} names no mask_token_id; add the id of the model's mask token to it."
        )
    if found[0] >= config.embedding_rows:
        raise LoadError(
            f"{folder / 'config.json'} says mask_token_id={found[0]!r:.60}, but the vocabulary has ids 0.."
            f"{config.embedding_rows - 1}; correct it."
        )
    return found[0]
