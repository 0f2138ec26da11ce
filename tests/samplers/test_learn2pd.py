"""Learn2PD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from filters import FilterNetwork, LearnedFilter
from samplers import AdaBlock, EoTP, Learn2PD, LocalLeap, PolicyError, Setting
from tests.toys import FAMILIES, MASK, chosen, commits, decode, scene, tiny


def gate(width: int, slope: float = 20.0, bar: float = 0.5, **facts: Any) -> LearnedFilter:
    """A filter that takes a cell when its own number is above ``bar`` (bars may differ by cell)."""
    network = FilterNetwork(width)
    with torch.no_grad():
        network.linear1.weight.copy_(torch.eye(width))
        network.linear1.bias.zero_()
        network.linear2.weight.copy_(slope * torch.eye(width))
        network.linear2.bias.fill_(-slope * bar)
    return LearnedFilter(network.requires_grad_(False), **facts)


def random_filter(width: int, seed: int = 0) -> LearnedFilter:
    """A filter that reads all cells at once."""
    torch.manual_seed(seed)
    return LearnedFilter(FilterNetwork(width).requires_grad_(False), threshold=0.5)


def bound(learned: LearnedFilter, threshold: float, block_length: int = 4) -> Learn2PD:
    return Learn2PD(learned, threshold).bind(Setting(mask_id=MASK, block_length=block_length, max_new_tokens=64))


def test_accepts_strictly_above_the_threshold() -> None:
    view, prediction = scene([[0.5, 0.6, 0.7, 0.2], [0.1, 0.2, 0.3, None]])
    # sigmoid(20 (0.5 - 0.5)) is 0.5 exactly: not above it
    assert chosen(bound(gate(4), 0.5), view, prediction) == [[2, 1], [2]]
    assert chosen(bound(gate(4), 0.49), view, prediction) == [[2, 1, 0], [2]]
    decision, _ = bound(gate(4), 0.5).decide(view, prediction, None)
    assert decision.accepted is not None and decision.accepted.sum(-1).tolist() == [2, 0]  # the best is added


def test_reads_the_whole_block_and_nothing_else() -> None:
    learned = random_filter(4)
    view, prediction = scene([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]], block=(2, 5))
    said = learned.probability(prediction.confidence, view.start, view.end)
    padded = torch.tensor([[0.7, 0.6, 0.5, 0.0]])
    assert torch.equal(said[0, 2:5], learned.network(padded).sigmoid()[0, :3])
    assert said[0, [0, 1, 5]].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_committed_cells_are_read_too(family: str, cache: str) -> None:
    seen: list[torch.Tensor] = []

    class Watch(LearnedFilter):
        def probability(self, values: torch.Tensor, start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
            seen.append(values[:, int(start[0]) : int(end[0])].clone())
            return super().probability(values, start, end)

    watch = Watch(random_filter(6).network, threshold=0.999)
    result = decode(tiny(family), Learn2PD(watch), [[1, 2, 3]], cache, max_new_tokens=12, block_length=6)
    assert len(seen) == result.nfe[0] > 4
    assert all(bool((values > 0).all()) for values in seen)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("extra", [None, EoTP(), AdaBlock((3, 4, 5, 6), 0.02, 5), AdaBlock((3,), 0.02, 9) | EoTP()])
def test_rows_are_independent_in_any_company(family: str, cache: str, extra: Any) -> None:
    policy = Learn2PD(random_filter(6, seed=3))
    policy = policy if extra is None else extra | policy
    prompts = [[1], [2, 3, 4, 5], [7, 8], [9]]
    settings = {"max_new_tokens": 20, "block_length": 6}
    together = decode(tiny(family), policy, prompts, cache, **settings)
    for row, prompt in enumerate(prompts):
        alone = decode(tiny(family), policy, [prompt], cache, **settings)
        assert together.sequences[row] == alone.sequences[0]
        assert commits(together, row) == commits(alone)
        assert MASK not in together.sequences[row]
        assert max(s.end - s.start for s in together.trace[row].steps) <= 6  # never wider than the filter


def test_a_gate_is_a_threshold() -> None:
    mine = decode(tiny("llada"), Learn2PD(gate(6, bar=0.4), 0.5), [[1, 2]], max_new_tokens=12, block_length=6)
    theirs = decode(tiny("llada"), LocalLeap(0.4, 0.4), [[1, 2]], max_new_tokens=12, block_length=6)
    assert mine.sequences == theirs.sequences and commits(mine) == commits(theirs)


def test_negative_entropy_reads_zero_at_committed_cells() -> None:
    learned = gate(4, feature="negative_entropy")
    policy = bound(learned, 0.5)
    assert policy.needs == {"entropy"}
    view, prediction = scene([[0.5, None, 0.5, 0.5]], entropy=[[1.0, 3.0, 0.1, 2.0]])
    values = learned.probability(-prediction.entropy.masked_fill(~view.masked, 0.0), view.start, view.end)  # type: ignore[union-attr]
    network = learned.network(torch.tensor([[-1.0, 0.0, -0.1, -2.0]])).sigmoid()
    assert torch.equal(values, network)
    decode(tiny("dream"), Learn2PD(learned), [[1, 2]], max_new_tokens=8, block_length=4)


def test_finds_its_filter(tmp_path: Path) -> None:
    path = gate(8, threshold=0.75, model="m").save(tmp_path / "some.safetensors")
    setting = Setting(mask_id=MASK, block_length=6, max_new_tokens=64)
    found = Learn2PD(str(path)).bind(setting)
    assert isinstance(found.filter, LearnedFilter) and found.filter.width == found.widest_block == 8
    assert found.threshold == 0.75 and Learn2PD(str(path), 0.9).bind(setting).threshold == 0.9
    with pytest.raises(PolicyError, match="no filter for model 'nobody/x' takes blocks of 6 cells"):
        Learn2PD().bind(Setting(mask_id=MASK, block_length=6, model_name="nobody/x"))
    with pytest.raises(PolicyError, match="there is no filter '/nowhere.safetensors'"):
        Learn2PD("/nowhere.safetensors").bind(setting)


def test_refuses_wide_blocks() -> None:
    with pytest.raises(
        PolicyError, match="blocks have 9 cells, but filter of width 4 reads at most 4; set block_length=4"
    ):
        bound(gate(4), 0.5, block_length=9)
    with pytest.raises(PolicyError, match="reads blocks of a fixed width; set block_length"):
        Learn2PD(gate(4)).bind(Setting(mask_id=MASK))
    # A canvas shorter than the block is what counts.
    Learn2PD(gate(4)).bind(Setting(mask_id=MASK, block_length=32, max_new_tokens=4))
    with pytest.raises(PolicyError, match="threshold is 1.5; give a number from 0 to 1"):
        Learn2PD(gate(4), 1.5)
