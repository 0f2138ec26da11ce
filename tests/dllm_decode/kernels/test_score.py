"""The score kernel against torch: ties, masks, entropies and margins, and noise that does not know its batch."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton", reason="Triton is not installed")

from dllm_decode.engine.score import score
from dllm_decode.interface.scoring import Draws, ScoreRule
from dllm_decode.kernels.score import RUN, score_rows
from tests.dllm_decode.kernels.philox import philox, philox_noise

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NEEDS = frozenset({"entropy", "margin", "logit_margin"})


def draws(count: int, seed: int = 0, step: int = 3) -> Draws:
    cell = torch.arange(count, device=DEVICE)
    return Draws(torch.full_like(cell, 2**62 + 12345 + seed), torch.full_like(cell, step), cell * 7, cell % 2)


@settings(max_examples=12)
@given(
    count=st.integers(1, 4),
    vocabulary=st.one_of(st.sampled_from([2, RUN + 1, 4 * RUN]), st.integers(2, 9001)),
    dtype=st.sampled_from(DTYPES),
    spread=st.sampled_from([0.0, 0.5, 8.0]),
    scale=st.sampled_from([1.0, 0.7]),
    seed=st.integers(0, 2**16),
    suppress=st.booleans(),
)
def test_one_pass_equals_softmax(
    count: int, vocabulary: int, dtype: torch.dtype, spread: float, scale: float, seed: int, suppress: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = (torch.randn(count, vocabulary, generator=generator) * spread).round(decimals=1).to(DEVICE, dtype)  # ties
    mask_id = int(torch.randint(vocabulary, (), generator=generator))
    if suppress and vocabulary > 2:
        logits[:, (mask_id + 1) % vocabulary] = -torch.inf
    token, confidence, entropy, margin, raw_margin = score_rows(logits, mask_id, scale)
    exact = logits.double() * scale
    p = exact.softmax(-1)
    expected = exact.index_fill(1, torch.tensor([mask_id], device=DEVICE), -torch.inf).argmax(-1)
    assert torch.equal(token, expected), "the lowest id of the largest, never the mask"
    close = {"atol": 2e-6, "rtol": 2e-5}
    torch.testing.assert_close(confidence.double(), p.gather(1, token[:, None])[:, 0], **close)
    plogp = torch.where(p > 0, p * p.clamp(min=1e-300).log(), 0.0)
    torch.testing.assert_close(entropy.double(), -plogp.sum(-1), atol=2e-5, rtol=2e-5)
    top = p.topk(2).values
    torch.testing.assert_close(margin.double(), top[:, 0] - top[:, 1], **close)
    raw = logits.double().topk(2).values
    torch.testing.assert_close(raw_margin.double(), raw[:, 0] - raw[:, 1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("filtered", [False, True])
def test_same_semantics_as_score(dtype: torch.dtype, temperature: float, filtered: bool) -> None:
    rule = ScoreRule(mask_id=11, suppress=(3, 700), temperature=temperature, filtered=filtered, needs=NEEDS)
    logits = (torch.randn(5, 3000, generator=torch.Generator().manual_seed(1)) * 3).to(DEVICE, dtype)
    keys = draws(5)
    fused = score(logits.clone(), rule, draws=keys, fused=True)
    noise = philox_noise(keys, 3000) if temperature else None
    plain = score(logits.clone(), rule, noise=noise, fused=False)
    assert torch.equal(fused.token, plain.token)
    for field in fields(plain):
        got, expected = getattr(fused, field.name), getattr(plain, field.name)
        assert (got is None) == (expected is None), field.name
        if field.name != "token" and expected is not None:
            torch.testing.assert_close(got, expected, atol=5e-6, rtol=5e-5)


def test_noise_is_the_same_in_any_batch() -> None:
    logits, keys = torch.zeros(6, 5000, device=DEVICE), draws(6)
    whole = score_rows(logits, 0, 1.0, 1.0, keys, extras=False)[0]
    for i in (0, 5):
        one = Draws(*(getattr(keys, f.name)[i : i + 1] for f in fields(Draws)))
        assert score_rows(logits[:1], 0, 1.0, 1.0, one, extras=False)[0].item() == whole[i]
    assert whole.unique().numel() == 6, "each cell draws its own"


@pytest.mark.parametrize("changed", ["seed", "step", "cell", "branch"])
def test_every_part_of_the_key_matters(changed: str) -> None:
    one = torch.ones(1, dtype=torch.long)
    keys = {f.name: one for f in fields(Draws)}
    assert not torch.equal(philox_noise(Draws(**keys), 50), philox_noise(Draws(**{**keys, changed: one + 2**31}), 50))


def test_noise_is_gumbel() -> None:
    noise = philox_noise(draws(4), 20_000).double().flatten()
    assert noise.isfinite().all()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)
    assert (noise <= 0).double().mean().item() == pytest.approx(math.exp(-1), abs=0.006)


def test_generator_gives_the_published_numbers() -> None:
    # The known answers of Random123 for philox4x32-10: all zeros, all ones, digits of pi.
    rows = [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ]
    for counter, key, expected in rows:
        got = philox([torch.tensor(c) for c in counter], torch.tensor(key[0]), torch.tensor(key[1]))
        assert [int(x) for x in got] == expected
