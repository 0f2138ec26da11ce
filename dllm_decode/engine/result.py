"""GenerationResult: what came out, and what it cost, counted honestly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # reading a replay needs no torch
    from dllm_decode.engine.pool import Pool
    from dllm_decode.engine.request import Outcome
    from dllm_decode.engine.trace import Trace
    from dllm_decode.interface.text import TextCodec


@dataclass(frozen=True)
class GenerationResult:
    """The outcome of one ``generate`` call; lists run over the prompts.

    Three token counts are never mixed: *content* = before the end-of-text token that ends the row; *until EOS* =
    content plus that token; *canvas* = everything that was decoded or filled. Given tokens are in none of them.

    Attributes:
        sequences: generated ids, without the prompt; the whole row, end-of-text tail included.
        texts: decoded content (when infilling, the whole text with its given part), or ``None`` without a tokenizer.
        nfe: forwards in which the row took part. ``full_forwards``: those over the whole row.
        rows_forwarded: rows those forwards held for it (drafts and guidance count). ``tokens_forwarded``: their
            query tokens.
        content_tokens, until_eos_tokens, canvas_tokens: see above.
        trace: how each canvas filled in.
        calls: forward calls of the whole batch (one call serves many rows).
        seconds: wall time; ``model_seconds`` of it inside model calls. ``row_seconds``: from when the row joined the
            batch until it had ended.
        discarded_forwards: block forwards of the whole batch that a GPU began before the policy had decided, and that
            were thrown away because it decided otherwise; in no other count. How many depends on the machine's timing.
    """

    sequences: list[list[int]]
    texts: list[str] | None
    nfe: list[int]
    full_forwards: list[int]
    rows_forwarded: list[int]
    tokens_forwarded: list[int]
    content_tokens: list[int]
    until_eos_tokens: list[int]
    canvas_tokens: list[int]
    trace: list[Trace]
    calls: int
    seconds: float
    model_seconds: float
    row_seconds: list[float]
    discarded_forwards: int = 0

    @classmethod
    def of(cls, pool: Pool, outcomes: Sequence[Outcome], seconds: float) -> GenerationResult:
        """The outcomes of a run of a pool, in the order given."""
        model, forwarder = pool.batch.model, pool.batch.forwarder
        ends = [Ending.of_outcome(outcome, model.eos_ids, model.tokenizer) for outcome in outcomes]
        return cls(
            sequences=[outcome.tokens for outcome in outcomes],
            texts=None if model.tokenizer is None else [str(end.text) for end in ends],
            nfe=[outcome.nfe for outcome in outcomes],
            full_forwards=[outcome.full_forwards for outcome in outcomes],
            rows_forwarded=[outcome.rows_forwarded for outcome in outcomes],
            tokens_forwarded=[outcome.tokens_forwarded for outcome in outcomes],
            content_tokens=[end.content for end in ends],
            until_eos_tokens=[end.until_eos for end in ends],
            canvas_tokens=[end.canvas + outcome.extra for end, outcome in zip(ends, outcomes, strict=True)],
            trace=[outcome.trace for outcome in outcomes if outcome.trace is not None],
            calls=forwarder.calls,
            seconds=seconds,
            model_seconds=forwarder.seconds,
            row_seconds=[outcome.seconds for outcome in outcomes],
            discarded_forwards=forwarder.step.discarded,
        )

    @property
    def block_forwards(self) -> list[int]:
        """Forwards over less than the whole row."""
        return [n - full for n, full in zip(self.nfe, self.full_forwards, strict=True)]

    @property
    def tokens_per_forward(self) -> list[float]:
        """Content tokens per forward (content TPF), per row."""
        return [tokens / max(1, n) for tokens, n in zip(self.content_tokens, self.nfe, strict=True)]


@dataclass(frozen=True)
class Ending:
    """Where the text of a finished row ends, and what of it was decoded.

    Attributes:
        content, until_eos, canvas: as in :class:`GenerationResult`.
        text: likewise; ``None`` without a tokenizer.
    """

    content: int
    until_eos: int
    canvas: int
    text: str | None = None

    @classmethod
    def of(
        cls,
        tokens: Sequence[int],
        given: Sequence[bool],
        eos_ids: Sequence[int],
        codec: TextCodec | None = None,
        stop: Sequence[str] = (),
        prompt: Sequence[int] = (),
    ) -> Ending:
        """Read a row.

        An end-of-text token that was given, or has given text behind it, ends nothing; stop strings are looked for
        behind the last given cell.

        Args:
            tokens: the row's cells.
            given: which of them were never masked.
            eos_ids: end-of-text tokens.
            codec: makes the text.
            stop: strings that end it.
            prompt: what the text begins with, when infilling.
        """
        said = (i for i in reversed(range(len(tokens))) if given[i] and tokens[i] not in eos_ids)
        ends = (i for i in range(next(said, -1) + 1, len(tokens)) if tokens[i] in eos_ids and not given[i])
        cells = next(ends, len(tokens))
        content = cells - sum(given[:cells])
        found = cls(content, content + (cells < len(tokens)), len(tokens) - sum(given))
        if codec is None:
            return found
        if stop:
            first = next((i + 1 for i in reversed(range(cells)) if given[i]), 0)
            text, count = codec.cut(tokens[first:cells], stop)
            if count < cells - first:
                content -= cells - first - count
                return cls(content, content, found.canvas, codec.decode([*prompt, *tokens[:first]]) + text)
        return replace(found, text=codec.decode([*prompt, *tokens[:cells]]))

    @classmethod
    def of_outcome(cls, outcome: Outcome, eos_ids: Sequence[int], codec: TextCodec | None = None) -> Ending:
        """The same of a row that has left its pool; when infilling the text is the whole one, its given part too."""
        request, config = outcome.request, outcome.request.config
        head = request.ids[: request.offset] if config.infill else ()
        return cls.of(outcome.tokens, outcome.given, eos_ids, codec, config.stop, head)
