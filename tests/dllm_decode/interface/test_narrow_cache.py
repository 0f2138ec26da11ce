"""A cache in 8 bits: what it rounds, and that nobody but memory and the last digits notice."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dllm_decode import DiffusionSampler, DllmError, GenerationConfig, kernels, load_model
from dllm_decode.attention import BACKENDS, AttentionCase, attend
from dllm_decode.cli import main
from dllm_decode.engine.cost import Shape, estimate_memory
from dllm_decode.interface.narrow_cache import CODES, NarrowCache, narrow, widen
from dllm_decode.models import ForwardInput, NativeModel
from dllm_decode.tasks import TASKS, samples, score
from scripts.random_models import known_model
from tests.dllm_decode.attention.test_attention import HEAD_DIM, inputs
from tests.toys import EOS, FAMILIES, VOCAB, commits, tiny

KINDS = sorted(CODES)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3]]


@st.composite
def numbers(draw: st.DrawFn) -> Tensor:
    """`[tokens, heads, head_dim]` of any size and spread, some heads of zeros."""
    shape = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.sampled_from([1, 4, 32]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    size = 10.0 ** (8 * torch.rand(shape[:2], generator=generator) - 4)
    x = torch.randn(shape, generator=generator) * size[..., None]
    return (x * (torch.rand(shape[:2], generator=generator) > 0.1)[..., None]).to(
        draw(st.sampled_from([torch.float32, torch.bfloat16]))
    )


@given(numbers())
def test_int8_is_half_a_step_off_at_most(x: Tensor) -> None:
    codes, scales = narrow(x, "int8")
    assert codes.dtype == torch.int8 and codes.shape == x.shape and scales.shape == x.shape[:-1]
    exact = codes.double() * scales.double()[..., None]
    assert ((exact - x.double()).abs() <= scales.double()[..., None] * (0.5 + 1e-6)).all()
    said = widen(codes, scales, "int8")
    assert said.dtype == x.dtype
    assert ((said.double() - exact).abs() <= exact.abs() * torch.finfo(x.dtype).eps / 2).all(), "rounded once"
    most = x.abs().amax(-1).double()
    assert (scales.double() <= (1 + torch.finfo(x.dtype).eps) * most / 127 + 1e-37).all()


@given(numbers())
def test_fp8_is_a_sixteenth_of_each_number_off_at_most(x: Tensor) -> None:
    codes, scales = narrow(x, "fp8")
    exact = codes.view(torch.float8_e4m3fn).double() * scales.double()[..., None]
    # Half of the last of three bits, twice that where the largest number was cut to 448; below 2^-6 steps of 2^-9.
    assert ((exact - x.double()).abs() <= x.double().abs() / 16 + scales.double()[..., None] * 2**-10).all()


@given(numbers(), st.sampled_from(KINDS))
def test_each_head_of_each_token_is_alone(x: Tensor, kind: str) -> None:
    codes, scales = narrow(x, kind)
    for token in range(x.shape[0]):
        for head in range(x.shape[1]):
            own = narrow(x[token, head], kind)
            assert torch.equal(own[0], codes[token, head]) and torch.equal(own[1], scales[token, head])
    assert not widen(codes, scales, kind)[x.abs().amax(-1) == 0].any()
    again = narrow(widen(codes, scales, kind), kind)
    if x.dtype == torch.float32 and kind == "int8":
        assert torch.equal(again[0], codes), "what was read back is stored as it was"


def test_a_number_that_is_none_is_not_hidden() -> None:
    for kind in KINDS:
        for bad in (torch.nan, torch.inf):
            assert not widen(*narrow(torch.tensor([1.0, bad]), kind), kind).isfinite().all()


@settings(max_examples=100)
@given(inputs(), st.sampled_from(KINDS))
def test_attention_is_that_over_a_plain_cache_of_what_is_kept(
    drawn: tuple[ForwardInput, int, int, int], kind: str
) -> None:
    inp, heads, kv_heads, seed = drawn
    assume(inp.cache is not None)
    assert inp.cache is not None
    (rows, width), generator = inp.tokens.shape, torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(rows, n, width, HEAD_DIM, generator=generator) for n in (heads, kv_heads, kv_heads))
    plain = inp.cache
    codes = NarrowCache(
        kind, layers=2, rows=plain.rows, kv_heads=kv_heads, slots=plain.slots, head_dim=HEAD_DIM, dtype=torch.float32
    )
    held = torch.randn(plain.data.shape, generator=generator)
    codes.data, codes.scales = narrow(held, kind)
    plain.data.copy_(widen(codes.data, codes.scales, kind))
    outs = []
    for cache, fresh in ((codes, (k, v)), (plain, (codes.kept(k), codes.kept(v)))):
        case = AttentionCase.of(dataclasses.replace(inp, cache=cache), heads, kv_heads, HEAD_DIM)
        outs.append(attend(q, *fresh, case, BACKENDS["sdpa"], layer=1))
    assert torch.equal(*outs)
    slots = plain.slots
    for r in (slice(0, plain.rows), torch.tensor([0])):
        mine, theirs = codes.read(1, r, slots), plain.read(1, r, slots)
        assert torch.equal(mine[0], theirs[0]) and torch.equal(mine[1], theirs[1])


def decoded(family: str, cache: str, policy: str, prompts: list[list[int]], **changes: Any) -> Any:
    model = tiny(family, 1) if family in FAMILIES else known_model(family, VOCAB, 64, layers=2, seed=1, eos=EOS)
    config = GenerationConfig(**{"max_new_tokens": 12, "block_length": 4, "early_stop": False, **changes})
    return DiffusionSampler(model, policy, cache, config).generate(prompts)


PLACES = [(family, cache) for family in FAMILIES for cache in ("prefix", "dual")] + [("sdar", "block")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES, ids="-".join)
def test_a_row_is_what_it_is_alone_and_drafts_change_nothing(place: tuple[str, str], kind: str) -> None:
    for policy in ("threshold:threshold=0.5", "freedave:drafts=3"):
        batch = decoded(*place, policy, PROMPTS, cache_dtype=kind)
        for row, prompt in enumerate(PROMPTS):
            alone = decoded(*place, policy, [prompt], cache_dtype=kind)
            assert alone.sequences[0] == batch.sequences[row] and commits(alone) == commits(batch, row), policy
    static, drafted = (
        decoded(*place, policy, PROMPTS, cache_dtype=kind, branches=branches).sequences
        for policy, branches in (("topk:k=1", "auto"), ("freedave:drafts=3", "tree"))
    )
    assert static == drafted == decoded(*place, "freedave:drafts=3", PROMPTS, cache_dtype=kind).sequences
    guided = decoded(*place, "threshold", PROMPTS, cache_dtype=kind, guidance=0.7)
    assert (
        guided.sequences[1] == decoded(*place, "threshold", [PROMPTS[1]], cache_dtype=kind, guidance=0.7).sequences[0]
    )


def test_it_is_an_approximation_of_the_plain_cache() -> None:
    said = {kind: decoded("llada", "dual", "topk:k=1", PROMPTS, cache_dtype=kind) for kind in (None, *KINDS)}
    first = {kind: torch.tensor([row.steps[-1].confidence[0] for row in run.trace]) for kind, run in said.items()}
    for kind, most in (("int8", 0.02), ("fp8", 0.1)):
        assert 0 < (first[kind] - first[None]).abs().max() < most


@pytest.mark.parametrize("kind", KINDS)
def test_the_bundled_model_answers_almost_all_alike(kind: str) -> None:
    model, same, total = load_model("tiny"), 0, 0
    for task in ("sort", "lines", "latin4", "kv_json", "add"):
        prompts = [sample.prompt for sample in samples(task, "test", 8, 11)]
        config = GenerationConfig(max_new_tokens=TASKS[task].max_new_tokens, block_length=16)
        plain, kept = (
            DiffusionSampler(model, "threshold", "dual", config).generate(prompts, cache_dtype=held).texts
            for held in (None, kind)
        )
        assert plain is not None and kept is not None
        same, total = same + sum(a == b for a, b in zip(plain, kept, strict=True)), total + len(plain)
    assert same >= 0.9 * total


def test_what_cannot_be_is_refused_before_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DllmError, match="cache_dtype is 'int4'; give one of None, int8, fp8"):
        GenerationConfig(cache_dtype="int4")
    with pytest.raises(DllmError, match=r"cache_dtype='int8' says how .* cache='none' keeps none; choose a cache"):
        decoded("llada", "none", "threshold", PROMPTS, cache_dtype="int8")
    model = known_model("llada", VOCAB, 64, layers=2, seed=1, eos=EOS)
    case = AttentionCase.of(
        ForwardInput(
            torch.zeros(1, 2).long(), torch.arange(2)[None], torch.tensor([2]), torch.tensor([2]),
            cache=model.new_cache(1, 8, kept="int8"),
        ), 2, 2, 8,
    )  # fmt: skip
    monkeypatch.setattr(kernels, "unusable", lambda *_: None)
    with torch.no_grad():
        said = [
            BACKENDS[name].supports(case, torch.bfloat16, torch.device("cuda")) for name in ("flash", "triton", "sdpa")
        ]
    assert said == ["the cache holds codes of 8 bits, which it does not read"] * 2 + [None]
    with pytest.raises(DllmError, match="'triton' cannot serve this forward: the cache holds codes of 8 bits"):
        loud = NativeModel(model.module, mask_id=VOCAB - 1, attention="triton")
        DiffusionSampler(loud, "threshold", "dual").generate([[1]], max_new_tokens=4, cache_dtype="int8")
    model.module.attention = "auto"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_counts_codes_and_scales(family: str) -> None:
    model = tiny(family)
    for width in (2, 4):
        model = NativeModel(model.module.to({2: torch.bfloat16, 4: torch.float32}[width]), mask_id=VOCAB - 1)
        made = model.new_cache(3, 40, kept="int8")
        assert isinstance(made, NarrowCache)
        shape = Shape.of(model.module.config, width, "int8")
        assert estimate_memory(shape, 3, 40, 8, "dual").cache == made.data.nbytes + made.scales.nbytes
    large = Shape(32, 4096, 32, 32, 12288, 126464, 2)
    assert dataclasses.replace(large, cache_dtype="fp8").kv_bytes == 32 * 2 * 32 * (128 + 2)


def test_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    (sample,) = samples("sort", "test", 1, 11)
    assert main(["generate", sample.prompt, "--cache", "dual", "--cache-dtype", "int8", "--json"]) == 0
    assert score(sample, json.loads(capsys.readouterr().out)["text"])
    assert main(["generate", "x", "--cache", "dual", "--cache-dtype", "int8", "--estimate"]) == 0
    assert "cache dual in int8" in capsys.readouterr().out
    assert main(["generate", "x", "--cache-dtype", "int8"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "--cache-dtype int8 says how" in said and "or leave --cache-dtype out" in said
    assert main(["generate", "x", "--cache", "dual", "--cache-dtype", "int3"]) == 2


def test_nothing_is_recorded_over_it(caplog: pytest.LogCaptureFixture) -> None:
    from dllm_decode.engine.capture.graphs import graphs_of
    from dllm_decode.interface.scoring import ScoreRule
    from tests.dllm_decode.engine.capture.test_graphs import recorded, step_input

    model, _ = recorded("llada")
    inp = step_input(model, cache=model.new_cache(1, 9, kept="int8"))
    with caplog.at_level(logging.INFO, "dllm_decode.engine.capture.graphs"):
        steps = graphs_of(model)
        assert steps is not None and steps.run(inp, torch.tensor([1]), ScoreRule(39)) is None
    assert "a cache in 8 bits is read by no kernel" in caplog.text
