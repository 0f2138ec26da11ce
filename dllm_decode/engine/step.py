"""The model's part of a forward: hidden states, logits and scores, on the model's device.

Canvases and policies live on the host (see :func:`canvas_device`): a forward uploads its tokens, and the one wait for
the device is the download of its scores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from dllm_decode import kernels
from dllm_decode.engine.capture.ahead import Lookahead
from dllm_decode.engine.capture.graphs import graphs_of
from dllm_decode.engine.score import CHUNK_ELEMENTS, chunks, one_pass, score
from dllm_decode.interface.inputs import ForwardInput, Known, are_consecutive
from dllm_decode.interface.model import DenoisingModel
from dllm_decode.interface.scoring import Draws, ScoreRule, Scores
from samplers import Policy

#: Logits of one chunk when they are scored in one pass, without copies in fp32: 256 MiB in bf16.
FUSED_CHUNK_ELEMENTS = 1 << 27


def canvas_device(model: DenoisingModel, policy: Policy) -> torch.device:
    """Where canvases, views and decisions live: on the host, unless a part reads whole rows of logits.

    A decision is some hundred operations on a few hundred numbers: on a GPU each is a launch, and every look at one of
    them waits for the model.
    """
    return model.device if policy.needs & {"logits", "probs"} else torch.device("cpu")


class ModelStep:
    """Runs a model and scores what it says.

    Attributes:
        rule: how to score. ``guidance``: classifier-free guidance scale, 0 = off.
        look: the policy's forecast and what it brings, if steps may be begun before it has decided.
        counted: noise comes from a counter-based generator on the device instead of the rows' generators.
        seconds: spent in the model; with canvases elsewhere, from the upload to the download, scoring included.
    """

    def __init__(
        self, model: DenoisingModel, rule: ScoreRule, guidance: float = 0.0, look: Lookahead | None = None
    ) -> None:
        self.model, self.rule, self.guidance, self.look = model, rule, guidance, look
        fused = one_pass(rule) is None and kernels.worthwhile(model.device, model.dtype)
        self.counted = fused and rule.temperature > 0
        self.chunk = FUSED_CHUNK_ELEMENTS if fused else CHUNK_ELEMENTS
        self.graphs = graphs_of(model)
        self.seconds = 0.0

    def run(
        self,
        inp: ForwardInput,
        cells: Tensor,
        sizes: list[int],
        generators: tuple[torch.Generator, ...],
        draws: Draws | None = None,
        alone: bool = False,
        held: Tensor | None = None,
        barred: Tensor | None = None,
    ) -> Scores:
        """Forward and score.

        Args:
            inp: the tokens, on the canvases' device; with guidance the unconditional rows are the second half.
            cells: long ``[M]``, flat indices into ``R * Q``.
            sizes: cells per row, in order; read with a temperature only.
            generators: the rows' random sources; used when there are no ``draws``.
            draws: keys of each cell's noise, when ``counted``.
            alone: no other rows will join these in the next step, so that it may be begun ahead.
            held: long ``[M]``, a token per cell whose probability is wanted, or ``None``.
            barred: bool ``[M]``, cells where no end token may be proposed, or ``None``.

        Returns:
            Scores of the cells, on the canvases' device.
        """
        home, began, spent = inp.tokens.device, time.perf_counter(), self.seconds
        apart = home.type != self.model.device.type
        scores = None
        if self.graphs is not None and home.type == "cpu" and held is None and barred is None:
            look = self.look if alone else None
            scores = self.graphs.run(inp, cells, self.rule, draws, guided=self.guidance > 0, look=look)
        if scores is None:
            scores = self._eager(inp, cells, sizes, generators, draws, apart, held, barred)
        if apart:  # launches return at once; the download has waited for them
            scores = scores.to(home)
            self.seconds = spent + time.perf_counter() - began
        return scores

    @property
    def discarded(self) -> int:
        """Steps begun ahead and thrown away so far."""
        return 0 if self.look is None else self.look.discarded

    def close(self) -> None:
        """No step will follow: one that was begun ahead is thrown away."""
        if self.graphs is not None and self.look is not None:
            self.graphs.drop(self.look)

    def _eager(
        self,
        inp: ForwardInput,
        cells: Tensor,
        sizes: list[int],
        generators: tuple[torch.Generator, ...],
        draws: Draws | None,
        apart: bool,
        held: Tensor | None,
        barred: Tensor | None,
    ) -> Scores:
        if apart:
            inp, cells = upload(inp, self.model.device), cells.to(self.model.device)
            draws = None if draws is None else draws.to(self.model.device)
            held = None if held is None else held.to(self.model.device)
            barred = None if barred is None else barred.to(self.model.device)
        hidden = self._timed(self.model.hidden, inp, cells)
        count = len(hidden) // (2 if self.guidance else 1)
        by_row = self.rule.temperature > 0 and draws is None
        pieces = []
        for row, low, high in chunks(sizes if by_row else [count], self.model.vocab_size, by_row, self.chunk):
            logits = self._timed(self.model.head, hidden[low:high])
            if self.guidance:
                blank = self._timed(self.model.head, hidden[count + low : count + high])
                logits = blank + (self.guidance + 1) * (logits - blank)
            source = generators[row % len(generators)] if row >= 0 else None
            part = slice(low, high)
            keys = None if draws is None else draws[part]
            wanted, shut = (None if x is None else x[part] for x in (held, barred))
            pieces.append(score(logits, self.rule, source, draws=keys, held=wanted, barred=shut))
        if not pieces:
            empty = hidden.new_zeros(0, dtype=torch.float32)
            wide = hidden.new_zeros(0, self.model.vocab_size, dtype=torch.float32)
            return Scores(empty.long(), empty, empty, empty, empty, wide, wide, empty, empty)
        return Scores.cat(pieces)

    def _timed(self, call: Callable[..., Tensor], *args: Any) -> Tensor:
        """Call the model and count the seconds (on a GPU: of the launches)."""
        began = time.perf_counter()
        out = call(*args)
        self.seconds += time.perf_counter() - began
        return out


def upload(inp: ForwardInput, device: torch.device) -> ForwardInput:
    """The input on another device, with what the host knows of it, so that nobody there has to ask back."""
    known = Known.of(inp) if inp.known is None else inp.known
    if inp.branch is None and known.consecutive is None:
        real = torch.arange(inp.tokens.shape[1]) < inp.queries[:, None] if known.padded else None
        known = replace(known, consecutive=are_consecutive(inp.positions, real))
    moved = {f.name: getattr(inp, f.name) for f in fields(inp)}
    moved = {k: x.to(device, non_blocking=True) if isinstance(x, Tensor) else x for k, x in moved.items()}
    return ForwardInput(**{**moved, "known": known})
