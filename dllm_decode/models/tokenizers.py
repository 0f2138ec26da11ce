"""A checkpoint's tokenizer with its chat template, built without remote code."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.qwen2 import Qwen2Tokenizer

from dllm_decode.errors import LoadError
from dllm_decode.interface.text import TextCodec

# Used only when a checkpoint ships no template of its own and has the tokens. LLaDA: every message is header-start,
# role, header-end, blank line, content, end; one bos in front; the assistant's header always follows.
LLADA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
# Dream follows Qwen2.5: a default system message unless the first one is the system's.
DREAM_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# SDAR follows Qwen3: no system message of its own, thinking left to the model.
SDAR_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# LLaDA2: a system turn always comes first, and says that there is no thinking aloud.
LLADA2_TEMPLATE = (
    "{% set own = messages[0]['role'] == 'system' %}"
    "{{ '<role>SYSTEM</role>' + (messages[0]['content'] + '\n' if own else '') }}"
    "{{ 'detailed thinking off<|role_end|>' }}"
    "{% for message in messages[1:] if own else messages %}"
    "{{ '<role>' + ('HUMAN' if message['role'] == 'user' else message['role'] | upper) + '</role>' }}"
    "{{ message['content'] + '<|role_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}"
)
FALLBACK_TEMPLATES = {
    "llada": (LLADA_TEMPLATE, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "Dream": (DREAM_TEMPLATE, ("<|im_start|>", "<|im_end|>")),
    "Fast_dLLM_Qwen": (DREAM_TEMPLATE, ("<|im_start|>", "<|im_end|>")),
    "sdar": (SDAR_TEMPLATE, ("<|im_start|>", "<|im_end|>")),
    "sdar_moe": (SDAR_TEMPLATE, ("<|im_start|>", "<|im_end|>")),
    "llada2_moe": (LLADA2_TEMPLATE, ("<role>", "</role>", "<|role_end|>")),
}


def load_tokenizer(folder: Path, family: str) -> TextCodec | None:
    """The tokenizer in a checkpoint folder; None when the folder has no tokenizer files.

    `tokenizer.json` is taken as it is; without it `vocab.json` and `merges.txt` are read by Qwen2's rules (NFC, its
    pre-tokenisation, byte-level BPE), with the added tokens of `tokenizer_config.json`, which is what Dream ships.

    Raises:
        LoadError: files that cannot be read, or added tokens that do not get the ids they claim.
    """
    if (folder / "tokenizer.json").is_file():
        kind: type[PreTrainedTokenizerBase] = PreTrainedTokenizerFast
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        kind = Qwen2Tokenizer
    else:
        return None
    try:
        tokenizer = kind.from_pretrained(folder)
        tokenizer.encode("a", add_special_tokens=False)  # some damaged settings only show when they are used
    except Exception as error:  # tokenizers raises bare Exception for a bad tokenizer.json
        raise LoadError(
            f"cannot read the tokenizer in {folder} ({_first_line(error)}); fetch its files again."
        ) from error
    if kind is Qwen2Tokenizer:
        try:
            _check_added_tokens(folder, tokenizer)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, LoadError):
                raise
            raise LoadError(f"{folder / 'tokenizer_config.json'} is damaged; fetch it again.") from error
    template, needed = FALLBACK_TEMPLATES.get(family, (None, ()))
    if tokenizer.chat_template or not set(needed) <= tokenizer.get_vocab().keys():
        template = None
    return TextCodec(tokenizer, template)


def _check_added_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return
    claimed = json.loads(path.read_text(encoding="utf-8")).get("added_tokens_decoder", {})
    for key, token in claimed.items():
        got = tokenizer.convert_tokens_to_ids(token["content"])
        if got != int(key):
            raise LoadError(
                f"the tokenizer in {folder} gives {token['content']} the id {got}, but its tokenizer_config.json says "
                f"{key}; vocab.json does not belong to it, fetch the files again."
            )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
