"""Recorded steps without a GPU: a recorder that repeats the step on the same memory stands in for CUDA graphs."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dllm_decode.config import GenerationConfig
from dllm_decode.engine.capture import graphs, recording
from dllm_decode.engine.capture.graphs import Bucket, Fields, StepGraphs, graphs_of, lend_cache
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.engine.score import score
from dllm_decode.engine.step import ModelStep, canvas_device, upload
from dllm_decode.interface.inputs import Known
from dllm_decode.interface.scoring import Draws, ScoreRule
from dllm_decode.models import ForwardInput, NativeModel
from samplers import Threshold, TopK, parse_policy
from tests.dllm_decode.tiny import tiny

PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7, 9]]


class Repeater:
    """Like a graph: a replay knows nothing but the memory it was recorded on, and leaves its result where it was."""

    def __init__(self, fails: bool = False) -> None:
        self.fails, self.recorded, self.waited = fails, 0, 0
        self.hosts: list[Tensor] = []
        self.working: list[tuple[Tensor, Tensor]] = []

    def record(self, step: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing")
        self.recorded += 1
        out = step()
        out.fill_(-1)  # recording computes nothing

        def replay() -> None:
            assert not self.working, "the last replay's buffers may still be in use"
            self.working = [(x, x.clone()) for x in self.hosts if x.dtype == torch.long]
            out.copy_(step())

        return replay, out

    def buffer(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        self.hosts.append(torch.full(shape, -7, dtype=dtype))
        return self.hosts[-1], torch.full(shape, 10**6, dtype=dtype)

    def wait(self) -> None:
        self.waited += 1
        for now, sent in self.working:
            assert torch.equal(now, sent), "an upload was still under way when its source changed"
        self.working = []


def recorded(family: str, fails: bool = False) -> tuple[NativeModel, Repeater]:
    model, recorder = tiny(family), Repeater(fails)
    graphs._known[model] = StepGraphs(model, recorder, needs_kernels=False)
    return model, recorder


def decode(
    model: NativeModel, policy: str, cache: str, prompts: list[list[int]], **settings: object
) -> GenerationResult:
    config = GenerationConfig(max_new_tokens=18, block_length=6, **settings)  # type: ignore[arg-type]
    return DiffusionSampler(model, policy, cache=cache, config=config).generate(prompts)


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize(
    "policy", ["threshold:threshold=0.2", "topk:k=2,score=entropy", "adablock:delimiters=7+localleap"]
)
def test_recorded_runs_equal_eager_ones(family: str, cache: str, policy: str) -> None:
    model, recorder = recorded(family)
    expected = decode(tiny(family), policy, cache, PROMPTS)
    got = decode(model, policy, cache, PROMPTS)
    assert got.sequences == expected.sequences and got.nfe == expected.nfe
    assert [t.order() for t in got.trace] == [t.order() for t in expected.trace]
    assert graphs_of(model).replayed + got.discarded_forwards == recorder.waited
    steps = got.calls - max(got.full_forwards)
    assert steps * 0.5 <= graphs_of(model).replayed <= got.calls, "block steps are replayed, openings are not"


def test_recordings_serve_every_block_and_the_next_prompts() -> None:
    model, recorder = recorded("llada")
    decode(model, "topk:k=1", "dual", PROMPTS[:1])

    assert recorder.recorded == 1 and graphs_of(model).replayed == 15
    second = decode(model, "topk:k=1", "dual", [[8, 8, 8]])
    assert recorder.recorded == 1 and graphs_of(model).replayed == 30
    assert second.sequences == decode(tiny("llada"), "topk:k=1", "dual", [[8, 8, 8]]).sequences


def test_a_cache_that_is_still_held_is_not_lent_again() -> None:
    model, recorder = recorded("llada")
    sampler = DiffusionSampler(model, TopK(k=1), "dual", GenerationConfig(max_new_tokens=12, block_length=6))
    streams = [sampler.stream(p) for p in PROMPTS[:2]]
    finals: list[tuple[int, ...]] = [(), ()]
    for pair in zip(*streams, strict=True):  # two runs take turns
        finals = [event.tokens for event in pair]
    fresh = DiffusionSampler(tiny("llada"), TopK(k=1), "dual", sampler.config)
    assert [list(f) for f in finals] == [fresh.generate(p).sequences[0] for p in PROMPTS[:2]]
    assert recorder.recorded == 2, "one recording per cache"


def test_lent_memory_is_the_same_and_clean() -> None:
    model, _ = recorded("llada")
    first = lend_cache(model, 2, 30)
    first.data.fill_(torch.nan)
    where = first.data.data_ptr()
    assert lend_cache(model, 2, 30).data.data_ptr() != where, "the first is still held"
    del first
    again = lend_cache(model, 1, 40)
    assert again.data.data_ptr() == where and again.slots >= 40 and not again.data.any()
    del again
    assert lend_cache(model, 2, 200).slots >= 200, "a larger one is made anew"


def test_large_caches_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "KEPT_CACHE_BYTES", 100)
    model, _ = recorded("llada")
    lend_cache(model, 1, 10)
    assert graphs_of(model)._kept is None


def test_moved_weights_are_noticed(caplog: pytest.LogCaptureFixture) -> None:
    model, recorder = recorded("llada")
    decode(model, "topk:k=1", "dual", PROMPTS[:1])
    head = model.module.get_output_embeddings()
    head.weight = torch.nn.Parameter(-head.weight.detach())  # type: ignore[union-attr, operator]
    with caplog.at_level(logging.INFO, "dllm_decode.engine.capture.graphs"):
        got = decode(model, "topk:k=1", "dual", PROMPTS[:1])
    assert recorder.recorded == 2 and "weights have moved" in caplog.text
    other = tiny("llada")
    other.module.get_output_embeddings().weight.data.neg_()  # type: ignore[union-attr, operator]
    assert got.sequences == decode(other, "topk:k=1", "dual", PROMPTS[:1]).sequences


def test_a_failed_recording_is_said_once_and_never_retried(caplog: pytest.LogCaptureFixture) -> None:
    model, _ = recorded("llada", fails=True)
    with caplog.at_level(logging.INFO, "dllm_decode.engine.capture.graphs"):
        got = decode(model, "topk:k=1", "dual", PROMPTS[:1])
    assert got.sequences == decode(tiny("llada"), "topk:k=1", "dual", PROMPTS[:1]).sequences
    said = [r.message for r in caplog.records if "recording failed (operation not permitted" in r.message]
    assert len(said) == 1


def test_few_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "MOST_RECORDINGS", 1)
    model, recorder = recorded("llada")
    for prompts in (PROMPTS, PROMPTS[:1]):
        decode(model, "topk:k=1", "dual", prompts)
    assert recorder.recorded > 1 and len(graphs_of(model).recordings) == 1


def step_input(model: NativeModel, **changes: object) -> ForwardInput:
    fields: dict[str, object] = {
        "tokens": torch.zeros(1, 4).long(),
        "positions": torch.arange(4)[None],
        "queries": torch.tensor([4]),
        "lengths": torch.tensor([9]),
        "cache": model.new_cache(1, 9),
        "rows": torch.tensor([0]),
    }
    return ForwardInput(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rule", "changes", "guided", "expected"),
    [
        ({"top_p": 0.9, "temperature": 1.0}, {}, False, "top-p and top-k look at the whole row first"),
        ({"float64": True}, {}, False, "the reference precision is float64"),
        ({"needs": frozenset({"logits"})}, {}, False, "a part of the policy reads logits"),
        ({}, {}, True, "guidance mixes"),
        ({}, {"cache": None}, False, "without a cache"),
        ({}, {"branch": torch.zeros(1, 4).long()}, False, "branches change their layout"),
        ({}, {"lengths": torch.tensor([4])}, False, "opening forwards have the whole row"),
        ({}, {"positions": torch.tensor([[0, 2, 3, 1]])}, False, "consecutive"),
        ({}, {"tokens": torch.zeros(1, 5000).long()}, False, "more than 4096 tokens"),
        ({"temperature": 1.0}, {}, False, "the noise comes from the host"),
    ],
)
def test_what_runs_eagerly_and_why(
    rule: dict[str, object], changes: dict[str, object], guided: bool, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, _ = recorded("llada")

    full = ScoreRule(39, **rule)  # type: ignore[arg-type]
    with caplog.at_level(logging.INFO, "dllm_decode.engine.capture.graphs"):
        for _ in range(2):
            assert graphs_of(model).run(step_input(model, **changes), torch.tensor([1]), full, guided=guided) is None
    assert [r.message for r in caplog.records if expected in r.message] == [caplog.records[-1].message]


def test_without_kernels_nothing_is_recorded() -> None:
    model, recorder = tiny("llada"), Repeater()
    step = StepGraphs(model, recorder)
    model.module.double()
    reason = step.refusal(step_input(model), ScoreRule(39), False, None)
    assert reason is not None and "it needs the Triton kernels" in reason


@given(rows=st.integers(1, 70), width=st.integers(1, 300), cells=st.integers(0, 600))
def test_buckets_hold_their_steps(rows: int, width: int, cells: int) -> None:
    bucket = Bucket.of(rows, width, cells)
    assert bucket.rows >= rows and bucket.width >= width and bucket.cells >= cells
    assert bucket.rows < 2 * rows and bucket.width - width < (8 if width <= 64 else 32)
    assert Bucket.of(*bucket) == bucket
    flat = torch.zeros(Fields.size(bucket), dtype=torch.long)
    assert sum(x.numel() for x in Fields.of(flat, bucket)) == flat.numel()


def test_the_block_of_the_papers_needs_one_bucket_per_batch() -> None:
    assert {Bucket.of(1, 32, n) for n in range(17, 33)} == {Bucket(1, 32, 32)}


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_a_recorded_step_reads_nothing_back(family: str) -> None:
    # On the meta device every look at a number, and every tensor of another device, is an error.
    model = tiny(family)
    model.module.to(device="meta")  # type: ignore[call-arg]
    model.module.attention = "sdpa"
    grid, one = torch.zeros(2, 4, dtype=torch.long, device="meta"), torch.ones(2, dtype=torch.long, device="meta")
    known = Known(padded=True, ragged=True, slots=20, consecutive=True)
    inp = ForwardInput(grid, grid, one, one, None, model.new_cache(2, 20), one, known)
    rule = ScoreRule(39, needs=frozenset({"entropy", "margin", "logit_margin"}))
    with torch.no_grad():
        packed = recording.pack(score(model.head(model.hidden(inp, one)), rule))
    assert packed.shape == (5, 2) and packed.is_meta
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta"):
        model.hidden(ForwardInput(grid, grid, one, one, None, inp.cache, one), one)


def test_uploaded_inputs_need_not_be_looked_at() -> None:
    model = tiny("llada")
    host = step_input(model, queries=torch.tensor([3]))
    model.module.to(device="meta")  # type: ignore[call-arg]
    model.module.attention = "sdpa"
    host = ForwardInput(
        host.tokens, host.positions, host.queries, host.lengths, None, model.new_cache(1, 9), host.rows
    )
    moved = upload(host, torch.device("meta"))
    assert moved.known is not None and moved.known.consecutive and moved.known.padded and moved.known.slots == 9
    assert model.hidden(moved, torch.tensor([0], device="meta")).shape == (1, 32)


def test_canvases_live_on_the_host_unless_logits_are_read() -> None:
    model = tiny("llada")
    model.module.to(device="meta")  # type: ignore[call-arg]
    assert canvas_device(model, Threshold()) == torch.device("cpu")

    class Reader(Threshold):
        @property
        def needs(self) -> frozenset[str]:
            return frozenset({"logits"})

    assert canvas_device(model, Reader()).type == "meta"
    assert parse_policy("threshold").needs == frozenset()


def test_packed_scores_come_back_whole() -> None:
    rule = ScoreRule(39, needs=frozenset({"margin"}))
    before = score(torch.randn(3, 50), rule)
    after = recording.unpack(recording.pack(before), rule)
    assert torch.equal(after.token, before.token) and torch.equal(after.confidence, before.confidence)
    assert after.margin is not None and before.margin is not None and torch.equal(after.margin, before.margin)
    assert after.entropy is None


def test_draws_reach_the_recording() -> None:
    # The kernel's noise depends on the keys; a replay must see those of its own step.
    pytest.importorskip("triton", reason="Triton is not installed")
    model, _ = recorded("llada")
    graphs_of(model).recorder.record = lambda step: (lambda: None, step())  # type: ignore[union-attr, method-assign]

    rule = ScoreRule(39, temperature=1.0)
    keys = Draws(*(torch.tensor([n]) for n in (11, 12, 13, 14)))
    seen = []
    original = graphs.score
    try:
        graphs.score = lambda logits, rule, draws: seen.append(draws) or original(logits, rule)  # type: ignore[func-returns-value]
        graphs_of(model).run(step_input(model), torch.tensor([1]), rule, keys)
    finally:
        graphs.score = original
    assert [int(x[0]) for x in (seen[0].seed, seen[0].step, seen[0].cell, seen[0].branch)] == [11, 12, 13, 14]


def test_a_model_step_without_cells() -> None:
    model = tiny("llada")
    step = ModelStep(model, ScoreRule(39))
    host = step_input(model)
    assert len(step.run(host, torch.empty(0).long(), [], ()).token) == 0


def test_row_buckets_waste_little() -> None:
    rows = [Bucket.of(n, 32, 16).rows for n in (1, 2, 3, 5, 17, 31, 33, 41)]
    assert rows == [1, 2, 4, 8, 20, 32, 40, 48]


def test_a_step_may_have_to_come_twice_to_be_recorded() -> None:
    model, recorder = tiny("llada"), Repeater()
    steps = graphs._known[model] = StepGraphs(model, recorder, needs_kernels=False, sightings=2)
    got = decode(model, "topk:k=1", "dual", PROMPTS[:1])
    assert got.sequences == decode(tiny("llada"), "topk:k=1", "dual", PROMPTS[:1]).sequences
    assert recorder.recorded == 1 and steps.replayed == 14, "the first of fifteen block steps ran eagerly"


def test_rows_that_join_and_leave_need_few_recordings(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[int, int] = {}
    for own in (1, 16):
        monkeypatch.setattr(graphs, "OWN_SIGHTINGS", own)
        model, recorder = recorded("llada")
        many = [[n % 30 + 1] * (1 + n % 7) for n in range(14)]
        config = GenerationConfig(max_new_tokens=18, block_length=6)
        one, other = (DiffusionSampler(m, Threshold(0.5), "dual", config) for m in (model, tiny("llada")))
        got = one.generate(many, batch_size=6)
        assert got.sequences == other.generate(many, batch_size=6).sequences
        steps = graphs_of(model)
        assert steps.replayed + got.discarded_forwards == recorder.waited
        counts[own] = recorder.recorded
    assert counts[16] < counts[1]


def test_what_a_larger_recording_serves_often_gets_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "OWN_SIGHTINGS", 3)
    model, recorder = recorded("llada")
    steps, rule, cache = graphs_of(model), ScoreRule(39), model.new_cache(8, 9)

    def step(rows: int) -> None:
        inp = step_input(
            model,
            tokens=torch.zeros(rows, 4).long(),
            positions=torch.arange(4).repeat(rows, 1),
            queries=torch.full((rows,), 4),
            lengths=torch.full((rows,), 9),
            cache=cache,
            rows=torch.arange(rows),
        )
        assert steps.run(inp, torch.arange(4 * rows), rule) is not None

    made = []
    for rows in (8, 5, 4, 4, 4, 4, 2):
        step(rows)
        made.append(recorder.recorded)
    assert made == [1, 1, 1, 1, 2, 2, 2], "8 rows serve 5 and 4; 4 get their own at their third step, and serve 2"


def test_a_new_cache_costs_others_nothing() -> None:
    model, recorder = recorded("llada")
    steps = graphs_of(model)
    decode(model, "topk:k=1", "dual", PROMPTS[:1])
    busy = lend_cache(model, 1, 30)  # a run at work
    other = lend_cache(model, 1, 30)
    inp = step_input(model, cache=other)
    assert steps.run(inp, torch.tensor([1]), ScoreRule(39)) is not None
    del busy
    lend_cache(model, 4, 500)  # too large for the memory that is kept
    assert [key.cache[0] for key in steps.recordings] == [other.data.data_ptr()]
