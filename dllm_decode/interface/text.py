"""Text in and out: what the engine asks of a tokenizer, and what counts as a prompt."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dllm_decode.errors import DllmError
from dllm_decode.interface.content import content_text
from samplers.stop_strings import first_stop

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]
Prompt = str | Messages | Sequence[int]


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
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DllmError(
                f"the text holds half a character at position {error.start} ({text[error.start]!r}), as of "
                "bytes that are not UTF-8; give valid text."
            ) from error
        fast = getattr(self.tokenizer, "backend_tokenizer", None)
        split = getattr(self.tokenizer, "split_special_tokens", False)
        if fast is None or fast.truncation or fast.padding or fast.encode_special_tokens != split:
            return self.tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = fast.encode(text, add_special_tokens=False).ids  # what the line above comes to, sooner
        return ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of the ids, with nothing cleaned up."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False
        )
        assert isinstance(text, str)
        return text

    def cut(self, ids: Sequence[int], stop: Sequence[str]) -> tuple[str, int]:
        """Text of the ids before the first stop string, without special tokens (which a stop string may name).

        Returns:
            The text, and how many of the ids stand before the stop string.
        """
        whole = self.decode(ids, skip_special_tokens=False)
        end = first_stop(whole, stop)
        if end is None:
            return self.decode(ids), len(ids)
        cells = next(n for n in range(len(ids) + 1) if n == len(ids) or len(self.decode(ids[: n + 1], False)) > end)
        special = [token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        return re.sub("|".join(map(re.escape, special)), "", whole[:end]) if special else whole[:end], cells

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
            if not isinstance(message["role"], str):
                raise DllmError(f"a chat message's role is {message['role']!r:.80}; give user, assistant or system.")
        plain = [{**message, "content": content_text(message["content"])} for message in messages]
        try:
            text = self.tokenizer.apply_chat_template(
                plain, chat_template=self.chat_template, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:  # a template is a program of its own: it may raise anything
            raise DllmError(
                f"the chat template cannot write these messages ({type(error).__name__}: {error!s:.120}); change the "
                "messages or the template, or give plain text (chat=False)."
            ) from error
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


def is_number(item: Any) -> bool:
    """Whether this is one whole number of any library; arrays and tensors say that they are, whatever their shape."""
    return hasattr(item, "__index__") and getattr(item, "ndim", 0) == 0


def token_ids(prompt: Any) -> list[int] | None:
    """The prompt as a list of ids if it is one, None if it is a list of messages.

    Raises:
        DllmError: empty, or neither of the two.
    """
    if hasattr(prompt, "tolist"):
        prompt = prompt.tolist()
    items = list(prompt) if isinstance(prompt, Sequence) and not isinstance(prompt, (str, bytes, bytearray)) else None
    if items and all(type(item) is int for item in items):
        return items
    if items and all(is_number(item) and not isinstance(item, bool) for item in items):
        return [operator.index(item) for item in items]
    if items and all(isinstance(item, Mapping) for item in items):
        return None
    raise DllmError(
        "a prompt must be text, a non-empty list of token ids or a non-empty list of chat messages, "
        f"got {prompt!r:.80}."
    )
