"""A row's canvas forward by forward: followed while it decodes, or played back from a trace. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.trace import Trace
from dllm_decode.viewing.glyphs import Glyphs


@dataclass
class CanvasState:
    """One row's canvas and how it came about.

    Attributes:
        tokens: its ids now. ``committed``: per cell the forward that decided it; 0 = masked, or given from the start.
        mask_id: id of a mask. ``eos_ids``: ids that end the text.
        start, end, block: the current block. ``step``: forwards so far (NFE).
        fresh: the cells the last forward wrote. ``finished``: the row is done.
        volatile: cells whose prediction wavers, drawn apart while they are masked.
    """

    tokens: list[int]
    committed: list[int]
    mask_id: int
    eos_ids: frozenset[int]
    start: int = 0
    end: int = 0
    block: int = 0
    step: int = 0
    fresh: frozenset[int] = field(default=frozenset())
    finished: bool = False
    volatile: frozenset[int] = field(default=frozenset())

    @classmethod
    def before(cls, event: StepEvent, glyphs: Glyphs) -> CanvasState:
        """The canvas as it was before the row's first event."""
        tokens = list(event.tokens)
        if event.inserted:
            at, count, _ = event.inserted
            del tokens[at : at + count]
        for cell in event.cells:
            if cell < len(tokens):
                tokens[cell] = glyphs.mask_id
        return cls(tokens, [0] * len(tokens), glyphs.mask_id, glyphs.eos_ids, event.start, event.end)

    def apply(self, event: StepEvent) -> None:
        """Take over what one forward did."""
        self.tokens = list(event.tokens)
        for cell, value in zip(event.cells, event.values, strict=True):
            if cell < len(self.committed):
                self.committed[cell] = 0 if value == self.mask_id else event.step
        if event.inserted:
            at, count, token = event.inserted
            self.committed[at:at] = [0 if token == self.mask_id else event.step] * count
        del self.committed[len(self.tokens) :]
        self.start, self.end, self.block, self.step = event.start, event.end, event.block, event.step
        self.fresh, self.finished = frozenset(event.cells), event.finished

    @property
    def decided(self) -> int:
        """Cells that are not masked."""
        return sum(token != self.mask_id for token in self.tokens)

    @property
    def content(self) -> int:
        """Decided cells before the first end-of-text token; at the end, the row's content tokens."""
        ends = (i for i, token in enumerate(self.tokens) if token in self.eos_ids)
        return sum(token != self.mask_id for token in self.tokens[: next(ends, None)])

    @property
    def tokens_per_forward(self) -> float:
        """Content tokens per forward so far."""
        return self.content / max(1, self.step)


def events_of(trace: Trace, row: int = 0) -> Iterator[StepEvent]:
    """The events of a recorded row, as they were when it ran.

    Raises:
        TraceError: a delta does not fit the canvas.
    """
    for number, step in enumerate(trace.steps, 1):
        tokens = trace.replay(number)
        masked = (i for i, token in enumerate(tokens) if token == trace.mask_id)
        yield StepEvent(
            row=row,
            step=step.step,
            block=step.block,
            start=step.start,
            end=step.end,
            opening=step.opening,
            tokens=tuple(tokens),
            cells=tuple(step.cells),
            values=tuple(step.new),
            confidence=tuple(step.confidence),
            inserted=tuple(step.inserted),
            settled=next(masked, len(tokens)),
            finished=number == len(trace.steps),
        )


def frames(events: Sequence[StepEvent], glyphs: Glyphs, at: Sequence[int]) -> list[CanvasState]:
    """The canvas after the forwards numbered ``at`` (1-based), for pictures."""
    found = []
    for number in at:
        state = CanvasState.before(events[0], glyphs)
        for event in events[:number]:
            state.apply(event)
        found.append(state)
    return found
