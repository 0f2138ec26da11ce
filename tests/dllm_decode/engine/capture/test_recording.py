"""The recorder of CUDA graphs over a stand-in for torch.cuda that knows the allocator's and the generator's rules."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from contextlib import contextmanager, nullcontext
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dllm_decode.engine.capture.recording import Bucket, CudaRecorder, GraphPool, Key
from dllm_decode.interface.scoring import ScoreRule

BUCKETS = st.builds(Bucket.of, st.integers(1, 40), st.integers(1, 80), st.integers(0, 600))


class Device:
    """A pool whose last graph has gone takes no more; a capture that does not end leaves stream and generator behind.

    Attributes:
        users: graphs per pool handle that was ever captured into. ``stream``: the current one.
        capturing: what the generator of random numbers believes.
    """

    def __init__(self) -> None:
        self.users: Counter[int] = Counter()
        self.numbers = count(1)
        self.stream, self.capturing = "current", False

    def graph_pool_handle(self) -> int:
        return next(self.numbers)

    @contextmanager
    def on(self, stream: str) -> Any:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def graph(self, graph: Any, pool: int, capture_error_mode: str) -> Any:
        self.stream, self.capturing = "capture", True
        if pool in self.users and not self.users[pool]:
            raise RuntimeError("use_count > 0 INTERNAL ASSERT FAILED")
        self.users[pool] += 1
        yield  # an error in between ends nothing
        weakref.finalize(graph, self.release, pool)
        self.stream, self.capturing = "current", False

    def release(self, pool: int) -> None:
        self.users[pool] -= 1


class Graph:
    def replay(self) -> None:
        """Nothing is recorded here."""


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    fake = Device()
    stand_ins = {
        "device": lambda device: nullcontext(),
        "current_stream": lambda *_: SimpleNamespace(wait_stream=lambda other: None),
        "Stream": lambda: SimpleNamespace(wait_stream=lambda other: None),
        "stream": lambda stream: fake.on(fake.stream),
        "CUDAGraph": Graph,
        "graph": fake.graph,
        "graph_pool_handle": fake.graph_pool_handle,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return fake


def test_graphs_share_memory_while_one_of_them_lives(device: Device) -> None:
    recorder = CudaRecorder(torch.device("cpu"))
    kept = [recorder.record(lambda: torch.ones(1)) for _ in range(3)]
    assert device.users == {1: 3}
    del kept[1:]
    kept.append(recorder.record(lambda: torch.ones(1)))
    assert device.users == {1: 2}, "the pool lives with its first graph"
    del kept
    gc.collect()
    again = recorder.record(lambda: torch.ones(1))
    assert device.users == {1: 0, 2: 1}, "a pool that was let go is not captured into"
    assert again[1].shape == (1,)


def test_a_failed_capture_leaves_stream_generator_and_memory_in_order(device: Device) -> None:
    recorder, tries = CudaRecorder(torch.device("cpu")), count()

    def step() -> torch.Tensor:
        if next(tries) == 3:  # the three before warm up
            raise RuntimeError("operation not permitted when stream is capturing")
        return torch.ones(1)

    before = recorder.record(lambda: torch.ones(1))
    with pytest.raises(RuntimeError, match="not permitted"):
        recorder.record(step)
    assert device.stream == "current" and not device.capturing
    after = recorder.record(step)
    assert max(device.users) == 3 and device.users[3] == 1, "nothing is shared with what failed"
    del before, after


def test_a_handle_that_was_let_go_elsewhere_is_survived(device: Device) -> None:
    recorder = CudaRecorder(torch.device("cpu"))
    held = recorder.record(lambda: torch.ones(1))
    device.users[1] = 0  # as if the allocator had let it go under a graph
    with pytest.raises(RuntimeError, match="use_count"):
        recorder.record(lambda: torch.ones(1))
    assert device.stream == "current" and not device.capturing
    assert recorder.record(lambda: torch.ones(1))[1].shape == (1,) and held


def test_the_pool_of_graphs_asks_for_a_handle_only_when_nobody_holds_one() -> None:
    handles = count()
    pool, graph = GraphPool(lambda: next(handles)), Graph()
    assert pool.handle() == 0
    pool.add(graph)
    assert pool.handle() == pool.handle() == 0
    pool.forget()
    assert pool.handle() == 1


@given(one=BUCKETS, other=BUCKETS)
def test_a_larger_recording_costs_twice_as_much_at_most(one: Bucket, other: Bucket) -> None:
    assert one.holds(one)
    if one.holds(other):
        assert one.rows >= other.rows and one.width >= other.width and one.cells >= other.cells
        assert one.size <= 2 * other.size
        assert one == other or not other.holds(one)
    mine, its = Key(ScoreRule(1), one, (5, (1, 2))), Key(ScoreRule(1), other, (5, (1, 2)))
    assert mine.holds(its) == one.holds(other)
    assert not mine.holds(its._replace(cache=(6, (1, 2)))) and not mine.holds(its._replace(rule=ScoreRule(2)))
