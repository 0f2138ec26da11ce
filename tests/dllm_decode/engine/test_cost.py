from __future__ import annotations

from itertools import accumulate

import pytest
import torch

from dllm_decode import DiffusionSampler, DllmError, GenerationConfig
from dllm_decode.cli import main
from dllm_decode.engine.cost import Machine, Shape, estimate_memory
from dllm_decode.interface.cache import KVCache
from dllm_decode.models import LLaDA, LLaDAConfig, NativeModel
from samplers import Composition, Setting, parse_policy
from tests.dllm_decode.tiny import tiny


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_weights_and_cache_are_what_is_really_taken(family):
    model = tiny(family)
    shape = Shape.of(model.module.config, 4)
    needs = estimate_memory(shape, rows=3, slots=40, block=8, cache="dual")
    parameters = sum(p.numel() * 4 for p in model.module.parameters())
    biases = sum(p.numel() * 4 for name, p in model.module.named_parameters() if name.endswith("bias"))
    assert needs.weights == parameters - biases
    assert needs.cache == model.cache_bytes(3, 40) == model.new_cache(3, 40).data.nbytes
    assert estimate_memory(shape, 3, 40, 8, "none").cache == 0
    assert estimate_memory(shape, 3, 40, 8, "dual", guidance=True).cache == 2 * needs.cache
    assert needs.total == needs.weights + needs.cache + needs.workspace


@pytest.mark.parametrize(("cache", "kept"), [("none", None), ("dual", None), ("dual", "int8")])
@pytest.mark.parametrize(("width", "inner", "rows", "slots"), [(128, 256, 4, 160), (64, 64, 1, 512), (64, 320, 2, 90)])
def test_the_estimate_is_what_the_tensors_take(cache, kept, width, inner, rows, slots):
    torch.manual_seed(0)
    settings = LLaDAConfig(
        d_model=width, n_layers=2, n_heads=2, mlp_hidden_size=inner, vocab_size=64, embedding_size=64,
        max_sequence_length=512, mask_token_id=63,
    )  # fmt: skip
    model = NativeModel(LLaDA(settings), mask_id=63, name="random")
    config = GenerationConfig(max_new_tokens=16, block_length=16, early_stop=False, cache_dtype=kept)
    sampler = DiffusionSampler(model, "topk:k=8", cache=cache, config=config)
    prompts = [[1] * (slots - 16)] * rows
    sampler.generate(prompts)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        sampler.generate(prompts)
    events = profile.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    peak = max(accumulate(change for _, change in changes))
    needs = estimate_memory(Shape.of(settings, 4, kept), rows, slots, 16, cache)
    assert 0.99 * peak <= needs.cache + needs.workspace <= 1.4 * peak


def test_what_a_policy_holds_is_counted():
    shape = Shape(2, 64, 2, 2, 64, 5000, 4)
    setting = Setting(mask_id=4999, vocab_size=5000, cache="dual")
    held = [Composition.of(parse_policy(policy)).bind(setting) for policy in ("threshold", "ccd")]
    plain, history = (estimate_memory(shape, 2, 64, 32, "dual", policy=policy).workspace for policy in held)
    assert history - plain >= 2 * 4 * 5000, "CCD keeps distributions over the vocabulary"


def test_a_block_as_long_as_the_canvas_does_not_hold_layers_and_logits_at_once():
    shape = Shape(6, 128, 4, 4, 384, 600, 4)
    short, long = (estimate_memory(shape, 1, 2064, block, "none").workspace for block in (32, 2048))
    assert long == pytest.approx(short, rel=0.01)


def test_full_size_figures_of_the_specification():
    llada = Shape(32, 4096, 32, 32, 12288, 126464, 2)
    dream = Shape(28, 3584, 28, 4, 18944, 152064, 2)
    assert round(llada.trunk / 1e9, 3) == 6.979 and round(dream.trunk / 1e9, 3) == 6.525
    assert llada.kv_bytes == 524_288 and dream.kv_bytes == 57_344
    h200 = Machine(790e12, 4.3e12)
    block = 1e3 * llada.floor(h200, 1, 32, 1024, 32, cached=True)
    full = 1e3 * llada.floor(h200, 1, 1024, 1024, 32, cached=False)
    assert block == pytest.approx(3.62, abs=0.03) and full == pytest.approx(18.8, abs=0.2)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: you tried")]
)
def test_running_out_of_memory_ends_in_a_sentence_with_numbers(monkeypatch, error):
    model = tiny("llada")

    def full(*_):
        raise error

    monkeypatch.setattr(model, "hidden", full)
    sampler = DiffusionSampler(model, cache="dual", config=GenerationConfig(max_new_tokens=8))
    with pytest.raises(DllmError, match=r"out of memory on cpu decoding 1 rows of up to 10 tokens.*GiB.*use fewer"):
        sampler.generate([[1, 2]])


def test_other_runtime_errors_pass_through(monkeypatch):
    model = tiny("llada")

    def broken(*_):
        raise RuntimeError("shape mismatch")

    monkeypatch.setattr(model, "hidden", broken)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        DiffusionSampler(model).generate([[1, 2]], max_new_tokens=4)


def test_estimate_prints_without_loading_weights(monkeypatch, capsys):
    monkeypatch.setattr("dllm_decode.models.loading.read_weights", lambda *_: pytest.fail("weights were read"))
    code = main(["generate", " sort: b a c", "--estimate", "--cache", "dual"])
    said = capsys.readouterr().out
    assert code == 0 and "weights" in said and "cache" in said and "total" in said


def test_a_cache_too_large_says_so():
    with pytest.raises(DllmError, match="not enough memory on cpu for a KV cache of .* GiB"):
        KVCache(layers=10**4, rows=10**4, kv_heads=10**3, slots=10**4, head_dim=10**3)
