"""From a client's prompt to token ids, in which nothing that a user typed is a special token."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from dllm_decode.interface.text import TextCodec
from dllm_decode.serve.errors import bad


class UserText:
    """Encodes texts of users.

    A name of a special token in a text would become that token: a mask, an end of text, the mark of another role.  So
    each such name is cut in two, which then are read apart; only the chat template's own names are left.
    """

    def __init__(self, codec: TextCodec) -> None:
        self.codec = codec
        added = codec.tokenizer.get_added_vocab()
        self.special = frozenset(added.values()) | frozenset(codec.tokenizer.all_special_ids)
        names = sorted((name for name in {*added, *codec.tokenizer.all_special_tokens} if name), key=len, reverse=True)
        self._names = re.compile("|".join(f"(?=({re.escape(name)}))" for name in names)) if names else None

    def encode(self, text: str) -> list[int]:
        """Ids of a plain text."""
        return self._read(*self._cut(text))

    def chat(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation in the model's own template."""
        if self.codec.chat_template is None:
            raise bad("this model has no chat template; use /v1/completions.", "messages")
        mark = self._mark("".join(message["content"] for message in messages))
        cut = [{**message, "content": self._cut(message["content"], mark)[0]} for message in messages]
        try:
            text = self.codec.render(cut)
        except Exception as error:  # a template may refuse an order of roles
            raise bad(f"the model's chat template refuses these messages ({str(error)[:200]}).", "messages") from None
        for message in cut:
            self._read(message["content"], mark)  # refuses what would be read as special all the same
        return self._plain(text, mark)

    @staticmethod
    def _mark(text: str) -> str:
        mark = ""
        while not mark or mark in text:
            mark = f"\x1f{secrets.token_hex(8)}\x1f"
        return mark

    def _cut(self, text: str, mark: str | None = None) -> tuple[str, str]:
        mark = mark or self._mark(text)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise bad("a text holds half of a surrogate pair, which is no character; send whole characters.") from None
        found = [] if self._names is None else [match.start() + 1 for match in self._names.finditer(text)]
        pieces = [text[a:b] for a, b in zip([0, *found], [*found, len(text)], strict=True)]
        return mark.join(pieces), mark

    def _plain(self, text: str, mark: str) -> list[int]:
        return [token for piece in text.split(mark) if piece for token in self.codec.encode(piece)]

    def _read(self, text: str, mark: str) -> list[int]:
        ids = self._plain(text, mark)
        if not self.special.isdisjoint(ids):
            raise bad("a text holds what this tokenizer reads as a special token; leave it out, or send token ids.")
        return ids


def check_ids(ids: Sequence[int], special: Any, vocab_size: int, mask_id: int) -> list[int]:
    """Ids that a client gave, none of them the mask or beyond the vocabulary."""
    wrong = next((token for token in ids if token >= vocab_size), None)
    if wrong is not None:
        raise bad(f"prompt holds token id {wrong}, but the vocabulary is 0..{vocab_size - 1}.", "prompt")
    if mask_id in ids:
        raise bad(f"prompt holds the mask token {mask_id}; to fill a hole give prompt and suffix.", "prompt")
    return list(ids)
