"""What fits a machine, by sizes alone."""

from __future__ import annotations

import torch

from dllm_decode.engine.cost import Machine, Shape, estimate_memory
from dllm_decode.engine.fit import best, fits
from scripts.make_checkpoint import config_of

RATES = {torch.float32: Machine(1e11, 1e10), torch.bfloat16: Machine(3e12, 1e10)}


def test_eight_billion_weights_on_sixteen_gib() -> None:
    config = config_of("llada-8b")
    found = list(fits(config, RATES, 16 * 2**30, "cpu"))
    assert {fit.weights for fit in found} == {"float32", "bfloat16", "int8", "fp8"} and len(found) == 24
    taken = {(fit.weights, fit.cache, fit.rows): fit for fit in found}
    whole = taken["bfloat16", "dual", 1]
    assert whole.bytes == estimate_memory(Shape.of(config, 2), 1, 768, 32, "dual").total
    assert whole.verdict == "tight" and taken["float32", "none", 1].verdict == "does not fit"
    assert taken["int8", "dual", 1].bytes == whole.bytes - Shape.of(config, 2).trunk
    assert whole.step / 1.5 > taken["int8", "dual", 1].step > 0, "a block step reads the weights, half of them"
    first = best(found)
    assert first is not None and first.verdict == "fits" and first.weights == "int8" and first.cache == "dual"
    assert best(list(fits(config, RATES, 2**30, "cpu"))) is None
    kept = {(f.weights, f.cache, f.rows): f for f in fits(config, RATES, 16 * 2**30, "cpu", cache_dtype="int8")}
    spared = whole.bytes - kept["bfloat16", "dual", 1].bytes
    assert 0.45 * 524_288 * 769 < spared + 2 * 4096 * 2 * 768 < 0.5 * 524_288 * 769, "less what is widened per layer"
    assert kept["bfloat16", "none", 1] == taken["bfloat16", "none", 1]
    assert "int4" in {fit.weights for fit in fits(config, RATES, None, "cuda")}


def test_a_block_causal_mixture_has_its_own_cache_and_keeps_its_experts() -> None:
    config = config_of("llada2-mini")
    taken = {(fit.weights, fit.cache, fit.rows): fit for fit in fits(config, RATES, 2**36, "cpu")}
    assert {cache for _, cache, _ in taken} == {"none", "block"}
    saved = taken["bfloat16", "block", 1].bytes - taken["int8", "block", 1].bytes
    assert 0 < saved < 0.1 * taken["bfloat16", "block", 1].bytes, "experts are not quantised"
    one, many = taken["bfloat16", "block", 1].step, taken["bfloat16", "block", 32].step
    assert many < 8 * one, "rows share the experts they touch"
