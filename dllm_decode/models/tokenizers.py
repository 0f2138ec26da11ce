"""Text in and out: a checkpoint's tokenizer with its chat template, built without remote code."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.qwen2 import Qwen2Tokenizer

from dllm_decode.errors import DllmError, LoadError

Messages = Sequence[Mapping[str, str]]
Prompt = str | Messages | Sequence[int]

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
FALLBACK_TEMPLATES = {
    "llada": (LLADA_TEMPLATE, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "Dream": (DREAM_TEMPLATE, ("<|im_start|>", "<|im_end|>")),
}


class TextCodec:
    """Text to token ids and back. No special token is ever added except by a chat template.

    Attributes:
        tokenizer: the transformers tokenizer underneath.
        chat_template: Jinja source, or None when the model was not made for chat.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, chat_template: str | None = None) -> None:
        """`chat_template` None: the tokenizer's own, if it has one."""
        self.tokenizer = tokenizer
        own = tokenizer.chat_template
        if isinstance(own, dict):
            own = own.get("default")
        self.chat_template = chat_template or own

    def encode(self, text: str) -> list[int]:
        """Ids of the text as it is; names of special tokens in it become those tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of the ids, with nothing cleaned up."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def render(self, messages: Messages) -> str:
        """The chat template's text for these messages, up to where the answer starts.

        Raises:
            DllmError: no template, or something that is not a list of messages.
        """
        if self.chat_template is None:
            raise DllmError("this model's tokenizer has no chat template; give the prompt as plain text (chat=False).")
        for message in messages:
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise DllmError(f"a chat message must be a mapping with 'role' and 'content', got {message!r}.")
        text = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=True,
        )
        assert isinstance(text, str)
        return text

    def encode_prompt(self, prompt: Prompt, chat: bool = True) -> list[int]:
        """Ids of a prompt.

        Args:
            prompt: text, chat messages (`{"role": ..., "content": ...}`), or token ids, returned as they are.
            chat: wrap a text as one user message in the chat template; messages always use the template.

        Raises:
            DllmError: an empty list, something else than the three, or chat without a template.
        """
        if isinstance(prompt, str):
            return self.encode(self.render([{"role": "user", "content": prompt}]) if chat else prompt)
        return token_ids(prompt) or self.encode(self.render(prompt))  # type: ignore[arg-type]


def token_ids(prompt: Any) -> list[int] | None:
    """The prompt as a list of ids if it is one, None if it is a list of messages.

    Raises:
        DllmError: empty, or neither of the two.
    """
    items = list(prompt) if isinstance(prompt, Sequence) or hasattr(prompt, "tolist") else None
    if items and hasattr(prompt, "tolist"):
        items = prompt.tolist()
    if items and all(isinstance(item, int) and not isinstance(item, bool) for item in items):
        return items
    if items and all(isinstance(item, Mapping) for item in items):
        return None
    raise DllmError(
        "a prompt must be text, a non-empty list of token ids or a non-empty list of chat messages, "
        f"got {prompt!r:.80}."
    )


def load_tokenizer(folder: Path, model_type: str) -> TextCodec | None:
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
    except Exception as error:  # tokenizers raises bare Exception for a bad tokenizer.json
        raise LoadError(
            f"cannot read the tokenizer in {folder} ({_first_line(error)}); fetch its files again."
        ) from error
    if kind is Qwen2Tokenizer:
        _check_added_tokens(folder, tokenizer)
    template, needed = FALLBACK_TEMPLATES.get(model_type, (None, ()))
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
