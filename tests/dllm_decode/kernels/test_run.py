"""Whole runs through the fused path of a GPU, in Triton's interpreter: norms, gates, scores and counted noise."""

from __future__ import annotations

from unittest.mock import patch

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from dllm_decode import kernels
from dllm_decode.config import GenerationConfig
from dllm_decode.engine.capture.ahead import Lookahead
from dllm_decode.engine.capture.graphs import graphs_of
from dllm_decode.engine.result import GenerationResult
from dllm_decode.engine.sampler import DiffusionSampler
from dllm_decode.models import NativeModel
from tests.dllm_decode.engine.capture.test_graphs import recorded
from tests.dllm_decode.tiny import tiny

pytestmark = pytest.mark.skipif(not kernels.interpreting(), reason="these run on the CPU, in Triton's interpreter")

PROMPTS = [[3, 1, 4], [9, 2, 6, 5]]


@pytest.fixture(autouse=True)
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "worthwhile", lambda device, dtype: kernels.unusable(device, dtype) is None)


def run(
    model: NativeModel, temperature: float, rows: list[int] | None = None, policy: str = "topk:k=2"
) -> GenerationResult:
    """Decode some of the prompts, each with the random source that it has among all."""
    rows = [0, 1] if rows is None else rows
    config = GenerationConfig(max_new_tokens=6, block_length=3, temperature=temperature, seed=5)
    return DiffusionSampler(model, policy, "dual", config).generate([PROMPTS[i] for i in rows], places=rows)


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_noise_does_not_know_the_batch(family: str) -> None:
    together = run(tiny(family), 0.8)
    assert together.sequences != run(tiny(family), 0.0).sequences, "the noise matters"
    for row in range(2):
        alone = run(tiny(family), 0.8, [row])
        assert alone.sequences[0] == together.sequences[row]
        assert alone.trace[0].order() == together.trace[row].order()


def test_recorded_steps_draw_the_same_noise() -> None:
    model, recorder = recorded("llada")
    hits: list[float] = []
    with patch.object(Lookahead, "pays", True), patch.object(Lookahead, "hit", lambda look, s: hits.append(s)):
        got = run(model, 0.8, [1], "topk:k=1")
    assert got.sequences == run(tiny("llada"), 0.8, [1], "topk:k=1").sequences
    assert hits and got.discarded_forwards == 0, "a step begun ahead draws the noise of its own step"
    assert graphs_of(model).replayed == recorder.waited


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_fused_layers_decode_as_torch_does(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fused = run(tiny(family), 0.0, [0, 1], "threshold:threshold=0.3")
    monkeypatch.undo()
    plain = run(tiny(family), 0.0, [0, 1], "threshold:threshold=0.3")
    assert fused.sequences == plain.sequences and fused.nfe == plain.nfe
