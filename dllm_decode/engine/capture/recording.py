"""What a recorded step is made of: its shape bucket, its input and output buffers, and the recorder of CUDA graphs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dllm_decode.interface.inputs import ForwardInput
from dllm_decode.interface.scoring import Draws, ScoreRule, Scores

Replay = Callable[[], None]


class Recorder(Protocol):
    """Records a step once and replays it on the same memory."""

    def record(self, step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """A function that repeats ``step``, and the tensor in which its result will lie."""

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Host memory to fill or read, and its twin on the device."""

    def wait(self) -> None:
        """Until the device has done everything."""


class GraphPool:
    """The memory that graphs share while any of them lives: they never run at the same time.

    The allocator lets a pool go with its last graph, and refuses to capture into that handle from then on
    (``use_count > 0 INTERNAL ASSERT FAILED``); so where none is left, the next graph gets a new handle.
    """

    def __init__(self, new: Callable[[], object]) -> None:
        """``new`` makes a handle that was never used."""
        self._new = new
        self._handle: object = None
        self._graphs: weakref.WeakSet[object] = weakref.WeakSet()

    def handle(self) -> object:
        """The memory to capture into now."""
        if not self._graphs:
            self._handle = self._new()
        return self._handle

    def add(self, graph: object) -> None:
        """A graph has been captured into :meth:`handle`."""
        self._graphs.add(graph)

    def forget(self) -> None:
        """Leave this memory to the graphs that have it: a capture that failed may have left anything there."""
        self._graphs.clear()


class CudaRecorder:
    """Recorder by CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool = GraphPool(torch.cuda.graph_pool_handle)

    def record(self, step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """Run the step a few times aside (kernels compile, libraries set themselves up), then capture it.

        Raises:
            RuntimeError: it cannot be captured; streams, random numbers and memory are as if nobody had tried.
        """
        with torch.cuda.device(self.device):
            current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                for _ in range(3):
                    step()
            current.wait_stream(aside)
            try:
                graph, out = self._capture(step)
            except RuntimeError:
                self.pool.forget()
                # The generator still believes that a capture is under way, and refuses to draw ("Offset increment
                # outside graph capture"); the end of one that succeeds is what tells it otherwise.
                self._capture(lambda: torch.zeros(1, device=self.device))
                self.pool.forget()
                raise
        self.pool.add(graph)
        return graph.replay, out

    def _capture(self, step: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph, pool = torch.cuda.CUDAGraph(), self.pool.handle()
        # `graph` switches streams, and back only from a capture that began and ended; the outer one does so always.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),  # type: ignore[arg-type]
        ):
            out = step()
        return graph, out

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Pinned host memory: copies to and from it do not stop the host."""
        return torch.zeros(shape, dtype=dtype, pin_memory=True), torch.zeros(shape, dtype=dtype, device=self.device)

    def wait(self) -> None:
        """One host sync."""
        torch.cuda.current_stream(self.device).synchronize()


class Bucket(NamedTuple):
    """Shape of a recording: rows, query columns, scored cells."""

    rows: int
    width: int
    cells: int

    @classmethod
    def of(cls, rows: int, width: int, cells: int) -> Bucket:
        """The smallest bucket that holds a step; narrow windows are padded least, for they are the most frequent."""
        unit = 8 if width <= 64 else 32
        return cls(_rows(rows), -(-width // unit) * unit, max(16, _power(cells)))

    @property
    def size(self) -> int:
        """About what a step costs: tokens through the layers, cells through the head."""
        return self.rows * self.width + self.cells

    def holds(self, other: Bucket) -> bool:
        """Whether a recording of this shape serves a step of the other one, at twice its cost at most."""
        return all(mine >= its for mine, its in zip(self, other, strict=True)) and self.size <= 2 * other.size


def _rows(n: int) -> int:
    """1, 2, then steps of 4 up to 32 and of 8 above: where a step is bound by compute, every padded row costs one."""
    step = n if n <= 2 else 4 if n <= 32 else 8
    return -(-n // step) * step


def _power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


class Key(NamedTuple):
    """What a recording serves: how cells are scored, which shape, and the cache it points into (address, shape)."""

    rule: ScoreRule
    bucket: Bucket
    cache: tuple[int, tuple[int, ...]]

    def holds(self, other: Key) -> bool:
        """Whether a recording made for this serves the other too."""
        return self.rule == other.rule and self.cache == other.cache and self.bucket.holds(other.bucket)


@dataclass
class Recording:
    """A recorded step with its buffers: ``filled`` is copied to ``fed`` before a replay, ``out`` to ``read`` after."""

    bucket: Bucket
    replay: Replay
    filled: Tensor
    fed: Tensor
    out: Tensor
    read: Tensor

    def fill(self, inp: ForwardInput, cells: Tensor, draws: Draws | None) -> None:
        """Pad a step's inputs to the bucket and send them off."""
        assert inp.rows is not None
        (rows, width), at = inp.tokens.shape, Fields.of(self.filled.zero_(), self.bucket)
        at.tokens[:rows, :width], at.positions[:rows, :width] = inp.tokens, inp.positions
        at.lengths.fill_(1)  # a row that sees nothing is NaN in some attention backends
        at.queries[:rows], at.lengths[:rows], at.rows[:rows] = inp.queries, inp.lengths, inp.rows
        at.cells[: len(cells)] = cells // width * self.bucket.width + cells % width
        if draws is not None:
            at.seed[: len(cells)], at.step[: len(cells)] = draws.seed, draws.step
            at.cell[: len(cells)], at.branch[: len(cells)] = draws.cell, draws.branch
        self.fed.copy_(self.filled, non_blocking=True)


class Fields(NamedTuple):
    """The step's inputs as views of one flat buffer, long."""

    tokens: Tensor
    positions: Tensor
    queries: Tensor
    lengths: Tensor
    rows: Tensor
    cells: Tensor
    seed: Tensor
    step: Tensor
    cell: Tensor
    branch: Tensor

    @staticmethod
    def size(bucket: Bucket) -> int:
        """Numbers in the buffer."""
        return bucket.rows * (2 * bucket.width + 3) + 5 * bucket.cells

    @classmethod
    def of(cls, flat: Tensor, bucket: Bucket) -> Fields:
        """Cut the buffer up."""
        grid, rows, cells = bucket.rows * bucket.width, bucket.rows, bucket.cells
        parts = list(flat.split([grid, grid, rows, rows, rows] + [cells] * 5))
        return cls(*(x.view(rows, bucket.width) for x in parts[:2]), *parts[2:])


def pack(scores: Scores) -> Tensor:
    """Everything in one int32 tensor ``[k, M]``, numbers as their bits, so that one download brings it all."""
    numbers = (scores.confidence, scores.entropy, scores.margin, scores.logit_margin)
    return torch.stack([scores.token.int(), *(x.view(torch.int32) for x in numbers if x is not None)])


def unpack(packed: Tensor, rule: ScoreRule) -> Scores:
    """The scores of :func:`pack`, copied out of the buffer."""
    rest = iter(packed[1:].clone().view(torch.float32))
    confidence = next(rest)
    extras = {name: next(rest) for name in ("entropy", "margin", "logit_margin") if name in rule.needs}
    return Scores(packed[0].long(), confidence, **extras)
