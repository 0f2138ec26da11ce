"""Scores of cells: fp32 without a softmax on the side, against a float64 softmax written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dllm_decode.engine.score import chunks, filter_logits, score
from dllm_decode.interface.scoring import ScoreRule, Scores

EVERYTHING = frozenset({"entropy", "margin", "logit_margin", "logits"})
MASK = 0


@st.composite
def tables(draw: st.DrawFn) -> Tensor:
    """Logits ``[M, V]`` of any sharpness, far from zero too."""
    rows, vocab = draw(st.integers(1, 5)), draw(st.integers(3, 40))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    sharpness, shift = draw(st.sampled_from([0.1, 1.0, 5.0, 30.0])), draw(st.sampled_from([0.0, 50.0, -300.0]))
    return torch.randn(rows, vocab, generator=generator) * sharpness + shift


@given(tables(), st.booleans())
def test_against_a_float64_softmax(logits: Tensor, suppress: bool) -> None:
    """The mask is part of the softmax and never the proposal; suppressed tokens are part of nothing."""
    ids = (1,) if suppress else ()
    table = logits.double()
    table[:, list(ids)] = -torch.inf
    p = table.softmax(-1)
    proposals = table.index_fill(1, torch.tensor([MASK]), -torch.inf).argmax(-1)
    two = p.topk(2).values
    for precise, tolerance in ((False, 2e-5), (True, 1e-6)):
        rule = ScoreRule(MASK, suppress=ids, needs=EVERYTHING, float64=precise)
        out = score(logits.clone(), rule)
        assert out.token.tolist() == proposals.tolist()
        expected = {
            "confidence": p.gather(1, proposals[:, None])[:, 0],
            "entropy": torch.special.entr(p).sum(-1),
            "margin": two[:, 0] - two[:, 1],
            "logit_margin": table.topk(2).values @ torch.tensor([1.0, -1.0]).double(),
            "logits": table,
        }
        # the sum lse - sum p l of numbers of this size keeps about this much in fp32
        size = 1.0 if precise else max(1.0, float(logits.abs().max()) / 10)
        for name, value in expected.items():
            got = getattr(out, name)
            assert got.dtype == torch.float32
            torch.testing.assert_close(got, value.float(), atol=tolerance * size, rtol=1e-5)


def test_only_what_is_needed_is_computed() -> None:
    out = score(torch.randn(3, 5), ScoreRule(MASK))
    assert out.entropy is out.margin is out.logit_margin is out.logits is out.probs is None
    assert score(torch.randn(3, 5), ScoreRule(MASK, needs=frozenset({"margin"}))).margin is not None


def test_low_precision_logits_are_scored_in_fp32() -> None:
    logits = torch.randn(4, 9).bfloat16()
    low, high = score(logits.clone(), ScoreRule(MASK)), score(logits.float(), ScoreRule(MASK))
    assert low.confidence.dtype == torch.float32
    assert torch.equal(low.confidence, high.confidence) and torch.equal(low.token, high.token)


def test_ties_go_to_the_lower_token() -> None:
    assert score(torch.zeros(2, 6), ScoreRule(MASK)).token.tolist() == [1, 1]
    assert score(torch.zeros(1, 6), ScoreRule(5)).token.tolist() == [0]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("settings", [{"top_k": 1}, {"top_k": 2}, {"top_p": 0.5}, {"top_p": 0.3, "top_k": 3}])
def test_the_mask_alone_never_survives_the_filters(settings: dict[str, float], temperature: float) -> None:
    """Where the model is sure of the mask the best other token is proposed, not a removed one."""
    logits = torch.tensor([[9.0, -1.0, 2.0, 1.0], [9.0, 3.0, -2.0, -3.0]])
    for filtered in (False, True):
        rule = ScoreRule(MASK, temperature=temperature, filtered=filtered, **settings)  # type: ignore[arg-type]
        if settings.get("top_k") in (1, 2) or "top_k" not in settings:
            out = score(logits.clone(), rule, torch.Generator().manual_seed(0))
            assert out.token.tolist() == [2, 1]
            assert (out.confidence > 0).all()


@given(tables(), st.sampled_from([0.1, 0.5, 0.9, 0.99]), st.integers(1, 6))
def test_nucleus_and_top_k(logits: Tensor, top_p: float, top_k: int) -> None:
    """Which tokens stay, by their definition (beside the best token that is not the mask, which always does)."""
    for p, k in ((top_p, None), (None, top_k), (top_p, top_k)):
        kept = filter_logits(logits.clone(), p, k, MASK) > torch.finfo(torch.float32).min
        for row in range(len(logits)):
            values = logits[row].double()
            order = sorted(range(len(values)), key=lambda i: (-float(values[i]), i))
            share, stay, close = values.softmax(-1), set(order), False
            if p is not None:
                before, stay = 0.0, set()
                for i in order:
                    close |= abs(before - p) < 1e-5  # too close for fp32 to say
                    if not stay or before <= p:
                        stay.add(i)
                    before += float(share[i])
            if k is not None:
                left = sorted((float(values[i]) for i in stay), reverse=True)
                least = left[min(k, len(left)) - 1] if k <= len(left) else -math.inf
                stay = {i for i in stay if float(values[i]) >= least}
            stay.add(next(i for i in order if i != MASK))
            assert close or set(kept[row].nonzero()[:, 0].tolist()) == stay


def test_filtered_confidence_is_dreams_and_clean_is_lladas() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log()
    clean = score(logits.clone(), ScoreRule(MASK, temperature=0.5, top_k=2), torch.Generator().manual_seed(1))
    dream = score(
        logits.clone(), ScoreRule(MASK, temperature=0.5, top_k=2, filtered=True), torch.Generator().manual_seed(1)
    )
    assert clean.token.tolist() == dream.token.tolist()
    token = int(clean.token)
    assert float(clean.confidence) == pytest.approx([0.1, 0.4, 0.3][token])
    # p^2 over the two kept: 0.16 / 0.25 and 0.09 / 0.25
    assert float(dream.confidence) == pytest.approx([0, 0.64, 0.36][token], abs=1e-6)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.0])
def test_sampling_is_the_gumbel_form_of_the_official_code(temperature: float) -> None:
    """argmax exp(l) / (-ln u)^T in float64, on the uniforms that our generator gives."""
    logits = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)) * 2
    uniform = torch.rand(logits.shape, generator=torch.Generator().manual_seed(4)).double()
    values = logits.double().exp() / (-uniform.log()) ** temperature
    values[:, MASK] = -1
    out = score(logits.clone(), ScoreRule(MASK, temperature=temperature), torch.Generator().manual_seed(4))
    assert out.token.tolist() == values.argmax(-1).tolist()


@pytest.mark.parametrize(
    "settings", [{}, {"top_k": 3}, {"top_p": 0.7}, {"filtered": True}, {"filtered": True, "top_p": 0.7}]
)
def test_draws_follow_the_distribution_they_declare(settings: dict[str, float]) -> None:
    """Frequencies of 20 000 draws within 4.5 standard errors of `probs`, the mask excluded."""
    count = 20_000
    logits = torch.tensor([1.0, 2.0, 0.5, 0.0, -1.0, 1.5]).expand(count, -1)
    rule = ScoreRule(MASK, temperature=0.8, needs=frozenset({"probs"}), **settings)  # type: ignore[arg-type]
    out = score(logits.clone(), rule, torch.Generator().manual_seed(2))
    assert out.probs is not None
    p = out.probs[0].double()
    assert float(p.sum()) == pytest.approx(1) and p[MASK] == 0
    expected = (torch.tensor([1.0, 2.0, 0.5, 0.0, -1.0, 1.5]) / 0.8).softmax(-1).double()
    if not settings:
        torch.testing.assert_close(p[1:], expected[1:] / expected[1:].sum(), atol=1e-6, rtol=0)
    share = torch.bincount(out.token, minlength=6).double() / count
    assert ((share - p).abs() <= 4.5 * (p * (1 - p) / count).sqrt() + 1e-9).all()


def test_greedy_distribution_is_one_hot() -> None:
    out = score(torch.tensor([[9.0, 1.0, 3.0]]), ScoreRule(MASK, needs=frozenset({"probs"})))
    assert out.probs is not None and out.probs.tolist() == [[0.0, 0.0, 1.0]]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(1, 20), st.booleans())
def test_chunks_cover_every_cell_once(sizes: list[int], vocab: int, by_row: bool) -> None:
    pieces = list(chunks(sizes, vocab, by_row, 40))
    assert [i for _, low, high in pieces for i in range(low, high)] == list(range(sum(sizes)))
    for row, low, high in pieces:
        assert 0 < (high - low) * vocab <= max(40, vocab)
        if by_row:
            assert sum(sizes[:row]) <= low and high <= sum(sizes[: row + 1])
        else:
            assert row == -1


def test_pieces_concatenate() -> None:
    logits, rule = torch.randn(7, 5), ScoreRule(MASK, needs=EVERYTHING | {"probs"})
    whole = score(logits.clone(), rule)
    parts = Scores.cat([score(logits[:3].clone(), rule), score(logits[3:].clone(), rule)])
    for name in ("token", "confidence", "entropy", "margin", "logit_margin", "logits", "probs"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


@given(st.integers(0, 2**32 - 1), st.sampled_from([4096, 4097, 4223, 9000]), st.booleans())
def test_long_rows_are_scored_as_torch_reads_them(seed: int, size: int, rounded: bool) -> None:
    """In runs, and in the memory of the logits: the same tokens (ties too) and the very same confidences."""
    logits = torch.randn(5, size, generator=torch.Generator().manual_seed(seed)) * 3
    logits = logits.round() if rounded else logits
    mask = seed % size
    got = score(logits.clone(), ScoreRule(mask_id=mask))
    without = logits.index_fill(1, torch.tensor([mask]), -torch.inf)
    assert torch.equal(got.token, without.argmax(-1))
    top = logits.gather(1, got.token[:, None])[:, 0]
    assert torch.equal(got.confidence, (top - logits.logsumexp(-1)).exp())


@pytest.mark.parametrize("needs", [frozenset(), frozenset({"entropy"})])
def test_a_lone_cell_is_scored_as_among_others_on_several_threads(needs: frozenset[str]) -> None:
    """Threads share a lone long row, and would add in another order."""
    logits, threads = torch.randn(3, 1 << 17, generator=torch.Generator().manual_seed(0)) * 3, torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = score(logits.clone(), ScoreRule(MASK, needs=needs))
        for i in range(3):
            alone = score(logits[i : i + 1].clone(), ScoreRule(MASK, needs=needs))
            assert alone.confidence.equal(together.confidence[i : i + 1])
            assert alone.entropy is None or alone.entropy.equal(together.entropy[i : i + 1])
    finally:
        torch.set_num_threads(threads)
