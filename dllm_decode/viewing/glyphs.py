"""Token ids as they are shown on screen: newlines visible, control characters harmless, traces readable anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dllm_decode.engine.trace import Trace
    from dllm_decode.interface.model import DenoisingModel

NEWLINE = "↵"
END = "∎"
_BROKEN = "\ufffd"  # what a tokenizer makes of a part of a UTF-8 character
_VISIBLE = {code: chr(0x2400 + code) for code in range(32)} | dict.fromkeys(range(0x7F, 0xA0), _BROKEN)
_VISIBLE |= {ord("\n"): NEWLINE, ord("\t"): "⇥"}


class Glyphs:
    """What each cell of a canvas looks like.

    Attributes:
        mask_id: id of a masked cell. ``eos_ids``: ids that end a text, all shown alike.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str] | None, mask_id: int, eos_ids: Iterable[int] = ()
    ) -> None:
        """``decode`` None: ids are shown as numbers."""
        self._decode = decode if decode is not None else _numbers
        self.mask_id, self.eos_ids = mask_id, frozenset(eos_ids)
        self._seen: dict[int, str] = {}

    @classmethod
    def of_model(cls, model: DenoisingModel) -> Glyphs:
        """By the model's tokenizer, if it has one."""
        return cls(_decoder(model.tokenizer), model.mask_id, model.eos_ids)

    @classmethod
    def of_trace(cls, trace: Trace, tokenizer: Any = None) -> Glyphs:
        """By ``tokenizer``, else by what :func:`annotate` wrote into the trace, else numbers."""
        pieces = trace.meta.get("pieces")
        decode = _decoder(tokenizer)
        if decode is None and pieces:

            def decode(ids: Sequence[int]) -> str:
                return "".join(pieces.get(str(i), f"<{i}>") for i in ids)

        return cls(decode, trace.mask_id, trace.meta.get("eos_ids", ()))

    def cells(self, tokens: Sequence[int]) -> list[str]:
        """One text per token; a character spelled over several cells stands in the first of them."""
        texts = [self._text(token) for token in tokens]
        at = 0
        while at < len(texts):
            end = at
            while end < len(texts) and _BROKEN in texts[end] and tokens[end] != self.mask_id:
                end += 1
            if end - at > 1 and _BROKEN not in (joined := self._decode(tokens[at:end])):
                texts[at:end] = [visible(joined), *[""] * (end - at - 1)]
            at = max(end, at + 1)
        return texts

    def text(self, tokens: Sequence[int]) -> str:
        """All tokens as one line."""
        return "".join(self.cells(tokens))

    def _text(self, token: int) -> str:
        if token in self.eos_ids:
            return END
        if token not in self._seen:
            self._seen[token] = visible(self._decode([token]))
        return self._seen[token]


def visible(text: str) -> str:
    """The text with newlines, tabs and control characters as symbols, so that nothing can move the cursor."""
    return text.translate(_VISIBLE)


def annotate(trace: Trace, model: DenoisingModel) -> None:
    """Write into the trace how its tokens read, so that it can be shown without the model."""
    trace.meta["eos_ids"] = list(model.eos_ids)
    decode = _decoder(model.tokenizer)
    if decode is None:
        return
    used = {*trace.prompt, *trace.canvas, *(token for step in trace.steps for token in step.new)}
    trace.meta["pieces"] = {str(token): decode([token]) for token in sorted(used)}
    trace.meta["prompt_text"] = decode(trace.prompt)


def _decoder(tokenizer: Any) -> Callable[[Sequence[int]], str] | None:
    if tokenizer is None:
        return None
    return lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False))


def _numbers(ids: Sequence[int]) -> str:
    return "".join(f" {i}" for i in ids)
