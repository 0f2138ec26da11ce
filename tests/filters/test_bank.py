"""Saving, loading and finding filters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from filters import FilterBank, FilterError, FilterNetwork, LearnedFilter


def made(width: int = 8, hidden: int | None = None, **facts: object) -> LearnedFilter:
    torch.manual_seed(width)
    return LearnedFilter(FilterNetwork(width, hidden), **facts)  # type: ignore[arg-type]


def test_parameters() -> None:
    assert sum(p.numel() for p in FilterNetwork(32).parameters()) == 2112


def test_round_trip(tmp_path: Path) -> None:
    learned = made(8, 5, model="some/LLaDA-8B", threshold=0.875, card={"note": "ä", "numbers": [1, 2.5]})
    path = learned.save(tmp_path / "new" / "f")
    again = LearnedFilter.load(path)
    assert path.name == "f.safetensors"
    assert (again.model, again.threshold, again.feature) == ("some/LLaDA-8B", 0.875, "confidence")
    assert again.card == learned.card and again.width == 8 and str(again) == "LLaDA-8B-8"
    z = torch.rand(3, 8)
    assert torch.equal(again.network(z), learned.network(z))
    assert not any(p.requires_grad for p in again.network.parameters())
    card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert card["block_length"] == 8 and card["note"] == "ä"


def test_bare_weights_load_with_defaults(tmp_path: Path) -> None:
    path = made(8).save(tmp_path / "f.safetensors")
    path.with_suffix(".json").unlink()
    again = LearnedFilter.load(path)
    assert (again.threshold, again.model, str(again)) == (0.96, "", "filter of width 8")


def test_the_bank_knows_models_and_widths(tmp_path: Path) -> None:
    bank = FilterBank(tmp_path)
    assert bank.names() == [] and bank.widths("m") == []
    for width in (8, 16):
        bank.add(made(width, model="owner/m"))
    bank.add(made(4, model="m-large"))
    assert bank.widths("owner/m") == bank.widths("/somewhere/m") == [8, 16]
    assert bank.widths("m-large") == [4]
    assert [bank.find("m", n).width for n in (1, 8, 9, 16)] == [8, 8, 16, 16]
    with pytest.raises(
        FilterError, match=r"no filter for model 'm' takes blocks of 17 cells \(there are: m-16, m-8, "
    ):
        bank.find("m", 17)
    with pytest.raises(FilterError, match=r"no filter for model 'other'"):
        bank.find("other", 4)
    # A filter that is put there again replaces the one in memory.
    before = bank.find("m", 8).network.linear1.weight.clone()
    bank.add(LearnedFilter(FilterNetwork(8), model="m"))
    assert not torch.equal(bank.find("m", 8).network.linear1.weight, before)


def test_wide_blocks_are_refused() -> None:
    learned = made(4)
    start = torch.tensor([0, 2])
    learned.probability(torch.rand(2, 8), start, start + 4)
    with pytest.raises(FilterError, match="a block has 5 cells but filter of width 4 reads at most 4"):
        learned.probability(torch.rand(2, 8), start, start + torch.tensor([2, 5]))


@pytest.mark.parametrize("damage", ["weights", "names", "card", "width", "feature"])
def test_damaged_files(tmp_path: Path, damage: str) -> None:
    path = made(8, model="m").save(tmp_path / "f.safetensors")
    card = path.with_suffix(".json")
    sentence = "is no filter"
    if damage == "weights":
        path.write_bytes(b"nothing")
    elif damage == "names":
        from safetensors.torch import save_file

        save_file({"weight": torch.zeros(2)}, path)
    elif damage == "card":
        card.write_text("{")
    elif damage == "width":
        card.write_text(json.dumps({"block_length": 9}))
        sentence = "says 9 cells, but the weights have 8"
    else:
        card.write_text(json.dumps({"feature": "colour"}))
        sentence = "names the feature 'colour'; known: confidence, negative_entropy"
    with pytest.raises(FilterError, match=sentence):
        LearnedFilter.load(path)
    with pytest.raises(FilterError, match="there is no filter"):
        LearnedFilter.load(tmp_path / "missing.safetensors")


def test_a_filter_without_its_card_is_one_sentence(tmp_path: Path) -> None:
    bank = FilterBank(tmp_path)
    bank.add(made(8, model="m")).with_suffix(".json").unlink()
    with pytest.raises(FilterError, match=r"filter '.*m-8\.safetensors' has lost its card \(\.json\); train it again"):
        bank.find("m", 8)


@pytest.mark.parametrize("full", ["weights", "card"])
def test_a_full_disk_leaves_the_old_filter_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    old, new = made(8, model="m", threshold=0.5), made(8, 3, model="m", threshold=0.75)
    path = FilterBank(tmp_path).add(old)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def torn(weights: object, beside: Path) -> None:
        beside.write_bytes(b"x")
        raise OSError(28, "No space left on device")

    def torn_text(self: Path, text: str, encoding: str) -> int:
        raise OSError(28, "No space left on device")

    if full == "weights":
        monkeypatch.setattr("filters.bank.save_file", torn)
    else:
        monkeypatch.setattr(Path, "write_text", torn_text)
    with pytest.raises(FilterError, match=r"cannot write .*m-8.* \(No space left on device\); what was there is unch"):
        new.save(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
