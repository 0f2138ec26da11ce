"""From outcomes to the objects of OpenAI's API, plain and in chunks."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from typing import Any

from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.request import Outcome, Request
from dllm_decode.engine.result import Ending
from dllm_decode.interface.text import TextCodec
from dllm_decode.viewing.glyphs import visible
from dllm_decode.viewing.viewer import pack_trace, shown_pieces, token_pieces
from samplers.stop_strings import first_stop

NEVER = -9999.0  #: what OpenAI's API says for the logarithm of 0
HALF = "\ufffd"  #: what a decoder writes for half a character


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads the texts of rows.

    Attributes:
        codec: of the model. ``eos_ids``: its end-of-text tokens.
        hole: when a hole is filled, its cells; the text is what stands in it.
        stop: strings that end the text.
    """

    codec: TextCodec
    eos_ids: tuple[int, ...]
    hole: int | None = None
    stop: tuple[str, ...] = ()

    def text(self, request: Request, tokens: Sequence[int]) -> str:
        """The text of a row's cells, or of the first of them."""
        return self._read(request, tokens)[0]

    def _read(self, request: Request, tokens: Sequence[int]) -> tuple[str, int, bool]:
        """Text, its tokens, and whether it ended by itself."""
        if self.hole is not None:
            tokens = list(tokens[: self.hole])
            text = self.codec.decode(tokens)
            cut = first_stop(text, self.stop)
            return (text, len(tokens), False) if cut is None else (text[:cut], len(tokens), True)
        end = Ending.of(tokens, [False] * len(tokens), self.eos_ids, self.codec, self.stop)
        return str(end.text), end.until_eos, end.content < len(tokens)

    def fresh(self, request: Request, event: StepEvent, sent: int) -> str:
        """What may be sent of a canvas beyond ``sent`` characters: settled, whole, and no beginning of a stop."""
        text, _, ended = self._read(request, event.tokens[: event.settled])
        if not ended:
            text = text.rstrip(HALF)
            held = max((n for s in self.stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
            text = text[: len(text) - held]
        return text[sent:]

    def finish(self, outcome: Outcome, partial: bool = False) -> tuple[str, str, int]:
        """Text, finish reason and tokens of a row; ``partial``: of what had settled when its time was over."""
        tokens = outcome.tokens[: outcome.settled] if partial else outcome.tokens
        text, count, ended = self._read(outcome.request, tokens)
        return text, "stop" if ended and not partial else "length", count

    def logprobs(self, outcome: Outcome, count: int, chat: bool) -> dict[str, Any]:
        """Logarithms of the confidences with which the text's tokens were committed."""
        found = [NEVER] * len(outcome.tokens)
        for cell, (step, place) in outcome.trace.commits().items() if outcome.trace is not None else ():
            p = outcome.trace.steps[step].confidence[place] if outcome.trace is not None else 0.0
            if cell < len(found) and p > 0:
                found[cell] = math.log(p)
        ids = outcome.tokens[:count]
        pieces = [self.codec.decode([token], skip_special_tokens=False) for token in ids]
        if chat:
            content = [
                {"token": piece, "logprob": p, "bytes": list(piece.encode()), "top_logprobs": []}
                for piece, p in zip(pieces, found, strict=False)
            ]
            return {"content": content, "refusal": None}
        offsets = [sum(len(piece) for piece in pieces[:i]) for i in range(len(pieces))]
        return {"tokens": pieces, "token_logprobs": found[:count], "top_logprobs": None, "text_offset": offsets}


def facts(outcome: Outcome, mask_id: int, eos_ids: Sequence[int], codec: TextCodec, trace: bool) -> dict[str, Any]:
    """A row's own object: what it cost, and how it was decoded if that was asked for."""
    found: dict[str, Any] = {
        "nfe": outcome.nfe,
        "full_forwards": outcome.full_forwards,
        "tokens_forwarded": outcome.tokens_forwarded,
        "canvas_tokens": len(outcome.tokens) - sum(outcome.given),
    }
    if trace and outcome.trace is not None:
        found["trace"] = [json.loads(line) for line in outcome.trace.to_lines()]
        found["replay"] = pack_trace(outcome.trace)
        found["pieces"] = shown_pieces(token_pieces([outcome.trace], codec))
        found["mask_id"], found["eos_ids"] = mask_id, list(eos_ids)
    return found


def draft(event: StepEvent, row: int, codec: TextCodec) -> dict[str, Any]:
    """What a forward changed: cells, not the canvas."""
    return {
        "index": row,
        "step": event.step,
        "block": [event.start, event.end],
        "cells": list(event.cells),
        "tokens": list(event.values),
        "pieces": [visible(codec.decode([token], skip_special_tokens=False)) for token in event.values],
        "confidence": [round(p, 4) for p in event.confidence],
        "settled": event.settled,
        "length": len(event.tokens),
        **({"inserted": list(event.inserted)} if event.inserted else {}),
    }


def usage(prompt: int, completion: int) -> dict[str, int]:
    """The usage object."""
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def event_of(value: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
