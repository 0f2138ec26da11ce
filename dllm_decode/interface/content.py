"""The contents of chat messages: a text, or a list of text parts as OpenAI's clients send it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dllm_decode.errors import DllmError


def content_text(content: Any) -> str:
    """The text of a message's content.

    Raises:
        DllmError: neither a text nor a list of text parts.
    """
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else part for part in parts]
    if not isinstance(content, list) or not all(isinstance(text, str) for text in texts):
        raise DllmError(
            f"a chat message's content is {content!r:.80}; give a text, or a list of {{'type': 'text', 'text': ...}}."
        )
    return "".join(map(str, texts))
