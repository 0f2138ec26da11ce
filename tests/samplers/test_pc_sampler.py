"""PcSampler: early cells and rare tokens first."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from samplers import PcSampler, PolicyError, Setting, TokenTable
from tests.toys import MASK, VOCAB, chosen, decode, scene, tiny

#: token 2 is frequent, token 3 rare
TABLE = TokenTable(torch.full((VOCAB,), 0.001, dtype=torch.float64).index_fill(0, torch.tensor(2), 0.5))


@pytest.mark.parametrize(
    ("decay", "alpha", "k", "expected"),
    [
        # -ln f: 0.69 for token 2, 6.91 for token 3
        (0.0, 10.0, 1, [1]),
        (0.0, 10.0, 4, [1, 3, 0, 2]),  # 4.14, 2.07, 0.62, 0.35
        (0.0, 0.5, 4, [0, 1, 3, 2]),  # the first three are clipped to a tie
        (2.0, 10.0, 2, [0, 1]),  # 0.62, 0.56
    ],
)
def test_table(decay: float, alpha: float, k: int, expected: list[int]) -> None:
    view, prediction = scene([[0.9, 0.6, 0.5, 0.3]], tokens=[[2, 3, 2, 3]])
    assert chosen(PcSampler(TABLE, decay, alpha, k), view, prediction) == [expected]


def test_distance_is_counted_from_the_block() -> None:
    view, prediction = scene([[None, None, 0.5, 0.9]], tokens=[[1, 1, 2, 2]], block=(2, 4))
    for decay, first in ((math.log(0.9 / 0.5) - 0.01, 3), (math.log(0.9 / 0.5) + 0.01, 2)):
        assert chosen(PcSampler(TABLE, decay), view, prediction) == [[first]]


def test_far_cells_keep_their_order() -> None:
    """The weight of a cell some hundred cells away is tiny, not zero."""
    view, prediction = scene([[None] * 300 + [0.2, 0.9]], tokens=[[1] * 300 + [2, 3]])
    assert chosen(PcSampler(TABLE, 1.0), view, prediction) == [[301]]


def test_a_schedule_of_steps() -> None:
    result = decode(tiny("llada"), PcSampler(TABLE, steps=3), [[1, 2], [3]], max_new_tokens=8, block_length=4)
    for row in range(2):
        assert [len(step.cells) for step in result.trace[row].steps] == [2, 1, 1] * 2


def write(path: Path, total: int, counts: dict[int, int]) -> str:
    """A file in the published layout."""
    path.write_text(json.dumps({"num_token": total, "p_baseline_dict": counts}))
    return str(path)


def test_the_published_layout(tmp_path: Path) -> None:
    table = TokenTable.load(write(tmp_path / "t.json", 8, {2: 5, 4: 3}), VOCAB)
    assert table.frequency[[2, 4, 0]].tolist() == [5 / 8, 3 / 8, 1 / 8]  # unseen: once


def test_refuses(tmp_path: Path) -> None:
    setting = Setting(MASK, vocab_size=VOCAB, model_name="some/model")
    with pytest.raises(
        PolicyError, match=r"no table of token counts ships for model 'some/model' \(there are: tiny\)"
    ):
        PcSampler().bind(setting)
    (tmp_path / "bad.json").write_text("[1]")
    for path in (tmp_path / "bad.json", tmp_path / "none.json"):
        with pytest.raises(PolicyError, match=r"is no table of token counts .*; make one with"):
            PcSampler(str(path)).bind(setting)
    with pytest.raises(PolicyError, match="counts token 99, but the model has 24"):
        PcSampler(write(tmp_path / "wide.json", 9, {99: 1})).bind(setting)
    with pytest.raises(PolicyError, match="of one less than none or more than all"):
        PcSampler(write(tmp_path / "odd.json", 9, {2: 10})).bind(setting)
    with pytest.raises(PolicyError, match="decay is -1"):
        PcSampler(decay=-1)
    with pytest.raises(PolicyError, match="k is 0"):
        PcSampler(k=0)
