"""AdaBlock, and the volatility band."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dllm_decode.engine.binding import delimiter_ids
from dllm_decode.models.dream import DREAM_DELIMITERS
from samplers import AdaBlock, LocalLeap, PolicyError, Setting, Threshold, parse_policy, spell, volatility_band
from tests.toys import FAMILIES, MASK, decode, scene, tiny

D = 9  # the delimiter of these tests


def lengths(
    policy: AdaBlock, confidence: list[list[float | None]], tokens: list[list[int]], **view_changes: Any
) -> list[int]:
    """What the policy answers for an opening forward over all masks."""
    view, prediction = scene(confidence, tokens=tokens)
    view = replace(view, **{name: torch.tensor(value) for name, value in view_changes.items()})
    out = policy.block_length(view, prediction, None)
    return out.tolist()


def test_the_surest_delimiter_ends_the_block() -> None:
    policy = AdaBlock((D,), 0.3, default_length=3, window=0.5)  # window: 4 of 8 cells
    rows = [[0.5, 0.4, 0.6, 0.6, 0.9, 0.1, 0.1, 0.1]] * 4
    tokens = [
        [1, D, D, 1, 1, 1, 1, 1],  # the surer of two
        [1, 1, D, D, 1, 1, 1, 1],  # a tie: the lower cell
        [1, 1, 1, 1, D, 1, 1, 1],  # outside the window
        [1, 1, 1, 1, 1, 1, 1, 1],  # none
    ]
    assert lengths(policy, rows, tokens) == [3, 3, 3, 3]
    assert lengths(replace(policy, default_length=7), rows, tokens) == [3, 3, 7, 7]


def test_an_unsure_delimiter_counts_for_nothing() -> None:
    row, tokens = [[0.29, 0.1, 0.1, 0.1]], [[D, 1, 1, 1]]
    assert lengths(AdaBlock((D,), 0.3, 4, window=1.0), row, tokens) == [4]
    assert lengths(AdaBlock((D,), 0.25, 4, window=1.0), row, tokens) == [1]
    assert lengths(AdaBlock((D,), float("inf"), 2, window=1.0), row, tokens) == [2]


def test_window_and_default_end_with_the_row() -> None:
    policy = AdaBlock((D,), 0.3, default_length=6, window=0.5)
    row, tokens = [[None] * 5 + [0.9, 0.8, 0.9]], [[1] * 5 + [1, D, D]]
    assert lengths(policy, row, tokens, start=[5]) == [3]  # p* is the last cell
    assert lengths(policy, row, tokens, start=[5], length=[7]) == [2]
    assert lengths(replace(policy, delimiters=(3,)), row, tokens, start=[5]) == [3]  # default cut to the rest
    # The window is a share of the first budget, not of what is left.
    assert lengths(replace(policy, window=0.25), row, tokens, start=[5]) == [2 if tokens[0][6] == D else 0]


def test_committed_cells_are_no_delimiters() -> None:
    assert lengths(AdaBlock((D,), 0.3, 2, window=1.0), [[None, 0.5, 0.5, 0.5]], [[D, 1, 1, D]]) == [4]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("decider", [Threshold(0.4), LocalLeap(0.4, 0.2, 2)])
def test_blocks_tile_the_canvas_and_rows_are_independent(family: str, cache: str, decider: Any) -> None:
    policy = AdaBlock(tuple(range(3, 12)), 0.05, default_length=4) | decider
    prompts = [[1], [2, 3, 4, 5], [7, 8]]
    together = decode(tiny(family), policy, prompts, cache, max_new_tokens=24)
    seen = set()
    for row, prompt in enumerate(prompts):
        alone = decode(tiny(family), policy, [prompt], cache, max_new_tokens=24)
        assert together.sequences[row] == alone.sequences[0]
        steps = together.trace[row].steps
        assert [s.cells for s in steps] == [s.cells for s in alone.trace[0].steps]
        blocks = [(s.start, s.end) for s in steps if s.opening]
        assert blocks[0][0] == 0 and blocks[-1][1] == 24
        assert all(a[1] == b[0] for a, b in zip(blocks, blocks[1:], strict=False))
        assert MASK not in together.sequences[row]
        seen |= {end - start for start, end in blocks}
    assert len(seen) > 1, "no block was ever measured"


def test_infinite_threshold_is_fixed_blocks() -> None:
    policy = AdaBlock((3,), float("inf"), default_length=5) | Threshold(0.4)
    mine = decode(tiny("llada"), policy, [[1, 2]], max_new_tokens=12)
    fixed = decode(tiny("llada"), Threshold(0.4), [[1, 2]], max_new_tokens=12, block_length=5)
    assert mine.sequences == fixed.sequences and mine.nfe == fixed.nfe


def setting(ids: Callable[[str], list[int]] | None = None, **changes: Any) -> Setting:
    return Setting(mask_id=MASK, vocab_size=300, token_ids=ids, block_length=16, **changes)


def test_binds_delimiters() -> None:
    def ids(text: str) -> list[int]:
        return [ord(c) for c in text]

    assert AdaBlock().bind(setting(delimiter_ids=(10,))) == AdaBlock((10,), default_length=16)
    assert AdaBlock(("\n", 44)).bind(setting(ids)).delimiters == (10, 44)
    assert AdaBlock((), float("inf")).bind(setting()).delimiters == ()
    assert AdaBlock(default_length=8).bind(setting(delimiter_ids=(10,))).default_length == 8
    with pytest.raises(PolicyError, match="no one-token newline .*; give delimiters, by id or text"):
        AdaBlock().bind(setting())
    with pytest.raises(PolicyError, match="delimiter 'ab' is 2 tokens; give text of one token, or ids"):
        AdaBlock(("ab",)).bind(setting(ids))
    with pytest.raises(PolicyError, match="no tokenizer to look up delimiter 'a'; give its id"):
        AdaBlock(("a",)).bind(setting())
    with pytest.raises(PolicyError, match=r"delimiter id 300 is not in the vocabulary 0\.\.299"):
        AdaBlock((300,)).bind(setting())


def test_spelled_delimiters() -> None:
    assert parse_policy(r"adablock:delimiters=\n/\x2c/198") == AdaBlock(("\n", ",", 198))
    for delimiters in (("\n", ", ", "/", "a+b", "(", "\\", 5), (3,), ("=",)):
        policy = AdaBlock(delimiters)
        assert parse_policy(spell(policy)) == policy


def test_dream_brings_its_list_only_with_its_vocabulary() -> None:
    def model(vocab: int, newline: int | None) -> Any:
        codec = None if newline is None else SimpleNamespace(encode=lambda text: [newline])
        return SimpleNamespace(vocab_size=vocab, tokenizer=codec, delimiter_ids=DREAM_DELIMITERS)

    assert tiny("dream").delimiter_ids == DREAM_DELIMITERS and tiny("llada").delimiter_ids == ()
    assert delimiter_ids(model(152_064, 198)) == DREAM_DELIMITERS
    assert delimiter_ids(model(152_064, None)) == DREAM_DELIMITERS
    assert delimiter_ids(model(152_064, 13)) == (13,)  # another tokenizer
    assert delimiter_ids(model(300, 198)) == (198,)  # a small one
    assert delimiter_ids(model(300, None)) == ()


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"delimiter_threshold": -0.1}, "delimiter_threshold is -0.1; give a number from 0 up"),
        ({"default_length": 0}, "default_length is 0; give a whole number from 1 up, or None"),
        ({"window": 1.5}, "window is 1.5; give a number from 0 to 1"),
    ],
)
def test_refuses(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PolicyError, match=sentence):
        AdaBlock(**fields)


def test_volatility_band() -> None:
    view, prediction = scene([[None, 0.95, 0.8, 0.79, 0.4, 0.1, 0.09]])
    assert volatility_band(prediction, view).nonzero()[:, 1].tolist() == [3, 4, 5]
    assert volatility_band(prediction, view, high=1.0, low=0.9).nonzero()[:, 1].tolist() == [1]
    with pytest.raises(PolicyError, match="the band is low=0.9 to high=0.8"):
        volatility_band(prediction, view, low=0.9)
