"""What a pool of places is asked for, row by row, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.events import StepEvent
from dllm_decode.engine.randomness import Place
from dllm_decode.engine.trace import Trace
from samplers import Composition


@dataclass(frozen=True, eq=False)
class Request:
    """One row to decode; :meth:`DiffusionSampler.requests` makes them, checked.

    Attributes:
        ids: the whole row, prompt and masks. ``offset``: slot of the first cell.
        policy: bound to the model, cache and config. ``cache``: as of :class:`DiffusionSampler`.
        config: settings of the generation.
        place: of the prompt in its job; with the config's seed, all that the row's random numbers depend on.
        row: the name of the row in events and in policies' eyes.
        trace: keep one. ``meta``: for its header.
        on_step: hears of every forward, from the thread that ticks.
        on_done: is told the outcome, likewise.
    """

    ids: list[int]
    offset: int
    policy: Composition
    cache: str
    config: GenerationConfig
    place: Place = (0, 0)
    row: int = 0
    trace: bool = False
    meta: dict[str, Any] = field(default_factory=dict)
    on_step: Callable[[StepEvent], None] | None = None
    on_done: Callable[[Outcome], None] | None = None

    @property
    def cells(self) -> int:
        """Cells of the row."""
        return len(self.ids) - self.offset


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        request: what was asked. ``tokens``: the row's cells; those decided so far if it did not end by itself.
        given: per cell, whether it was never masked.
        nfe, full_forwards, rows_forwarded, tokens_forwarded: what it cost, as in :class:`GenerationResult`.
        settled: leading cells that were final. ``trace``: if it was asked for.
        extra: cells decoded beyond those asked for, in a block-causal model's last block; they are in the trace.
        error: what the row failed with, or ``None``.
        seconds: from when it got its place.
    """

    request: Request
    tokens: list[int]
    given: list[bool]
    nfe: int
    full_forwards: int
    rows_forwarded: int
    tokens_forwarded: int
    settled: int
    trace: Trace | None = None
    extra: int = 0
    error: Exception | None = None
    seconds: float = 0.0
