"""The exact denoisers against their closed forms and against counting."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_decode.errors import DllmError
from dllm_decode.lab.oracles import Oracle, choose, indep, latin4, replace, shuffle, sudoku4
from dllm_decode.models import ForwardInput

MAKERS = {
    "indep": lambda: indep(3, 3),
    "shuffle": lambda: shuffle(4),
    "replace": lambda: replace(5),
    "choose": lambda: choose(3, 4),
    "latin4": latin4,
    "sudoku4": lambda: sudoku4("12..34...1...3.."),
}


def probabilities(oracle: Oracle, canvas: torch.Tensor) -> torch.Tensor:
    """Softmax of the oracle's logits, `[R, N, V]`, through the interface that the engine uses."""
    rows, width = canvas.shape
    lengths = torch.full((rows,), width)
    inp = ForwardInput(canvas, torch.arange(width).expand(rows, -1), lengths, lengths)
    return oracle.head(oracle.hidden(inp, torch.arange(rows * width))).softmax(-1).view(rows, width, -1)


@pytest.mark.parametrize(
    ("oracle", "sequences", "bits"),
    [
        (indep(5, 4), 4**5, 0.0),
        (replace(4), 4, 1.2451),
        (replace(8), 8, 1.3485),
        (replace(16), 16, 1.3966),
        (shuffle(4), 24, 3.4150),
        (shuffle(6), 720, 6.0179),
        (shuffle(7), 5040, 7.3523),
        (shuffle(8), 40320, 8.7008),
        (choose(4, 6), 4, 10.0),
        (latin4(), 576, 22.8301),
        (sudoku4(), 288, 23.83),
        (sudoku4("1234341221434321"), 1, 0.0),
    ],
    ids=lambda value: value.name if isinstance(value, Oracle) else "",
)
def test_sizes_and_total_correlation(oracle: Oracle, sequences: int, bits: float) -> None:
    assert len(oracle.sequences.unique(dim=0)) == len(oracle.sequences) == sequences
    assert oracle.total_correlation == pytest.approx(bits, abs=1e-4)
    assert oracle.mask_id == oracle.symbols == oracle.vocab_size - 1


def test_total_correlation_closed_forms() -> None:
    for n in (2, 3, 5, 8):
        assert replace(n).total_correlation == pytest.approx((n - 1) * math.log2(n / (n - 1)), abs=1e-6)
        assert shuffle(n).total_correlation == pytest.approx(n * math.log2(n) - math.log2(math.factorial(n)), abs=1e-6)
        assert choose(n, 5).total_correlation == pytest.approx(4 * math.log2(n), abs=1e-6)


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_predictions_are_shares_of_agreeing_sequences(name: str, data: st.DataObject) -> None:
    oracle = MAKERS[name]()
    tokens = [
        data.draw(st.sampled_from([*range(oracle.symbols), oracle.mask_id, oracle.mask_id]))
        for _ in range(oracle.length)
    ]
    agreeing = [
        y for y in oracle.sequences.tolist() if all(t in (oracle.mask_id, s) for t, s in zip(tokens, y, strict=True))
    ]
    got = probabilities(oracle, torch.tensor([tokens]))[0]
    for i in range(oracle.length):
        for symbol in range(oracle.symbols):
            share = sum(y[i] == symbol for y in agreeing) / len(agreeing) if agreeing else 1 / oracle.symbols
            assert got[i, symbol].item() == pytest.approx(share, abs=1e-6)
    assert (got[:, oracle.mask_id] < 1e-8).all()


@pytest.mark.parametrize("name", MAKERS)
def test_one_cell_at_a_time_is_always_valid(name: str) -> None:
    """In any order, sampled from the exact conditionals."""
    oracle, generator = MAKERS[name](), torch.Generator().manual_seed(0)
    canvas = torch.full((40, oracle.length), oracle.mask_id)
    for _ in range(oracle.length):
        open_cells = (canvas == oracle.mask_id).float()
        cell = torch.multinomial(open_cells, 1, generator=generator)
        p = probabilities(oracle, canvas)[torch.arange(40), cell[:, 0]]
        canvas[torch.arange(40), cell[:, 0]] = torch.multinomial(p, 1, generator=generator)[:, 0]
    assert oracle.valid(canvas).all()
    assert all(oracle.is_valid(row) for row in canvas)


def test_all_at_once_fails_as_the_closed_form_says() -> None:
    """shuffle(4) in one step: P(valid) = 4!/4^4 = 2^-C, since every valid output is equally likely."""
    oracle, generator = shuffle(4), torch.Generator().manual_seed(0)
    p = probabilities(oracle, torch.full((1, 4), 4))[0]
    rows = torch.stack(
        [torch.multinomial(p[i], 20000, replacement=True, generator=generator) for i in range(4)], dim=1
    )
    expected = math.factorial(4) / 4**4
    assert expected == pytest.approx(2**-oracle.total_correlation)
    assert oracle.valid(rows).float().mean().item() == pytest.approx(expected, abs=0.01)


def test_a_prompt_before_the_canvas_does_not_matter() -> None:
    oracle = choose(3, 2)
    bare = probabilities(oracle, torch.tensor([[1, 3]]))
    prompted = probabilities(oracle, torch.tensor([[0, 2, 1, 3]]))
    assert torch.equal(prompted[:, 2:], bare)
    assert oracle.is_valid(torch.tensor([0, 2, 1, 1])) and not oracle.is_valid(torch.tensor([1, 1, 0, 1]))


def test_random_ties_differ_between_cells_and_repeat_with_the_seed() -> None:
    canvas = torch.full((50, 6), 4)
    lowest = probabilities(choose(4, 6), canvas).argmax(-1)
    assert (lowest == lowest[0, 0]).all(), "without noise every cell takes the same symbol, and choose looks easy"
    first, again = (probabilities(choose(4, 6, random_ties=True, seed=3), canvas).argmax(-1) for _ in range(2))
    assert torch.equal(first, again)
    assert choose(4, 6).valid(first).float().mean() < 0.1
    share = torch.bincount(first.flatten(), minlength=4) / first.numel()
    assert share.min() > 0.15
    noisy, exact = probabilities(choose(4, 6, random_ties=True), canvas), probabilities(choose(4, 6), canvas)
    assert (noisy - exact).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: indep(16, 4), "indep(16, 4) has 4294967296 sequences; at most 100000 are enumerated"),
        (lambda: shuffle(9), "shuffle's n must be an integer from 2 to 8, got 9"),
        (lambda: choose(1, 3), "choose's m must be an integer from 2 to 64, got 1"),
        (lambda: replace(2.5), "replace's n must be an integer from 2 to 64, got 2.5"),
        (lambda: sudoku4("12"), "sudoku4's clues must be 16 characters of 1-4 and '.', got '12'"),
        (lambda: sudoku4("11.............."), "no 4x4 sudoku has the clues '11..............'"),
        (lambda: probabilities(shuffle(4), torch.zeros(1, 3, dtype=torch.long)), "has 4 cells, got rows of 3 tokens"),
    ],
)
def test_errors(call: object, message: str) -> None:
    with pytest.raises(DllmError, match=re.escape(message)):
        call()  # type: ignore[operator]
