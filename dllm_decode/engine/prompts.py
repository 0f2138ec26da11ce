"""From prompts to rows of token ids; everything that can be wrong with them is found here, before any forward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.errors import DllmError
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.text import is_number, token_ids

#: A prompt: text, chat messages, or token ids.
Prompt = str | Sequence[dict[str, str]] | Sequence[int]


def several(prompts: Any) -> list[Prompt]:
    """One prompt or a list of prompts -> a list of prompts."""
    if isinstance(prompts, str):
        return [prompts]
    if hasattr(prompts, "tolist"):  # ids as a tensor or an array
        prompts = prompts.tolist()
    if not isinstance(prompts, Sequence) or isinstance(prompts, (bytes, bytearray)):
        raise DllmError(f"{prompts!r:.80} is no prompt; pass text, chat messages or token ids, one or several.")
    prompts = list(prompts)
    if not prompts:
        raise DllmError("no prompt was given; pass text, chat messages or token ids.")
    if is_number(prompts[0]) or isinstance(prompts[0], dict):
        return [prompts]
    return prompts


def lay_out(
    model: DenoisingModel, prompts: list[Prompt], chat: bool | None, config: GenerationConfig
) -> tuple[list[list[int]], list[int]]:
    """Whole rows (prompt, then masks) and the slot of each row's first cell; everything wrong is found here."""
    mask = model.mask_id
    whole, offsets = [], []
    for number, prompt in enumerate(prompts):
        ids = encode(model, prompt, chat, number)
        masks = [i for i, token in enumerate(ids) if token == mask]
        if masks and not config.infill:
            raise DllmError(
                f"prompt {number} holds the mask token {mask} at position {masks[0]}; "
                "pass infill=True to decode it, or remove it."
            )
        offset = masks[0] if masks else len(ids)
        cells = len(ids) + config.max_new_tokens
        if offset == cells:
            raise DllmError(f"prompt {number} has nothing to decode; give it masks or max_new_tokens above 0.")
        if model.max_length is not None and cells > model.max_length:
            raise DllmError(
                f"prompt {number} has {len(ids)} tokens and {config.max_new_tokens} are to be generated, but "
                f"{model.name} was made for {model.max_length} in all; shorten one of them."
            )
        whole.append(ids + [mask] * config.max_new_tokens)
        offsets.append(offset)
    return whole, offsets


def encode(model: DenoisingModel, prompt: Prompt, chat: bool | None, number: int) -> list[int]:
    """Token ids of the prompt with this number."""
    tokenizer, vocab = model.tokenizer, model.vocab_size
    ids = None if isinstance(prompt, str) else token_ids(prompt)
    if ids is not None:
        wrong = [t for t in ids if not 0 <= t < vocab]
        if wrong:
            raise DllmError(f"prompt {number} holds token id {wrong[0]}, but the vocabulary is 0..{vocab - 1}.")
        return ids
    if tokenizer is None:
        raise DllmError(f"model {model.name!r} has no tokenizer; give prompt {number} as token ids.")
    return tokenizer.encode_prompt(prompt, tokenizer.chat_template is not None if chat is None else chat)
