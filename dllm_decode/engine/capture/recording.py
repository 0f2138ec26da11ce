"""What a recorded step is made of: its shape bucket, its input and output buffers, and the recorder of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dllm_decode.interface.scoring import ScoreRule, Scores

Replay = Callable[[], None]


class Recorder(Protocol):
    """Records a step once and replays it on the same memory."""

    def record(self, step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """A function that repeats ``step``, and the tensor in which its result will lie."""

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Host memory to fill or read, and its twin on the device."""

    def wait(self) -> None:
        """Until the device has done everything."""


class CudaRecorder:
    """Recorder by CUDA graphs; all of them share one memory pool, for they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pool: object | None = None

    def record(self, step: Callable[[], Tensor]) -> tuple[Replay, Tensor]:
        """Run the step a few times aside (kernels compile, libraries set themselves up), then capture it."""
        with torch.cuda.device(self.device):
            current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
            aside.wait_stream(current)
            with torch.cuda.stream(aside):
                for _ in range(3):
                    step()
            current.wait_stream(aside)
            if self.pool is None:
                self.pool = torch.cuda.graph_pool_handle()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):  # type: ignore[arg-type]
                out = step()
        return graph.replay, out

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


def _rows(n: int) -> int:
    """1, 2, then steps of 4 up to 32 and of 8 above: where a step is bound by compute, every padded row costs one."""
    step = n if n <= 2 else 4 if n <= 32 else 8
    return -(-n // step) * step


def _power(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


@dataclass
class Recording:
    """A recorded step with its buffers: ``filled`` is copied to ``fed`` before a replay, ``out`` to ``read`` after."""

    replay: Replay
    filled: Tensor
    fed: Tensor
    out: Tensor
    read: Tensor


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
